"""The keys of a node, and the new ones that take their place.

::

    keys/witness.key     signs until the log has another one in force
    keys/witness.next    made by ``tapestry node rotate``; waits for that

A node signs with the key that the log expects at that moment: an entry by what its
author had accepted, a cosignature by what is stored, as both count by that. The old
witness key cosigns as well for as long, as a turn needs a quorum of the old set. Once
the change is in a checkpoint that a quorum cosigned, the new file takes the name of the
old one, in one step, and with that the old key is gone.

Guarantees:
    A process that dies at any time leaves each key in one of the two files, whole, and
    the one that the log expects is among them. A round that is open keeps its keys,
    unless one is called compromised: the log lets nothing else take effect.

Not protected:
    Unlinked is not overwritten: copies of ``keys/`` and blocks of the disk may hold a
    former key. A former witness key can sign a second history for who trusts no turn
    since (``governance/decisions/0021-turns.md``): delete it in each copy.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tapestry.encrypted_keys import load_public
from tapestry.keys import SigningKey, VerifyKey
from tapestry.storage import durable_files
from tapestry_governance.key_turn import NEXT
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.settlement import settle
from tapestry_node.directory import PURPOSES


@dataclass(slots=True, kw_only=True)
class KeyRing:
    """The keys that a node signs with, by purpose."""

    folder: Path  # the keys'
    name: str  # of the member
    held: dict[str, SigningKey]  # by the files that the node begins with
    coming: dict[str, SigningKey] = field(default_factory=dict)
    keys: dict[str, SigningKey] = field(default_factory=dict)  # to sign with now

    @classmethod
    def read(cls, directory: Path, name: str) -> Self:
        """Read the keys of a node's folder.

        Edge cases:
            A key that is lost is not missed where a new one waits.

        Raises:
            ConfigError: A key file is missing, open to others, or no key.
        """
        folder, held = directory / "keys", dict[str, SigningKey]()
        for purpose in PURPOSES:
            path, coming = folder / f"{purpose}.key", folder / f"{purpose}{NEXT}"
            is_lost = coming.exists() and not path.exists()
            held[purpose] = SigningKey.load(coming if is_lost else path)
        ring = cls(folder=folder, name=name, held=held)
        ring._read_coming()
        ring.keys |= held
        return ring

    def as_of(self, state: FederationState) -> dict[str, SigningKey]:
        """Return the keys that a state of the log expects, of those that are here."""
        member = state.members.get(self.name)
        return {
            purpose: coming
            if (coming := self.coming.get(purpose)) is not None
            and member is not None
            and getattr(member, purpose) == str(coming.verify_key)
            else key
            for purpose, key in self.held.items()
        }

    def known(self, state: FederationState) -> dict[str, SigningKey]:
        """Return the keys that a state of the log must name: all without a new one.

        A folder whose key was lost, or restored from an old copy, is helped by a new
        one; until the log has that in force, the log names neither. A key that waits
        and was in force before is no new one.
        """
        coming = {
            purpose
            for purpose, key in self.coming.items()
            if key.verify_key not in self._former(state, purpose)
        }
        return {p: key for p, key in self.as_of(state).items() if p not in coming}

    def _former(self, state: FederationState, purpose: str) -> list[VerifyKey]:
        former = state.former_keys.get((self.name, purpose), ())
        return [each.key for each in former]

    def witnesses_ever(self, state: FederationState) -> set[str]:
        """Return the ids of this member's witness keys: those here, all in the log."""
        member = state.members.get(self.name)
        logged = [] if member is None else [VerifyKey.parse(member.witness)]
        former = self._former(state, "witness")
        return {key.keyid for key in (*self.witnesses, *logged, *former)}

    def other_node_key(self) -> SigningKey | None:
        """Return the node key that is not signed with, while a rotation is under way.

        Raises:
            ConfigError: A new key's file is open to others, or no key.
        """
        self._read_coming()
        both = self.held["node"], self.coming.get("node")
        used = self.keys["node"].verify_key
        return next((k for k in both if k and k.verify_key != used), None)

    @property
    def witnesses(self) -> list[VerifyKey]:
        """This member's own witness keys."""
        both = self.held["witness"], self.coming.get("witness")
        return [key.verify_key for key in both if key is not None]

    def follow(self, mirror: LogMirror) -> None:
        """Sign with what the log expects from here on; forget what was replaced.

        Raises:
            ConfigError: A new key's file is open to others, or no key.
            ResourceError: The folder cannot be written.
        """
        self._read_coming()
        if not mirror.size:
            return
        accepted = 0 if mirror.seen is None else mirror.seen.size
        found = self.as_of(settle(mirror.state, seen=accepted))
        found["witness"] = self.as_of(mirror.state)["witness"]
        self.keys.update(found)
        for purpose in (*PURPOSES, "root"):
            path = self.folder / f"{purpose}{NEXT}"
            if path.exists() and self._is_for_good(purpose, path, mirror):
                durable_files.move_file(path, self.folder / f"{purpose}.key")
                if purpose in PURPOSES:
                    self.held[purpose] = self.coming.pop(purpose)

    def _is_for_good(self, purpose: str, path: Path, mirror: LogMirror) -> bool:
        """Return whether the accepted log has a new key in force, and not the old."""
        state, seen = mirror.state, mirror.seen
        member = state.members.get(self.name)
        former = state.former_keys.get((self.name, purpose))
        return (
            member is not None
            and former is not None
            and seen is not None
            and former[-1].until < seen.size
            and getattr(member, purpose) == str(load_public(path))
        )

    def _read_coming(self) -> None:
        for purpose in PURPOSES:
            path = self.folder / f"{purpose}{NEXT}"
            if path.exists():
                self.coming[purpose] = SigningKey.load(path)
            else:
                self.coming.pop(purpose, None)
