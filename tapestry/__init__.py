"""Tapestry: one open base model, trained together by those who share no data."""

__version__ = "0.1.0"
