"""The formats of a transparency log (C2SP): no I/O but tiles, no federation."""
