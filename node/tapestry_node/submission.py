"""Entries that the log lacks: what this node owes, and what others signed elsewhere.

Guarantees:
    A node hands in the entry of any member, so that a coordinator which drops those of
    one is passed by. What the log would refuse as it stands here is refused at once.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from tapestry.errors import IncompleteError, RuleError, TapestryError
from tapestry.keys import SigningKey
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.merkle import leaf_hash
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.event_body import Body
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.log.outbox_heads import MAX_WAITING, OutboxHead
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply
from tapestry_node.directory import open_mirror
from tapestry_node.node_state import DATABASE, NodeState
from tapestry_node.settings import NodeSettings


def submit(folder: Path, entries: Sequence[bytes]) -> list[bool]:
    """Put entries into the node's outbox; the node may run.

    Returns:
        Of each, whether it waits; False where the log has it already.

    Raises:
        ConfigError: A setting of ``node.toml`` is invalid.
        IncompleteError: The node has no log yet, or ``node.db`` was deleted.
        RuleError, VerificationError: The log would refuse an entry; none was kept.
        ResourceError: A file cannot be read or written.
    """
    settings = NodeSettings.read(folder / "node.toml")
    require_ran(folder, settings)
    mirror = open_mirror(folder, settings, readonly=True)
    try:
        state, new = mirror.state, list[bool]()
        for entry in entries:
            new.append(not mirror.holds(entry))
            if new[-1]:
                state = apply(state, entry, state.size)
    finally:
        mirror.close()
    store = NodeState(folder / DATABASE)
    try:
        for entry, is_new in zip(entries, new, strict=True):
            if is_new:
                store.post(entry)
    finally:
        store.close()
    return new


def require_ran(folder: Path, settings: NodeSettings) -> None:
    """Require that a node has a log, and the state that belongs to it.

    Raises:
        IncompleteError: The node has no log yet, or ``node.db`` was deleted.
    """
    if not settings.joined or not (folder / "view.db").exists():
        raise IncompleteError(
            f"the node in {folder} has no log yet; join, and let it run",
            code="mirror-empty",
        )
    if not (folder / DATABASE).exists():
        raise IncompleteError(
            f"{folder} has a mirror of the log and no {DATABASE}; it was deleted, put"
            " it back",
            code="state-missing",
        )


def foresee(log: FederationState, outbox: Iterable[bytes]) -> FederationState:
    """Return the log as it will be with what waits, where it would take that."""
    for entry in outbox:
        with suppress(TapestryError):
            log = apply(log, entry, log.size)
    return log


def entries_to_submit(
    store: NodeState, mirror: LogMirror, *, name: str, sign: Callable[[Body], bytes]
) -> list[bytes]:
    """Return what waits in the outbox and the log would take as it stands.

    Another one waits: it takes no place of those behind it, however long that is.

    Guarantees:
        What the node signed by a former key, and the log takes from that no more, is
        signed anew: what it owes where the key was compromised, and a declaration.

    Args:
        store: Has the outbox.
        mirror: The log.
        name: The node's.
        sign: Signs as the node, with the key that the log expects.
    """
    for entry in store.outbox():
        if mirror.holds(entry):
            store.clear(entry)
    taken, log = list[bytes](), mirror.state
    for entry in store.outbox():
        event = open_entry(entry).event
        try:
            log = apply(log, entry, log.size)
            taken.append(entry)
        except RuleError as error:
            is_own = (event.actor, event.role) == (name, "node")
            if is_own and error.code == "signature-missing":
                again = sign(event.body)
                store.post_instead(again, of=entry)
                with suppress(TapestryError):
                    log = apply(log, again, log.size)
                    taken.append(again)
        except TapestryError:
            continue
    return taken


def sign_head(
    store: NodeState, key: SigningKey, cosigned: Checkpoint, submitted: Sequence[bytes]
) -> bytes:
    """Sign what goes with a cosignature, so that monitors see what is withheld."""
    leaves = [leaf_hash(entry) for entry in submitted[:MAX_WAITING]]
    head = OutboxHead(
        checkpoint=cosigned,
        count=len(store.outbox()),
        waiting=store.submit(leaves, size=cosigned.size),
    )
    return head.sign(key)
