"""A coordinator for tests: exchanges what ``plan.json`` says, notes what came back."""

import json
import time
from pathlib import Path
from typing import Any

from tapestry.encoding import canonical_json
from tapestry.errors import QuorumError
from tapestry.protocol.messages import Kind, Message
from tapestry_coordinator.authenticated_grid import AuthenticatedGrid
from tapestry_coordinator.flower import server_app
from tapestry_coordinator.grid import Grid
from tests.support.echo_members import GENESIS, node_keys


def run(directory: Path, connections: Grid) -> None:
    """Go through the steps of the plan; those noted already are not done again."""
    plan = json.loads((directory / "plan.json").read_text())
    grid = AuthenticatedGrid(connections, genesis=GENESIS, keys=node_keys)
    while len(names := grid.nodes()) < plan["nodes"]:
        time.sleep(0.1)
    for number, step in enumerate(plan["steps"]):
        note = directory / f"step-{number}.json"
        if not note.exists():
            text = json.dumps(_step(grid, names, step))
            draft = directory / "draft"
            draft.write_text(text)
            draft.replace(note)
    if plan.get("end") == "quorum":
        raise QuorumError("2 of 3 nodes answered", code="quorum-not-reached")


def _step(grid: Grid, names: list[str], step: dict[str, Any]) -> dict[str, Any]:
    block = bytes(range(256)) * 4096
    count = int(step.get("blocks", 0))
    request = Message(
        kind=Kind.ADVERTISE_KEYS,
        body=canonical_json(step["body"]),
        attachments=[
            bytes([number]) + block[1:] if step.get("distinct", True) else block
            for number in range(count)
        ],
    )
    replies = dict(
        grid.exchange(dict.fromkeys(names, request), deadline=step["deadline"])
    )
    same = [list(r.attachments) == list(request.attachments) for r in replies.values()]
    return {
        "kinds": {name: reply.kind.value for name, reply in replies.items()},
        "bodies": {name: reply.body.decode() for name, reply in replies.items()},
        "same": all(same),
    }


app = server_app(run)
