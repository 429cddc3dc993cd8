"""Draws that a seed and a number fix."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from tapestry.software_digest import software_digest

_T = TypeVar("_T")


class Draw:
    """Choices of one case."""

    def __init__(self, *entropy: int) -> None:
        """Start from a seed and numbers."""
        self._entropy = entropy
        self._generator = np.random.default_rng([int(each) for each in entropy])

    def __repr__(self) -> str:
        """Show what fixes the choices."""
        return f"Draw{self._entropy}"

    def below(self, limit: int) -> int:
        """Draw from 0 to before ``limit``."""
        return int(self._generator.integers(limit))

    def chance(self, probability: float) -> bool:
        """Draw yes with a probability."""
        return bool(self._generator.random() < probability)

    def one(self, choices: Sequence[_T]) -> _T:
        """Draw one of several."""
        return choices[self.below(len(choices))]

    def bytes(self, count: int) -> bytes:
        """Draw bytes."""
        return self._generator.bytes(count)


def commit_seed() -> int:
    """Return the seed of this run, from the environment or the commit.

    Where there is no git, the digest of the installed packages stands for the commit.
    """
    if given := os.environ.get("FUZZ_SEED"):
        return int(given)
    words = ["git", "rev-parse", "HEAD"]
    folder = Path(__file__).parent
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False
    )
    return int((done.stdout or software_digest().removeprefix("sha256:"))[:12], 16)
