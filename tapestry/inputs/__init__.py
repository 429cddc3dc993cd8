"""Readers of outside input: text, folders and settings, each fault with its place."""
