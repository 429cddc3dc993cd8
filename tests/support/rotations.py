"""New keys of members of a federation, as ``tapestry node rotate`` makes them."""

from tapestry.encrypted_keys import load_key
from tapestry_governance.key_turn import (
    Purpose,
    Reason,
    make_next_root,
    next_root,
    sign_rotation,
)
from tapestry_node import submission
from tapestry_node.key_rotation import Rotation
from tests.support.federation import Federation


def signed_rotation(
    federation: Federation, name: str, purpose: Purpose, reason: Reason = "routine"
) -> tuple[Rotation, bytes]:
    """Make a new key of a member, and sign for it; the entry is not handed in."""
    folder = federation.directory / "nodes" / name
    path = folder / "keys" / "root.key"
    found = Rotation(folder, purpose, reason, root=path)
    new_root = None
    if purpose == "root":
        make_next_root(path, name, passphrase=None)
        new_root = load_key(next_root(path), passphrase=None)
    draft, root = found.draft(), federation.root(name)
    now = federation.moment()
    return found, sign_rotation(draft, root, new_root=new_root, now=now)


def rotate(
    federation: Federation, name: str, purpose: Purpose, reason: Reason = "routine"
) -> str:
    """Put a new key of a member into its outbox; returns its public half."""
    found, entry = signed_rotation(federation, name, purpose, reason)
    submission.submit(found.folder, [entry])
    return str(found.public)
