"""Causal language models in the layout of Hugging Face."""
