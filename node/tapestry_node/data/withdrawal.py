"""Withdrawal of persons from an institution's data, and what rests on them.

Whom the institution withdraws is trained on no more, from the moment at which this
returns; the log gets their number, rounded down, with the next version of the data.
What was learned before stays learned, within the bounds of its epsilon. To be without
it, the models have to be made again: from the last release before these persons came in
(``RetrainingPlan``).

Guarantees:
    A withdrawn person never comes back, whatever the folder holds, unless a backup from
    before the withdrawal is restored.

Not protected:
    Copies of releases and adapters that others have. That the rows are gone from the
    folder: the institution deletes them itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tapestry.errors import ConfigError, IncompleteError
from tapestry.inputs.text_reader import read_text
from tapestry.privacy import accounting
from tapestry_governance.audit.privacy_accounts import steps_of
from tapestry_governance.audit.privacy_statement import spent_on
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.round_records import AccountedSpending
from tapestry_node.data.data_versions import UNIT_KEY
from tapestry_node.data.unit_register import Marks, UnitRegister, marks
from tapestry_node.directory import open_mirror
from tapestry_node.node_state import DATABASE, NodeState
from tapestry_node.settings import NodeSettings
from tapestry_node.state_entries import StateReplay


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainingPlan:
    """Models that rest on some persons, and the cost of making them anew without."""

    releases: tuple[str, ...]  # that were trained on them, oldest first
    adapters: tuple[str, ...]  # of this institution, with their versions
    others: tuple[str, ...]  # adapters of others on those releases
    start: str | None  # the last release before; None: the given base
    rounds: int  # closed ones from there to the newest release
    epsilon: float | None  # of this institution for as many rounds; None: without noise
    delta: float | None

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what a terminal shows, each line with its label."""
        yield "releases", _listed(self.releases)
        yield "adapters", _listed((*self.adapters, *self.others))
        if self.releases:
            origin = self.start or "the given base"
            yield "retrain", f"from {origin}: {self.rounds} rounds again"
            cost = "no promise, as there was no noise"
            if self.epsilon is not None:
                cost = f"epsilon {self.epsilon:.4f} at delta {self.delta:g} once more"
            yield "cost", f"{cost}, for the persons of this institution who remain"


NOTHING = RetrainingPlan(
    releases=(),
    adapters=(),
    others=(),
    start=None,
    rounds=0,
    epsilon=None,
    delta=None,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataWithdrawal:
    """The result of a withdrawal, and the models that rest on the persons."""

    listed: int
    withdrawn: int  # who were not before
    plan: RetrainingPlan

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)


def run(
    folder: Path, listed: Path, *, only_plan: bool, unknown: bool = False
) -> DataWithdrawal:
    """Withdraw the persons that a file lists from a node's data.

    With ``unknown`` also those whom no version has yet. They are withdrawn before
    anything else can fail.

    Raises:
        IncompleteError: The node has declared no data yet.
        ConfigError: The data are of single records, the file lists nobody, or a key is
            of nobody; then nobody is withdrawn.
        VerificationError: State or mirror were tampered with.
    """
    settings = NodeSettings.read(folder / "node.toml")
    keys = _read_keys(listed)
    with closing(_open_state(folder)) as state:
        blocks = find(state, keys, unknown=unknown)
        count = 0 if only_plan else withdraw(state, keys, unknown=unknown)
    plan = NOTHING  # the log is not here yet, so nothing was trained
    if (folder / "view.db").exists():
        with closing(open_mirror(folder, settings, readonly=True)) as mirror:
            if mirror.size:
                plan = plan_retraining(mirror.state, settings.name, blocks)
    return DataWithdrawal(listed=len(keys), withdrawn=count, plan=plan)


def say_exchanged(folder: Path) -> None:
    """Note that the persons of the next version may all be others.

    Raises:
        IncompleteError: The node never ran, so there is no version before.
    """
    with closing(_open_state(folder)) as state, state.writing() as writing:
        writing.append({"type": "exchanged"})


def _open_state(folder: Path) -> NodeState:
    if not (folder / DATABASE).exists():
        raise IncompleteError(
            f"{folder} has no {DATABASE}: the node never ran; change the data in their"
            " folder",
            code="state-missing",
        )
    return NodeState(folder / DATABASE)


def _read_keys(listed: Path) -> list[str]:
    path = Path("/dev/stdin") if str(listed) == "-" else listed
    keys = [line for line in read_text(path).splitlines() if line]
    if not keys:
        raise ConfigError(
            f"{listed} lists nobody; write a key in each line", code="file-empty"
        )
    return keys


def withdraw(state: NodeState, keys: Sequence[str], *, unknown: bool = False) -> int:
    """Withdraw persons by their keys, also while the node runs.

    Returns:
        How many were not withdrawn before.

    Raises:
        IncompleteError: The node has declared no data yet.
        ConfigError: The data are of single records, or a key is of nobody; then nobody
            is withdrawn.
    """
    find(state, keys, unknown=unknown)
    with state.writing() as writing:
        units = _marks(writing, keys).tolist()
        found = {unit.ljust(16, b"\0") for unit in units} - writing.withdrawn
        if found:
            named = sorted(unit.hex() for unit in found)
            writing.append({"type": "withdrawn", "units": named})
    return len(found)


def find(
    state: NodeState, keys: Sequence[str], *, unknown: bool = False
) -> tuple[int, ...]:
    """Return the blocks in which some persons are; ``unknown`` ones are in none.

    Raises:
        IncompleteError: The node has declared no data yet.
        ConfigError: The data are of single records, or a key is of nobody.
    """
    replay = state.reading()
    if not replay.data or replay.terms is None:
        raise IncompleteError(
            "the node has declared no data yet; take the rows out of the folder",
            code="data-not-declared",
        )
    if replay.terms["unit"] != "person":
        raise ConfigError(
            "the data are single records, which have no key to withdraw by; take the"
            " records out of the folder: they train no more from the next start on, and"
            " the next version declares it",
            code="unit-unsupported",
        )
    blocks = UnitRegister.read(state, replay.data[-1]).blocks_of(_marks(replay, keys))
    strange = np.flatnonzero(blocks == 0)
    if len(strange) and not unknown:
        lines = ", ".join(str(place + 1) for place in strange[:10])
        raise ConfigError(
            f"key {lines} of the list is of nobody in the data ({len(strange)} of"
            f" {len(keys)} are); nobody was withdrawn. Who waits for the next version"
            " is not in it yet: with --unknown they are withdrawn as well",
            code="unit-unknown",
        )
    return tuple(sorted({*blocks.tolist()} - {0}))


def _marks(replay: StateReplay, keys: Sequence[str]) -> Marks:
    secret = replay.secrets[UNIT_KEY]
    return marks(secret, "unit", (key.encode() for key in keys))


def plan_retraining(
    log: FederationState, name: str, blocks: Sequence[int]
) -> RetrainingPlan:
    """Find what of a federation rests on some blocks of a member's data."""
    spending = [each for each in log.spending_of(name) if _names(each, blocks)]
    resting, start = [], None
    for release in log.released:
        led = spent_on(spending, release, state=log, adapter=None)
        if any(each.adapter is None for each in led):
            resting.append(release)
        elif not resting:
            start = release
    names = {each.name for each in resting}
    paid = {(e.adapter, e.version) for e in spending if e.adapter is not None}
    own = [f"{adapter} {version}" for adapter, version in sorted(paid)]
    others = [
        adapter
        for adapter, body in log.adapters.items()
        if body.base in names and log.publishers[adapter] != name
    ]
    last = resting[-1].index if resting else -1
    first = -1 if start is None else start.index
    rounds = [e for e in spending if first < _opened(e, log) < last]
    closed = sum(first < each.opened < last for each in log.closed)
    epsilon, delta = _price(rounds)
    return RetrainingPlan(
        releases=tuple(each.name for each in resting),
        adapters=tuple(own),
        others=tuple(sorted(others)),
        start=None if start is None else start.name,
        rounds=closed,
        epsilon=epsilon,
        delta=delta,
    )


def _opened(account: AccountedSpending, log: FederationState) -> int:
    """Return where a round was opened that an account is of; -1 of an adapter."""
    if account.round_number is None or account.attempt is None:
        return -1
    return log.rounds[account.run_id, account.round_number, account.attempt].opened


def _names(account: AccountedSpending, blocks: Sequence[int]) -> bool:
    """Return whether an account is of some blocks; one without noise is of all."""
    loss = account.promise
    return loss is None or any(each.block in blocks for each in loss.blocks)


def _price(
    rounds: Sequence[AccountedSpending],
) -> tuple[float | None, float | None]:
    losses = [each.promise for each in rounds]
    known = [each for each in losses if each is not None]
    if len(known) < len(losses) or not known:
        return None, None
    delta = min(float(each.target_delta) for each in known)
    steps = [
        steps_of(each.steps, loss) for each, loss in zip(rounds, known, strict=True)
    ]
    return accounting.epsilon(steps, target_delta=delta), delta


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
