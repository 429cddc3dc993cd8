"""A base and its adapters in front of people; needs no node."""
