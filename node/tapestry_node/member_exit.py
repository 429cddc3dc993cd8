"""A member's exit: ``member.left``, signed by its root key, and on its way to the log.

Guarantees:
    An institution signs one exit: a second call finds the first. It is on the disk in
    the node's outbox, which hands it in with the next cosignature, and as a file, so
    that it is there when no coordinator is. From then on the node begins nothing new.
"""

from datetime import datetime
from pathlib import Path

from tapestry.errors import ConfigError, IncompleteError
from tapestry.keys import SigningKey, VerifyKey
from tapestry.storage import durable_files
from tapestry_governance.events.envelope import Author, Seen, open_entry, sign_entry
from tapestry_governance.events.member_events import MemberLeft
from tapestry_governance.founding_files import RequestFile, read_document
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.availability import find_exit
from tapestry_node.directory import open_mirror
from tapestry_node.node_state import DATABASE, NodeState
from tapestry_node.settings import NodeSettings


def sign_exit(
    name: str,
    federation: str,
    root: SigningKey,
    *,
    public: VerifyKey,
    seen: Seen | None,
    now: datetime,
) -> bytes:
    """Sign that a member leaves.

    The event names the member's view of the log, or none.

    Args:
        name: The member.
        federation: Its federation.
        root: The key that signs.
        public: The member's root key as the log or its request has it.
        seen: The log as the member knows it.
        now: Becomes a part of the event's id.

    Raises:
        ConfigError: The key is another one than the member's root key.
    """
    require_root(root.verify_key, name, public=public)
    author = Author(federation=federation, actor=name, role="root")
    return sign_entry(author.event(MemberLeft(), now=now, seen=seen), root)


def require_root(key: VerifyKey, name: str, *, public: VerifyKey) -> None:
    """Require that a key is the member's root key.

    Raises:
        ConfigError: It is another one.
    """
    if key != public:
        raise ConfigError(
            f"this key is {key.keyid}, the root key of {name!r} is {public.keyid};"
            " name that one with --root-key",
            code="root-key-differs",
        )


class Exit:
    """The exit of a node's institution, as far as its folder knows."""

    def __init__(self, folder: Path) -> None:
        """Read settings, log and outbox.

        Raises:
            ConfigError: A setting of ``node.toml`` is invalid.
            IncompleteError: The node is in no federation, or ``node.db`` was deleted.
            VerificationError: The mirror or the state was changed.
            ResourceError: A file cannot be read.
        """
        self.folder, self.settings = folder, NodeSettings.read(folder / "node.toml")
        self.state: FederationState | None = None
        self.seen: Seen | None = None
        if self.settings.joined and (folder / "view.db").exists():
            self._require_database()
            mirror = open_mirror(folder, self.settings, readonly=True)
            self.state = mirror.state if mirror.size else None
            self.seen = mirror.seen
            mirror.close()

    @property
    def path(self) -> Path:
        """The file of the signed exit."""
        return self.folder / f"{self.settings.name}.left"

    @property
    def index(self) -> int | None:
        """The index of the exit in the log, or None."""
        return None if self.state is None else self.state.left.get(self.settings.name)

    @property
    def public(self) -> VerifyKey:
        """The institution's root key: by the log, before that by its own request.

        Raises:
            ConfigError: The folder has neither.
        """
        name = self.settings.name
        if self.state is not None and name in self.state.members:
            return VerifyKey.parse(self.state.members[name].root)
        path = self.folder / f"{name}.request"
        return VerifyKey.parse(read_document(path, RequestFile).request.root)

    def signed_before(self) -> bytes | None:
        """Return the exit that waits in the outbox, or None."""
        if not (self.folder / DATABASE).exists():
            return None
        store = NodeState(self.folder / DATABASE, readonly=True)
        try:
            return find_exit(store.outbox(), self.settings.name)
        finally:
            store.close()

    def sign(self, root: SigningKey, *, now: datetime) -> bytes:
        """Sign the exit here.

        Raises:
            ConfigError: The key is not the institution's root key.
        """
        return sign_exit(
            self.settings.name,
            self.settings.federation,
            root,
            public=self.public,
            seen=self.seen,
            now=now,
        )

    def hand_in(self, entry: bytes) -> None:
        """Put a signed exit into the outbox and into a file.

        Raises:
            ConfigError: It is not the exit of this institution.
            VerificationError: Its root key did not sign it.
            ResourceError: A file cannot be written.
        """
        self._check(entry)
        store = NodeState(self.folder / DATABASE)
        try:
            if find_exit(store.outbox(), self.settings.name) is None:
                store.post(entry)
        finally:
            store.close()
        durable_files.replace_file(self.path, entry, mode=0o600)

    def _check(self, entry: bytes) -> None:
        signed, settings = open_entry(entry), self.settings
        event, public = signed.event, self.public
        who = (event.federation, event.actor, event.role)
        wanted = (settings.federation, settings.name, "root")
        if not isinstance(event.body, MemberLeft) or who != wanted:
            raise ConfigError(
                f"this is {event.type} of {event.actor!r} in {event.federation!r}, not"
                f" the exit of {settings.name!r} from {settings.federation!r}",
                code="exit-of-another",
            )
        if [keyid for keyid, _ in signed.signatures] != [public.keyid]:
            raise ConfigError(
                f"this exit is not signed by {public.keyid} alone, the root key of"
                f" {settings.name!r}; sign it with that one",
                code="root-key-differs",
            )
        signed.verify(public)

    def _require_database(self) -> None:
        if not (self.folder / DATABASE).exists():
            raise IncompleteError(
                f"{self.folder} has a mirror of the log and no {DATABASE}; it was"
                " deleted, put it back",
                code="state-missing",
            )
