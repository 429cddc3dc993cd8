"""An adapter is trained, paid for and published once, wherever the process dies."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tapestry.encoding import decode_json
from tapestry.errors import ResourceError, RuleError
from tapestry.protocol.messages import Kind, Message, Reason
from tapestry.storage import durable_files
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.model_events import AdapterPublished
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_node.adapters import adapter_trainer, publication
from tapestry_node.budget.ledger import Ledger
from tapestry_node.refusal import Refused
from tapestry_node.settings import NodeSettings
from tests.support.deaths import dies, node_dies
from tests.support.federation import NAMES, Base, Deliver, Federation, Killed
from tests.support.refusals import refused
from tests.support.settings_files import NO_ADAPTER_NOISE, change_settings

Wants = Callable[..., Federation]


@pytest.fixture
def wants(base: Base, tmp_path: Path) -> Iterator[Wants]:
    """Found a federation of which ``fr`` alone publishes an adapter."""
    made: list[Federation] = []

    def make(**adapter: Any) -> Federation:
        off = {name: {"adapter": {"publish": False}} for name in NAMES}
        found = Federation(
            tmp_path / "federation",
            base,
            coordinator={"adapters": True},
            policy={"noise": ("local", "none")},
            institutions=off | {"fr": {"adapter": adapter}},
        )
        made.append(found)
        return found

    yield make
    for federation in made:
        federation.close()


class Trainings:
    """Counts the trainings of adapters, and lets them fail when asked to."""

    def __init__(self) -> None:
        self.count = 0
        self.error: Exception | None = None
        self._honest = adapter_trainer.train

    def __call__(self, *arguments: Any, **rest: Any) -> Any:
        self.count += 1
        if self.error is not None:
            raise self.error
        return self._honest(*arguments, **rest)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    counting = Trainings()
    monkeypatch.setattr(adapter_trainer, "train", counting)
    return counting


def accounts(federation: Federation) -> list[DpAccounted]:
    """What ``fr`` said that its adapters cost, in the log."""
    said = [e.body for e in federation.logged() if e.actor == "fr"]
    return [b for b in said if isinstance(b, DpAccounted) and b.adapter is not None]


def charges(federation: Federation) -> list[tuple[int, str]]:
    rows = federation.nodes["fr"].ledger.rows()
    return [
        (row.charge.number, row.state)
        for row in rows
        if row.charge.purpose == "adapter"
    ]


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def once(federation: Federation, *, version: int = 1) -> None:
    """One publication is in the log, is what the node has, and was paid for once."""
    (published,) = federation.said(AdapterPublished)
    assert (published.name, published.version) == ("fr", version)
    given = files(federation.coordinator / "adapters" / "fr")
    own = federation.directory / "nodes" / "fr" / "adapters"
    assert files(own / f"fr-{version}") == given
    assert not list(own.glob("*.update"))
    node = federation.restart("fr")  # a ledger behind the log would refuse for ever
    assert node.store.outbox() == []
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


Place = tuple[Any, str, int]  # an owner, its function, and which call of it
STEPS: dict[str, Place] = {
    "reserve": (Ledger, "reserve", 1),
    "train": (adapter_trainer, "train", 1),
    "keep the update": (durable_files, "replace_file", 1),
    "spend": (Ledger, "spend", 1),
    "write": (adapter_trainer, "write", 1),
    "copy the account": (durable_files, "replace_file", 2),
    "sync": (durable_files, "sync_tree", 1),
    "publish": (durable_files, "replace_file", 3),
    "pack": (publication, "publication_in", 1),
}
REPEATED = {("train", True), ("keep the update", False)}  # nothing was left of it


def _cases() -> list[Any]:
    quick = {("spend", True), ("publish", False)}
    found = []
    for step in STEPS:
        for after in (False, True):
            name = f"{'after' if after else 'before'} {step}"
            marks = () if (step, after) in quick else pytest.mark.slow
            found.append(pytest.param(step, after, id=name, marks=marks))
    return found


@pytest.mark.parametrize(("step", "after"), _cases())
def test_a_node_that_dies_while_publishing_goes_on(
    wants: Wants,
    trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    after: bool,
) -> None:
    federation = wants()

    node_dies(federation, monkeypatch, "fr", STEPS[step], after=after)
    federation.run()
    assert federation.said(AdapterPublished) == []
    federation.run()
    assert trainings.count == (2 if (step, after) in REPEATED else 1)
    assert len(accounts(federation)) == 1
    assert charges(federation) == [(1, "spent")]
    once(federation)


def test_a_publication_is_given_again_byte_for_byte(
    wants: Wants, trainings: Trainings
) -> None:
    federation = wants()
    replies = []

    def twice(_name: str, request: Message, deliver: Deliver) -> None:
        replies.extend([deliver(request), deliver(request)])  # and both are lost

    federation.wire.on("fr", Kind.PUBLISH_ADAPTER, twice)
    federation.run()
    federation.restart("fr")
    federation.run()
    replies += [
        e.reply
        for e in federation.wire.replies(Kind.PUBLISH_ADAPTER)
        if e.node == "fr" and e.reply is not None
    ]
    first, *others = [(r.kind, r.body, list(r.attachments)) for r in replies]
    assert others == [first, first]
    assert trainings.count == 1
    assert len(accounts(federation)) == 1
    once(federation)


@pytest.mark.parametrize("name", ["notes.txt", ".DS_Store", "tapestry/notes.txt"])
def test_what_came_into_the_folder_later_does_not_leave(
    wants: Wants, name: str
) -> None:
    federation = wants()
    replies = []

    def with_more(_name: str, request: Message, deliver: Deliver) -> None:
        replies.append(deliver(request))
        place = federation.directory / "nodes" / "fr" / "adapters" / "fr-1" / name
        place.write_text("a private note")
        replies.append(deliver(request))
        place.unlink()

    federation.wire.on("fr", Kind.PUBLISH_ADAPTER, with_more)
    federation.run()
    first, second = replies
    assert first.kind is Kind.PUBLICATION
    if second.kind is Kind.PUBLICATION:  # without it
        assert (second.body, second.attachments) == (first.body, first.attachments)
    assert b"a private note" not in b"".join(map(bytes, second.attachments))


@pytest.mark.slow
def test_a_training_that_fails_is_paid_for_and_logged_at_once(
    wants: Wants, trainings: Trainings
) -> None:
    """That it failed may depend on the records: it is not tried for free again."""
    federation = wants()
    trainings.error = ResourceError("it diverged")
    federation.run()
    assert charges(federation) == [(1, "spent")]
    assert len(accounts(federation)) == 1
    trainings.error = None
    federation.run()
    assert trainings.count == 1
    assert federation.said(AdapterPublished) == []
    federation.restart("fr")  # by its operator, who read why
    federation.run()
    assert trainings.count == 2
    assert len(accounts(federation)) == 2
    assert charges(federation) == [(1, "spent"), (2, "spent")]
    once(federation, version=2)


def answers(federation: Federation) -> list[str]:
    """What ``fr`` said to each request for its adapter, a reason where it refused."""
    return [
        decode_json(e.reply.body).get("reason", e.reply.kind.value)
        for e in federation.wire.replies(Kind.PUBLISH_ADAPTER)
        if e.node == "fr" and e.reply is not None
    ]


def test_one_failed_training_is_paid_for_however_often_it_is_asked_for(
    wants: Wants, trainings: Trainings
) -> None:
    federation = wants()
    trainings.error = ValueError("it fails always")

    def again_and_again(_name: str, request: Message, deliver: Deliver) -> Message:
        return [deliver(request) for _ in range(4)][-1]

    federation.wire.on("fr", Kind.PUBLISH_ADAPTER, again_and_again, times=2)
    for _ in range(3):
        federation.run()
    assert trainings.count == 1
    assert charges(federation) == [(1, "spent")]
    assert len(accounts(federation)) == 1
    assert answers(federation)[-1] == "training_failed"
    with refused(Refused, "training-failed") as caught:  # nor a round
        federation.nodes["fr"].context.check_failed("run")
    assert caught.value.reason is Reason.TRAINING_FAILED


@pytest.mark.parametrize("rule", ["accounts-too-many", "adapter-name-reserved"])
def test_what_the_log_would_not_publish_is_not_trained(
    wants: Wants, trainings: Trainings, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuleError("the log would not take it", code=rule)

    name = "count_adapter" if rule == "accounts-too-many" else "check_title"
    monkeypatch.setattr(publication, name, refuse)
    federation = wants()
    federation.run()
    assert answers(federation) == ["local_policy"]
    assert (trainings.count, charges(federation)) == (0, [])


def test_a_failure_after_the_training_lets_no_other_training_begin(
    wants: Wants, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = wants()
    honest, failures = adapter_trainer.write, iter(range(2))

    def write(*arguments: Any, **rest: Any) -> Any:
        if next(failures, None) is not None:
            raise ResourceError("the disk is full")
        return honest(*arguments, **rest)

    monkeypatch.setattr(adapter_trainer, "write", write)
    federation.run()
    assert federation.nodes["fr"].context.failed == {"run"}
    for _ in range(2):  # what was trained and paid for is published all the same
        federation.run()
    assert trainings.count == 1
    once(federation)


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": "0.2"},
        pytest.param({"steps": 2}, marks=pytest.mark.slow),
        pytest.param(NO_ADAPTER_NOISE, marks=pytest.mark.slow),
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_was_trained_under_other_settings_is_not_published(
    wants: Wants,
    trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
) -> None:
    federation = wants()
    path = federation.directory / "nodes" / "fr" / "node.toml"

    def dies_once(name: str, request: Message, deliver: Deliver) -> None:
        owner, called, call = STEPS["write"]
        dies(monkeypatch, owner, called, after=False, call=call)
        with suppress(Killed):
            deliver(request)
            raise AssertionError("the node was not killed")
        changes = {"adapter": settings, "policy": {"noise": ["local", "none"]}}
        change_settings(path, NodeSettings, changes)
        federation.restart(name)

    federation.wire.on("fr", Kind.PUBLISH_ADAPTER, dies_once)
    for _ in range(3):
        federation.run()
    assert trainings.count == 2
    assert len(accounts(federation)) == 2
    assert charges(federation)[0] == (1, "spent")
    once(federation, version=2)
