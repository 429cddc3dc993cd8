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
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from tapestry.encoding import digest
from tapestry.encrypted_keys import load_key, save_key
from tapestry.errors import (
    ConfigError,
    IncompleteError,
    ProtocolError,
    RuleError,
    VerificationError,
)
from tapestry.inputs.setting_values import to_toml
from tapestry.keys import SigningKey
from tapestry.settings import Settings
from tapestry.storage import durable_files
from tapestry_coordinator.log_reader import read_settled
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_coordinator.superlink.tls import (
    AUTHORITY,
    LOCAL,
    ServerFiles,
    are_valid,
    check_validity,
    issue_certificate,
    make_authority,
    read_small_file,
)
from tapestry_governance.events.envelope import Signed
from tapestry_governance.events.federation_events import (
    MAX_MEMBERS,
    USUAL_VOTING,
    Coordinator,
    GivenBase,
    Policy,
)
from tapestry_governance.events.member_events import CharterAccepted
from tapestry_governance.founding import (
    COORDINATOR,
    CharterTerms,
    founding_trust,
    make_charter,
)
from tapestry_governance.founding_files import (
    MAX_CHARTER_BYTES,
    CharterFile,
    InvitationTerms,
    OpenedCharter,
    RequestFile,
    bind_charter,
    check_distinct,
    check_records,
    check_request,
    invite,
    open_charter,
    read_acceptance,
    read_document,
)
from tapestry_governance.log.writer import Log
from tapestry_governance.policy_file import PolicySettings, read_policy
from tapestry_governance.rules.replay import apply_all

POLICY = "policy.toml"


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
        Keys and settings that are there stay as they are; the folder ``keys`` is whole
        or absent, whenever the process dies. The invitation is written again, so that
        it has the policy of ``policy.toml``.

    Edge cases:
        A SuperLink's certificate that is not valid for another day is issued anew.

    Raises:
        ConfigError: The folder has other settings or another base, a file is invalid,
            or the authority's certificate is not valid now; nothing was changed.
        ResourceError: A file cannot be written.
    """
    _check_known(folder, settings, policy)
    _make_keys(folder, settings, passphrase)
    _write_once(folder / "coordinator.toml", settings)
    _write_once(folder / POLICY, PolicySettings.model_validate(policy.model_dump()))
    log = SigningKey.load(folder / "keys" / "log.key")
    author = SigningKey.load(folder / "keys" / "author.key")
    certify(folder, settings, passphrase=passphrase)
    terms = InvitationTerms(
        federation=settings.federation,
        log=str(log.verify_key),
        coordinator=str(author.verify_key),
        address=settings.address,
        authority=read_small_file(folder / "tls" / AUTHORITY).decode("ascii"),
        workload=workload,
        base=base,
        policy=read_policy(folder / POLICY),
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
        voting=USUAL_VOTING,
        witnesses=(),
        outside_quorum=0,
        withdrawn_warns=(),
    )


def certify(
    folder: Path, settings: CoordinatorSettings, *, passphrase: str | None
) -> None:
    """Make the authority's certificate, and issue one for the SuperLink if it lacks.

    Raises:
        ConfigError: The passphrase does not open the authority's key, or is missing; or
            the authority's certificate is not valid now.
    """
    files = ServerFiles.of(folder / "tls")
    if not is_certified(folder):
        key = load_key(folder / "keys" / "authority.key", passphrase=passphrase)
        if not files.authority.exists():
            durable_files.replace_file(files.authority, make_authority(key))
        issue_certificate(folder / "tls", hosts_of(settings), key=key)
    check_validity(files, datetime.now(UTC))


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
    """Return whether a folder has valid certificates, so that no passphrase is needed.

    Edge cases:
        Certificates count for another day at least.
    """
    return are_valid(ServerFiles.of(folder / "tls"), datetime.now(UTC))


def hosts_of(settings: CoordinatorSettings) -> list[str]:
    """Return the names by which the SuperLink is dialled."""
    host = settings.address.rsplit(":", 1)[0].strip("[]")
    return list(dict.fromkeys([host, *LOCAL]))


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCharter:
    """The charter of a folder, and whether it replaced another or a damaged one."""

    charter: OpenedCharter
    replaced: bool


def write_charter(
    folder: Path, requests: Sequence[Path], *, is_planned: bool = True
) -> WrittenCharter:
    """Write the charter of the institutions that sent requests.

    Args:
        folder: The coordinator's.
        requests: The files that institutions sent.
        is_planned: Whether rounds are planned by the records of requests, so that no
            founder may have fewer than ten where all rounds have noise.

    Edge cases:
        The same requests and policy give the charter that is there. A damaged one is
        written anew.

    Raises:
        ConfigError: The log is founded already, a file cannot be read, or the
            certificates are not valid now.
        VerificationError: A request is not signed by its keys.
        RuleError: A request is to another federation or has too few records for noise,
            two have one name or key, or the founders are too few for the policy's
            cohorts, or too many.
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
    author = SigningKey.load(folder / "keys" / "author.key")
    terms = _terms(folder, settings)
    leader = Coordinator(name=COORDINATOR, key=str(author.verify_key))
    outside = terms.policy.witnesses
    check_distinct(sent, str(terms.log), leader, outside, files=requests)
    _check_number(len(sent), terms.policy)
    for each in sent if is_planned else ():
        check_records(each.request.name, each.request.records, terms.policy)
    check_validity(ServerFiles.of(folder / "tls"), datetime.now(UTC))
    path = charter_path(folder, settings)
    is_there = path.exists()
    try:
        known = _known_charter(folder, settings)
    except VerificationError:
        known = None
    if known is not None and _is_same(known, sent, terms):
        return WrittenCharter(charter=known, replaced=False)
    entry = make_charter(
        terms, [each.request for each in sent], author=author, now=datetime.now(UTC)
    )
    document = bind_charter(entry, sent)
    durable_files.replace_file(path, document.encode())
    return WrittenCharter(charter=open_charter(document), replaced=is_there)


def charter_path(folder: Path, settings: CoordinatorSettings) -> Path:
    """Return where the charter lies."""
    return folder / f"{settings.federation}.charter"


def open_log(folder: Path, acceptances: Sequence[Path]) -> OpenedCharter:
    """Begin the log: the charter, and every founder's acceptance.

    Edge cases:
        A second call with the same acceptances changes nothing.

    Raises:
        ConfigError: The charter is of other terms than this folder, the log has other
            entries, or the certificates are not valid now.
        IncompleteError: There is no charter, or a founder's acceptance is missing;
            nothing was written.
        VerificationError: The charter's file is damaged.
        RuleError, VerificationError: An acceptance is of another charter, not by the
            founder's root key, or a founder's second one; nothing was written.
    """
    settings = CoordinatorSettings.read(folder / "coordinator.toml")
    charter = _known_charter(folder, settings)
    if charter is None:
        raise IncompleteError(
            f"{folder} has no {charter_path(folder, settings).name}; write it with"
            " tapestry coordinator charter",
            code="charter-not-written",
        )
    _check_own(folder, settings, charter)
    accepted = [read_acceptance(path) for path in acceptances]
    entries = [charter.entry, *_one_each(charter, accepted)]
    _check_complete(charter, entries)
    log_key = SigningKey.load(folder / "keys" / "log.key")
    _write_log(folder / "log", log_key, entries)
    trust = founding_trust(charter).encode()
    durable_files.replace_file(folder / "trust-policy.txt", trust)
    for name, each in charter.requests.items():
        public = f"{each.transport_key}\n".encode("ascii")
        durable_files.replace_file(folder / "enrolled" / f"{name}.pub", public)
    return charter


def enroll(folder: Path, request: Path) -> str:
    """Register the transport key of a member; returns its name.

    It was admitted, or the log has another transport key of it in force since.

    Raises:
        ConfigError: A file is missing, or the federation is not founded.
        RuleError: The log names no member with these keys, or another transport key of
            it; or another member connects with this one.
        VerificationError: A key did not sign the request.
        ResourceError: The key cannot be written.
    """
    state, _ = read_settled(folder)
    asked = read_document(request, RequestFile)
    check_request(asked, federation=state.federation)
    name = asked.request.name
    if state.members.get(name) != asked.request.member:
        raise RuleError(
            f"the log names no member {name!r} with the keys of {request}; members"
            " admit it first, by tapestry governance propose admit",
            code="member-unknown",
        )
    logged = state.other_keys.get((name, "transport"))
    if logged != asked.request.transport:
        raise RuleError(
            f"the log has transport key {logged} of {name!r} in force, {request} has"
            f" {asked.request.transport}; ask for the request that tapestry node rotate"
            " wrote",
            code="transport-key-differs",
        )
    public = f"{asked.transport_key}\n".encode("ascii")
    for path in (folder / "enrolled").glob("*.pub"):
        if path.stem != name and path.read_bytes() == public:
            raise RuleError(
                f"{name!r} has the transport key of {path.stem!r}: one key, one owner;"
                " ask for a request with a key of its own",
                code="key-taken",
            )
    durable_files.replace_file(folder / "enrolled" / f"{name}.pub", public)
    return name


def _one_each(charter: OpenedCharter, accepted: Sequence[Signed]) -> list[bytes]:
    """Return the acceptances in the order of their names."""
    entries: dict[str, bytes] = {}
    for each in accepted:
        name, body = each.event.actor, each.event.body
        if not isinstance(body, CharterAccepted) or body.charter != charter.genesis:
            raise RuleError(
                f"the acceptance of {name!r} is of another charter than"
                f" {charter.genesis}; send it this charter again, and ask for a new"
                " acceptance",
                code="accepted-charter-differs",
            )
        if entries.setdefault(name, each.entry) != each.entry:
            raise RuleError(
                f"{name!r} sent two acceptances of this charter; name one of them",
                code="charter-accepted-twice",
            )
    return [entries[name] for name in sorted(entries)]


def _check_complete(charter: OpenedCharter, entries: Sequence[bytes]) -> None:
    state = apply_all(None, entries)
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


def _check_number(founders: int, policy: Policy) -> None:
    if founders > MAX_MEMBERS:
        raise RuleError(
            f"{founders} institutions ask, a federation has up to {MAX_MEMBERS}; found"
            " two of them",
            code="founders-too-many",
        )
    if founders < policy.min_cohort:
        raise RuleError(
            f"{founders} institutions ask, policy.toml wants cohorts of"
            f" {policy.min_cohort}: no round could ever open; wait for more, or lower"
            " min_cohort",
            code="founders-too-few",
        )


def _terms(folder: Path, settings: CoordinatorSettings) -> CharterTerms:
    return CharterTerms(
        federation=settings.federation,
        log=SigningKey.load(folder / "keys" / "log.key").verify_key,
        address=settings.address,
        authority=digest(read_small_file(folder / "tls" / AUTHORITY)),
        policy=read_policy(folder / POLICY),
    )


def _check_own(
    folder: Path, settings: CoordinatorSettings, charter: OpenedCharter
) -> None:
    """Require that a charter says where this coordinator is and how to know it."""
    check_validity(ServerFiles.of(folder / "tls"), datetime.now(UTC))
    said = replace(CharterTerms.of(charter), policy=read_policy(folder / POLICY))
    here = _terms(folder, settings)
    for field in fields(CharterTerms):
        if getattr(said, field.name) != getattr(here, field.name):
            raise ConfigError(
                f"the charter has another {field.name} than {folder}; put back what"
                " the charter names, or write and accept a new one",
                code="charter-of-another",
            )


def _known_charter(folder: Path, settings: CoordinatorSettings) -> OpenedCharter | None:
    """Read the own charter.

    Raises:
        VerificationError: The file is no charter, or not a whole one.
    """
    path = charter_path(folder, settings)
    if not path.exists():
        return None
    try:
        return open_charter(read_document(path, CharterFile, limit=MAX_CHARTER_BYTES))
    except (ProtocolError, RuleError, VerificationError):
        raise VerificationError(
            f"{path} is damaged; put back a copy that was sent, or write it anew with"
            " tapestry coordinator charter",
            code="charter-damaged",
        ) from None


def _is_same(
    known: OpenedCharter, sent: Sequence[RequestFile], terms: CharterTerms
) -> bool:
    requests = {name: each.request for name, each in known.requests.items()}
    return CharterTerms.of(known) == terms and requests == {
        each.request.name: each.request for each in sent
    }


def _check_known(folder: Path, settings: CoordinatorSettings, draft: Policy) -> None:
    path = folder / "coordinator.toml"
    if path.exists():
        known = CoordinatorSettings.read(path)
        for name in type(settings).model_fields:
            mine, theirs = getattr(known, name), getattr(settings, name)
            if mine != theirs:
                raise ConfigError(
                    f"{path} has {name} = {mine!r}, the command says {theirs!r};"
                    " nothing was changed: edit the file, or choose another folder",
                    code="setting-differs",
                )
    bases = read_policy(folder / POLICY).bases if (folder / POLICY).exists() else "any"
    if "any" not in {bases, draft.bases} and not {*draft.bases} <= {*bases}:
        raise ConfigError(
            f"{folder / POLICY} does not name the base of this command,"
            f" {draft.bases[0]}; nothing was changed: edit the file, or name its base",
            code="base-differs",
        )


def _make_keys(
    folder: Path, settings: CoordinatorSettings, passphrase: str | None
) -> None:
    place = folder / "keys"
    if place.exists():
        return
    with durable_files.replace_folder(place) as draft:
        draft.mkdir(mode=0o700)
        SigningKey.generate(settings.origin).save(draft / "log.key")
        SigningKey.generate(f"{COORDINATOR}/author").save(draft / "author.key")
        key = SigningKey.generate(f"{settings.federation}/authority")
        save_key(key, draft / "authority.key", passphrase=passphrase)


def _write_once(path: Path, settings: Settings) -> None:
    if not path.exists():
        text = tomli_w.dumps(to_toml(settings.model_dump(), type(settings)))
        durable_files.replace_file(path, text.encode())
