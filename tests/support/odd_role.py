"""A role whose ``app`` is no command."""

app = "nothing"
