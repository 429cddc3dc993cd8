"""Bits per byte: what a model pays for each text, and which texts it can be asked."""

import json
import math
from pathlib import Path

import pytest

from tapestry.inputs.faults import Faults
from tapestry.workloads.language.bits_per_byte import BitsPerByte
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.model import LanguageModel
from tests.support.federation import Base


@pytest.fixture
def kind(base: Base) -> BitsPerByte:
    assert isinstance(base.workload, LanguageModel)
    return BitsPerByte(model=base.workload, sequence_length=16)


def _write(folder: Path, *rows: object) -> Path:
    path = folder / "it.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_its_name_and_settings_are_what_a_score_depends_on(kind: BitsPerByte) -> None:
    assert (kind.name, kind.suffix) == ("bits_per_byte", ".jsonl")
    assert kind.settings == {"sequence_length": 16}


def test_texts_and_dialogues_are_read_by_line(
    kind: BitsPerByte, tmp_path: Path
) -> None:
    turns = [
        {"role": role, "content": said}
        for role, said in (("user", "Ciao"), ("assistant", "Ciao!"))
    ]
    path = _write(tmp_path, {"text": "uno"}, {"messages": turns})
    faults = Faults()
    wanted: list[Text] = ["uno", Dialogue(turns=("Ciao", "Ciao!"))]
    assert kind.read(path, faults) == wanted
    assert kind.check(path, faults) == wanted
    faults.check(path)


def test_a_line_that_is_no_text_or_too_long_for_the_model_is_a_fault(
    kind: BitsPerByte, tmp_path: Path
) -> None:
    faults = Faults()
    assert kind.read(_write(tmp_path, {"text": "uno"}, {"word": "due"}), faults) == [
        "uno"
    ]
    assert len(faults) == 1
    long = "domanda " * 4000
    turns = [
        {"role": "user", "content": long},
        {"role": "assistant", "content": "sì"},
    ]
    path, found = _write(tmp_path, {"text": "uno"}, {"messages": turns}), Faults()
    kind.read(path, found)
    assert len(found) == 0  # reading asks no model
    kind.check(path, found)
    assert len(found) == 1


def test_a_score_is_bits_over_bytes(kind: BitsPerByte) -> None:
    found = kind.evaluate(["uno", "perché"])
    assert found.sizes == (3, 7)
    assert all(bits > 0 for bits in found.amounts)
    assert math.isclose(found.score, sum(found.amounts) / 10)
    alone = [kind.evaluate([text]).amount for text in ("uno", "perché")]
    assert found.amounts == pytest.approx(alone, rel=1e-5)
