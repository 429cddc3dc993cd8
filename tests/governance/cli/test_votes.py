"""``tapestry governance propose | list | export | vote``."""

import json
import shutil
from pathlib import Path

import pytest

from tapestry.encoding import digest
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import (
    PauseProposal,
    ProposalMade,
    VoteCast,
)
from tests.governance.test_member_view import accept, node_of
from tests.support.audit_bundles import bundle_of
from tests.support.commands import Result, tapestry
from tests.support.founding_place import ok, refuses
from tests.support.log_world import World
from tests.support.proposals import new_policy


@pytest.fixture
def world() -> World:
    world = World().found()
    world.run_round(1)
    world.add(world.release(1))
    return world


@pytest.fixture
def place(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the bundle, the founders' root keys, and fr's node."""
    bundle_of(world, tmp_path)
    for name in ("fr", "de"):
        world.keys[name, "root"].save(tmp_path / f"{name}.key")
    folder = node_of(world, tmp_path / "fr")
    accept(world, folder)
    (folder / "keys").mkdir()
    world.keys["fr", "root"].save(folder / "keys" / "root.key")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def governance(*words: object) -> Result:
    return tapestry("governance", *words)


@pytest.mark.usefixtures("place")
def test_what_may_be_voted_on_is_listed_with_its_votes(world: World) -> None:
    text = ok(governance("list", "--node", "fr")).stdout
    assert text.split() == (
        f"{len(world.entries) - 1} base-1 candidate 0 of 3 yes; no vote".split()
    )
    found = json.loads(ok(governance("list", "--bundle", "bundle", "--json")).stdout)
    (row,) = found["ballots"]
    assert (row["what"], row["standing"], row["needed"]) == ("base-1", "candidate", 3)
    assert row["missing"] == ["de", "es", "fr", "id"]


def test_a_proposal_is_shown_signed_and_taken_by_the_log(
    world: World, place: Path
) -> None:
    found = ok(
        governance("propose", "remove", "id", "--bundle", "bundle", "--key", "fr.key")
    )
    assert "end the membership of 'id'" in found.stdout
    assert "written   remove.proposal" in found.stdout
    entry = (place / "remove.proposal").read_bytes()
    assert isinstance(open_entry(entry).event.body, ProposalMade)
    world.append(entry)


def test_a_vote_without_a_network_needs_the_ballot_and_the_key(
    world: World, place: Path
) -> None:
    ok(governance("export", "base-1", "--node", "fr"))
    vault = place / "vault"
    vault.mkdir()
    for name in ("base-1.ballot", "de.key"):
        (place / name).rename(vault / name)
    (vault / "why.txt").write_text("it speaks well")
    said = ok(
        governance(
            *("vote", vault / "base-1.ballot", "yes", "--key", vault / "de.key"),
            *("--reasons", vault / "why.txt", "-o", vault / "de.vote"),
        )
    ).stdout
    release = world.folded.releases["base-1"]
    for shown in (release.manifest_digest, release.model_digest, world.genesis):
        assert shown in said
    assert "vote      yes" in said
    entry = (vault / "de.vote").read_bytes()
    world.append(entry)
    body = open_entry(entry).event.body
    assert isinstance(body, VoteCast)
    salt = bytes.fromhex((vault / "de.salt").read_text())
    assert body.reasons == digest(salt + b"it speaks well")
    assert (vault / "de.salt").stat().st_mode & 0o777 == 0o600


def test_a_next_policy_is_signed_by_its_ballot_with_every_term_in_sight(
    world: World, place: Path
) -> None:
    index = world.propose(new_policy(world, epsilon_cap="999"))
    bundle_of(world, place / "later")
    ok(governance("export", index, "--bundle", place / "later" / "bundle"))
    (place / "trust.txt").write_bytes(world.trust.encode())
    words = ("vote", place / f"{index}.ballot", "yes", "--key", place / "de.key")
    alone = ok(governance(*words))
    assert "without --trust the ballot's own witnesses count" in alone.stderr
    held = ok(governance(*words, "--trust", place / "trust.txt"))
    assert held.stderr == ""
    assert "proven    nothing without --trust" in alone.stdout
    assert "proven    each line" not in alone.stdout
    assert "proven    each line without (the file says)" in held.stdout
    assert "* epsilon_cap            999  (was 8)" in held.stdout
    assert "  max_attempt            3\n" in held.stdout
    assert "so far    no vote (the file says)" in held.stdout
    log = ok(governance("vote", index, "yes", "--bundle", place / "later" / "bundle",
                        "--key", place / "de.key"))  # fmt: skip
    assert log.stderr == ""
    assert "the file says" not in log.stdout


def test_a_vote_at_the_nodes_own_folder_needs_no_file(
    world: World, place: Path
) -> None:
    given = ("--node", "fr", "--json")
    found = json.loads(ok(governance("vote", "base-1", "no", *given)).stdout)
    assert list(found) == ["vote"]
    entry = (place / found["vote"]).read_bytes()
    assert Path(found["vote"]).name.startswith("fr-")
    world.append(entry)


def test_an_author_withdraws_its_proposal_and_is_told_so(
    world: World, place: Path
) -> None:
    index = world.propose(PauseProposal(kind="pause"), by="fr")
    shutil.rmtree(place / "bundle")
    bundle_of(world, place / "later")
    given = ("--bundle", place / "later" / "bundle")
    other = ok(governance("vote", index, "no", *given, "--key", "de.key"))
    assert "withdraws" not in other.stderr
    said = ok(governance("vote", index, "no", *given, "--key", "fr.key"))
    assert "fr made this proposal; its no withdraws it for good" in said.stderr
    world.append((place / f"fr-{index}.vote").read_bytes())
    bundle_of(world, place / "last")
    listed = ok(governance("list", "--bundle", place / "last" / "bundle")).stdout
    assert "pause by fr" in listed
    assert "withdrawn" in listed


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["vote", "base-1", "maybe", "--node", "fr"], 64, "say yes, no or abstain"),
        (["vote", "base-7", "yes", "--node", "fr"], 64, "neither the index"),
        (["vote", "3", "yes", "--node", "fr"], 64, "neither a proposal"),
        (["vote", "none.ballot", "yes", "--key", "fr.key"], 64, "none.ballot"),
        (["vote", "fr.key", "yes", "--key", "fr.key"], 1, "is no ballot"),
        (["vote", "base-1", "yes", "--bundle", "bundle"], 64, "--key"),
        (["export", "x", "--node", "fr"], 64, "neither the index"),
        (["list"], 64, "either --node, or --bundle"),
        (["list", "--node", "none"], 64, "no node.toml"),
        (["propose", "merge", "--node", "fr"], 64, "proposals are policy FILE.toml"),
        (["propose", "resume", "--node", "fr"], 2, "the federation is running"),
        (["propose", "withdraw", "base-1", "--node", "fr"], 64, "--reason"),
        (["propose", "policy", "none.toml", "--node", "fr"], 64, "none.toml"),
        (["propose", "remove", "xx", "--node", "fr"], 2, "no member"),
    ],
)
def test_what_cannot_be_signed_leaves_no_file(
    place: Path, words: list[str], status: int, said: str
) -> None:
    before = sorted(path.name for path in place.iterdir())
    found = governance(*words)
    assert found.exit_code == status, found
    assert said in found.stderr
    assert "Traceback" not in found.stderr
    assert sorted(path.name for path in place.iterdir()) == before


def test_a_key_of_another_purpose_signs_no_vote(world: World, place: Path) -> None:
    world.keys["fr", "node"].save(place / "node.key")
    found = governance(
        "vote", "base-1", "yes", "--bundle", "bundle", "--key", "node.key"
    )
    assert "root key of none of de, es" in refuses(found, 64, "key-not-of-voter")
