"""The coordinator's part of a founding: its folder, the charter, and the log.

::

    coordinator.toml policy.toml    who and where; the policy, a draft until the charter
    keys/  log.key author.key       open, for the service
           authority.key            under a passphrase, for certificates
    tls/                            the SuperLink's certificate and its authority
    NAME.invite  NAME.charter       to hand out
    enrolled/    NAME.pub           the transport keys of members
    log/  trust-policy.txt          from ``open_log`` on
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from tapestry.encoding import digest
from tapestry.encrypted_keys import load_key, save_key
from tapestry.errors import ConfigError, IncompleteError, RuleError
from tapestry.inputs.setting_values import to_toml
from tapestry.keys import SigningKey, VerifyKey
from tapestry.settings import Settings, write_new
from tapestry.storage import durable_files
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_coordinator.superlink.tls import (
    AUTHORITY,
    LOCAL,
    ServerFiles,
    issue_certificate,
    make_authority,
)
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.federation_events import GivenBase, Policy
from tapestry_governance.events.member_events import CharterAccepted
from tapestry_governance.founding import (
    COORDINATOR,
    CharterTerms,
    make_charter,
    trust_policy_of,
)
from tapestry_governance.founding_files import (
    MAX_BYTES,
    MAX_CHARTER_BYTES,
    CharterFile,
    InvitationTerms,
    OpenedCharter,
    RequestFile,
    bind_charter,
    check_request,
    invite,
    names_of,
    open_charter,
    read_bytes,
    read_document,
)
from tapestry_governance.log.writer import Log
from tapestry_governance.rules.replay import apply_all

POLICY = "policy.toml"


class PolicySettings(Policy, Settings):
    """``policy.toml``: the policy that the charter is going to have."""


def init(
    folder: Path,
    settings: CoordinatorSettings,
    *,
    workload: str,
    base: str,
    policy: Policy,
    passphrase: str | None,
) -> Path:
    """Make what a coordinator's folder lacks; return the path of the invitation.

    Args:
        folder: The coordinator's.
        settings: Who and where.
        workload: What kind of model is trained.
        base: The given model, as institutions name it in node.toml.
        policy: The draft, unless policy.toml is there.
        passphrase: Locks the authority's key; None leaves it open.

    Guarantees:
        A key or settings file that is there stays as it is. The invitation is written
        again, so that it has the policy of ``policy.toml``.

    Raises:
        ConfigError: coordinator.toml has other values, or a file is invalid.
        ResourceError: A file cannot be written.
    """
    durable_files.make_folders(folder / "keys")
    (folder / "keys").chmod(0o700)
    _write_settings(folder / "coordinator.toml", settings)
    if not (folder / POLICY).exists():
        draft = PolicySettings.model_validate(policy.model_dump())
        write_new(folder / POLICY, _toml(draft))
    log = _kept_key(folder / "keys" / "log.key", settings.origin)
    author = _kept_key(folder / "keys" / "author.key", f"{COORDINATOR}/author")
    certify(folder, settings, passphrase=passphrase)
    terms = InvitationTerms(
        federation=settings.federation,
        log=str(log.verify_key),
        coordinator=str(author.verify_key),
        address=settings.address,
        authority=(folder / "tls" / AUTHORITY).read_text("ascii"),
        workload=workload,
        base=base,
        policy=read_policy(folder),
    )
    invitation = folder / f"{settings.federation}.invite"
    signed = invite(terms, log=log, author=author)
    durable_files.replace_file(invitation, signed.encode())
    return invitation


def draft_policy(base: GivenBase) -> Policy:
    """Return the policy that founders begin to talk about."""
    return Policy(
        version=1,
        min_cohort=3,
        max_colluding=1,
        noise=("local",),
        epsilon_cap="8",
        max_delta="0.00001",
        bases=(base,),
        software="any",
        adapter_licences=("Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "MIT"),
        max_attempt=1,
        max_accounts=16,
        max_checkpoint_age=86_400,
    )


def read_policy(folder: Path) -> Policy:
    """Read ``policy.toml``."""
    found = PolicySettings.read(folder / POLICY)
    return Policy.model_validate(found.model_dump())


def certify(
    folder: Path, settings: CoordinatorSettings, *, passphrase: str | None
) -> None:
    """Make the authority and the SuperLink's certificate, unless they are there.

    Raises:
        ConfigError: The passphrase does not open the authority's key, or is missing.
    """
    place, path = folder / "tls", folder / "keys" / "authority.key"
    if not path.exists():
        key = SigningKey.generate(f"{settings.federation}/authority")
        save_key(key, path, passphrase=passphrase)
    files = ServerFiles.of(place)
    if not is_certified(folder):
        key = load_key(path, passphrase=passphrase)
        if not files.authority.exists():
            durable_files.replace_file(files.authority, make_authority(key))
        issue_certificate(place, hosts_of(settings), key=key)


def renew(folder: Path, *, passphrase: str | None) -> None:
    """Issue a new certificate for the SuperLink, by the authority of the charter.

    Raises:
        ConfigError: The passphrase does not open the authority's key, or the key is
            another one than that of authority.pem.
    """
    settings = CoordinatorSettings.read(folder / "coordinator.toml")
    key = load_key(folder / "keys" / "authority.key", passphrase=passphrase)
    issue_certificate(folder / "tls", hosts_of(settings), key=key)


def is_certified(folder: Path) -> bool:
    """Return whether a folder has a certificate, so that no passphrase is needed."""
    files = ServerFiles.of(folder / "tls")
    return files.certificate.exists() and files.key.exists()


def hosts_of(settings: CoordinatorSettings) -> list[str]:
    """Return the names by which the SuperLink is dialled."""
    host = settings.address.rsplit(":", 1)[0].strip("[]")
    return list(dict.fromkeys([host, *LOCAL]))


def write_charter(folder: Path, requests: Sequence[Path]) -> OpenedCharter:
    """Write the charter of the institutions that sent requests.

    Edge cases:
        The same requests and policy give the charter that is there.

    Raises:
        ConfigError: The log is founded already, or a file cannot be read.
        VerificationError: A request is not signed by its keys.
        RuleError: A request is to another federation, two have one name or key, or the
            policy wants larger cohorts than there are founders.
    """
    settings = CoordinatorSettings.read(folder / "coordinator.toml")
    if (folder / "log").exists():
        raise ConfigError(
            f"{folder} has a log: its charter was accepted, and stands",
            code="log-exists",
        )
    sent = [read_document(path, RequestFile) for path in requests]
    for each in sent:
        check_request(each, federation=settings.federation)
    policy = read_policy(folder)
    _check_number(len(names_of(sent)), policy)
    known = _known_charter(folder, settings)
    if known is not None and _is_same(known, sent, policy):
        return known
    author = SigningKey.load(folder / "keys" / "author.key")
    terms = CharterTerms(
        federation=settings.federation,
        log=SigningKey.load(folder / "keys" / "log.key").verify_key,
        address=settings.address,
        authority=digest((folder / "tls" / AUTHORITY).read_bytes()),
        policy=policy,
    )
    entry = make_charter(
        terms, [each.request for each in sent], author=author, now=datetime.now(UTC)
    )
    document = bind_charter(entry, sent)
    durable_files.replace_file(charter_path(folder, settings), document.encode())
    return open_charter(document)


def charter_path(folder: Path, settings: CoordinatorSettings) -> Path:
    """Return where the charter lies."""
    return folder / f"{settings.federation}.charter"


def open_log(folder: Path, acceptances: Sequence[Path]) -> OpenedCharter:
    """Begin the log: the charter, and every founder's acceptance.

    Edge cases:
        A second call with the same acceptances changes nothing.

    Raises:
        ConfigError: There is no charter, or the log has other entries.
        IncompleteError: A founder's acceptance is missing; nothing was written.
        RuleError, VerificationError: An acceptance is of another charter, or not by
            the founder's root key; nothing was written.
    """
    settings = CoordinatorSettings.read(folder / "coordinator.toml")
    charter = _known_charter(folder, settings)
    if charter is None:
        raise ConfigError(
            f"{folder} has no {charter_path(folder, settings).name}; write it with"
            " tapestry coordinator charter",
            code="charter-missing",
        )
    accepted = [read_bytes(path, limit=MAX_BYTES) for path in acceptances]
    entries = [charter.entry, *sorted(set(accepted), key=_actor)]
    _check_acceptances(charter, entries[1:])
    log_key = SigningKey.load(folder / "keys" / "log.key")
    _write_log(folder / "log", log_key, entries)
    requests = [each.request for each in charter.requests.values()]
    trust = trust_policy_of(VerifyKey.parse(charter.body.log), requests).encode()
    durable_files.replace_file(folder / "trust-policy.txt", trust)
    for name, each in charter.requests.items():
        public = f"{each.transport_key}\n".encode("ascii")
        durable_files.replace_file(folder / "enrolled" / f"{name}.pub", public)
    return charter


def _check_acceptances(charter: OpenedCharter, entries: Sequence[bytes]) -> None:
    for entry in entries:
        body = open_entry(entry).event.body
        if not isinstance(body, CharterAccepted) or body.charter != charter.genesis:
            raise RuleError(
                f"the acceptance of {_actor(entry)!r} is of another charter than"
                f" {charter.genesis}; send it this charter again, and ask for a new"
                " acceptance",
                code="accepted-charter-differs",
            )
    state = apply_all(None, [charter.entry, *entries])
    here = set() if state is None else set(state.members)
    if missing := charter.requests.keys() - here:
        raise IncompleteError(
            f"not accepted yet by {', '.join(sorted(missing))}; the log opens when all"
            " founders have accepted",
            code="acceptance-missing",
        )


def _write_log(folder: Path, key: SigningKey, entries: Sequence[bytes]) -> None:
    if folder.exists():
        known = Log.read(folder, key=key)
        if known[: len(entries)] != list(entries):
            raise ConfigError(
                f"{folder} has a log of other entries; a federation is founded once",
                code="log-exists",
            )
        return
    with (
        durable_files.replace_folder(folder) as draft,
        Log.create(draft, key=key) as log,
    ):
        log.append(entries)


def _actor(entry: bytes) -> str:
    return open_entry(entry).event.actor


def _check_number(founders: int, policy: Policy) -> None:
    if founders < policy.min_cohort:
        raise RuleError(
            f"{founders} institutions ask, policy.toml wants cohorts of"
            f" {policy.min_cohort}: no round could ever open; wait for more, or lower"
            " min_cohort",
            code="members-too-few",
        )


def _known_charter(folder: Path, settings: CoordinatorSettings) -> OpenedCharter | None:
    path = charter_path(folder, settings)
    if not path.exists():
        return None
    return open_charter(read_document(path, CharterFile, limit=MAX_CHARTER_BYTES))


def _is_same(known: OpenedCharter, sent: Sequence[RequestFile], policy: Policy) -> bool:
    return known.body.policy == policy and known.requests == {
        each.request.name: each for each in sent
    }


def _kept_key(path: Path, name: str) -> SigningKey:
    if not path.exists():
        SigningKey.generate(name).save(path)
    return SigningKey.load(path)


def _write_settings(path: Path, settings: CoordinatorSettings) -> None:
    if not path.exists():
        write_new(path, _toml(settings))
        return
    known = CoordinatorSettings.read(path)
    for name in type(settings).model_fields:
        mine, theirs = getattr(known, name), getattr(settings, name)
        if mine != theirs:
            raise ConfigError(
                f"{path} has {name} = {mine!r}, the command says {theirs!r}; nothing"
                " was changed: edit the file, or choose another folder",
                code="setting-differs",
            )


def _toml(settings: Settings) -> str:
    return tomli_w.dumps(to_toml(settings.model_dump(), type(settings)))
