"""The parts of a node's folder by which it says who it is, open in one process.

Settings, keys, the state that receipts are written to, and the mirror of the log: a
node that has these can answer a greeting, also if base or records are at fault.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tapestry.keys import SigningKey
from tapestry.protocol.connection_proof import ConnectionClaim
from tapestry.protocol.folder_faults import FolderFault
from tapestry.protocol.messages import (
    ChunkRequest,
    Identity,
    Message,
    RoundName,
    encode_message,
)
from tapestry.protocol.secagg_messages import PROTOCOL
from tapestry.software_digest import software_digest
from tapestry_governance.log.mirror import LogMirror
from tapestry_node.directory import open_mirror
from tapestry_node.node_keys import KeyRing
from tapestry_node.node_state import DATABASE, NodeState
from tapestry_node.readiness import check_keys
from tapestry_node.settings import NodeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The part of an identity that changes; of a node at fault, as it stands here."""

    lacks: RoundName | None = None
    asks: tuple[ChunkRequest, ...] = ()
    held_out: str | None = None
    refuses: FolderFault | None = None
    rests: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFolder:
    """A node's folder, held by this process alone."""

    directory: Path
    settings: NodeSettings
    ring: KeyRing
    store: NodeState
    mirror: LogMirror

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open a folder.

        Guarantees:
            After an error nothing is left open.

        Raises:
            ConfigError: A setting or key is invalid, or a key is not this member's.
            ResourceError: A file cannot be read or written, or another process has it.
            VerificationError: The mirror or the state was tampered with.
        """
        settings = NodeSettings.read(directory / "node.toml")
        ring = KeyRing.read(directory, settings.name)
        store = NodeState(directory / DATABASE, exclusive=True)
        try:
            mirror = open_mirror(directory, settings)
        except BaseException:
            store.close()
            raise
        found = cls(
            directory=directory,
            settings=settings,
            ring=ring,
            store=store,
            mirror=mirror,
        )
        try:
            if mirror.size:
                keys = ring.known(mirror.settled)
                check_keys(mirror.settled, keys=keys, name=settings.name)
            ring.follow(mirror)
        except BaseException:
            found.close()
            raise
        return found

    @property
    def keys(self) -> dict[str, SigningKey]:
        """The keys that the node signs with now, by purpose."""
        return self.ring.keys

    def identify(self, nonce: str, connection: str, progress: Progress) -> Message:
        """Answer a greeting: prove the name, and say how far this node is."""
        accepted, other = self.mirror.accepted, self.ring.other_node_key()
        claim = ConnectionClaim(
            genesis=self.settings.joined,
            node=self.settings.name,
            connection=connection,
            nonce=nonce,
        )
        return encode_message(
            Identity(
                name=self.settings.name,
                proof=claim.prove(self.keys["node"]),
                other_proof=None if other is None else claim.prove(other),
                protocol=PROTOCOL,
                software=software_digest(),
                size=self.mirror.size,
                lacks=progress.lacks,
                checkpoint=accepted.note.decode() if accepted else None,
                asks=progress.asks,
                held_out=progress.held_out,
                refuses=progress.refuses,
                rests=progress.rests,
                epsilon_limit=self.settings.policy.epsilon_limit,
            )
        )

    def close(self) -> None:
        """Close the databases."""
        self.mirror.close()
        self.store.close()
