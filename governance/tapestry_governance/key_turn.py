"""A member's new key on its way into the log: ``key.rotated``.

The new key is made where it will be used, and signs for itself there. The root key
signs for it, here or on a machine without a network; that gets a *draft*::

    node's machine      new key, and its signature     NAME-witness.rotation
    root's machine      checks that, signs             NAME-witness.entry
    any member's node   hands the entry in

A new root key is made where the old one lies, and a draft of it names none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from tapestry.encrypted_keys import load_public, save_key
from tapestry.errors import ConfigError
from tapestry.keys import SigningKey, VerifyKey
from tapestry.schema import Name, Strict
from tapestry.storage import durable_files
from tapestry.storage.file_lock import lock_folder
from tapestry_governance.events.envelope import Author, Seen, sign_entry
from tapestry_governance.events.event_body import SignatureKey
from tapestry_governance.events.member_events import KeyRotated, Signature
from tapestry_governance.events.possession import check_rotation, rotation_statement
from tapestry_governance.founding import generate_member_key

Purpose = Literal["node", "witness", "community", "transport", "root"]
Reason = Literal["routine", "compromised"]
PURPOSES = get_args(Purpose)
NEXT = ".next"  # the end of a new key's file until the log has it in force


class RotationDraft(Strict):
    """A rotation as the root key has to sign it, and whose it is."""

    kind: Literal["tapestry-rotation-draft/1"]
    federation: Name
    name: Name
    root: SignatureKey  # of the member, in force
    node: SignatureKey  # that vouches for a transport key
    seen: Seen | None
    purpose: Purpose
    reason: Reason
    key: Annotated[str, Field(max_length=300)] | None  # None for a root key
    possession: Signature | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        found = self.purpose == "root", self.key is None, self.possession is None
        if len({*found}) != 1:
            raise ValueError("a root key is made where the root is, others are named")
        if self.purpose != "root":
            _ = self.body
        return self

    @property
    def body(self) -> KeyRotated:
        """The event's body, of a draft that names a key."""
        named = self.model_dump(include={"purpose", "key", "reason", "possession"})
        return KeyRotated.model_validate(named)


def rotated_body(
    key: str,
    signer: SigningKey,
    *,
    purpose: Purpose,
    reason: Reason,
    name: str,
    federation: str,
) -> KeyRotated:
    """Return the event's body for a new key, for which ``signer`` signs."""
    said = rotation_statement(purpose, key, name=name, federation=federation)
    proof = signer.sign(said).hex()
    return KeyRotated(purpose=purpose, key=key, reason=reason, possession=proof)


def sign_rotation(
    draft: RotationDraft,
    root: SigningKey,
    *,
    new_root: SigningKey | None = None,
    now: datetime,
) -> bytes:
    """Sign for a member's new key; returns the entry.

    Guarantees:
        The new key signed for itself, or the node's key for a transport key: a draft
        that was changed on its way is not signed.

    Raises:
        ConfigError: The root key is another one than the draft names.
        VerificationError: The new key did not sign the draft.
        ValueError: There is no new root key: a bug of the caller.
    """
    require_root(draft, root.verify_key)
    if draft.purpose == "root":
        if new_root is None:
            raise ValueError("a root key takes the place of a root key")
        body = rotated_body(
            str(new_root.verify_key),
            new_root,
            purpose="root",
            reason=draft.reason,
            name=draft.name,
            federation=draft.federation,
        )
    else:
        body = draft.body
        by = draft.node if draft.purpose == "transport" else body.key
        check_rotation(body, by=by, name=draft.name, federation=draft.federation)
    author = Author(federation=draft.federation, actor=draft.name, role="root")
    return sign_entry(author.event(body, now=now, seen=draft.seen), root)


def require_root(draft: RotationDraft, key: VerifyKey) -> None:
    """Require that a key is the root key that a draft names.

    Raises:
        ConfigError: It is another one.
    """
    wanted = VerifyKey.parse(draft.root)
    if key != wanted:
        raise ConfigError(
            f"this key is {key.keyid}, the root key of {draft.name!r} is"
            f" {wanted.keyid}; name that one",
            code="root-key-differs",
        )


def next_root(path: Path) -> Path:
    """Return where the new root key lies, beside the one in force."""
    return path.with_suffix(NEXT)


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """Give a name to write a new key under, and the key's own name once it is whole.

    Guarantees:
        Of processes that make one key at a time, one does; no key takes the place of
        another, which the log may expect by then.

    Raises:
        ConfigError: Another process makes a key there, or has made it.
        ResourceError: The folder cannot be locked or written.
    """
    try:
        lock = lock_folder(path.parent)
    except BlockingIOError:
        raise ConfigError(
            f"another process makes a key in {path.parent}; call again after it",
            code="folder-in-use",
        ) from None
    with lock:
        if path.exists():
            raise ConfigError(
                f"{path} was made by another process, and a key is never overwritten;"
                " call again, to go on with that one",
                code="file-exists",
            )
        staged = path.with_name(path.name + durable_files.SUFFIX)
        staged.unlink(missing_ok=True)
        yield staged
        durable_files.move_file(staged, path)


def place_key(key: SigningKey, path: Path, *, passphrase: str | None = None) -> None:
    """Write a new key under a name that is free, whole or not at all.

    Raises:
        ConfigError: The passphrase is too short, or the name is taken.
        ResourceError: The file cannot be written.
    """
    with placing(path) as staged:
        save_key(key, staged, passphrase=passphrase)


def make_next_root(path: Path, name: str, *, passphrase: str | None) -> VerifyKey:
    """Make the new root key beside the one in force, unless it is there.

    Raises:
        ConfigError: What is there is another member's key; or the passphrase is short.
        ResourceError: The file cannot be written.
    """
    place = next_root(path)
    if not place.exists():
        place_key(generate_member_key(name, "root"), place, passphrase=passphrase)
    public = load_public(place)
    if public.name != f"{name}/root":
        raise ConfigError(
            f"{place} is {public.name}; a key is never overwritten, move it away",
            code="file-exists",
        )
    return public
