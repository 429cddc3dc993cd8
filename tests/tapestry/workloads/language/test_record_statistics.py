"""Records are counted as training reads them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tapestry.workloads.language.record_statistics import Coverage, Lengths
from tapestry.workloads.language.tokens import TokenExample
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry_node.settings import NodeSettings
from tapestry_node.training.trainer import Trainer
from tests.support.settings_files import node_settings

DIGEST = "sha256:" + "0" * 64


class Letters(LanguageWorkload):
    """A workload that only encodes: a token per letter, windows as a model's."""

    def encode(
        self, texts: Sequence[Any], *, sequence_length: int
    ) -> list[TokenExample]:
        units = []
        for text in texts:
            tokens = tuple(range(len(text)))
            starts = range(0, len(tokens) - 1, sequence_length - 1)
            windows = tuple(tokens[at : at + sequence_length] for at in starts)
            if windows:
                units.append(TokenExample(rows=windows))
        return units


def test_cut_and_too_short_records_are_counted(tmp_path: Path) -> None:
    (tmp_path / "corpus.toml").write_text(
        'language = "it"\nlicence = "CC0-1.0"\nunit = "record"\n'
    )
    for name, length in {"a": 1, "b": 2, "c": 8, "d": 9, "e": 30}.items():
        (tmp_path / f"{name}.txt").write_text("x" * length)
    workload = Letters.__new__(Letters)  # without a model
    known = {**node_settings(DIGEST), "name": "fr", "genesis": DIGEST}
    settings = NodeSettings.model_validate_json(json.dumps(known))
    trainer = Trainer(tmp_path, workload=workload, settings=settings)
    assert trainer.coverage({"sequence_length": 8}) == Coverage(
        sequence_length=8,
        tokens=Lengths(shortest=2, median=8, longest=30),
        cut=2,
        without_loss=1,
        measured=5,
        records=5,
    )
    census: Any = trainer.summary
    assert census.characters == Lengths(shortest=1, median=8, longest=30)


def test_lengths_of_nothing_are_none() -> None:
    assert Lengths.of([]) is None
    assert Lengths.of([4, 1, 3, 2]) == Lengths(shortest=1, median=2, longest=4)
