"""Versions of an institution's data: which of its records may train now.

A folder of single records has one version for ever. A folder of persons may change: at
a node's start, once a week at most, what is there becomes the next version, and the
persons who came with it the next block. In between the node trains on what is left
unchanged of the version that the log has.

Guarantees:
    Whatever changes in the folder, a person's block stays, so that no change buys a
    fresh budget; and what trains is never more than was declared. Leaving units out
    costs no privacy: a unit's chance to be drawn stays the declared one.

Edge cases:
    ==============================  ==================================================
    A person is new, or its rows    waits for the next version
    are changed
    Its rows are gone               trains no more; comes back into its old block
    It was withdrawn                trains no more from that moment on, nor ever again,
                                    also if the folder still has its rows
    A round is under way            no new version until a start without one
    The log knows a version that    refused, also after a backup was restored: who came
    this state does not             with that version would count as new
    ==============================  ==================================================
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tapestry.encoding import digest
from tapestry.errors import ConfigError, VerificationError
from tapestry_governance.events.privacy_events import MAX_BLOCKS
from tapestry_governance.founding import rounded_down
from tapestry_node.data.data_version import DataVersion
from tapestry_node.data.unit_register import (
    Changes,
    FoundUnits,
    Marks,
    UnitRegister,
    forget_older,
)
from tapestry_node.node_state import NodeState

_KEY: Final = "unit-key"
_EXACT = 10  # fewer units than this cannot be rounded down to a number
Paying = Callable[[tuple[int, ...]], tuple[int, ...]]
"""Of some blocks, those that can pay for one more training like the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """The records of a folder as they are now: private, but for nothing."""

    unit: str
    dataset: str  # private digest of all
    keys: tuple[str | None, ...]
    spellings: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """The newest version, and which records of the folder belong to it."""

    version: DataVersion
    blocks: NDArray[np.uint16]  # of each record, shape (n,); 0: it may not train
    changes: Changes  # what waits for the next version
    largest: int  # units of the largest block

    def select(self, blocks: tuple[int, ...]) -> NDArray[np.intp]:
        """Return the places of the records of some blocks, in order."""
        return np.flatnonzero(np.isin(self.blocks, blocks))


def declared_count(units: int) -> int:
    """Round a number of units down, as a request does; below ten it is exact."""
    return units if units < _EXACT else rounded_down(units)


def fixed(source: DataSource, now: datetime) -> Holdings:
    """Return the only version of single records, or the first of persons, unwritten."""
    count = len(source.spellings)
    version = DataVersion(
        version=1,
        block=1,
        records=declared_count(count),
        withdrawn=0,
        trains=(1,),
        dataset=source.dataset,
        register="",
        time=now,
    )
    return Holdings(
        version=version,
        blocks=np.ones(count, np.uint16),
        changes=Changes(new=0, changed=0, gone=0),
        largest=count,
    )


def look(source: DataSource, state: NodeState, directory: Path) -> Holdings:
    """Return what may train now, and write nothing.

    Raises:
        ConfigError: No person of the version is left unchanged.
        VerificationError: The register of the version was lost or changed.
    """
    replay = state.reading()
    now = datetime.now().astimezone()
    if source.unit == "record" or not replay.data or _KEY not in replay.secrets:
        return fixed(source, now)
    last = replay.data[-1]
    register = UnitRegister.read(directory, last.version, name=last.register)
    found = _found(source, replay.secrets[_KEY])
    return _holdings(last, register, found, _marks(replay.withdrawn))


def take_in(
    source: DataSource,
    state: NodeState,
    directory: Path,
    *,
    now: datetime,
    logged: int,
    paying: Paying,
) -> Holdings:
    """Return what may train now; what changed becomes the next version if it is due.

    Args:
        source: The records as they are now.
        state: The node's state, opened to serve.
        directory: The node's folder.
        now: By the node's clock.
        logged: The last version of this node in the log; 0 for none.
        paying: Tells which blocks are trained on from the next version on.

    Raises:
        ConfigError: There is no person to train on.
        VerificationError: The register was lost, or the log has a version that the
            state lacks.
    """
    replay = state.reading()
    last = replay.data[-1] if replay.data else None
    if source.unit == "record":
        if last is None:
            _write(state, fixed(source, now).version)
        return fixed(source, now)
    if logged > (last.version if last else 0):
        raise VerificationError(
            f"the log has data version {logged} of this node, its state does not: it"
            " was restored from before that, and cannot tell who came with it from who"
            " is new; put the newest copy back",
            code="data-version-restored",
        )
    found = _found(source, state.secret(_KEY, secrets.token_bytes(32)))
    without = _marks(replay.withdrawn)
    register = UnitRegister()
    if last is not None:
        register = UnitRegister.read(directory, last.version, name=last.register)
    if replay.session is None and (last is None or last.is_due(now)):
        grown, version = _next(last, register, found, without, paying, now)
        if last is None or (version.register, version.trains) != (
            last.register,
            last.trains,
        ):
            grown.write(directory, version.version)
            _write(state, version)
            register, last = grown, version
            forget_older(directory, version.version)
    if last is None:  # unreachable: without a version the next one was written
        raise ConfigError("no person is left to train on", code="records-missing")
    return _holdings(last, register, found, without)


def _next(
    last: DataVersion | None,
    register: UnitRegister,
    found: FoundUnits,
    without: Marks,
    paying: Paying,
    now: datetime,
) -> tuple[UnitRegister, DataVersion]:
    """Make the version that would follow; it may be the last one under a new number."""
    newest = last.block if last else 0
    grown = register.grown(found, block=min(newest + 1, MAX_BLOCKS), without=without)
    block = max(newest, grown.newest)
    blocks = grown.blocks(found)
    trains = paying(tuple(range(1, block + 1))) or (block,)
    count = int(np.count_nonzero(np.isin(blocks, trains)))
    if not count:
        raise ConfigError(
            f"no person of the blocks {list(trains)} is there to train on, all left or"
            " were withdrawn",
            code="records-missing",
        )
    version = DataVersion(
        version=last.version + 1 if last else 1,
        block=block,
        records=declared_count(count),
        withdrawn=rounded_down(register.left(grown)),
        trains=trains,
        dataset=digest(grown.digest.encode()),
        register=grown.digest,
        time=now,
    )
    return grown, version


def _holdings(
    version: DataVersion, register: UnitRegister, found: FoundUnits, without: Marks
) -> Holdings:
    blocks = register.blocks(found)
    blocks[np.isin(found.units, without)] = 0
    return Holdings(
        version=version,
        blocks=blocks,
        changes=register.changes(found),
        largest=register.largest,
    )


def _write(state: NodeState, version: DataVersion) -> None:
    with state.writing() as replay:
        replay.append({"type": "data", **version.body()})


def _found(source: DataSource, secret: bytes) -> FoundUnits:
    keys = [key for key in source.keys if key is not None]
    if len(keys) != len(source.spellings):
        raise ConfigError(
            'unit = "person" needs a key of each record, which this kind of data does'
            ' not have; write unit = "record"',
            code="unit-unsupported",
        )
    return FoundUnits.of(secret, keys, source.spellings)


def _marks(units: set[bytes]) -> Marks:
    return np.array(sorted(units), dtype="S16")
