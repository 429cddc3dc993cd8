"""Entries that somebody signed elsewhere, handed in through this node.

Guarantees:
    A node hands in the entry of any member, so that a coordinator which drops those of
    one is passed by. What the log would refuse as it stands here is refused at once.
"""

from collections.abc import Sequence
from pathlib import Path

from tapestry.errors import ConfigError, IncompleteError
from tapestry_governance.rules.replay import apply
from tapestry_node.directory import open_mirror
from tapestry_node.node_state import DATABASE, NodeState
from tapestry_node.settings import NodeSettings


def submit(folder: Path, entries: Sequence[bytes]) -> list[bool]:
    """Put entries into the node's outbox; the node may run.

    Returns:
        Of each, whether it waits; False where the log has it already.

    Raises:
        ConfigError: ``node.toml`` is invalid, or ``node.db`` was deleted.
        IncompleteError: The node has no log yet.
        RuleError, VerificationError: The log would refuse an entry; none was kept.
        ResourceError: A file cannot be read or written.
    """
    settings = NodeSettings.read(folder / "node.toml")
    if not settings.joined or not (folder / "view.db").exists():
        raise IncompleteError(
            f"the node in {folder} has no log yet; join, and let it run",
            code="mirror-empty",
        )
    if not (folder / DATABASE).exists():
        raise ConfigError(
            f"{folder} has a mirror of the log and no {DATABASE}; it was deleted, put"
            " it back",
            code="state-missing",
        )
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
