"""Messages between node and coordinator, and how they are framed."""
