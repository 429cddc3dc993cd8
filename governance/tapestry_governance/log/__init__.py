"""The log as its writer, its readers and its witnesses hold it."""
