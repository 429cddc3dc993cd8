"""Events: the signed statements in the log, by type."""
