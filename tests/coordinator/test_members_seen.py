"""What a coordinator knows of its members' connections, told to another process."""

from pathlib import Path
from typing import Any

import pytest

from tapestry.protocol.messages import Kind
from tapestry.storage import durable_files
from tapestry_coordinator import members_seen
from tapestry_coordinator.members_seen import FILE, MembersFile, read_members
from tapestry_coordinator.superlink.outcome import working_on
from tests.support.message_samples import sample_bodies


def greeting(name: str, **changes: Any) -> Any:
    said = sample_bodies()[Kind.IDENTITY]
    return said.model_copy(update={"name": name, **changes})


def test_who_is_here_and_who_has_gone_is_told_while_a_coordinator_works(
    tmp_path: Path,
) -> None:
    file = MembersFile(tmp_path)
    file.write({"fr": greeting("fr", size=3), "fi": greeting("fi")})
    assert read_members(tmp_path) is None  # no coordinator is at work
    with working_on(tmp_path):
        first = read_members(tmp_path) or {}
        assert sorted(first) == ["fi", "fr"]
        assert first["fr"].here
        assert first["fr"].entries == 3
        MembersFile(tmp_path).write({"fr": greeting("fr", size=9)})  # started again
        later = read_members(tmp_path) or {}
    assert (later["fr"].here, later["fi"].here) == (True, False)
    assert later["fr"].changed == first["fr"].changed
    assert later["fr"].entries == 9


def test_who_is_here_is_so_since_this_start_of_the_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MembersFile(tmp_path).write({"fr": greeting("fr"), "fi": greeting("fi")})
    with working_on(tmp_path):
        first = read_members(tmp_path) or {}
        path = tmp_path / FILE
        hour = first["fr"].changed[:13]
        path.write_text(path.read_text().replace(hour, "2020-01-01T00"))
        monkeypatch.setattr(members_seen, "_BEGAN", first["fr"].changed)
        MembersFile(tmp_path).write({"fr": greeting("fr")})
        later = read_members(tmp_path) or {}
    assert later["fr"].changed >= first["fr"].changed
    assert not later["fi"].here


def test_the_file_is_written_only_for_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = MembersFile(tmp_path)
    file.write({"fr": greeting("fr")})
    monkeypatch.setattr(durable_files, "replace_file", None)
    file.write({"fr": greeting("fr")})


@pytest.mark.parametrize("data", [b"", b"{", b'{"members":[{"name":"fr"}]}'])
def test_a_damaged_file_is_no_fault(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FILE).write_bytes(data)
    with working_on(tmp_path):
        assert read_members(tmp_path) == {}
    MembersFile(tmp_path).write({"fr": greeting("fr")})
    with working_on(tmp_path):
        assert (read_members(tmp_path) or {}).keys() == {"fr"}


def test_a_folder_that_cannot_be_written_costs_no_round(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    MembersFile(tmp_path).write({"fr": greeting("fr")})
