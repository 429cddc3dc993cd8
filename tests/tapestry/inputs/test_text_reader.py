"""Outside text is read by one set of rules; what breaks one is named, never shown."""

import json
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ConfigError
from tapestry.inputs import text_reader
from tapestry.inputs.faults import SHOWN, Faults
from tests.support.public_texts import read_public_texts
from tests.support.refusals import refused

CANARY = "canary"


def _rows(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], str]:
    """Read rows; return them and the message about what is wrong."""
    faults = Faults()
    rows = list(text_reader.read_rows(path, faults))
    try:
        faults.check(path)
    except ConfigError as error:
        return rows, str(error)
    return rows, ""


def _write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def _chain(error: BaseException | None) -> str:
    """Spell an error and all that it carries."""
    told = []
    while error is not None:
        told += [str(error), repr(error.args), repr(vars(error))]
        error = error.__cause__ or (
            None if error.__suppress_context__ else error.__context__
        )
    return "\n".join(told)


READERS: list[Callable[[Path], object]] = [
    text_reader.read_text,
    text_reader.read_toml,
    read_public_texts,
    lambda path: Faults.check(_faults_of(path), path),
]


def _faults_of(path: Path) -> Faults:
    faults = Faults()
    for _ in text_reader.read_rows(path, faults):
        pass
    return faults


@pytest.mark.parametrize("read", READERS, ids=["text", "toml", "public", "rows"])
@pytest.mark.parametrize(
    ("data", "code", "rule"),
    [
        ('{"text": "canary"}\n'.encode("utf-16"), "text-not-utf8", "is UTF-16"),
        ('{"text": "canary"}\n'.encode("utf-16-le"), "text-not-utf8", "is UTF-16LE"),
        ('{"text": "canary"}\n'.encode("utf-16-be"), "text-not-utf8", "is UTF-16BE"),
        ('{"text": "canary"}\n'.encode("utf-32"), "text-not-utf8", "is UTF-32"),
        ("canary = 'città'".encode("latin-1"), "text-not-utf8", "line 1"),
        (b"\r\n\rcanary \xed\xa0\x80", "text-not-utf8", "line 3"),  # a surrogate
        (b"canary \xc0\xaf", "text-not-utf8", "line 1"),  # an overlong slash
        (
            b'{"text": "canary"}\n{"text": "a\x00"}',
            "character-not-allowed",
            "line 2: holds a NUL",
        ),
        (
            b'{"text": "canary\x1b[2J"}',
            "character-not-allowed",
            "holds a control character",
        ),
        ('{"text": "canary\x96"}'.encode(), "character-not-allowed", "Windows-1252"),
        (
            '\ufeff{"text": "canary\ufeff"}'.encode(),
            "character-not-allowed",
            "line 1: holds a byte-order mark",
        ),
        (
            '\ufeff\ufeff{"text": "canary"}'.encode(),
            "character-not-allowed",
            "line 1: holds a byte-order mark",
        ),
        ('{"text": "canary\uffff"}'.encode(), "character-not-allowed", "no character"),
    ],
    ids=str,
)
def test_what_is_no_text_is_named_by_every_reader(
    tmp_path: Path, read: Callable[[Path], object], data: bytes, code: str, rule: str
) -> None:
    path = _write(tmp_path / "outside", data)
    with refused(ConfigError, code) as caught:
        read(path)
    assert rule in str(caught.value)
    assert CANARY not in _chain(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_at_the_start_is_dropped_everywhere(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert text_reader.read_text(_write(tmp_path / "a", mark + b"uno")) == "uno"
    assert text_reader.read_toml(_write(tmp_path / "b", mark + b"a = 1")) == {"a": 1}
    rows = _write(tmp_path / "c", mark + b'{"text": "uno"}')
    assert read_public_texts(rows) == ["uno"]


def test_three_line_ends_and_no_other(tmp_path: Path) -> None:
    path = _write(tmp_path / "a", "1\r\n2\r3\n4\u20285\u20296\x857\x0b8\x0c9")
    assert text_reader.read_text(path) == "1\n2\n3\n4\u20285\u20296\x857\x0b8\x0c9"
    lines = '{"text": "1\u2028"}\r\n{"text": "2"}\r\r{"text": "3\x85"}\n\n{"text":"4"}'
    rows, said = _rows(_write(tmp_path / "b", lines))
    assert [number for number, _ in rows] == [1, 2, 4, 6]
    assert rows[0][1] == {"text": "1\u2028"}
    assert said == ""


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ('{"text": "canary", "text": "b"}', "a key stands there twice"),
        ('{"text": "canary", "x": {"a": 1, "a": 2}}', "a key stands there twice"),
        ('{"text": "canary", "x": NaN}', "NaN and infinity"),
        ('{"text": "canary", "x": -Infinity}', "NaN and infinity"),
        ('{"text": "canary", "x": 1e999}', "number is too large"),
        ('{"text": "canary", "x": ' + "9" * 5000 + "}", "number is too large"),
        ('{"text": "canary"} {"text": "b"}', "something follows the object"),
        ('{"text": "canary"},', "something follows the object"),
        ('["canary"]', "is a list"),
        ('"canary"', "is text"),
        ("7", "is a number"),
        ("null", "is null"),
        ("[" * 100_000, "nested too deeply"),
        ('{"x": ' * 100_000, "nested too deeply"),
        ('{"text": "canary', "not JSON"),
        ("{'text': 'canary'}", "not JSON"),
        ('{"text": "canary\tb"}', "not JSON"),  # JSON wants an escape
        ("[", "goes on in the next line"),
    ],
    ids=lambda value: value[:30],
)
def test_json_is_read_strictly(tmp_path: Path, line: str, rule: str) -> None:
    path = _write(tmp_path / "a", f'{{"text": "ok"}}\n{line}\n{{"text": "ok"}}\n')
    rows, said = _rows(path)
    assert f"{path}, line 2: " in said
    assert rule in said
    assert CANARY not in said
    assert [number for number, _ in rows] == [1, 3]


def test_ten_faults_are_named_and_the_others_counted(tmp_path: Path) -> None:
    path = _write(tmp_path / "a", "canary\n" * 17)
    _, said = _rows(path)
    lines = said.splitlines()
    assert lines[0] == f"{path}: 17 faults"
    assert len(lines) == SHOWN + 2
    assert lines[3].startswith("  line 3: not JSON")
    assert lines[-1] == "  and 7 more"
    assert CANARY not in said


@pytest.mark.parametrize("data", ["a = [", "a = " + "[" * 50_000, "a = " + "1" * 9999])
def test_invalid_toml_is_refused_in_one_line(tmp_path: Path, data: str) -> None:
    with refused(ConfigError, "toml-invalid", match=r"^[^\n]+$"):
        text_reader.read_toml(_write(tmp_path / "a.toml", data))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("[canary]\n[canary]", "a key or table is there twice"),
        ("canary = 1\ncanary = 2", "a key or table is there twice"),
        ("a = 1\na.canary = 2", "a key or table is there twice"),
        ("a = { canary = 1, canary = 2 }", "a key or table is there twice"),
        ("[canary]\na = 1\n[canary.a]", "a key or table is there twice"),
        ("[[canary]]\n[canary]", "a key or table is there twice"),
        ("a = canary", "a value is missing or is no TOML value"),
        ("a = 1999-02-30", "a date or time is not valid"),
        ('a = "\\canary"', "an escape in a text is not valid"),
        ('a = "\\ud800"', "an escape in a text is no character"),
        ('a = """canary', "a text has no end"),
        ('a = "canary\n"', "a text goes over its line"),
        ("a = [1, 2", "a list or table has no end"),
        ("a = 1 canary", "something follows a value"),
        ("canary", "a key has no value"),
        ("= canary", "no lines key = value"),
        ("[canary", "no lines key = value"),
        ("a = " + "1" * 9999, "a number has too many digits"),
    ],
)
def test_a_toml_error_is_described_without_quoting_the_file(
    tmp_path: Path, data: str, said: str
) -> None:
    path = _write(tmp_path / "a.toml", f"# of ours\n{data}\n")
    with refused(ConfigError, "toml-invalid") as caught:
        text_reader.read_toml(path)
    assert re.fullmatch(
        rf"{re.escape(str(path))}(, line [2-4])?: is not TOML: {said}(;.*)?",
        str(caught.value),
    )
    assert CANARY not in str(caught.value)
    assert "ud800" not in str(caught.value)


def test_empty_toml_says_so(tmp_path: Path) -> None:
    with refused(ConfigError, "file-empty"):
        text_reader.read_toml(_write(tmp_path / "a.toml", " \n"))


def test_long_files_and_lines_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_reader, "MAX_TEXT_BYTES", 1 << 20)
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(b'{"text": "ok"}\n\x01')
        file.truncate(1 << 40)
    tracemalloc.start()
    rows, said = _rows(path)
    with refused(ConfigError, "file-too-large", match="1 MiB"):
        text_reader.read_text(path)
    with refused(ConfigError, "file-too-large", match="1 MiB"):
        text_reader.read_toml(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == [(1, {"text": "ok"})]
    assert "line 2: is over 1 MiB long" in said
    assert peak < 8 << 20


def test_many_lines_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = _write(tmp_path / "a", b'{"text": "uno due tre"}\n' * 10_000)
    tracemalloc.start()
    rows = text_reader.read_rows(path, Faults())
    assert sum(1 for _ in rows) == 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_what_is_no_file_is_never_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for read in READERS:
        with refused(ConfigError, "file-not-plain"):
            read(fifo)
        with refused(ConfigError, "file-not-plain"):
            read(Path("/dev/zero"))
        with refused(ConfigError, "file-not-plain"):
            read(tmp_path)


def test_a_link_is_followed_only_where_it_may_be(tmp_path: Path) -> None:
    _write(tmp_path / "file", "uno")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert text_reader.read_text(tmp_path / "link") == "uno"
    with refused(ConfigError, "link-not-allowed"):
        text_reader.read_text(tmp_path / "link", links=False)


def test_a_file_that_is_written_meanwhile_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a", '{"text": "uno"}\n' * 3)
    faults = Faults()
    for number, _ in text_reader.read_rows(path, faults):
        if number == 2:
            with path.open("a") as file:
                file.write('{"text": "due"}\n')
    with refused(ConfigError, "file-changed"):
        faults.check(path)


@given(st.binary(max_size=60))
def test_whatever_the_bytes_are_reading_ends_in_text_or_a_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = _write(tmp_path_factory.getbasetemp() / "bytes", data)
    for read in READERS:
        try:
            found = read(path)
        except ConfigError as error:
            told = str(error).replace(str(path), "")
            assert all(each.isprintable() or each == "\n" for each in told)
        else:
            json.dumps(found, default=str, ensure_ascii=False).encode()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)))
def test_what_was_written_as_json_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows"
    fit = [text for text in texts if text_reader.first_fault(text) is None]
    for ascii_only in (True, False):
        rows = [json.dumps({"text": text}, ensure_ascii=ascii_only) for text in fit]
        found, said = _rows(_write(path, "\n".join(rows)))
        assert [row["text"] for _, row in found] == fit
        assert said == ""


def test_each_character_is_judged_alone_and_beside_others_as_the_pattern_has_it() -> (
    None
):
    """The fast way past clean text lets no refused character through."""
    refused_ones = {
        *range(0x09),
        *range(0x0E, 0x20),
        *range(0x7F, 0x85),
        *range(0x86, 0xA0),
        *range(0xD800, 0xE000),
        *range(0xFDD0, 0xFDF0),
        0xFEFF,
        0xFFFE,
        0xFFFF,
    }
    found = {
        code for code in range(0x10000) if text_reader.first_fault(f"é{chr(code)}x")
    }
    assert found == refused_ones
    assert text_reader.first_fault("".join(map(chr, range(0x10000, 0x110000)))) is None
