"""The log at its writer, its readers and its witnesses."""
