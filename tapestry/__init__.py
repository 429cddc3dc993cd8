"""Tapestry: federated training of one open base model without sharing data."""

__version__ = "0.1.0"
