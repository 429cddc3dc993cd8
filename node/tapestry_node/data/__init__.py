"""Private records, read on the node only."""
