"""Faults that a careless change could make, each found by a named test."""
