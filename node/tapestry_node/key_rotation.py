"""A new key for a node's institution: made here, signed for by its root key.

The key waits beside the old one (``node_keys``) and ``key.rotated`` in the outbox. A
second call finds the key of the first: it is signed for again only if neither outbox
nor log has the entry. A key that no entry names yet waits, and signs nothing.

Guarantees:
    The new key is on the disk before the entry is in the outbox, so that the log never
    has a key in force which the node lacks. A witness key is noted in the node's state
    before it is on the disk: after a restoration the node cosigns by such a one alone.
"""

from pathlib import Path

from tapestry.encrypted_keys import load_public
from tapestry.errors import ConfigError, IncompleteError
from tapestry.keys import SigningKey, VerifyKey
from tapestry.storage import durable_files
from tapestry.transport_keys import (
    load_transport_key,
    make_transport_key,
    public_text,
    transport_digest,
)
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import KeyRotated
from tapestry_governance.founding import generate_member_key
from tapestry_governance.founding_files import RequestFile, read_document, sign_request
from tapestry_governance.key_turn import (
    NEXT,
    Purpose,
    Reason,
    RotationDraft,
    next_root,
    place_key,
    placing,
    rotated_body,
)
from tapestry_node.directory import PURPOSES, open_mirror
from tapestry_node.node_state import DATABASE, NodeState
from tapestry_node.settings import NodeSettings


class Rotation:
    """A rotation of one key of a node's institution, as far as its folder knows."""

    def __init__(
        self, folder: Path, purpose: Purpose, reason: Reason, *, root: Path
    ) -> None:
        """Read settings, log and outbox; ``root`` is where the root key lies, if here.

        Raises:
            ConfigError: ``node.toml`` is invalid, or ``node.db`` was deleted.
            IncompleteError: The node has no log yet, or is no member in it.
            VerificationError: The mirror or the state was changed.
            ResourceError: A file cannot be read.
        """
        self.folder, self.purpose, self.reason = folder, purpose, reason
        self._root = root
        self.settings = NodeSettings.read(folder / "node.toml")
        self.name = self.settings.name
        if not (folder / "view.db").exists() or not (folder / DATABASE).exists():
            raise IncompleteError(
                f"{folder} has no view.db, or no {DATABASE}: the node mirrors no log"
                " that could have another key in force; join, and let it run",
                code="mirror-empty",
            )
        mirror = open_mirror(folder, self.settings, readonly=True)
        try:
            self.logged, self.state, self.seen = (
                mirror.state,
                mirror.settled,
                mirror.seen,
            )
        finally:
            mirror.close()
        if self.name not in self.state.active:
            raise IncompleteError(
                f"{self.name!r} is no member of {self.settings.federation!r} by the"
                " log; its request has the keys that count until then",
                code="not-a-member",
            )
        store = NodeState(folder / DATABASE, readonly=True)
        try:
            self._outbox, replay = store.outbox(), store.reading()
            self._noted = set(replay.witnesses) if replay.has_forgotten else None
        finally:
            store.close()

    @property
    def path(self) -> Path:
        """The file of the new key, until the log has it in force."""
        if self.purpose == "root":
            return next_root(self._root)
        return self.folder / "keys" / f"{self.purpose}{NEXT}"

    @property
    def public(self) -> str | None:
        """The public half of the new key, as the event names it; None without one.

        Raises:
            ConfigError: What is in its place is no key.
        """
        if not self.path.exists():
            return None
        if self.purpose == "transport":
            return transport_digest(public_text(load_transport_key(self.path)))
        return str(load_public(self.path))

    @property
    def under_way(self) -> str | None:
        """Say where a rotation to the new key is; None if it has to be signed for."""
        key = self.public
        if key is None or self._is_spent(key):
            return None
        if self.in_force == key and not self._has_to_say_more:
            return "in force: the node takes it up with the next checkpoint"
        asked = {each.subject for each in self.logged.waiting}
        for index, (name, body) in self.logged.rotations.items():
            if index in asked and name == self.name and self._is_this(body, key):
                return f"entry {index} of the log, not in force yet"
        if self.posted is not None:
            return "in the outbox, for the node's next cosignature"
        return None

    @property
    def posted(self) -> bytes | None:
        """The entry in the outbox that names the new key, or None."""
        key = self.public
        for entry in self._outbox:
            event = open_entry(entry).event
            if event.actor == self.name and self._is_this(event.body, key):
                return entry
        return None

    def _is_spent(self, key: str) -> bool:
        """Return whether a key that waits is of an older copy of ``keys/``.

        It was in force before, or it may have cosigned what a restored folder forgot.
        """
        former = self.state.former_keys.get((self.name, self.purpose), ())
        is_lost = self._noted is not None and key not in self._noted
        return key in {str(each.key) for each in former} or (
            self.purpose == "witness" and is_lost
        )

    @property
    def _has_to_say_more(self) -> bool:
        """True if the rotation in force did not call the former key compromised."""
        return self.reason == "compromised" and self.state.may_be_stolen(
            self.name, self.purpose
        )

    @property
    def in_force(self) -> str | None:
        """The institution's key for this purpose by the log; None if it says none."""
        return self.state.present_key(self.name, self.purpose)

    def _is_this(self, body: object, key: str | None) -> bool:
        return (
            isinstance(body, KeyRotated)
            and (body.purpose, body.key) == (self.purpose, key)
            and self.reason in {body.reason, "routine"}
        )

    def draft(self) -> RotationDraft:
        """Make the new key, unless it is there, and the draft that the root signs.

        Edge cases:
            A key that waits, and can no longer come in force, is moved aside.

        Raises:
            ConfigError: A key file is in the way, or missing.
            ResourceError: A file cannot be written.
        """
        member, body = self.state.members[self.name], None
        federation = self.settings.federation
        if (waits := self.public) is not None and self._is_spent(waits):
            kept = VerifyKey.parse(waits).id.hex()
            durable_files.move_file(
                self.path, self.path.with_name(f"{self.path.name}.{kept}")
            )
        if self.purpose != "root":
            signer, key = self._new_key()
            body = rotated_body(
                key,
                signer,
                purpose=self.purpose,
                reason=self.reason,
                name=self.name,
                federation=federation,
            )
        return RotationDraft(
            kind="tapestry-rotation-draft/1",
            federation=federation,
            name=self.name,
            root=member.root,
            node=member.node,
            seen=self.seen,
            purpose=self.purpose,
            reason=self.reason,
            key=None if body is None else body.key,
            possession=None if body is None else body.possession,
        )

    def _new_key(self) -> tuple[SigningKey, str]:
        """Return what signs for the new key, and the new key's public half."""
        if self.purpose == "transport":
            if not self.path.exists():
                _make_transport(self.path)
            return self._own("node"), str(self.public)
        if not self.path.exists():
            made = generate_member_key(self.name, self.purpose)
            if self.purpose == "witness":  # before it can sign anything
                self._note_witness(made)
            place_key(made, self.path)
        key = SigningKey.load(self.path)
        return key, str(key.verify_key)

    def _note_witness(self, key: SigningKey) -> None:
        store = NodeState(self.folder / DATABASE)
        try:
            store.keep_witness(str(key.verify_key))
        finally:
            store.close()

    def _own(self, purpose: str) -> SigningKey:
        """Return the key of the folder that the log has in force."""
        public = getattr(self.state.members[self.name], purpose)
        for end in (".key", NEXT):
            path = self.folder / "keys" / f"{purpose}{end}"
            if path.exists():
                key = SigningKey.load(path)
                if str(key.verify_key) == public:
                    return key
        raise ConfigError(
            f"keys/ has no {purpose} key {public}, which the log has in force; put it"
            f" back, or give it another: tapestry node rotate {self.folder} {purpose}",
            code="own-key-missing",
        )

    def write_request(self) -> Path:
        """Write the request by which the coordinator enrolls a new transport key.

        Raises:
            ConfigError: A key or the request of the founding is missing.
            ResourceError: It cannot be written.
        """
        path = self.folder / f"{self.name}.request"
        before = read_document(path, RequestFile).request
        keys = {purpose: self._own(purpose) for purpose in PURPOSES}
        member = self.state.members[self.name]
        update = {**member.model_dump(), "transport": str(self.public)}
        request = before.model_copy(update=update)
        document = sign_request(
            request,
            keys,
            transport=load_transport_key(self.path),
            federation=self.settings.federation,
        )
        durable_files.replace_file(path, document.encode())
        return path


def _make_transport(path: Path) -> None:
    """Make a transport key; its file takes the name once it is whole."""
    with placing(path) as staged:
        staged.with_name(staged.name + ".pub").unlink(missing_ok=True)
        make_transport_key(staged)
        public = path.with_name(path.name + ".pub")
        durable_files.move_file(staged.with_name(staged.name + ".pub"), public)
