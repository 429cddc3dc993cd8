"""Differential privacy: clipping, noise, accounting and an empirical audit."""
