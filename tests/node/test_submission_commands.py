"""``tapestry node submit``, and the same of a coordinator."""

import json

import pytest

from tapestry_governance.ballot_paper import propose
from tapestry_governance.events.member_events import PauseProposal
from tests.support.commands import tapestry
from tests.support.federation import NAMES
from tests.support.federation_fixtures import Found
from tests.support.founding_place import ok, refuses

pytestmark = pytest.mark.slow


def test_an_entry_is_handed_in_by_either_command(found: Found) -> None:
    federation = found()
    federation.run()
    federation.cosign()
    node = federation.directory / "nodes" / NAMES[0]
    for number, folder in enumerate((node, federation.coordinator)):
        role = "node" if folder == node else "coordinator"
        name = NAMES[number]
        entry = propose(
            federation.view(name),
            PauseProposal(kind="pause"),
            root=federation.root(name),
            now=federation.moment(),
        )
        handed = federation.directory / f"{role}.proposal"
        handed.write_bytes(entry)
        said = ok(tapestry(role, "submit", folder, handed)).stdout
        assert "with the next cosignature" in said
        assert ("within about an hour" in said) == (role == "node")
        again = ok(tapestry(role, "submit", folder, handed, "--json"))
        assert list(json.loads(again.stdout)["waiting"]) == [str(handed)]
        federation.cosign()
        assert entry in federation.entries()
    path = federation.directory / "none.proposal"
    path.write_bytes(b"no entry")
    for role, folder in (("node", node), ("coordinator", federation.coordinator)):
        refuses(tapestry(role, "submit", folder, path), 64, "entry-malformed")
