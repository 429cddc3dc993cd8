"""One event of every type, signed; the source of ``tests/vectors/events.json``.

Print the file again: ``python -m tests.support.event_samples tests/vectors``.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from tapestry.protocol.messages import Reason
from tapestry.protocol.stages import RoundStage
from tapestry_governance.events import member_events, publication_events
from tapestry_governance.events.envelope import (
    Author,
    DecodedEvents,
    Seen,
    sign_entry,
)
from tapestry_governance.events.event_body import Body, Role
from tapestry_governance.events.model_events import EvaluationRecorded
from tapestry_governance.events.round_events import (
    ContributionRefused,
    RoundAborted,
    RoundDisputed,
)
from tests.support.log_world import START, World, fake_digest

Sample = tuple[str, Role, Body]  # actor, role, body


def sample_bodies() -> Mapping[str, Sample]:
    """Build actor, role and body of an event of each type."""
    world = World().grow()
    samples: dict[str, Sample] = {}
    for event in DecodedEvents(world.entries):
        samples[event.type] = event.actor, event.role, event.body
    for actor, role, body in (*_rare(), *_later(world)):
        samples[body.type] = actor, role, body
    return samples


def _rare() -> list[Sample]:
    attempt: dict[str, Any] = {"run_id": "demo", "round_number": 1, "attempt": 1}
    return [
        ("fr", "node", ContributionRefused(**attempt, reason=Reason.MAINTENANCE)),
        (
            "coordinator",
            "coordinator",
            RoundAborted(
                **attempt,
                stage=RoundStage.SHARE_KEYS,
                reason="too_few_nodes",
                survivors=(),
            ),
        ),
        ("fr", "node", RoundDisputed(**attempt, subject="sum", chunk=7)),
        (
            "coordinator",
            "coordinator",
            EvaluationRecorded(
                subject=fake_digest("base"),
                suite="held-out",
                suite_digest=fake_digest("suite"),
                scores={"fr": "2.25"},
            ),
        ),
    ]


def _later(world: World) -> list[Sample]:
    """Types that members decide by, and such as have no rule in this release."""
    request = request_of(world, "fr")
    proof = member_events.Possession(
        node="1" * 128, witness="2" * 128, community="3" * 128
    )
    return [
        (
            "fr",
            "root",
            member_events.CharterAccepted(
                charter=world.genesis,
                request=request,
                possession=proof,
                readers=("de", "es"),
            ),
        ),
        (
            "fr",
            "root",
            member_events.ProposalMade(
                roster=fake_digest("roster"),
                proposal=member_events.Removal(kind="remove", member="de"),
            ),
        ),
        (
            "fr",
            "root",
            member_events.VoteCast(
                subject=40, entry=fake_digest("proposal"), vote="yes", reasons=None
            ),
        ),
        (
            "fr",
            "root",
            member_events.KeyRotated(
                purpose="witness",
                key=request.witness,
                reason="routine",
                possession="4" * 128,
            ),
        ),
        ("fr", "root", member_events.MemberLeft()),
        (
            "coordinator",
            "coordinator",
            publication_events.EvaluationPlanned(
                subject=fake_digest("base"),
                plan=fake_digest("plan"),
                tasks=(
                    publication_events.EvaluationTask(
                        name="language/fr", data=fake_digest("text")
                    ),
                ),
            ),
        ),
        (
            "coordinator",
            "coordinator",
            publication_events.EvaluationReported(
                planned=41, report=fake_digest("report"), scores={"language/fr": "2.25"}
            ),
        ),
        (
            "fr",
            "community",
            publication_events.AdapterWithdrawn(
                name="fr-culture",
                version=1,
                manifest_digest=fake_digest("manifest"),
                reason="superseded",
            ),
        ),
        (
            "fr",
            "root",
            publication_events.ConstitutionPublished(
                version=1,
                language="fr",
                text=fake_digest("constitution"),
                previous=None,
            ),
        ),
        (
            "fr",
            "node",
            publication_events.LimitsCommitted(
                plant="reactor-1",
                version=1,
                limits=fake_digest("limits"),
                model_digest=fake_digest("base"),
                calibration=12,
            ),
        ),
        (
            "fr",
            "node",
            publication_events.CoursesCommitted(
                plant="reactor-1", limits=43, count=2880, root="5" * 64
            ),
        ),
    ]


def request_of(world: World, name: str) -> member_events.MembershipRequest:
    """Build a member's request, with its keys of the world."""
    member = next(each for each in world.members() if each.name == name)
    return member_events.MembershipRequest(
        **member.model_dump(),
        transport=hashlib.sha256(name.encode()).hexdigest(),
        languages=(name,),
        records=480,
        held_out=fake_digest(f"{name} held out"),
    )


def _bytes_of(number: int, size: int) -> bytes:
    return bytes([number] * size)


def vectors() -> list[dict[str, Any]]:
    """Sign an event of each type; ids, times and keys are fixed."""
    world = World().found()
    rows = []
    for number, (kind, (actor, role, body)) in enumerate(
        sorted(sample_bodies().items())
    ):
        key = world.key(actor, role)
        event = Author(federation="tapestry", actor=actor, role=role).event(
            body,
            now=START + timedelta(seconds=number),
            seen=Seen(size=41, root="6" * 64),
            entropy=partial(_bytes_of, number),
        )
        entry = sign_entry(event, key)
        rows.append(
            {
                "type": kind,
                "signer": str(key.verify_key),
                "event": event.encode().decode(),
                "body_digest": body.digest,
                "entry": entry.decode(),
                "entry_digest": "sha256:" + hashlib.sha256(entry).hexdigest(),
            }
        )
    return rows


def render() -> str:
    """Print the file."""
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1], "events.json").write_text(render())
