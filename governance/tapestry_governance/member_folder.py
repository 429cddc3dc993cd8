"""A founder's folder: its keys, its request, and what it writes when it joins.

::

    keys/       node.key witness.key community.key transport transport.pub
                root.key, unless it was made on another machine
    NAME.invite NAME.request authority.pem         what was received and asked
    trust-policy.txt, ``genesis`` in node.toml     written by ``join``

Guarantees:
    A key is never overwritten. Nothing is trusted before the charter was compared with
    the invitation and with this folder's own keys, and its fingerprint was given.
"""

import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tapestry.encoding import digest
from tapestry.encrypted_keys import load_public, save_key
from tapestry.errors import ConfigError, IncompleteError, ProtocolError, RuleError
from tapestry.inputs.text_reader import read_toml
from tapestry.keys import Algorithm, SigningKey, VerifyKey
from tapestry.storage import durable_files
from tapestry.transport_keys import (
    load_transport_key,
    make_transport_key,
    public_text,
    transport_digest,
)
from tapestry_governance.events.federation_events import Policy
from tapestry_governance.events.member_events import MembershipRequest
from tapestry_governance.founding import (
    fingerprint,
    founding_trust,
    generate_member_key,
    make_request,
)
from tapestry_governance.founding_files import (
    Invitation,
    OpenedCharter,
    RequestFile,
    read_bytes,
    read_document,
    sign_request,
)
from tapestry_governance.plain_words import policy_changes
from tapestry_governance.rules.federation_state import Leadership

_OWN = ("node", "witness", "community")  # what a node signs with by itself
_ROOT = "root.key"
_GENESIS = re.compile(rb"^genesis\b.*\n?", re.M)  # its line in node.toml
# Rules of node.toml, and the term of the charter's policy that each answers to.
_RULES = {
    "min_cohort": "min_cohort",
    "max_colluding": "max_colluding",
    "noise": "noise",
    "epsilon_limit": "epsilon_cap",
    "target_delta": "max_delta",
    "max_checkpoint_age": "max_checkpoint_age",
    "bases": "bases",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberKeys:
    """The keys of a folder; of the root key the public half alone."""

    own: Mapping[str, SigningKey]  # by purpose
    root: VerifyKey
    transport: ec.EllipticCurvePrivateKey


def make_keys(
    folder: Path, name: str, *, root: VerifyKey | None, passphrase: str | None
) -> MemberKeys:
    """Make the keys of a member, unless its folder has them.

    Guarantees:
        The folder ``keys`` is whole or absent, whenever the process dies.

    Args:
        folder: The member's.
        name: The member's.
        root: The root key, if it was made on another machine.
        passphrase: Locks a root key that is made here; None leaves it open.

    Raises:
        ConfigError: A key file is missing or invalid, the passphrase is too short, or
            the folder has another root key.
        IncompleteError: The folder's root key was moved away, and none is named.
        ResourceError: A file cannot be written.
    """
    place = folder / "keys"
    if not has_keys(folder):
        with durable_files.replace_folder(place) as draft:
            draft.mkdir(mode=0o700)
            for purpose in _OWN:
                generate_member_key(name, purpose).save(draft / f"{purpose}.key")
            make_transport_key(draft / "transport")
            if root is None:
                key = generate_member_key(name, "root")
                save_key(key, draft / _ROOT, passphrase=passphrase)
    return MemberKeys(
        own=_own_keys(place),
        root=_known_root(place / _ROOT, root),
        transport=load_transport_key(place / "transport"),
    )


def has_keys(folder: Path) -> bool:
    """Return whether a member's folder has its keys."""
    return (folder / "keys").exists()


def check_invited(folder: Path, name: str, invitation: Invitation) -> None:
    """Require that an invitation is by whom this member was invited before.

    Edge cases:
        Its policy and base may be others until the member has joined: they are a draft
        until the charter.

    Raises:
        RuleError: The one that was kept has another address, authority or key; or the
            member has joined, and kept another one or none.
    """
    path, settings = folder / f"{name}.invite", folder / "node.toml"
    known = read_document(path, Invitation) if path.exists() else None
    for what in ("log", "coordinator", "address", "authority"):
        if known and getattr(known.terms, what) != getattr(invitation.terms, what):
            raise RuleError(
                f"the invitation has another {what} than {path}, which was answered;"
                " ask the coordinator, and choose another folder if it began anew",
                code="invitation-differs",
            )
    is_joined = settings.exists() and "genesis" in _read_settings(settings)
    if is_joined and known != invitation:
        raise RuleError(
            f"{settings} has a genesis, and the invitation is not the one kept in"
            f" {path}; name that one, or choose another folder",
            code="invitation-differs",
        )


def read_public_root(path: Path, member: str) -> VerifyKey:
    """Read a member's public root key.

    Raises:
        ConfigError: The file is none.
        VerificationError: It is too large.
    """
    data = read_bytes(path)
    try:
        key = VerifyKey.parse(data.decode("ascii").removesuffix("\n"))
    except (ProtocolError, UnicodeDecodeError):
        key = None
    wanted = f"{member}/root", Algorithm.SIGNATURE
    if key is None or (key.name, key.algorithm) != wanted:
        raise ConfigError(
            f"{path} is no public root key of {member!r}; name the .pub of tapestry"
            f" governance key --name {member}",
            code="key-file-invalid",
        )
    return key


def write_request(
    folder: Path,
    name: str,
    invitation: Invitation,
    keys: MemberKeys,
    *,
    languages: Sequence[str],
    records: int,
) -> RequestFile:
    """Write the request of a member, and keep the invitation that it answers."""
    federation, terms = invitation.terms.federation, invitation.terms
    public = {purpose: key.verify_key for purpose, key in keys.own.items()}
    request = make_request(
        name,
        {**public, "root": keys.root},
        transport=transport_digest(public_text(keys.transport)),
        languages=languages,
        records=records,
    )
    document = sign_request(
        request, keys.own, transport=keys.transport, federation=federation
    )
    certificate = terms.authority.encode("ascii")
    for file, data in (
        ("authority.pem", certificate),
        (f"{name}.invite", invitation.encode()),
        (f"{name}.request", document.encode()),
    ):
        durable_files.replace_file(folder / file, data)
    return document


def own_request(folder: Path, charter: OpenedCharter) -> RequestFile:
    """Find a member's own request in a charter, and compare what was agreed.

    Raises:
        ConfigError: The folder has no request, invitation or keys.
        RuleError: The charter does not name this member, has another request than it
            sent, or another coordinator, address or authority than the invitation;
            or the folder has other keys than its request.
    """
    name = str(_read_settings(folder / "node.toml").get("name"))
    if name not in charter.requests:
        raise RuleError(
            f"the charter does not name {name!r}, but {', '.join(charter.requests)};"
            " ask the coordinator for the charter that does",
            code="founder-missing",
        )
    sent = request_for(folder, charter)
    check_sent(charter, sent)
    return sent


def request_for(
    folder: Path, charter: OpenedCharter, *, lead: Leadership | None = None
) -> RequestFile:
    """Return a member's own request, which answers the invitation to this federation.

    The charter need not name it: members may admit it later. ``lead`` is who leads the
    log now, where that was verified (``member_view.founded_log``); else the charter's
    coordinator is the one to trust.

    Raises:
        ConfigError: The folder has no request, invitation or keys.
        RuleError: The charter or the log has another coordinator, address or authority
            than the invitation; or the folder has other keys than its request.
    """
    name = str(_read_settings(folder / "node.toml").get("name"))
    sent = read_document(folder / f"{name}.request", RequestFile)
    _check_keys(folder / "keys", sent.request)
    invitation = read_document(folder / f"{name}.invite", Invitation)
    where = "log" if lead else "charter"
    remedy = (
        "do not join, and ask a member for the invitation of who leads it now"
        if lead
        else "do not accept, and ask the coordinator for a new charter; if it was"
        " replaced since the founding, a member's bundle of the log shows by whom:"
        " tapestry node join --bundle"
    )
    for what, said, was in _terms(invitation, charter, lead):
        if said != was:
            raise RuleError(
                f"the {where} has another {what} than the invitation: {said}, was"
                f" {was}; {remedy}",
                code="invitation-differs",
            )
    return sent


def check_sent(charter: OpenedCharter, sent: RequestFile) -> None:
    """Require that a charter has a request as the member sent it.

    Raises:
        RuleError: It has another one of this name, or none.
    """
    known = charter.requests.get(sent.request.name)
    if known is None or known.request != sent.request:
        raise RuleError(
            f"the charter has another request of {sent.request.name!r} than was sent"
            " from here: the coordinator swapped or mistook it, or node init made a new"
            " one since; do not accept, ask what happened",
            code="accepted-request-differs",
        )


def _check_keys(place: Path, request: MembershipRequest) -> None:
    own = {purpose: str(key.verify_key) for purpose, key in _own_keys(place).items()}
    transport = load_transport_key(place / "transport")
    own["transport"] = transport_digest(public_text(transport))
    for purpose, key in own.items():
        if getattr(request, purpose) != key:
            raise RuleError(
                f"the {purpose} key in {place} is another one than in the request; put"
                " back the keys, or send a new request",
                code="own-key-differs",
            )


def _terms(
    invitation: Invitation, charter: OpenedCharter, lead: Leadership | None
) -> Iterator[tuple[str, str, str]]:
    terms, body = invitation.terms, lead or charter.body
    authority = digest(terms.authority.encode("ascii"))
    yield "federation", charter.federation, terms.federation
    yield "log key", body.log, terms.log
    yield "coordinator", body.coordinator.key, terms.coordinator
    yield "address", body.address, terms.address
    yield "authority", body.authority, authority


def policy_differences(
    folder: Path, policy: Policy, *, whose: str = "the charter's"
) -> list[str]:
    """List the rules in which node.toml and a policy differ."""
    rules = _read_settings(folder / "node.toml").get("policy", {})
    found = []
    for rule, term in _RULES.items():
        mine, theirs = rules.get(rule), policy.model_dump()[term]
        mine = sorted(mine) if isinstance(mine, list) else getattr(mine, "text", mine)
        if isinstance(theirs, tuple):
            theirs = sorted(e["model"] if isinstance(e, dict) else e for e in theirs)
        if str(mine) != str(theirs):
            found.append(f"{rule} {mine}, {whose} {term} {theirs}")
    return found


def draft_differences(folder: Path, name: str, policy: Policy) -> list[str]:
    """List the terms in which the kept invitation's and the charter's policy differ."""
    draft = read_document(folder / f"{name}.invite", Invitation).terms.policy
    return [
        f"{term} {mine}, the charter's {theirs}"
        for term, mine, theirs in policy_changes(draft, policy)
    ]


def check_fingerprint(charter: OpenedCharter, typed: str) -> None:
    """Require the fingerprint that the other founders read out.

    Guarantees:
        The error does not tell the right one.

    Raises:
        RuleError: It is another one.
    """
    letters = typed.upper().replace("-", "").replace(" ", "").encode("utf-8")
    wanted = fingerprint(charter.genesis).replace("-", "").encode("ascii")
    if not hmac.compare_digest(letters, wanted):
        raise RuleError(
            "the fingerprint is not that of this charter: mistyped, or the others hold"
            " another charter; hear it again from two of them, and do not accept until"
            " it fits",
            code="fingerprint-differs",
        )


def join(folder: Path, charter: OpenedCharter) -> None:
    """Trust the log that a charter founds: trust-policy.txt, and ``genesis``.

    Guarantees:
        A node that mirrors a log (``view.db``) keeps the genesis of that log.

    Edge cases:
        A second call with the same charter changes nothing, also not an edited
        trust-policy.txt. Before there is a mirror, another charter of the same
        federation replaces both: the coordinator may have written it anew.

    Args:
        folder: The member's.
        charter: What ``own_request`` and ``check_fingerprint`` let pass.

    Raises:
        ConfigError: node.toml names another genesis, and the node mirrors its log or
            the charter is of another federation.
        ResourceError: A file cannot be written.
    """
    path, trust = folder / "node.toml", folder / "trust-policy.txt"
    settings = _read_settings(path)
    known = settings.get("genesis")
    is_new = known != charter.genesis
    is_kept = known is not None and (folder / "view.db").exists()
    if is_new and (is_kept or charter.federation != settings.get("federation")):
        raise ConfigError(
            f"{path} has federation {settings.get('federation')!r} and genesis {known}:"
            " a node is in one federation, and stays with the log that it mirrors; join"
            " another from a new folder, by tapestry node init",
            code="joined-elsewhere",
        )
    if is_new or not trust.exists():
        durable_files.replace_file(trust, founding_trust(charter).encode())
    if is_new:  # the line comes first: keys of no table stand above all tables
        line, rest = f'genesis = "{charter.genesis}"\n', path.read_bytes()
        if known is not None:
            rest = _GENESIS.sub(b"", rest, count=1)
        durable_files.replace_file(path, line.encode("ascii"), rest)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {path}; name the folder that tapestry node init made",
            code="file-missing",
        ) from None


def _own_keys(place: Path) -> dict[str, SigningKey]:
    return {purpose: SigningKey.load(place / f"{purpose}.key") for purpose in _OWN}


def _known_root(path: Path, named: VerifyKey | None) -> VerifyKey:
    known = load_public(path) if path.exists() else named
    if known is None:
        raise IncompleteError(
            f"there is no {path}; name its public half with --root",
            code="key-missing",
        )
    if named not in {None, known}:
        raise ConfigError(
            f"{path} is {known}, --root is {named}; a node has one root key: leave"
            " --root out, or choose another folder",
            code="setting-differs",
        )
    return known
