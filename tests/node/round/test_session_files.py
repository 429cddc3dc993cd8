"""Sealed sessions: what comes back, and what is refused."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapestry import storage
from tapestry.encoding import canonical_json, digest
from tapestry.errors import ProtocolError, ResourceError, VerificationError
from tapestry.protocol.messages import Kind
from tapestry.protocol.stages import SECAGG_STAGES
from tapestry.secagg.chunks import CHUNK_BYTES, chunk_root, cut
from tapestry.secagg.saved_states import save_state
from tapestry_node import state_entries
from tapestry_node.node_state import NodeState
from tapestry_node.round.session_files import (
    SavedReply,
    SessionFiles,
    SessionRecord,
    message_of,
)
from tapestry_node.round.session_marks import SessionMark
from tests.support.file_times import let_a_step_pass
from tests.support.kills import dies
from tests.support.log_world import renamed
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation

SEED = b"s" * 32
REPLY = SavedReply(
    request=digest(b"asked"),
    kind=Kind.SHARED_KEYS,
    body=b'{"a":1}',
    attachments=(b"\0\xff", b""),
)


@pytest.fixture
def round_() -> Federation:
    federation = Federation.of(4)
    federation.run("share_keys")
    return federation


@pytest.fixture
def files(tmp_path: Path) -> SessionFiles:
    return SessionFiles(
        folder=tmp_path / "session", genesis=digest(b"genesis"), node="a", seed=SEED
    )


def record_of(round_: Federation) -> SessionRecord:
    state = round_.cohort[0].state
    name = round_.cohort[0].name
    advertisement = next(a for a in round_.keys.advertisements if a.node == name)
    return SessionRecord(
        min_cohort=state.round.min_cohort,
        advertisement=advertisement,
        reply=REPLY,
        state=save_state(state),
    )


def written(
    files: SessionFiles, round_: Federation
) -> tuple[SessionRecord, SessionMark]:
    record = record_of(round_)
    return record, files.write(round_.manifest, record)


def marked(files: SessionFiles, mark: SessionMark, data: bytes) -> SessionMark:
    """Write other bytes, and mark them as if the node had written them."""
    path = files.folder / mark.stage
    path.write_bytes(data)
    changed = str(path.stat().st_ctime_ns)
    return replace(mark, digest=digest(data), changed=changed)


def test_a_session_comes_back_as_it_was(
    files: SessionFiles, round_: Federation
) -> None:
    record, mark = written(files, round_)
    assert files.read(mark, round_.manifest) == record
    path = files.folder / "share_keys"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (mark.stage, mark.key) == ("share_keys", ("run-1", 1, 1))
    message = message_of(REPLY, [memoryview(b"chunk")])
    assert (message.kind, message.body) == (Kind.SHARED_KEYS, b'{"a":1}')
    assert [bytes(a) for a in message.attachments] == [b"\0\xff", b"", b"chunk"]


def test_nothing_secret_lies_in_a_file_and_no_two_files_are_alike(
    files: SessionFiles, round_: Federation
) -> None:
    record, mark = written(files, round_)
    path = files.folder / mark.stage
    first = path.read_bytes()
    files.write(round_.manifest, record)
    second = path.read_bytes()
    drawn = round_.cohort[0].state.secrets
    for secret in (drawn.seed, drawn.root, SEED):
        for data in (first, second):
            assert secret not in data
            assert secret.hex().encode() not in data
    assert first[:32] != second[:32]  # the salt, so the key
    assert first[44:60] != second[44:60]
    assert repr(SEED) not in repr(files)
    assert drawn.seed.hex() not in repr(record)


def test_a_file_with_a_changed_byte_is_refused_whatever_the_state_says(
    files: SessionFiles, round_: Federation
) -> None:
    _, mark = written(files, round_)
    data = (files.folder / mark.stage).read_bytes()
    places = [*range(200), *range(200, len(data), 97), len(data) - 1]
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        other = marked(files, mark, bytes(changed))
        with refused(VerificationError, "session-sealed"):
            files.read(other, round_.manifest)
        with refused(VerificationError, "session-replaced"):
            files.read(mark, round_.manifest)
    for size in (0, 31, 43, 44, 59, len(data) - 1):
        other = marked(files, mark, data[:size])
        with refused(VerificationError, "session-sealed"):
            files.read(other, round_.manifest)


def test_a_session_opens_in_its_own_place_alone(
    files: SessionFiles, round_: Federation
) -> None:
    record, mark = written(files, round_)
    for other in (
        replace(files, seed=b"t" * 32),
        replace(files, node="b"),
        replace(files, genesis=digest(b"other")),
    ):
        with refused(VerificationError, "session-sealed"):
            other.read(mark, round_.manifest)
    for manifest in (
        renamed(round_.manifest, attempt=2),
        renamed(round_.manifest, round_number=2),
        renamed(round_.manifest, threshold=4),
    ):
        with refused(VerificationError, "session-sealed"):
            files.read(mark, manifest)
    data = (files.folder / mark.stage).read_bytes()
    elsewhere = marked(files, replace(mark, stage="unmask"), data)
    with refused(VerificationError, "session-sealed"):
        files.read(elsewhere, round_.manifest)
    assert record.state.stage == "share_keys"


@pytest.mark.parametrize("how", ["copied", "put back", "moved", "restored in time"])
def test_a_file_that_was_put_back_is_refused_although_it_is_the_same(
    files: SessionFiles, round_: Federation, how: str
) -> None:
    _, mark = written(files, round_)
    path = files.folder / mark.stage
    kept = path.with_name("kept")
    let_a_step_pass()
    if how == "moved":
        path.rename(kept)
        kept.rename(path)
    else:
        before = path.stat()
        shutil.copy2(path, kept)
        path.unlink()
        shutil.copy2(kept, path)
        if how == "restored in time":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest(path.read_bytes()) == mark.digest
    with refused(VerificationError, "session-replaced"):
        files.read(mark, round_.manifest)


def test_a_session_of_another_release_is_refused(
    files: SessionFiles, round_: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Any = record_of(round_).model_dump(mode="json")
    plain["format"] = "tapestry-session/2"
    with monkeypatch.context() as patch:
        patch.setattr(SessionRecord, "encode", lambda _: canonical_json(plain))
        _, mark = written(files, round_)
    with refused(ProtocolError, "schema-violated", match="format"):
        files.read(mark, round_.manifest)


def test_without_its_file_a_session_is_refused(
    files: SessionFiles, round_: Federation
) -> None:
    _, mark = written(files, round_)
    (files.folder / mark.stage).unlink()
    with refused(ResourceError, "file-unreadable"):
        files.read(mark, round_.manifest)


@pytest.mark.parametrize("stride", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_a_node_killed_at_any_line_is_at_the_step_before_or_at_this_one(
    tmp_path: Path, stride: int
) -> None:
    """And what its state names is there, whole."""
    round_ = Federation.of(4)
    round_.run("advertise_keys")
    first = record_of(round_)
    round_.share_keys()
    second, found = record_of(round_), list[str]()
    code = tuple(str(Path(str(m.__file__)).parent) for m in (storage, state_entries))
    for line in range(1, 5000, stride):
        folder = tmp_path / str(line)
        folder.mkdir()
        files = SessionFiles(
            folder=folder / "session", genesis="g", node="a", seed=SEED
        )
        store = NodeState(folder / "node.db")
        store.keep_session(files.write(round_.manifest, first))
        store.close()

        def act(folder: Path = folder, files: SessionFiles = files) -> None:
            store = NodeState(folder / "node.db")
            store.keep_session(files.write(round_.manifest, second))
            files.keep_only("share_keys")

        died = dies(act, line, code)
        mark = NodeState(folder / "node.db").session()
        assert mark is not None
        record = files.read(mark, round_.manifest)
        assert record == (first if mark.stage == "advertise_keys" else second)
        found.append(mark.stage)
        if not died:
            break
    assert found[-1] == "share_keys"
    assert set(found) == {"advertise_keys", "share_keys"}
    assert len(found) > 150 / stride


# The masked vector


@pytest.mark.parametrize("length", [1, 262_144, 262_145, 600_000])
def test_an_upload_comes_back_in_the_chunks_in_which_it_travels(
    files: SessionFiles, length: int
) -> None:
    manifest = Federation.of(4, length=length).manifest
    values = np.random.default_rng(7).integers(0, 2**32, length, dtype=np.uint32)
    chunks = cut(values)
    files.write_upload(chunks)
    assert (files.folder / "upload").stat().st_mode & 0o777 == 0o600
    found = files.read_upload(manifest, root=chunk_root(chunks))
    assert [bytes(c) for c in found] == [bytes(c) for c in chunks]
    assert all(len(chunk) <= CHUNK_BYTES for chunk in found)
    with refused(VerificationError, "session-upload-differs"):
        files.read_upload(manifest, root=digest(b"another"))


def test_an_upload_of_another_length_is_refused(files: SessionFiles) -> None:
    manifest = Federation.of(4, length=50).manifest
    chunks = cut(np.zeros(51, dtype=np.uint32))
    files.write_upload(chunks)
    with refused(ProtocolError, "chunk-size-invalid"):
        files.read_upload(manifest, root=chunk_root(chunks))
    (files.folder / "upload").write_bytes(b"")
    with refused(ResourceError, "file-unreadable"):
        files.read_upload(manifest, root=chunk_root(chunks))
    (files.folder / "upload").unlink()
    with refused(ResourceError, "file-unreadable"):
        files.read_upload(manifest, root=chunk_root(chunks))


def test_only_the_files_of_the_step_stay(files: SessionFiles) -> None:
    def present() -> set[str]:
        return {path.name for path in files.folder.glob("*")}

    everything = [*SECAGG_STAGES, "upload", "unmask.new", "upload.new"]
    for stage, kept in (
        ("share_keys", {"share_keys"}),
        ("collect_masked_inputs", {"collect_masked_inputs", "upload"}),
        ("check_consistency", {"check_consistency"}),
        (None, set()),
    ):
        files.folder.mkdir(exist_ok=True)
        for name in everything:
            (files.folder / name).write_bytes(b"x")
        files.keep_only(stage)
        assert present() == kept
    assert not files.folder.exists()
    files.keep_only(None)  # and where there is none
