"""The log that everybody cosigns, and the rules it is held to."""
