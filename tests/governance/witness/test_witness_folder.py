"""A witness's key and memory are one thing; check and memory are one transaction."""

import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

import tapestry_governance
from tapestry import storage
from tapestry.errors import (
    ConfigError,
    IncompleteError,
    InconsistentLog,
    ProtocolError,
    TapestryError,
    VerificationError,
)
from tapestry.keys import Algorithm, SigningKey
from tapestry.tlog import note as notes
from tapestry_governance.log.writer import Log
from tapestry_governance.witness import witness_folder
from tapestry_governance.witness.add_checkpoint import (
    CheckpointRequest,
    StaleSizeError,
)
from tapestry_governance.witness.witness_folder import WitnessFolder, init
from tests.support.cosigning import (
    LOG_KEY,
    TIME,
    TRUST,
    WITNESSES,
    entry,
    publish,
    signing_key,
)
from tests.support.kills import dies
from tests.support.outside_witness import MAIN, Branch, make_witness, opened, trust_of
from tests.support.refusals import refused

FORK = Branch(leaves_at=5)
_CODE = (
    str(Path(tapestry_governance.__file__).parent / "witness"),
    str(Path(storage.__file__).parent),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_witness(tmp_path / "archive")
    return tmp_path / "archive"


def evidence(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("evidence/*")}


# The folder


def test_a_key_is_made_once_with_its_memory_and_before_any_charter(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "archive"
    key = init(folder, "archive")
    assert (key.name, key.algorithm) == ("archive/witness", Algorithm.COSIGNATURE)
    assert stat.S_IMODE((folder / "witness.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "witness.db").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = (folder / "witness.key").read_bytes()
    assert init(folder, "archive") == key
    assert (folder / "witness.key").read_bytes() == before
    with refused(IncompleteError, "trust-missing"):
        WitnessFolder.open(folder)
    with refused(ConfigError, "file-exists"):
        init(folder, "other")


def test_a_folder_with_other_things_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with refused(ConfigError, "folder-not-empty"):
        init(tmp_path, "archive")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_trust_policy_must_name_the_key_and_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    key = init(folder, "archive")
    with refused(ConfigError, "witness-not-trusted"):
        init(folder, "archive", trust=TRUST.encode())
    with refused(ProtocolError, "trust-policy-malformed"):
        init(folder, "archive", trust=b"log\n")
    assert not (folder / "trust-policy.txt").exists()
    trust = trust_of(key)
    for _ in range(2):
        init(folder, "archive", trust=trust.encode())
    other = trust_of(key, log=signing_key("other.example/gov").verify_key)
    with refused(ConfigError, "file-exists"):
        init(folder, "archive", trust=other.encode())
    assert (folder / "trust-policy.txt").read_bytes() == trust.encode()


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_key_without_its_memory_never_signs_again(
    folder: Path, lose: Callable[[Path], object]
) -> None:
    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 5))
    lose(folder / "witness.db")
    both = (lambda: init(folder, "archive"), lambda: WitnessFolder.open(folder))
    for act in both * 2:
        with refused(ConfigError, "witness-memory-missing", match="never signs again"):
            act()


def test_the_memory_of_another_key_is_refused(folder: Path, tmp_path: Path) -> None:
    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 5))
    make_witness(tmp_path / "second")
    shutil.copy(folder / "witness.db", tmp_path / "second" / "witness.db")
    with refused(VerificationError, "witness-memory-differs"):
        WitnessFolder.open(tmp_path / "second")


def test_another_key_of_the_log_takes_the_place_of_the_one_before(
    folder: Path,
) -> None:
    """The memory goes on: it is of the log's name, whoever signs."""
    new = SigningKey(name=LOG_KEY.name, algorithm=Algorithm.SIGNATURE, seed=bytes(32))
    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 5))
        with refused(VerificationError, "signature-missing"):
            witness.cosign(Branch(key=new).request(5, 7))
    key = SigningKey.load(folder / "witness.key").verify_key
    init(folder, "archive", trust=trust_of(key, log=new.verify_key).encode())
    with opened(folder) as witness:
        assert witness.cosigned(LOG_KEY.name) == MAIN.checkpoint(5)
        with refused(InconsistentLog, "consistency-proof-invalid"):
            witness.cosign(Branch(leaves_at=3, key=new).request(5, 7))
        witness.cosign(Branch(key=new).request(5, 7))
        with refused(VerificationError, "signature-missing"):
            witness.cosign(MAIN.request(7, 9))


def test_a_policy_that_no_longer_names_the_key_opens_nothing(folder: Path) -> None:
    (folder / "trust-policy.txt").write_bytes(TRUST.encode())
    with refused(ConfigError, "witness-not-trusted"):
        WitnessFolder.open(folder)


# Check and memory


def test_a_log_that_grows_is_cosigned_at_each_size(folder: Path) -> None:
    key = SigningKey.load(folder / "witness.key").verify_key
    with opened(folder) as witness:
        for old, size in ((0, 0), (0, 1), (1, 1), (1, 7), (7, 256), (256, 300)):
            line = witness.cosign(MAIN.request(old, size))
            found = trust_of(key).open_cosignature(MAIN.checkpoint(size), line)
            assert (found.witness, found.time) == ("archive/witness", TIME)
            assert witness.cosigned(LOG_KEY.name) == MAIN.checkpoint(size)
    with opened(folder) as witness:
        assert witness.cosigned(LOG_KEY.name).size == 300
    assert evidence(folder) == {}


def changed(request: CheckpointRequest, **changes: object) -> CheckpointRequest:
    return CheckpointRequest(
        **{
            "old_size": request.old_size,
            "proof": request.proof,
            "note": request.note,
            **changes,
        }  # type: ignore[arg-type]
    )


REFUSED: list[tuple[str, CheckpointRequest, type[TapestryError], str]] = [
    ("older size", MAIN.request(3, 9), StaleSizeError, "old-size-stale"),
    ("newer size", MAIN.request(8, 9), StaleSizeError, "old-size-stale"),
    ("from nothing", MAIN.request(0, 9), StaleSizeError, "old-size-stale"),
    ("a fork from nothing", FORK.request(0, 9), StaleSizeError, "old-size-stale"),
    (
        "old above size",
        changed(MAIN.request(7, 9), note=MAIN.request(0, 6).note),
        ProtocolError,
        "old-size-too-large",
    ),
    ("two roots", FORK.request(7, 7), InconsistentLog, "log-forked"),
    ("a fork", FORK.request(7, 9), InconsistentLog, "consistency-proof-invalid"),
    (
        "no proof",
        changed(MAIN.request(7, 9), proof=()),
        InconsistentLog,
        "consistency-proof-invalid",
    ),
    (
        "another proof",
        changed(MAIN.request(7, 9), proof=MAIN.request(6, 9).proof),
        InconsistentLog,
        "consistency-proof-invalid",
    ),
    (
        "a hash too many",
        changed(MAIN.request(7, 7), proof=(bytes(32),)),
        InconsistentLog,
        "log-forked",
    ),
    (
        "another log",
        Branch(key=signing_key("other.example/gov")).request(7, 9),
        VerificationError,
        "log-unknown",
    ),
    (
        "another key",
        Branch(
            key=SigningKey.generate(LOG_KEY.name),
        ).request(7, 9),
        VerificationError,
        "signature-missing",
    ),
    (
        "members alone",
        changed(
            MAIN.request(7, 9),
            note=notes.Note(
                text=str(MAIN.checkpoint(9)),
                signatures=(
                    notes.cosign(str(MAIN.checkpoint(9)), WITNESSES[0], time=TIME),
                ),
            ).encode(),
        ),
        VerificationError,
        "log-signature-missing",
    ),
    (
        "a bad signature beside a good one",
        changed(
            MAIN.request(7, 9),
            note=MAIN.request(7, 9).note
            + MAIN.checkpoint(8).cosign(WITNESSES[0], time=TIME),
        ),
        VerificationError,
        "signature-invalid",
    ),
    (
        "no note",
        changed(MAIN.request(7, 9), note=b"x"),
        ProtocolError,
        "note-malformed",
    ),
]


@pytest.mark.parametrize(
    ("request_", "error", "code"),
    [row[1:] for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
def test_what_does_not_continue_the_log_changes_nothing(
    folder: Path, request_: CheckpointRequest, error: type[TapestryError], code: str
) -> None:
    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 7))
        with refused(error, code):
            witness.cosign(request_)
        assert witness.cosigned(LOG_KEY.name) == MAIN.checkpoint(7)
        witness.cosign(MAIN.request(7, 9))


def test_a_fork_is_kept_and_so_is_what_is_not_proven_until_it_is_cosigned(
    folder: Path,
) -> None:
    unproven = changed(MAIN.request(7, 9), proof=())
    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 7))
        for request in (FORK.request(7, 7), unproven, FORK.request(7, 9)):
            with pytest.raises(InconsistentLog):
                witness.cosign(request)
        with pytest.raises(InconsistentLog):  # a wrong proof accuses nobody
            witness.cosign(changed(MAIN.request(7, 7), proof=(bytes(32),)))
        found = sorted(
            name.split("-")[0] + Path(name).suffix for name in evidence(folder)
        )
        assert found == ["7.fork", "9.unproven", "9.unproven"]
        assert FORK.body(7, 7) in evidence(folder).values()
        witness.cosign(MAIN.request(7, 9))
    assert set(evidence(folder).values()) == {FORK.body(7, 7), FORK.body(7, 9)}


def test_evidence_has_a_bound_for_each_kind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness_folder, "MAX_EVIDENCE", 3)
    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 7))
        for size in range(8, 20):
            with pytest.raises(InconsistentLog):
                witness.cosign(FORK.request(7, size))
        assert len(evidence(folder)) == 3
        with pytest.raises(InconsistentLog):
            witness.cosign(FORK.request(7, 7))
    assert sum(name.endswith(".fork") for name in evidence(folder)) == 1


def test_an_older_memory_is_retired_when_it_meets_its_own_cosignature(
    folder: Path, tmp_path: Path
) -> None:
    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 5))
    shutil.copytree(folder, tmp_path / "backup")
    with opened(folder) as witness:
        line = witness.cosign(MAIN.request(5, 9))
    with opened(tmp_path / "backup") as older:
        request = MAIN.request(5, 9)
        met = changed(request, note=request.note + line)
        for each in (met, request, MAIN.request(5, 6)):
            with refused(VerificationError, "witness-retired"):
                older.cosign(each)
    with refused(VerificationError, "witness-retired"):
        WitnessFolder.open(tmp_path / "backup")
    with opened(folder) as witness:  # the newer memory knows what it cosigned
        witness.cosign(changed(MAIN.request(9, 9), note=met.note))


def test_of_two_forks_at_once_one_is_cosigned(folder: Path) -> None:
    """Two threads of each of two openings of one folder, as of two processes."""
    with opened(folder) as first, opened(folder) as second:
        first.cosign(MAIN.request(0, 5))
        barrier, won = threading.Barrier(8), list[str]()

        def ask(witness: WitnessFolder, name: str, request: CheckpointRequest) -> None:
            barrier.wait()
            try:
                witness.cosign(request)
            except StaleSizeError:
                return
            won.append(name)

        threads = [
            threading.Thread(target=ask, args=(witness, name, branch.request(5, 9)))
            for _ in range(2)
            for witness in (first, second)
            for name, branch in (("main", MAIN), ("fork", FORK))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        branch = {"main": MAIN, "fork": FORK}[won[0]]
        for witness in (first, second):
            assert witness.cosigned(LOG_KEY.name) == branch.checkpoint(9)


def test_between_check_and_memory_nothing_else_is_cosigned(folder: Path) -> None:
    """The clock is read between both; there another process asks for a fork."""
    won, others = list[str](), list[threading.Thread]()

    def ask_for_fork() -> None:
        if tries_to_cosign(folder, FORK.request(5, 9)):
            won.append("fork")

    def clock() -> float:
        others.append(threading.Thread(target=ask_for_fork))
        others[0].start()
        others[0].join(0.5)
        return TIME

    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 5))
    with closing(WitnessFolder.open(folder, clock=clock)) as witness:
        with suppress(TapestryError):
            witness.cosign(MAIN.request(5, 9))
            won.append("main")
        others[0].join()
    assert len(won) == 1


def one_death(folder: Path, line: int, given: Path) -> bool:
    """Cosign in a child that dies at a line, and hands out what it was given."""

    def act() -> None:
        with opened(folder) as witness:
            answer = witness.cosign(MAIN.request(5, 9))
        given.write_bytes(answer)

    return dies(act, line, _CODE)


@pytest.mark.slow
def test_wherever_it_dies_what_was_given_out_is_remembered(
    folder: Path, tmp_path: Path
) -> None:
    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 5))
    line, sizes = 1, set[int]()
    while True:
        copy, given = tmp_path / f"at-{line}", tmp_path / f"given-{line}"
        shutil.copytree(folder, copy)
        died = one_death(copy, line, given)
        with opened(copy) as witness:
            size = witness.cosigned(LOG_KEY.name).size
            assert size == 9 or not given.exists()
            sizes.add(size)
            witness.cosign(MAIN.request(size, 9))  # it goes on from there
            with pytest.raises(TapestryError):
                witness.cosign(FORK.request(9, 9))
        shutil.rmtree(copy)
        if not died:
            break
        line += 3
    assert sizes == {5, 9}
    assert line > 100


def test_nothing_is_cosigned_if_the_memory_cannot_be_written(folder: Path) -> None:
    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 5))
        witness._memory.execute(  # noqa: SLF001 - as a disk that fails
            "CREATE TRIGGER no BEFORE INSERT ON cosigned"
            " BEGIN SELECT raise(ABORT, ''); END"
        )
        with refused(TapestryError, "row-refused"):
            witness.cosign(MAIN.request(5, 9))
        assert witness.cosigned(LOG_KEY.name).size == 5


def tries_to_cosign(folder: Path, request: CheckpointRequest) -> bool:
    """Open a folder and cosign; False if that is refused."""
    try:
        with opened(folder) as witness:
            witness.cosign(request)
    except TapestryError:
        return False
    return True


FORKS = [FORK.request(old, size) for old, size in ((0, 7), (0, 9), (7, 7), (7, 9))]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_no_bit_of_the_memory_makes_it_cosign_a_fork(folder: Path, part: int) -> None:
    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 7))
    path = folder / "witness.db"
    whole = path.read_bytes()
    places = [at for at in range(len(whole)) if whole[at] or at % 64 == 0]
    tried = 0
    for at in places[part::8]:
        flipped = bytes([whole[at] ^ 1 << at % 8])
        path.write_bytes(whole[:at] + flipped + whole[at + 1 :])
        assert not any(tries_to_cosign(folder, request) for request in FORKS), at
        tried += 1
    assert tried > 50
    path.write_bytes(whole)
    assert tries_to_cosign(folder, MAIN.request(7, 9))


@pytest.mark.parametrize("name", ["witness.key", "witness.db", "trust-policy.txt"])
def test_no_other_damage_to_a_file_makes_it_cosign_a_fork(
    folder: Path, name: str
) -> None:
    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 7))
    path = folder / name
    whole = path.read_bytes()
    for data in (b"", whole[: len(whole) // 2], bytes(len(whole)), whole[::-1]):
        path.write_bytes(data)
        assert not any(tries_to_cosign(folder, request) for request in FORKS)


# From a folder


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log.create(tmp_path / "log", key=LOG_KEY) as log:
        log.append([entry(n) for n in range(7)])
        publish(log)
        yield log


def test_a_folder_is_cosigned_as_a_request_is(
    folder: Path, tmp_path: Path, log: Log
) -> None:
    public = tmp_path / "log" / "public"
    key = SigningKey.load(folder / "witness.key").verify_key
    trust = trust_of(key)
    with opened(folder) as witness:
        for size in (7, 7, 300):
            log.append([entry(n) for n in range(log.size, size)])
            publish(log)
            line = witness.cosign_folder(public)
            cosigned = (public / "checkpoint").read_bytes() + line
            assert trust.open_published(cosigned).checkpoint.size == size
        witness.cosign(MAIN.request(300, 300))


def test_a_folder_with_less_a_fork_or_a_flipped_bit_is_refused(
    folder: Path, tmp_path: Path, log: Log
) -> None:
    public = tmp_path / "log" / "public"
    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 9))
        with refused(IncompleteError, "log-files-older"):
            witness.cosign_folder(public)
        log.append([entry(n + 300) for n in range(7, 12)])
        publish(log)
        with refused(InconsistentLog, "consistency-proof-invalid"):
            witness.cosign_folder(public)
        assert [Path(name).suffix for name in evidence(folder)] == [".unproven"]
        tile = public / "tile" / "entries" / "000.p" / "12"
        data = bytearray(tile.read_bytes())
        data[-1] ^= 1
        tile.write_bytes(data)
        with refused(VerificationError, "log-root-differs"):
            witness.cosign_folder(public)
        assert witness.cosigned(LOG_KEY.name).size == 9


def test_a_key_of_the_log_or_of_a_member_is_no_witness(folder: Path) -> None:
    """The trust policy refuses one key for two purposes, so none is cosigned by."""
    key = SigningKey.load(folder / "witness.key")
    twin = SigningKey(
        name="log.example/gov", algorithm=Algorithm.SIGNATURE, seed=key.seed
    )
    with refused(ProtocolError, "trust-policy-inconsistent"):
        trust_of(key.verify_key, log=twin.verify_key)
    with refused(ProtocolError, "trust-policy-inconsistent"):
        trust_of(key.verify_key, members=[*WITNESSES[:3], key])
