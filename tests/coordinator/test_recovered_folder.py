"""A folder whose log comes from a member's mirror, and the votes on who leads it."""

import shutil
from functools import partial
from pathlib import Path

import pytest

import tapestry_governance
from tapestry import storage
from tapestry.encoding import digest
from tapestry.errors import ConfigError, ResourceError, RuleError
from tapestry.keys import SigningKey
from tapestry_coordinator import recovered_folder
from tapestry_coordinator.led_log import MARKER
from tapestry_coordinator.log_reader import read_log
from tapestry_coordinator.recovered_folder import Recovered, recover, take
from tapestry_governance.ballot_paper import BallotPaper, cast, open_paper
from tapestry_governance.events.member_events import VoteCast
from tapestry_governance.founding_files import read_document
from tapestry_governance.log.writer import Log
from tests.coordinator.test_log_copies import mirror_of
from tests.support.kills import dies
from tests.support.log_world import World
from tests.support.proposals import new_coordinator, new_key
from tests.support.refusals import refused

_CODE = (
    str(Path(tapestry_governance.__file__).parent / "log"),
    str(Path(storage.__file__).parent),
    str(Path(recovered_folder.__file__)),
)
_BESIDE = (".db-shm", ".db-wal")
AUTHOR = new_key("coordinator/author")


@pytest.fixture
def world() -> World:
    world = World().found()
    world.run_round(1)
    world.add(world.release(1))
    return world


def folder_of(world: World, place: Path, *, log: SigningKey | None = None) -> Path:
    """Write what ``coordinator init`` makes, but for certificates."""
    (place / "keys").mkdir(parents=True)
    (log or new_key(world.log_key.name)).save(place / "keys" / "log.key")
    AUTHOR.save(place / "keys" / "author.key")
    (place / "coordinator.toml").write_text(
        f'federation = "{world.state.federation if world.state else ""}"\n'
        f'origin = "{world.log_key.name}"\naddress = "rivers.example:443"\n'
    )
    return place


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    return folder_of(world, tmp_path / "new")


def recovered(world: World, folder: Path, tmp_path: Path) -> Recovered:
    path = tmp_path / "view.db"
    path = path if path.exists() else mirror_of(world, path)
    return recover(folder, [path], trust=world.trust.encode())


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {p.name: p.read_bytes() for p in found if p.suffix not in _BESIDE}


def proposal_of(world: World) -> bytes:
    proposal = new_coordinator(world, name="coordinator", key=str(AUTHOR.verify_key))
    world.propose(proposal)
    return world.entries[-1]


def test_the_log_is_that_of_the_mirror_and_nothing_is_signed(
    world: World, folder: Path, tmp_path: Path
) -> None:
    found = recovered(world, folder, tmp_path)
    assert (found.was_there, found.is_named) == (False, False)
    assert found.releases == ("base-1",)
    assert found.unknown == ("de", "es", "fr", "id")
    assert not (folder / MARKER).exists()
    assert (folder / "trust-policy.txt").read_bytes() == world.trust.encode()
    assert read_log(folder)[1] == world.entries
    key = new_key(world.log_key.name)
    with Log.open(folder / "log", key=key) as log:
        assert log.latest() == world.note()
        assert log.store.published_sizes() == [len(world.entries)]
    assert (folder / "log" / "public" / "checkpoint").read_bytes() == world.note()
    before = files(folder)
    again = recovered(world, folder, tmp_path)
    assert again.was_there
    assert before == files(folder)


def test_it_says_what_is_missing_and_what_comes_next(
    world: World, folder: Path, tmp_path: Path
) -> None:
    (folder / "enrolled").mkdir()
    (folder / "enrolled" / "de.pub").touch()
    found = recovered(world, folder, tmp_path)
    text = "\n".join(found.lines(folder))
    assert "releases/base-1: no run begins with it until" in text
    assert "es.request" in text
    assert "de.request" not in text
    assert "governance propose coordinator" in text
    (folder / "releases" / "base-1").mkdir(parents=True)
    text = "\n".join(recovered(world, folder, tmp_path).lines(folder))
    assert "base-1" not in text
    assert "was there already" in text
    assert found.to_json()["missing_releases"] == ["base-1"]


def test_the_keys_that_the_log_names_need_no_vote_and_ask_all_members(
    world: World, tmp_path: Path
) -> None:
    folder = folder_of(world, tmp_path / "same", log=world.log_key)
    found = recovered(world, folder, tmp_path)
    assert found.is_named
    assert (folder / MARKER).exists()
    assert "coordinator run" in list(found.lines(folder))[-1]
    assert take(folder, [proposal_of(world)]) is None
    with Log.open(folder / "log", key=world.log_key) as log:
        log.check(world.note(world.entries[:-1]))


def test_a_folder_of_another_federation_or_with_another_log_is_left_alone(
    world: World, folder: Path, tmp_path: Path
) -> None:
    settings = folder / "coordinator.toml"
    text = settings.read_text()
    settings.unlink()
    with refused(ConfigError, "file-missing", match="coordinator init"):
        recovered(world, folder, tmp_path)
    settings.write_text(text.replace('"tapestry"', '"rivers"'))
    with refused(ConfigError, "federation-differs", match="'rivers'"):
        recovered(world, folder, tmp_path)
    settings.write_text(text)
    assert not (folder / "log").exists()
    recovered(world, folder, tmp_path)
    world.add(world.declaration("fr"), "fr", "node")
    longer = mirror_of(world, tmp_path / "longer.db")
    with refused(ConfigError, "log-exists"):
        recover(folder, [longer], trust=world.trust.encode())
    assert len(read_log(folder)[1]) == len(world.entries) - 1


def test_members_vote_on_the_keys_by_the_ballot_that_it_writes(
    world: World, folder: Path, tmp_path: Path
) -> None:
    recovered(world, folder, tmp_path)
    note = world.note()
    entry = proposal_of(world)
    found = take(folder, [entry])
    assert found is not None
    ((path, standing),) = found.ballots.items()
    assert (standing, found.is_named) == ((0, 3), False)
    paper = read_document(path, BallotPaper, limit=1 << 20)
    opened = open_paper(paper, trust=world.trust)
    assert not opened.is_proven
    assert opened.checkpoint.size == len(world.entries) - 1
    votes = [
        cast(opened, "yes", root=world.keys[name, "root"], reasons=None, now=world.now)
        for name in ("de", "es", "fr")
    ]
    few = take(folder, [entry, *votes[:2]])
    assert few is not None
    assert few.to_json() == {
        "is_named": False,
        "ballots": [{"ballot": str(path), "yes": 2, "needed": 3}],
    }
    enough = take(folder, votes)
    assert enough is not None
    assert enough.is_named
    assert any("coordinator run" in line for line in enough.lines(folder))
    assert not (folder / "witness-policy.txt").exists()  # there are none
    assert take(folder, votes) is None
    again = recovered(world, folder, tmp_path)
    assert (again.was_there, again.is_named) == (True, True)
    assert list(again.lines(folder))[-1].endswith(f"coordinator run {folder}")
    assert again.to_json()["entries"] == len(world.entries) + len(votes)
    entries = read_log(folder)[1]
    assert entries == [*world.entries, *votes]
    with Log.open(folder / "log", key=new_key(world.log_key.name)) as log:
        assert log.store.newest_checkpoint() == len(world.entries) - 1
        assert log.latest() == note


def test_entries_are_taken_all_or_none(
    world: World, folder: Path, tmp_path: Path
) -> None:
    recovered(world, folder, tmp_path)
    size = len(world.entries)
    good = proposal_of(world)
    missing = VoteCast(
        subject=3, entry=digest(world.entries[3]), vote="yes", reasons=None
    )
    with refused(RuleError, "vote-without-subject"):
        take(folder, [good, world.entry(missing, "de", "root")])
    world.propose(new_coordinator(world, key=str(new_key("another").verify_key)))
    with refused(RuleError, "own-key-differs", match="author key"):
        take(folder, [good, world.entries[-1]])
    assert len(read_log(folder)[1]) == size
    key = new_key(world.log_key.name)
    with (
        Log.open(folder / "log", key=key),
        refused(ResourceError, "folder-in-use"),
    ):
        take(folder, [good])


@pytest.mark.slow
def test_wherever_it_dies_a_second_call_finishes_it(
    world: World, tmp_path: Path
) -> None:
    mirror = mirror_of(world, tmp_path / "view.db")
    trust, before = world.trust.encode(), len(world.entries)
    proposal = proposal_of(world)

    def both(folder: Path) -> None:
        recover(folder, [mirror], trust=trust)
        assert take(folder, [proposal]) is not None

    line, sizes = 1, set[int]()
    while True:
        folder = folder_of(world, tmp_path / f"at-{line}")
        died = dies(partial(both, folder), line, _CODE)
        if (folder / "log").exists():
            sizes.add(len(read_log(folder)[1]))
        both(folder)
        assert read_log(folder)[1] == world.entries
        assert len(list(folder.glob("*.ballot"))) == 1
        shutil.rmtree(folder)
        if not died:
            break
        line += 17
    assert sizes == {before, before + 1}
    assert line > 100
