"""A node hands in what others signed."""

from pathlib import Path

import pytest

from tapestry.encrypted_keys import load_key
from tapestry.errors import IncompleteError, RuleError
from tapestry_governance.ballot_paper import propose
from tapestry_governance.events.member_events import PauseProposal
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.member_view import open_view
from tapestry_node.node_state import NodeState
from tapestry_node.submission import entries_to_submit, submit
from tests.support.federation import NAMES, Federation
from tests.support.federation_fixtures import Found
from tests.support.log_world import World
from tests.support.refusals import refused

pytestmark = pytest.mark.slow

NAME = "fr"  # of the small log


@pytest.fixture
def federation(found: Found) -> Federation:
    federation = found()
    federation.run()
    federation.cosign()
    return federation


def proposal(federation: Federation, name: str, kind: str) -> bytes:
    folder = federation.directory / "nodes" / name
    root = load_key(folder / "keys" / "root.key", passphrase=None)
    body = PauseProposal.model_validate({"kind": kind})
    view = open_view(node=folder, bundle=None)
    return propose(view, body, root=root, now=federation.moment())


def test_any_members_node_takes_an_entry_past_its_own(federation: Federation) -> None:
    name, other = NAMES[:2]
    folder = federation.directory / "nodes" / other
    entry = proposal(federation, name, "pause")
    assert submit(folder, [entry]) == [True]
    assert submit(folder, [entry]) == [True]  # waits already
    federation.cosign()
    assert entry in federation.entries()
    assert submit(folder, [entry]) == [False]
    federation.kill(other)
    store = NodeState(folder / "node.db", readonly=True)
    assert entry not in store.outbox()
    store.close()


def test_what_the_log_would_refuse_is_not_kept(federation: Federation) -> None:
    folder = federation.directory / "nodes" / NAMES[0]
    early = proposal(federation, NAMES[1], "pause")
    federation.decide(PauseProposal(kind="pause"), *NAMES[:2])
    resume = proposal(federation, NAMES[2], "resume")
    with refused(RuleError, "pause-unchanged"):
        submit(folder, [resume, early])
    federation.cosign()
    assert not {resume, early} & set(federation.entries())  # all or none
    submit(folder, [resume])
    federation.cosign()
    assert resume in federation.entries()


def test_a_folder_without_a_log_takes_nothing(found: Found) -> None:
    federation = found()
    folder = federation.directory / "nodes" / NAMES[0]
    federation.close()
    with refused(IncompleteError, "mirror-empty"):
        submit(folder, [])


def test_a_folder_whose_state_was_deleted_takes_nothing(federation: Federation) -> None:
    folder: Path = federation.directory / "nodes" / NAMES[0]
    federation.close()
    (folder / "node.db").unlink()
    with refused(IncompleteError, "state-missing"):
        submit(folder, [])


def test_what_a_former_key_signed_in_vain_is_signed_anew(tmp_path: Path) -> None:
    """A declaration waited while the node's key was called compromised."""
    world, store = World().adopt(), NodeState(tmp_path / "node.db")
    stale = world.entry(world.declaration(NAME), NAME, "node")
    others = world.entry(world.declaration("es"), "es", "node")
    store.post(stale)
    world.rotate(NAME, "node", reason="compromised")
    world.add(world.declaration("de"), "de", "node")
    new = world.keys[NAME, "node'"]
    mirror = LogMirror.open(
        tmp_path / "view.db", trust=world.trust, genesis=world.genesis
    )
    mirror.extend(0, world.entries, world.note(witnesses=()))

    def found() -> list[bytes]:
        return entries_to_submit(
            store,
            mirror,
            name=NAME,
            sign=lambda body: world.entry(body, NAME, "node", signers=[new]),
        )

    (entry,) = found()
    assert entry != stale
    assert store.outbox() == [entry]
    store.post(others)
    assert found() == [entry, others]
    world.append(entry)
    mirror.extend(mirror.size, [entry], world.note(witnesses=()))
    assert found() == [others]
    assert store.outbox() == [others]
    mirror.close()
    store.close()
