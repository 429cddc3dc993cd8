"""Versions of an institution's data: which of its records may train now.

At a node's start, once a week at most, what is in the folder becomes the next version.
Persons who came with it are the next block; single records may only become fewer. In
between the node trains on what is left unchanged of the version that the log has.

Guarantees:
    Whatever changes in the folder, a person's block stays, and no single record is ever
    added, so that no change buys a fresh budget. What trains is never more than was
    declared. Leaving units out costs no privacy: the chance of each unit to be drawn
    stays the declared one.

Edge cases:
    ==============================  ==================================================
    A person is new, or its rows    waits for the next version
    are changed
    Its rows are gone               trains no more; comes back into its old block
    It was withdrawn                trains no more from that moment on, nor ever again,
                                    also if the folder still has its rows
    A single record is new or was   the folder is refused: nothing tells an edited
    changed                         record from a new one
    A single record is gone         trains no more, and leaves with the next version
    A round is under way            no new version until a start without one
    The log knows a version that    refused, also after a backup was restored: who came
    this state does not             with that version would count as new
    ==============================  ==================================================
"""

import secrets
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tapestry.errors import ConfigError, VerificationError
from tapestry_governance.events.privacy_events import MAX_BLOCKS
from tapestry_governance.founding import rounded_down
from tapestry_node.data.data_version import INTERVAL, DataVersion, dataset_digest
from tapestry_node.data.unit_register import (
    Changes,
    FoundUnits,
    Marks,
    UnitRegister,
    as_marks,
)
from tapestry_node.node_state import NodeState

UNIT_KEY: Final = "unit-key"  # the secret under which units are marked
_LEAST = 10  # persons; the number of fewer would tell about each of them
Check = Callable[[int], object]
"""Refuses a largest block of so many units, for which delta is too large."""
Paying = Callable[[tuple[int, ...]], tuple[int, ...]]
"""Of some blocks, those that can pay for one more training like the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """The records of a folder as they are now; private."""

    unit: str
    place: str  # of the folder, for messages
    description: dict[str, Any]  # public, see ``data_version.dataset_digest``
    keys: Sequence[str | None]
    digests: bytes  # SHA-256 of each record, 32 bytes each

    @property
    def records(self) -> list[bytes]:
        """The digest of each record."""
        held = memoryview(self.digests)
        return [bytes(held[at : at + 32]) for at in range(0, len(held), 32)]

    def marked(self, secret: bytes) -> FoundUnits:
        """Mark each unit, under a secret of the node.

        Of equal single records each has a mark of its own, by its number among them.

        Raises:
            ConfigError: The unit is a person, and a record has no key.
        """
        if self.unit == "record":
            seen: Counter[bytes] = Counter()
            numbered = []
            for each in self.records:
                numbered.append(b"%d\0" % seen[each] + each)
                seen[each] += 1
            return FoundUnits.of(secret, numbered, self.records)
        keys = [key.encode() for key in self.keys if key is not None]
        if 32 * len(keys) != len(self.digests):
            raise ConfigError(
                'unit = "person" needs a key of each record, which this kind of data'
                ' does not have; write unit = "record"',
                code="unit-unsupported",
            )
        return FoundUnits.of(secret, keys, self.records)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """The newest version, and which records of the folder belong to it."""

    version: DataVersion
    units: Marks  # of each record, shape (n,); none before the first version
    blocks: NDArray[np.uint16]  # of each record, shape (n,); 0: it may not train
    changes: Changes  # what waits for the next version
    largest: int  # units of the largest block

    def __str__(self) -> str:
        version, changes = self.version, self.changes
        blocks = ", ".join(map(str, version.trains))
        said = (
            f"{version.version}: {version.records} or more to train on, of block"
            f" {blocks}"
        )
        if changes:
            said += (
                f"; {changes.new} new and {changes.changed} changed wait for the next,"
                f" due {version.time + INTERVAL:%Y-%m-%d %H:%M}, and {changes.gone} are"
                " gone"
            )
        return said

    def select(self, blocks: tuple[int, ...]) -> NDArray[np.intp]:
        """Return the places of the records of some blocks, in order."""
        return np.flatnonzero(np.isin(self.blocks, blocks))

    def without(self, withdrawn: Collection[bytes]) -> Self:
        """Return the same without some units, which train no more from now on."""
        if not withdrawn:
            return self
        gone = np.isin(self.units, as_marks(withdrawn))
        return replace(self, blocks=np.where(gone, 0, self.blocks).astype(np.uint16))


def declared_count(units: int) -> int:
    """Round a number of units down, as a request does; below ten it is exact."""
    return units if units < _LEAST else rounded_down(units)


def unwritten(source: DataSource, now: datetime) -> Holdings:
    """Return what the first version of some records would be."""
    count = len(source.digests) // 32
    version = DataVersion(
        version=1,
        block=1,
        records=declared_count(count),
        withdrawn=0,
        trains=(1,),
        dataset=dataset_digest(source.description, source.digests),
        register="",
        time=now,
    )
    return Holdings(
        version=version,
        units=as_marks(()),
        blocks=np.ones(count, np.uint16),
        changes=Changes(new=0, changed=0, gone=0),
        largest=count,
    )


def look(source: DataSource, state: NodeState) -> Holdings:
    """Return what may train now, and write nothing.

    Raises:
        ConfigError: Single records are new or were changed, or a person has no key.
        VerificationError: The register of the version was lost or changed.
    """
    replay = state.reading()
    if not replay.data or UNIT_KEY not in replay.secrets:
        return unwritten(source, datetime.now().astimezone())
    last, found = replay.data[-1], source.marked(replay.secrets[UNIT_KEY])
    register = UnitRegister.read(state, last)
    _check_records(source, register, found)
    return _holdings(last, register, found, replay.withdrawn)


def take_in(
    source: DataSource,
    state: NodeState,
    *,
    now: datetime,
    logged: int,
    paying: Paying,
    check: Check,
) -> Holdings:
    """Return what may train now; what changed becomes the next version if it is due.

    Edge cases:
        There is no next version while a round is under way, while a state that was
        restored is not settled, and while the blocks that can pay have fewer than ten
        persons. Then what is left of the last one trains.

    Args:
        source: The records as they are now.
        state: The node's state, opened to serve.
        now: By the node's clock.
        logged: The last version of this node in the log; 0 for none.
        paying: Tells which blocks are trained on from the next version on.
        check: Is asked before a version is written.

    Raises:
        ConfigError: Single records are new or were changed, the first version has
            fewer than ten persons, most persons are others than before, or ``check``
            refuses a block.
        VerificationError: The register was lost, or the log has a version that the
            state lacks.
    """
    replay = state.reading()
    last = replay.data[-1] if replay.data else None
    _check_state(state, logged)
    found = source.marked(state.secret(UNIT_KEY, secrets.token_bytes(32)))
    register = UnitRegister()
    if last is not None:
        register = UnitRegister.read(state, last)
        _check_records(source, register, found)
        is_free = replay.session is None and replay.restored is None
        if not (is_free and last.is_due(now)):
            return _holdings(last, register, found, replay.withdrawn)
        _check_exchange(source, register, found, is_said=replay.exchanged)
    kept = ~np.isin(found.units, as_marks(replay.withdrawn))
    newest = last.block if last else 0
    grown = register.grown(found.select(kept), block=min(newest + 1, MAX_BLOCKS))
    blocks = grown.blocks(found)
    there = tuple(int(each) for each in np.unique(blocks) if each)
    trains = paying(there) or there[-1:]
    count = int(np.count_nonzero(np.isin(blocks, trains)))
    is_few = count < (1 if source.unit == "record" else _LEAST)
    if last is None and is_few:
        raise ConfigError(
            f"{source.place} has {count} {source.unit}s to train on; at least"
            f" {_LEAST} persons or one record are wanted",
            code="records-missing",
        )
    is_same = last and (grown.digest, trains) == (last.register, last.trains)
    if last is not None and (is_few or is_same):
        return _holdings(last, register, found, replay.withdrawn)
    check(grown.largest)
    present = np.frombuffer(source.digests, "S32")[kept].tobytes()
    version = DataVersion(
        version=last.version + 1 if last else 1,
        block=max(newest, grown.newest),
        records=declared_count(count),
        withdrawn=rounded_down(register.left(grown)),
        trains=trains,
        dataset=dataset_digest(source.description, present),
        register=grown.digest,
        time=now,
    )
    grown.write(state, version)
    return _holdings(version, grown, found, replay.withdrawn)


def _check_state(state: NodeState, logged: int) -> None:
    """Refuse a state from before a version, or before any.

    Raises:
        VerificationError: The log has a version that the state lacks, or there are
            charges of no version.
    """
    replay = state.reading()
    if logged > len(replay.data):
        raise VerificationError(
            f"the log has data version {logged} of this node, its state does not: it"
            " was restored from before that, and cannot tell who came with it from who"
            " is new; put the newest copy back",
            code="data-version-restored",
        )
    if replay.rows and not replay.data:  # by a state put together by hand
        raise VerificationError(
            f"{state.path} has charges and no data version that they are of; put the"
            " newest copy back",
            code="data-version-missing",
        )


def _check_records(
    source: DataSource, register: UnitRegister, found: FoundUnits
) -> None:
    """Refuse single records that the first version did not have.

    Raises:
        ConfigError: There is one; it would have a fresh budget.
    """
    if source.unit == "record" and (new := register.changes(found).new):
        raise ConfigError(
            f"{source.place} was changed: {new} of its records are new or were edited;"
            " take them out, or put the data back as it was. Single records may only"
            ' become fewer; data that grow need unit = "person" from the start',
            code="dataset-differs",
        )


def _check_exchange(
    source: DataSource, register: UnitRegister, found: FoundUnits, *, is_said: bool
) -> None:
    """Refuse a version in which most persons seem to be others.

    A key column that was exchanged, or whose keys are spelled in another way, makes all
    persons new, with fresh budgets.

    Raises:
        ConfigError: Most persons are gone and as many are new, and nobody said that
            they are others.
    """
    changes, there = register.changes(found), register.present
    is_other = 2 * changes.gone >= there and 2 * changes.new >= there
    if source.unit == "person" and is_other and there and not is_said:
        raise ConfigError(
            f"{source.place} lacks {changes.gone} of {there} persons and has"
            f" {changes.new} new ones: was the column of keys exchanged, or are keys"
            " spelled in another way? Then put it right, as the same persons would"
            " have a fresh budget. If they are others, say so: tapestry node data"
            " exchange",
            code="units-exchanged",
        )


def _holdings(
    version: DataVersion,
    register: UnitRegister,
    found: FoundUnits,
    withdrawn: Collection[bytes],
) -> Holdings:
    holdings = Holdings(
        version=version,
        units=found.units,
        blocks=register.blocks(found),
        changes=register.changes(found),
        largest=register.largest,
    )
    return holdings.without(withdrawn)
