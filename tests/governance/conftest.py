"""The verifiers by others are built once."""

from tests.support.other_verifiers import go_verifier, node

__all__ = ["go_verifier", "node"]
