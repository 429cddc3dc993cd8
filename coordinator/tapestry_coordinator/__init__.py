"""The coordinator, which a federation trusts with availability alone."""
