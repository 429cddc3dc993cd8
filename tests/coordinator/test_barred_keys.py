"""The list of transport keys that the log calls compromised."""

from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry_coordinator.barred_keys import FILE, bar, read_barred
from tests.support.refusals import refused

ONE, TWO = "ab" * 32, "cd" * 32


def test_a_key_that_is_barred_stays_barred(tmp_path: Path) -> None:
    enrolled = tmp_path / "enrolled"
    assert read_barred(enrolled) == frozenset()
    bar(enrolled, [])
    assert not enrolled.exists()
    bar(enrolled, [TWO])
    bar(enrolled, [ONE])
    bar(enrolled, [])  # the log is an older copy
    assert read_barred(enrolled) == {ONE, TWO}
    assert (enrolled / FILE).read_text() == f"{ONE}\n{TWO}\n"


def test_nothing_is_written_where_nothing_is_new(tmp_path: Path) -> None:
    bar(tmp_path, [ONE])
    before = (tmp_path / FILE).stat()
    bar(tmp_path, [ONE])
    assert (tmp_path / FILE).stat() == before


@pytest.mark.parametrize(
    "text",
    [ONE, f"{ONE}\n\n", f"{ONE.upper()}\n", f" {ONE}\n", "\xff", f"{ONE[:-1]}\n"],
)
def test_a_damaged_list_lets_nothing_in(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    with refused(ConfigError, "barred-keys-invalid", match="coordinator run"):
        read_barred(tmp_path)
    with refused(ConfigError, "barred-keys-invalid"):
        bar(tmp_path, [TWO])
    assert (tmp_path / FILE).read_text(encoding="latin-1") == text
