"""The printer: no text ends a command, and none takes over a terminal."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.cli import console
from tapestry.errors import ConfigError
from tests.support.audit_bundles import bundle_of
from tests.support.log_world import World
from tests.support.refusals import refused

_CONTROLS = ("\x00", "a\x1b[2J", "\x7f", "\x9b1m", "\r")
ENVIRONMENTS = {
    "LANG=C": {"LANG": "C", "LC_ALL": "C", "TERM": "dumb"},
    "no UTF-8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ascii": {"PYTHONIOENCODING": "ascii:strict", "TERM": "dumb", "COLUMNS": "20"},
    "latin-1": {"PYTHONIOENCODING": "latin-1:strict", "NO_COLOR": "1"},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle under a name that no narrow encoding can spell."""
    folder = tmp_path_factory.mktemp("bündel-日本")
    return bundle_of(World().found(), folder).folder


def run(
    *words: str | bytes, stdin: bytes = b"", variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "tapestry", *words],
        env={**os.environ, **(variables or {})},
        input=stdin,
        capture_output=True,
        check=False,
    )


def printed(print_it: Callable[[], None], *, encoding: str) -> str:
    """Return what is printed to an output of this encoding."""
    raw = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        stream = io.TextIOWrapper(raw, encoding, write_through=True)
        patch.setattr(sys, "stdout", stream)
        console.prepare()
        print_it()
        return raw.getvalue().decode(encoding)


@given(st.text(st.characters(codec=None)))
def test_any_text_is_printed_as_one_harmless_line(text: str) -> None:
    line = console.shown(text)
    assert len(line.splitlines()) <= 1
    assert not {c for c in line if ord(c) < 32 or 127 <= ord(c) < 160}
    assert not {c for c in line if 0xD800 <= ord(c) < 0xE000 or c in "\u202e\u2066"}
    line.encode("utf-8")


def test_scripts_that_need_joiners_and_marks_keep_them() -> None:
    for text in ("می‌خواهم", "क्‍ष", "שלום \u200f(א)", "👩‍🔬", "a  b"):
        assert console.shown(text) == text


@pytest.mark.slow
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
))  # fmt: skip
def test_json_is_valid_whatever_it_says_and_however_it_is_spelled(
    value: object,
) -> None:
    for encoding in ("utf-8", "ascii", "latin-1"):
        text = printed(partial(console.say_json, value), encoding=encoding)
        assert json.loads(text) == value
        assert not {c for c in text if (c != "\n" and ord(c) < 32) or ord(c) == 0x9B}


def test_a_number_that_json_lacks_is_null() -> None:
    value = {"a": float("inf"), "b": [float("nan"), 1.5]}
    text = printed(partial(console.say_json, value), encoding="utf-8")
    assert json.loads(text) == {"a": None, "b": [None, 1.5]}


def test_a_page_keeps_its_lines_and_nothing_else() -> None:
    page = partial(console.say_page, "# Ünter\n\n\x1b[31mred\rgone\n")
    found = printed(page, encoding="ascii")
    assert found == "# \\xdcnter\n\n\\x1b[31mred\\rgone\n"


def test_a_note_as_long_as_a_book_is_shown_by_its_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.note(f"start{'x' * 100_000}end")
    said = capsys.readouterr().err
    assert said.startswith("startxxx")
    assert said.endswith("xxxend\n")
    assert len(said) < 2010


def test_a_log_quotes_others_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import logging; from tapestry.cli import console; console.start_logging();"
        "logging.getLogger('x').warning('said %s', 'a\\n2026 x HOLDS \\x1b[2J')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    line = capfd.readouterr().err
    assert line.endswith(" x said a\\n2026 x HOLDS \\x1b[2J\n")
    assert line.count("\n") == 1


def test_a_library_that_configured_a_log_before_does_not_keep_its_ways(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code = (
        "import logging; from tapestry.cli import console; logging.basicConfig();"
        "console.start_logging(); logging.getLogger('x').info('connected\\nto')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert capfd.readouterr().err.endswith(" x connected\\nto\n")


@pytest.mark.parametrize("text", ["", "a\tb\nc", "日本", "e\u0301", "👩‍🔬"])
def test_text_of_a_person_is_taken_as_it_is(text: str) -> None:
    assert console.check_text(text, what="the prompt") == text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a\udcffb", "text-not-utf8"),
        *((each, "character-not-allowed") for each in _CONTROLS),
    ],
)
def test_bytes_and_control_characters_are_no_text(text: str, code: str) -> None:
    with refused(ConfigError, code, match="the prompt") as caught:
        console.check_text(text, what="the prompt")
    str(caught.value).encode("ascii")


@pytest.mark.slow
@pytest.mark.parametrize("variables", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_every_environment_gets_its_verdict(
    bundle: Path, variables: dict[str, str]
) -> None:
    done = run("audit", "verify", str(bundle), "--json", variables=variables)
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (0, "holds")
    wrong = run("audit", "nö日", variables=variables)
    assert wrong.returncode == 64
    assert wrong.stderr.count(b"\n") == 1


@pytest.mark.slow
def test_a_name_that_is_no_utf8_is_shown_and_found(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9\n\x1b[31m"
    done = run("audit", "verify", folder)
    assert done.returncode == 64
    assert done.stderr.count(b"\n") == 1
    assert b"caf\\udce9\\n\\x1b[31m" in done.stderr
    Path(os.fsdecode(folder)).mkdir()
    assert run("audit", "verify", folder, "--json").returncode == 3


@pytest.mark.slow
def test_a_prompt_that_is_no_text_is_wrong_usage() -> None:
    cases: tuple[tuple[list[str | bytes], bytes], ...] = (
        (["--prompt", b"caf\xe9"], b""),
        (["--prompt", b"a\x1b]0;x\x07"], b""),
        ([], b"caf\xe9\n"),
    )
    for words, typed in cases:
        done = run("chat", "--base", "tiny", *words, stdin=typed)
        assert done.returncode == 64
        assert done.stderr.startswith(b"tapestry: the prompt ")
        assert done.stderr.count(b"\n") == 1


@pytest.mark.slow
def test_a_closed_pipe_ends_the_command_quietly(bundle: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "tapestry", "audit", "verify", str(bundle)],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 3
    assert b"tapestry:" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "said"),
    [(">&-", "standard output: closed"), (">/dev/full", "standard output: No space")],
)
@pytest.mark.parametrize(
    "words",
    [["audit", "verify", "BUNDLE"], ["--version"], ["--help"], ["node", "--help"]],
    ids=" ".join,
)
def test_a_verdict_that_cannot_be_printed_is_incomplete(
    bundle: Path, redirection: str, said: str, words: list[str]
) -> None:
    """A verdict that nobody could read must not look like one that holds."""
    script = f'"$0" -m tapestry "$@" {redirection}'
    given = [str(bundle) if word == "BUNDLE" else word for word in words]
    done = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, *given],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert said in done.stderr
    assert "Traceback" not in done.stderr
