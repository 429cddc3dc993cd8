"""No error, log line, message or receipt carries a record, whatever fails.

A canary stands in each record. It is searched for as text, in UTF-16 and UTF-32, in
hex and in base64, by halves, so that a message that cuts a quotation is found as well.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ProtocolError
from tapestry.protocol.messages import Kind
from tapestry.workloads.language.text_records import TextReader
from tapestry_node.data import records
from tapestry_node.training import dp_sgd
from tests.scenarios.conftest import Found
from tests.support.commands import tapestry
from tests.support.federation import (
    RECORDS,
    Federation,
    sentences,
    write_lines,
    write_text,
)
from tests.support.linear_regression import CsvReader
from tests.support.record_canaries import CANARY, shown_in, spelled

MANIFEST = 'language = "it"\nlicence = "CC0-1.0"\nunit = "record"\n'
TABLE = 'licence = "CC0-1.0"\nunit = "record"\n'
TEXT = f"begin {CANARY} end"


def _line(**row: Any) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _dialogue(text: str) -> dict[str, Any]:
    turns = [("user", text), ("assistant", f"{CANARY} well")]
    return {"messages": [{"role": r, "content": c} for r, c in turns]}


# Ways to write a record wrongly, in each of the formats.
TEXTS: dict[str, bytes] = {
    "Latin 1": f"caf\xe9 {TEXT}".encode("latin-1"),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16 without a mark": TEXT.encode("utf-16-le"),
    "UTF-32": TEXT.encode("utf-32"),
    "cut character": f"{TEXT} \u20ac".encode()[:-1],
    "surrogate in UTF-8": f"{TEXT} \ud800".encode("utf-8", "surrogatepass"),
    "NUL": f"{TEXT}\0".encode(),
    "control": f"{TEXT}\x1b[2J".encode(),
    "mark inside": f"{TEXT}\ufeff{TEXT}".encode(),
    "noncharacter": f"{TEXT}\uffff".encode(),
}
ROWS: dict[str, bytes] = {
    "lone surrogate": b'{"text": "' + TEXT.encode() + b' \\ud800"}\n',
    "lone low surrogate": b'{"text": "\\udfff ' + TEXT.encode() + b'"}\n',
    "surrogate in the id": b'{"id": "\\ud800", "text": "' + TEXT.encode() + b'"}\n',
    "surrogate in a key": b'{"\\ud800": 1, "text": "' + TEXT.encode() + b'"}\n',
    "enormous number": _line(text=TEXT)[:-2] + b', "id": ' + b"9" * 5000 + b"}\n",
    "enormous float": _line(text=TEXT)[:-2] + b', "id": 1e999999}\n',
    "NaN": _line(text=TEXT)[:-2] + b', "id": NaN}\n',
    "deep": _line(text=TEXT)[:-2] + b', "id": ' + b"[" * 60000 + b"]" * 60000 + b"}\n",
    "not an object": json.dumps([TEXT]).encode() + b"\n",
    "cut": _line(text=TEXT)[:-4],
    "two on a line": _line(text=TEXT)[:-1] + _line(text=TEXT),
    "key twice": f'{{"text": "{TEXT}", "text": "{TEXT}"}}\n'.encode(),
    "other key": _line(text=TEXT, **{CANARY: TEXT}),
    "text is a list": _line(text=[TEXT]),
    "id is the record": _line(text=TEXT, id=f" {CANARY}"),
    "id in normal form D": _line(text=TEXT, id=f"{CANARY}e\u0301"),
    "NUL": _line(text=f"{TEXT}\0"),
    "mixed id": _line(text=TEXT, id="a") + _line(id="a", **_dialogue(TEXT)),
    "dialogue with a surrogate": _line(**_dialogue(f"{TEXT}\ud800")),
    "dialogue of another role": _line(
        messages=[{"role": CANARY, "content": TEXT}, {"role": "user", "content": TEXT}]
    ),
    "dialogue without answer": _line(messages=[{"role": "user", "content": TEXT}]),
    "dialogue nested": _line(messages=[{"role": "user", "content": {CANARY: [TEXT]}}]),
}
READABLE: dict[str, bytes] = {
    "dialogue in normal form D": _line(**_dialogue(f"{TEXT} cafe\u0301")),
    "text in normal form D": _line(text=f"{TEXT} cafe\u0301"),
    "a mark at the start": b"\xef\xbb\xbf" + _line(text=TEXT),
}
CELLS: dict[str, bytes] = {
    "no names": f"{TEXT},p7\n{TEXT},p8\n".encode(),
    "cells apart": f"text,id\n{TEXT}\n".encode(),
    "unclosed": f'text\n"{TEXT}\n'.encode(),
    "mark inside": f'text\n{TEXT}"\n'.encode(),
    "behind a mark": f'text\n"{TEXT}"{TEXT}\n'.encode(),
    "column twice": f"{CANARY},{CANARY}\na,b\n".encode(),
    "bad id": f'text,id\n{TEXT}," {CANARY}"\n'.encode(),
}
FILES = {
    **{f"txt: {name}": ("a.txt", data) for name, data in TEXTS.items()},
    **{
        f"jsonl: {name}": ("a.jsonl", b'{"text": "' + data + b'"}\n')
        for name, data in TEXTS.items()
    },
    **{f"jsonl: {name}": ("a.jsonl", data) for name, data in ROWS.items()},
    **{f"tsv: {name}": ("a.tsv", b"text\n" + data) for name, data in TEXTS.items()},
    **{
        f"tsv: {name}": ("a.tsv", data.replace(b",", b"\t"))
        for name, data in CELLS.items()
    },
    "parquet: a text": ("a.parquet", TEXT.encode()),
    "arrow: a text": ("a.arrow", TEXT.encode()),
    "csv: a record that is no row": ("a.csv", TEXT.encode()),
    "csv: a surrogate": ("a.csv", f"1,2,{TEXT}\ud800".encode("utf-8", "surrogatepass")),
}


@pytest.mark.parametrize(("name", "data"), FILES.values(), ids=FILES)
def test_a_record_that_cannot_be_read_is_in_no_part_of_the_error(
    tmp_path: Path, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    csv = name.endswith("csv")
    (tmp_path / ("table.toml" if csv else "corpus.toml")).write_text(
        TABLE if csv else MANIFEST
    )
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of whatever kind it is
        records.read(tmp_path, CsvReader() if csv else TextReader())
    assert shown_in(spelled(caught.value)) == []
    assert caught.value.__context__ is None


@pytest.mark.parametrize("data", READABLE.values(), ids=READABLE)
def test_a_record_in_any_normal_form_is_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "corpus.toml").write_text(MANIFEST)
    assert len(records.read(tmp_path, TextReader()).records) == 1


@pytest.mark.parametrize(
    ("name", "data"), list(FILES.values())[:-2], ids=list(FILES)[:-2]
)
def test_a_command_prints_nothing_of_a_record_that_cannot_be_read(
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    data: bytes,
) -> None:
    monkeypatch.setenv("TAPESTRY_TRACEBACK", "1")
    node = federation.directory / "nodes" / "fr"
    path = node / "data" / f"more-{name}"
    path.write_bytes(data)
    try:
        said = tapestry("node", "check", node)
    finally:
        path.unlink()
    assert said.exit_code != 0
    assert shown_in(said.stdout + said.stderr) == []


@pytest.fixture(scope="module")
def federation(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """One whose nodes have ended, so that commands may open their folders."""
    made = Federation(tmp_path_factory.mktemp("canary") / "federation", base)
    made.close()
    return made


class _Odd(Exception):
    """An error of another library, which keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(TEXT)
        self.given = [TEXT]
        self.add_note(TEXT)


def _unicode() -> Exception:
    return UnicodeEncodeError("utf-8", f"{TEXT}\ud800", len(TEXT), len(TEXT) + 1, TEXT)


ERRORS: dict[str, Callable[[], Exception]] = {
    "ValueError": lambda: ValueError(f"cannot convert {TEXT!r}"),
    "KeyError": lambda: KeyError(TEXT),
    "UnicodeEncodeError": _unicode,
    "JSONDecodeError": lambda: json.JSONDecodeError("no", TEXT, 0),
    "an error of the protocol": lambda: ProtocolError(f"not: {TEXT}"),
    "another library's": _Odd,
    "MemoryError": lambda: MemoryError(TEXT),
}


def _failing(make: Callable[[], Exception]) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise make() from LookupError(TEXT)

    return fail


@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("step", ["encode", "losses", "update"])
def test_a_failure_with_records_at_hand_leaves_as_a_code_alone(
    found: Found,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    step: str,
    make: Callable[[], Exception],
) -> None:
    monkeypatch.setenv("TAPESTRY_TRACEBACK", "1")
    federation = found(train=True)
    workload = type(federation.nodes["fr"].trainer.workload)
    target, name = {
        "encode": (workload, "examples"),
        "losses": (workload, "losses"),
        "update": (dp_sgd, "update"),
    }[step]
    monkeypatch.setattr(target, name, _failing(make))
    with caplog.at_level(logging.DEBUG), pytest.raises(Exception) as caught:  # noqa: PT011 - no round can succeed
        federation.run()
    printed = capfd.readouterr()
    assert shown_in(caplog.text + printed.out + printed.err) == []
    assert shown_in(spelled(caught.value)) == []
    for record in caplog.records:
        assert record.exc_info is None or shown_in(spelled(record.exc_info[1])) == []  # type: ignore[arg-type]
    replies = [e.reply for e in federation.wire.log if e.reply is not None]
    assert any(reply.kind is Kind.REFUSAL for reply in replies)
    for reply in replies:
        assert shown_in(reply.body + b"".join(map(bytes, reply.attachments))) == []
    for path in federation.directory.rglob("*"):
        if path.is_file() and "data" not in path.parts:
            assert shown_in(path.read_bytes()) == [], path


def test_an_export_has_no_record_and_no_remark_on_one(
    found: Found, tmp_path: Path
) -> None:
    def write_canary(folder: Path, name: str) -> Path:
        private = write_text(folder, name)
        texts = [f"{CANARY} {word}" for word in sentences(name, RECORDS)]
        write_lines(private / "text.jsonl", texts)
        with (private / "corpus.toml").open("a") as file:
            file.write(f"# {CANARY}\n")
        return private

    federation = found(train=True, data=write_canary)
    federation.run()
    federation.close()
    node = federation.directory / "nodes" / "fr"
    assert shown_in((node / "data" / "text.jsonl").read_bytes())
    said = tapestry("node", "export", node, "-o", tmp_path / "export")
    assert said.exit_code == 0, said.stdout + said.stderr
    assert shown_in(said.stdout + said.stderr) == []
    paths = [path for path in (tmp_path / "export").rglob("*") if path.is_file()]
    assert "corpus.toml" in {path.name for path in paths}
    for path in paths:
        assert shown_in(path.read_bytes()) == [], path
        assert shown_in(path.name) == []
