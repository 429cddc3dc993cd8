"""The gate: public held-out text and the length of the sum decide on a step.

``held-out/<country>.jsonl`` is text that the institutions published for this. A
round whose mean update is too long, or after which the mean code length over the
countries grows by more than the plan allows, changes nothing and is logged so.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from tapestry.errors import ConfigError
from tapestry.workloads import Workload


def read_held_out(folder: Path) -> dict[str, list[str]]:
    """Read the public text of each country, by name.

    Raises:
        ConfigError: No file, or a line that is not ``{"text": "..."}``.
    """
    texts = {path.stem: _read(path) for path in sorted(folder.glob("*.jsonl"))}
    if not texts:
        raise ConfigError(f"{folder} holds no *.jsonl; the gate needs held-out text")
    return texts


def bits_per_byte(
    workload: Workload, texts: Mapping[str, list[str]], *, sequence_length: int
) -> dict[str, float]:
    """Evaluate the loaded parameters on each country's text."""
    return {
        name: workload.evaluate(rows, sequence_length=sequence_length).bits_per_byte
        for name, rows in texts.items()
    }


def mean_of(scores: Mapping[str, float]) -> float:
    """Average over countries, each counting the same."""
    return sum(scores.values()) / len(scores)


def _read(path: Path) -> list[str]:
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        texts = [str(row["text"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not held-out text: {error}") from None
    if not texts:
        raise ConfigError(f"{path} is empty")
    return texts
