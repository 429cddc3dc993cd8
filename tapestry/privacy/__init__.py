"""Bound, noise and account: what a record can give away."""
