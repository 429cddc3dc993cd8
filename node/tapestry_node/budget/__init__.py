"""The privacy budget: what the institution agreed to, what is spent."""
