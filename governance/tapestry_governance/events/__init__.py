"""Events: what can be said in the log, signed."""
