"""A witness that is no member: it cosigns a log over HTTP, or from a folder."""
