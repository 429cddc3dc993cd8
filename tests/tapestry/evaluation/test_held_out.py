"""Held-out data: read by institution, whole or refused, and scored."""

import json
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError
from tapestry.evaluation.held_out import check_held_out, mean_of, read_held_out
from tapestry.workloads.language.bits_per_byte import BitsPerByte
from tests.support.refusals import refused

NO_MODEL: Any = None
KIND = BitsPerByte(model=NO_MODEL, sequence_length=16)


def test_each_country_counts_the_same() -> None:
    assert mean_of({"a": 1.0, "b": 2.0, "c": 6.0}) == 3.0


def test_held_out_text_is_read_by_country(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) + "\n" for text in ("un", "deux")]
    (tmp_path / "fr.jsonl").write_text("".join(lines))
    assert read_held_out(tmp_path, KIND).sets == {"fr": ["un", "deux"]}


def test_nothing_in_the_folder_of_held_out_text_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "fr.jsonl").write_text('{"text": "un"}\n')
    (tmp_path / "it.JSONL").write_text('{"text": "uno"}\n')
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "id.jsonl").write_text('{"text": "satu"}\n')
    (tmp_path / "es.jsonl").symlink_to("/nowhere")
    with refused(ConfigError, "many-faults") as caught:
        read_held_out(tmp_path, KIND)
    said = str(caught.value)
    assert "es.jsonl: is a link" in said
    assert "it.JSONL: is no <country>.jsonl" in said
    assert "more/id.jsonl: is no <country>.jsonl" in said


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "file-empty"),
        ("{}\n", "record-invalid"),
        ("[]\n", "json-invalid"),
        ("nonsense\n", "json-invalid"),
        ('"x"\n', "json-invalid"),
    ],
)
def test_a_file_that_is_no_held_out_text_is_named(
    tmp_path: Path, text: str, code: str
) -> None:
    (tmp_path / "fr.jsonl").write_text(text)
    with refused(ConfigError, code, match=r"fr\.jsonl[:,] [^\n]+$"):
        read_held_out(tmp_path, KIND)


def test_without_held_out_text_there_is_no_gate(tmp_path: Path) -> None:
    with refused(ConfigError, "file-missing", match=str(tmp_path)):
        read_held_out(tmp_path, KIND)


class Picky:
    """A workload that cannot read a text with an x."""

    def find_fault(self, text: object) -> str | None:
        return "it has an x; take it out" if "x" in str(text) else None


def test_a_held_out_text_that_cannot_be_scored_is_named_by_its_line(
    tmp_path: Path,
) -> None:
    model: Any = Picky()
    kind = BitsPerByte(model=model, sequence_length=16)
    folder = tmp_path / "held-out"
    folder.mkdir()
    (folder / "fr.jsonl").write_text('{"text": "un"}\n\n{"text": "deux"}\n')
    (folder / "it.jsonl").write_text('{"text": "uno"}\n')
    said = r"fr\.jsonl.*3.*it has an x"
    with refused(ConfigError, "text-not-tokenizable", match=said):
        check_held_out(folder, kind)
    (folder / "fr.jsonl").write_text('{"text": "un"}\n')
    check_held_out(folder, kind)


def test_the_digest_names_names_and_bytes(tmp_path: Path) -> None:
    digests = set()
    for name, text in (("fr", "un"), ("fr", "deux"), ("it", "un")):
        for path in tmp_path.iterdir():
            path.unlink()
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": text}))
        digests.add(read_held_out(tmp_path, KIND).digest)
    assert len(digests) == 3
