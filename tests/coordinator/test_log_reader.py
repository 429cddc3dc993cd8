"""The log of a coordinator's folder, read from outside the service."""

from pathlib import Path

from tapestry.errors import IncompleteError, RuleError
from tapestry.keys import SigningKey
from tapestry.tlog.checkpoint import read_claim
from tapestry_coordinator.inbox import check_entries
from tapestry_coordinator.log_reader import read_log, read_settled
from tapestry_governance.events.member_events import PauseProposal, ProposalMade
from tapestry_governance.log.writer import Log
from tapestry_governance.rules.ballots import voters_digest
from tests.support.log_world import NAMES, World
from tests.support.refusals import refused


def folder_of(world: World, folder: Path, *, size: int | None = None) -> Path:
    (folder / "keys").mkdir(parents=True)
    world.log_key.save(folder / "keys" / "log.key")
    with Log.create(
        folder / "log", key=SigningKey.load(folder / "keys/log.key")
    ) as log:
        log.append(world.entries[:size])
    return folder


def test_all_entries_are_read_and_their_rules_applied(tmp_path: Path) -> None:
    world = World().found()
    state, entries = read_log(folder_of(world, tmp_path / "c"))
    assert entries == world.entries
    assert state.root == world.folded.root


def test_before_all_founders_accepted_there_is_no_federation(tmp_path: Path) -> None:
    with refused(IncompleteError, "not-founded"):
        read_log(folder_of(World().adopt(), tmp_path / "c", size=3))


def test_what_the_log_would_refuse_is_not_taken(tmp_path: Path) -> None:
    world = World().found()
    folder = folder_of(world, tmp_path / "c")

    def proposal(kind: str) -> bytes:
        body = ProposalMade(
            roster=voters_digest(world.folded.active),
            proposal=PauseProposal.model_validate({"kind": kind}),
        )
        return world.entry(body, "fr", "root")

    known = world.entries[5]
    check_entries(folder, [known, proposal("pause")])
    with refused(RuleError, "pause-unchanged"):
        check_entries(folder, [proposal("pause"), proposal("resume")])


def test_what_no_checkpoint_shows_is_not_decided_for_the_commands_either(
    tmp_path: Path,
) -> None:
    world = World().found()
    size = len(world.entries)
    world.change_policy(max_attempt=7)
    folder = tmp_path / "c"
    (folder / "keys").mkdir(parents=True)
    world.log_key.save(folder / "keys" / "log.key")
    with Log.create(folder / "log", key=world.log_key) as log:
        for start, stop, version in ((0, size, 1), (size, len(world.entries), 2)):
            log.append(world.entries[start:stop])
            assert read_settled(folder)[0].policy.version == 1
            checkpoint = read_claim(log.sign_checkpoint())
            for name in NAMES[:3]:
                key = world.keys[name, "witness"]
                line = checkpoint.cosign(key, time=1_800_000_000)
                log.add_cosignature(stop, line, trust=world.trust)
            log.publish(trust=world.trust)
            assert read_settled(folder)[0].policy.version == version
