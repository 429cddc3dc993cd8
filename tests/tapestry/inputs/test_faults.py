"""Faults of files in printable lines, counted, and without a byte of their content."""

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ConfigError
from tapestry.inputs.faults import (
    SHOWN,
    TRACEBACK,
    Faults,
    InputFault,
    ManyFaults,
    show,
    unforeseen,
    wants_traceback,
)

DATA = Path("data")


def _told(*faults: ConfigError) -> str:
    found = Faults()
    for fault in faults:
        found.add(fault)
    with pytest.raises(ConfigError) as caught:
        found.check(DATA)
    return str(caught.value)


def test_a_fault_names_file_line_and_rule() -> None:
    assert str(InputFault(DATA / "a.jsonl", "is empty; remove it")) == (
        "data/a.jsonl: is empty; remove it"
    )
    fault = InputFault(DATA / "a.jsonl", '"text" is missing', line=3, code="text")
    assert str(fault) == 'data/a.jsonl, line 3: "text" is missing'
    assert (fault.path, fault.line, fault.code) == (DATA / "a.jsonl", 3, "text")


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        (DATA, "sub/a.jsonl, line 3: bad"),
        (DATA / "sub" / "a.jsonl", "line 3: bad"),
        (Path("other"), "data/sub/a.jsonl, line 3: bad"),
        (Path(), "data/sub/a.jsonl, line 3: bad"),
    ],
)
def test_a_fault_is_told_below_a_folder_without_its_name(
    folder: Path, said: str
) -> None:
    assert InputFault(DATA / "sub" / "a.jsonl", "bad", line=3).below(folder) == said


def test_a_fault_of_the_folder_itself_is_its_rule_alone() -> None:
    assert InputFault(DATA, "holds no file").below(DATA) == "holds no file"


def test_a_folder_without_a_fault_is_not_refused() -> None:
    faults = Faults()
    faults.check(DATA)
    assert len(faults) == 0


def test_one_fault_is_its_own_message() -> None:
    fault = InputFault(DATA / "a", "bad", code="some-rule")
    faults = Faults()
    faults.add(fault)
    with pytest.raises(InputFault) as caught:
        faults.check(DATA)
    assert caught.value is fault


def test_several_faults_stand_below_the_folder_each_with_its_code() -> None:
    said = _told(
        InputFault(DATA / "a", "is a link", code="link"),
        InputFault(DATA / "b", "is empty", line=2, code="empty"),
        ConfigError("nothing else is known"),
    )
    assert said.splitlines() == [
        "data: 3 faults",
        "  a: is a link [link]",
        "  b, line 2: is empty [empty]",
        "  nothing else is known [config]",
    ]


@pytest.mark.parametrize("count", [SHOWN, SHOWN + 1, 250])
def test_the_first_ten_faults_are_shown_and_all_are_counted(count: int) -> None:
    lines = _told(
        *(InputFault(DATA / f"{n:03}", "bad") for n in range(count))
    ).splitlines()
    assert lines[0] == f"data: {count} faults"
    assert lines[1].startswith("  000: bad")
    assert lines[SHOWN].startswith(f"  {SHOWN - 1:03}: bad")
    assert lines[SHOWN + 1 :] == (
        [f"  and {count - SHOWN} more"] if count > SHOWN else []
    )


def test_several_faults_are_one_error_with_a_message_of_lines() -> None:
    error = ManyFaults(["data: 2 faults", "a: bad", "b: bad"])
    assert str(error) == "data: 2 faults\n  a: bad\n  b: bad"
    assert isinstance(error, ConfigError)


@given(st.binary(min_size=1, max_size=400).filter(lambda name: b"\x00" not in name))
def test_whatever_a_file_is_called_its_fault_is_one_printable_line(name: bytes) -> None:
    path = Path(os.fsdecode(name))
    for said in (str(InputFault(path, "bad")), show(path), show(os.fsdecode(name))):
        assert said.isprintable()
        assert len(said) <= 210
        said.encode("utf-8")


def test_a_byte_that_is_no_text_and_a_line_end_are_escapes() -> None:
    assert show(os.fsdecode(b"caf\xff\n\x1b[2J.txt")) == "caf\\xff\\n\\x1b[2J.txt"
    assert show("été 日本.txt") == "été 日本.txt"


def test_a_long_path_keeps_its_beginning_and_its_end() -> None:
    said = show("begin/" + "x" * 400 + "/end.txt")
    assert said.startswith("begin/xxx")
    assert said.endswith("xxx/end.txt")
    assert len(said) == 201


@pytest.mark.parametrize(("value", "wanted"), [("1", True), ("0", False), ("", False)])
def test_a_traceback_is_shown_to_who_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, value: str, wanted: bool
) -> None:
    monkeypatch.setenv(TRACEBACK, value)
    assert wants_traceback() is wanted
    monkeypatch.delenv(TRACEBACK)
    assert wants_traceback() is False


def test_an_unforeseen_error_is_named_by_the_last_line_of_ours_and_without_its_text(
    tmp_path: Path,
) -> None:
    """The innermost frame is the library's; the operator needs ours."""
    source = tmp_path / "module.py"
    source.write_text("def outer(act):\n    inner(act)\ndef inner(act):\n    act()\n")
    spec = importlib.util.spec_from_file_location("tapestry_node.stand_in", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def library() -> None:
        raise KeyError("Jane Doe has the flu")

    with pytest.raises(KeyError) as caught:
        module.outer(library)
    assert unforeseen(caught.value) == "KeyError in tapestry_node.stand_in:4"


def test_an_error_that_never_came_through_our_code_names_the_package() -> None:
    assert unforeseen(ValueError("secret")) == "ValueError in tapestry"
