"""``status.json``: the words of a running node to its operator, for ``node status``.

It is replaced in one step at each change, and while a training counts its steps every
few seconds. It is a copy for people: nothing decides by it, and a disk that is full or
a file that is damaged costs the display alone.

Guarantees:
    It holds what the node's log says, and counts: no text of a record, and of errors
    that are not Tapestry's only type and place.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from tapestry.errors import ResourceError, TapestryError
from tapestry.inputs.faults import unforeseen
from tapestry.inputs.plain_file import read_plain
from tapestry.protocol.messages import Kind, Message
from tapestry.protocol.stages import SECAGG_STAGES
from tapestry.schema import Strict
from tapestry.storage import durable_files
from tapestry.storage.file_lock import is_locked, lock_file
from tapestry_node.refusal import Objection

if TYPE_CHECKING:
    from tapestry_governance.rules.federation_state import FederationState
    from tapestry_node.flower import Handler
    from tapestry_node.node import Node

STATUS, LOCK = "status.json", "status.lock"
_LONGEST = 1 << 20  # bytes
_LONGEST_TEXT = 4000  # characters
Text = Annotated[str, Field(max_length=_LONGEST_TEXT)]


def _moment(text: str) -> str:
    """Require a time that can be told in any zone."""
    found = datetime.fromisoformat(text)
    try:
        found.astimezone(UTC)
    except OverflowError:
        found = found.replace(tzinfo=None)
    if found.tzinfo is None:
        raise ValueError("must be a time with its offset from UTC")
    return text


Moment = Annotated[Text, AfterValidator(_moment)]
_PATIENCE = 2.0  # seconds between two writes of what only counts
_TRAINING = (Kind.COLLECT_MASKED_INPUTS, Kind.PUBLISH_ADAPTER)
_STAGES = {*(Kind(stage) for stage in SECAGG_STAGES), Kind.PUBLISH_ADAPTER}


class ToldRefusal(Strict):
    """The refusal that stands: the last request of its kind was not answered."""

    kind: Text
    words: Text
    code: Text
    since: Moment


class ToldWork(Strict):
    """The round or adapter that is under way."""

    run: Text | None
    round: int | None  # None of an adapter
    stage: Text
    done: int = 0  # steps of the training
    total: int = 0


class ToldBudget(Strict):
    """The ledger's balance."""

    spent: float | None  # None: no epsilon holds
    limit: float
    rounds_left: int | None  # like the last one; None before the first


class ToldRotation(Strict):
    """A new key of the member that the log has, and not in force."""

    purpose: Text
    entry: int


class ToldLog(Strict):
    """The mirror of the log, and the checkpoint that was accepted last."""

    entries: int
    cosigned: int | None  # POSIX seconds, by honest witnesses
    max_age: int  # seconds, by node.toml and the federation's policy
    left: Text | None  # that the member leaves, in words
    rotations: tuple[ToldRotation, ...] = ()  # to new keys that are not in force
    release: Text | None = None  # the newest, and how members stand to it


class Told(Strict):
    """The content of the file."""

    state: Literal["starting", "connected", "waiting", "refusing", "stopped", "failed"]
    since: Moment | Literal[""]  # the latter: nothing was told yet
    superlink: Text | None = None
    words: Text | None = None  # what it waits for, or why it ended
    code: Text | None = None
    certificate_ends: Moment | None = None
    refusal: ToldRefusal | None = None
    work: ToldWork | None = None
    budget: ToldBudget | None = None
    log: ToldLog | None = None


def read_told(folder: Path) -> Told | None:
    """Read what a node told last; None if it told nothing that can be read."""
    with suppress(OSError, TapestryError, ValidationError):
        return Told.model_validate_json(read_plain(folder / STATUS, limit=_LONGEST))
    return None


def is_served(folder: Path) -> bool:
    """Return whether a process serves a node's folder.

    Raises:
        ResourceError: The lock file cannot be opened.
    """
    return is_locked(folder / LOCK)


class StatusFile:
    """The status of one process that serves a node's folder."""

    def __init__(self, folder: Path, *, superlink: str | None = None) -> None:
        """Begin with what was told before; nothing is written yet."""
        self._path, self._written = folder / STATUS, 0.0
        self._shown = read_told(folder)  # what the file says
        self._told = self._shown or Told(state="starting", since=_now())
        if superlink is not None:
            self._told = self._told.model_copy(update={"superlink": superlink})

    def starting(self) -> None:
        """Tell that the process begins."""
        self._enter("starting")

    def watching(self, node: "Node", answer: "Handler") -> "Handler":
        """Return a handler that tells what the node is asked and answers."""
        self._change({"budget": _budget(node), "log": _log(node)})

        def handle(message: Message, connection: str) -> Message:
            with suppress(Exception):  # a display costs no reply
                self._begin(node, message.kind)
            try:
                return answer(message, connection)
            finally:
                with suppress(Exception):
                    self._end(node, message.kind)

        return handle

    def connection(self, cause: TapestryError | None, ends: datetime) -> None:
        """Tell that the node is connected, or what it waits for."""
        if cause is None:
            self._enter("connected")
            self._change({"certificate_ends": ends.isoformat()})
        elif (self._told.state, self._told.code) != ("waiting", cause.code):
            self._enter("waiting", why=Objection.of(cause))

    def progress(self, event: Mapping[str, Any]) -> None:
        """Tell how far a training is; the node's ``notify``."""
        if self._told.work is not None:
            count = {"done": event["done"], "total": event["total"]}
            self._told = self._told.model_copy(
                update={"work": self._told.work.model_copy(update=count)}
            )
            self._write(soon=event["done"] == event["total"])

    @contextmanager
    def training(self, node: "Node") -> Iterator[None]:
        """Tell that an adapter is trained during a block, which no request asked for.

        Its steps are told by ``progress``.
        """
        with suppress(Exception):  # a display costs no training
            self._begin(node, Kind.PUBLISH_ADAPTER)
        try:
            yield
        finally:
            with suppress(Exception):
                self._change({"work": None, "budget": _budget(node)})

    def refusing(self, error: Exception) -> None:
        """Tell that the node is connected and can do nothing, and why."""
        self._enter("refusing", why=_why(error))

    def ended(self, error: BaseException | None) -> None:
        """Tell that the process ends, and why if it did not end as it should."""
        if error is None or isinstance(error, KeyboardInterrupt):
            self._enter("stopped")
        else:
            self._enter("failed", why=_why(error))

    def _begin(self, node: "Node", kind: Kind) -> None:
        if kind in _TRAINING:
            self._change({"work": _work(node, kind)})

    def _end(self, node: "Node", kind: Kind) -> None:
        told = self._told
        changes: dict[str, Any] = {"refusal": _refusal(told.refusal, node, kind)}
        if kind in _STAGES or kind is Kind.APPLY_RESULT:
            adapter = kind is Kind.PUBLISH_ADAPTER
            is_over = node.session is None or adapter or kind not in _STAGES
            changes["work"] = None if is_over else _work(node, kind)
        if kind in _TRAINING:
            changes["budget"] = _budget(node)
        if kind is not Kind.HELLO:
            changes["log"] = _log(node)
        self._change(changes)

    def _enter(self, state: str, *, why: Objection | None = None) -> None:
        changes: dict[str, Any] = {"state": state, "since": _now()}
        changes["words"] = None if why is None else why.detail[:_LONGEST_TEXT]
        changes["code"] = None if why is None else why.code
        if state not in {"connected", "waiting"}:
            changes["work"] = None
        if state == "starting":
            changes["refusal"] = None
        self._change(changes)

    def _change(self, changes: Mapping[str, Any]) -> None:
        self._told = self._told.model_copy(update=changes)
        if self._told != self._shown:
            self._write(soon=True)

    def _write(self, *, soon: bool) -> None:
        now = time.monotonic()
        if soon or now - self._written > _PATIENCE:
            self._written, self._shown = now, self._told
            with suppress(ResourceError):  # nothing depends on it
                said = self._told.model_dump_json().encode()
                durable_files.replace_file(self._path, said, mode=0o600, lasting=False)


@contextmanager
def telling_the_end(folder: Path) -> Iterator[None]:
    """Tell that a process begins to serve a folder and, when it ends, why.

    It holds a lock of its own meanwhile, from long before the node's state is opened,
    so that a process which starts is told from one that was killed.

    Edge cases:
        While another process holds it, the file is that process's. Without it, where
        it cannot be had, nothing is told.
    """
    lock = None
    if (folder / "node.toml").exists():
        with suppress(BlockingIOError, ResourceError):
            lock = lock_file(folder / LOCK)
    if lock is None:
        yield
        return
    ended: BaseException | None = None
    with lock:
        StatusFile(folder).starting()
        try:
            yield
        except BaseException as error:
            ended = error
            raise
        finally:
            StatusFile(folder).ended(ended)


def _why(error: BaseException) -> Objection:
    if isinstance(error, TapestryError):
        return Objection.of(error)
    return Objection("internal", f"internal error: {unforeseen(error)}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _work(node: "Node", kind: Kind) -> ToldWork:
    plan = None if node.session is None else node.session.manifest
    if plan is None or kind is Kind.PUBLISH_ADAPTER:
        return ToldWork(run=None, round=None, stage=kind.value)
    return ToldWork(run=plan.run_id, round=plan.round_number, stage=kind.value)


def _refusal(
    before: ToldRefusal | None, node: "Node", kind: Kind
) -> ToldRefusal | None:
    """Return the refusal that stands after a request of some kind."""
    found: Objection | None = node.refused
    if found is None:
        return None if before is not None and before.kind == kind.value else before
    is_same = before is not None and (before.kind, before.code) == (kind, found.code)
    since = before.since if before is not None and is_same else _now()
    return ToldRefusal(
        kind=kind.value,
        words=found.detail[:_LONGEST_TEXT],
        code=found.code,
        since=since,
    )


def _budget(node: "Node") -> ToldBudget:
    balance = node.ledger.balance()
    rounds = [r.charge for r in node.ledger.rows() if r.charge.purpose == "round"]
    left = node.ledger.rounds_left(rounds[-1]) if rounds else None
    spent = None if node.ledger.lacks_noise() else balance.spent
    return ToldBudget(spent=spent, limit=balance.limit, rounds_left=left)


def _log(node: "Node") -> ToldLog:
    mirror, ages = node.mirror, [node.settings.policy.max_checkpoint_age]
    if mirror.size:
        ages.append(mirror.state.policy.max_checkpoint_age)
    left = node.leaves
    state = _decided(node) if mirror.size else None
    return ToldLog(
        entries=mirror.size,
        cosigned=mirror.accepted_at,
        max_age=min(ages),
        left=None if left is None else left.detail[:_LONGEST_TEXT],
        rotations=() if state is None else tuple(_rotations(node, state)),
        release=None if state is None else _release(state),
    )


def _decided(node: "Node") -> "FederationState":
    """Return the federation, as the accepted checkpoint shows it to be decided."""
    from tapestry_governance.rules.settlement import settle

    seen = node.mirror.seen
    return settle(node.mirror.state, seen=0 if seen is None else seen.size)


def _rotations(node: "Node", state: "FederationState") -> Iterator[ToldRotation]:
    for each in state.waiting:
        name, body = state.rotations.get(each.subject, ("", None))
        if body is not None and name == node.name:
            yield ToldRotation(purpose=body.purpose, entry=each.subject)


def _release(state: "FederationState") -> str | None:
    """Return how members stand to the newest release."""
    from tapestry_governance.vote_count import newest_counts

    found = newest_counts(state, size=0, most=1)
    said = (f"{each.release}: {each}"[:_LONGEST_TEXT] for each in found)
    return next(said, None)
