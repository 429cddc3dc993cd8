"""The demo: every role on one machine, from nothing to a report."""
