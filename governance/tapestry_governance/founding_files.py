"""The files that travel while a federation is founded: invitation, request, charter.

Canonical JSON (``tapestry.encoding``); none holds a secret. An acceptance is an entry
of the log as it stands::

    NAME.invite      coordinator to institutions   keys, address, certificate, a policy
    NAME.request     institution to coordinator    public keys, each signs for itself
    NAME.charter     coordinator to institutions   entry 0, and all requests
    NAME.acceptance  institution to coordinator    the entry charter.accepted

An invitation proves nothing but that its maker holds the two keys: what an institution
accepts is the charter, whose fingerprint the founders compare by voice.

Guarantees:
    Each key signs, for its purpose and this federation, the request that names it; the
    root key signs the acceptance instead, so that it may stay on a machine without a
    network until then.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, get_args

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, model_validator

from tapestry.encoding import decode_base64, digest, encode_base64
from tapestry.errors import (
    ConfigError,
    IncompleteError,
    ProtocolError,
    RuleError,
    TapestryError,
    VerificationError,
)
from tapestry.inputs.plain_file import read_plain
from tapestry.keys import SigningKey, VerifyKey
from tapestry.schema import Name, Printable, Strict
from tapestry.transport_keys import (
    check_transport_proof,
    prove_transport,
    public_text,
    transport_digest,
)
from tapestry_governance.events.envelope import Signed, open_entry
from tapestry_governance.events.event_body import SignatureKey
from tapestry_governance.events.federation_events import (
    MAX_MEMBERS,
    CharterAdopted,
    Coordinator,
    OutsideWitness,
    Policy,
)
from tapestry_governance.events.member_events import (
    CharterAccepted,
    MembershipRequest,
    Possession,
    Signature,
)
from tapestry_governance.events.possession import check_possession, prove_possession
from tapestry_governance.rules.replay import apply

MAX_BYTES = 64 << 10  # of each file but a charter
MAX_CHARTER_BYTES = 512 << 10  # with the requests of 128 founders
_INVITATION = "tapestry-invitation/1"
_TRANSPORT = "tapestry-transport-possession/1"
DocumentT = TypeVar("DocumentT", bound=Strict)


class InvitationTerms(Strict):
    """The address of a federation, its keys, and the terms of its founding."""

    federation: Name
    log: SignatureKey
    coordinator: SignatureKey
    address: Annotated[Printable, Field(min_length=1, max_length=255)]
    authority: Annotated[str, Field(max_length=8192)]  # a certificate, PEM
    workload: Name
    base: Annotated[Printable, Field(min_length=1, max_length=255)]
    policy: Policy  # a draft: the charter's counts


class Invitation(Strict):
    """Terms, signed by the two keys that they name."""

    kind: Literal["tapestry-invitation/1"]
    terms: InvitationTerms
    log: Signature
    coordinator: Signature


def invite(
    terms: InvitationTerms, *, log: SigningKey, author: SigningKey
) -> Invitation:
    """Sign an invitation."""
    signatures = {
        purpose: key.sign(_invitation_statement(terms, purpose)).hex()
        for purpose, key in (("log", log), ("coordinator", author))
    }
    return Invitation(kind="tapestry-invitation/1", terms=terms, **signatures)


def check_invitation(invitation: Invitation) -> None:
    """Require the signatures of the two keys, and a certificate.

    Raises:
        VerificationError: One is missing; the file was changed.
    """
    terms = invitation.terms
    for purpose in ("log", "coordinator"):
        signature = bytes.fromhex(getattr(invitation, purpose))
        key = VerifyKey.parse(getattr(terms, purpose))
        key.verify(_invitation_statement(terms, purpose), signature)
    try:
        x509.load_pem_x509_certificate(terms.authority.encode("ascii"))
    except ValueError:
        raise VerificationError(
            "the invitation holds no certificate of an authority; ask for it again",
            code="authority-invalid",
        ) from None


def _invitation_statement(terms: InvitationTerms, purpose: str) -> bytes:
    return f"{_INVITATION}\n{purpose}\n{terms.digest}\n".encode("ascii")


class RequestFile(Strict):
    """A request to be a founder, with a signature by each key but the root."""

    kind: Literal["tapestry-request/1"]
    federation: Name
    request: MembershipRequest
    possession: Possession
    transport_key: Annotated[str, Field(max_length=300)]  # OpenSSH, P-384
    transport_proof: Annotated[str, Field(pattern="^[0-9a-f]{16,300}$")]


def sign_request(
    request: MembershipRequest,
    keys: Mapping[str, SigningKey],
    *,
    transport: ec.EllipticCurvePrivateKey,
    federation: str,
) -> RequestFile:
    """Sign a request by the keys for node, witness, community and transport."""
    return RequestFile(
        kind="tapestry-request/1",
        federation=federation,
        request=request,
        possession=prove_possession(request, keys, federation=federation),
        transport_key=public_text(transport),
        transport_proof=prove_transport(
            transport, _transport_statement(request, federation)
        ),
    )


def check_request(document: RequestFile, *, federation: str) -> None:
    """Require that a request is to this federation, and signed by its keys.

    Raises:
        RuleError: It is to another federation.
        VerificationError: A key did not sign, or the transport key is another one.
    """
    request = document.request
    if document.federation != federation:
        raise RuleError(
            f"{request.name!r} asks to join {document.federation!r}, this is"
            f" {federation!r}; make the request from this federation's invitation",
            code="federation-differs",
        )
    check_possession(request, document.possession, federation=federation)
    if transport_digest(document.transport_key) != request.transport:
        raise VerificationError(
            f"{request.name!r} sends another transport key than its request names",
            code="possession-not-proven",
        )
    statement = _transport_statement(request, federation)
    check_transport_proof(document.transport_key, statement, document.transport_proof)


def _transport_statement(request: MembershipRequest, federation: str) -> bytes:
    lines = (_TRANSPORT, federation, request.name, request.digest)
    return "".join(f"{line}\n" for line in lines).encode("ascii")


class CharterFile(Strict):
    """Entry 0, and the requests that it names by digest."""

    kind: Literal["tapestry-charter/1"]
    entry: Annotated[str, Field(max_length=88_000)]  # base64
    requests: Annotated[
        tuple[RequestFile, ...], Field(min_length=2, max_length=MAX_MEMBERS)
    ]

    @model_validator(mode="after")
    def _check(self) -> Self:
        decode_base64(self.entry)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCharter:
    """A charter that was checked, and the requests of its founders by name."""

    entry: bytes
    federation: str
    body: CharterAdopted
    requests: Mapping[str, RequestFile]

    @property
    def genesis(self) -> str:
        """The digest of entry 0, which names the federation for ever."""
        return digest(self.entry)


def bind_charter(entry: bytes, requests: Iterable[RequestFile]) -> CharterFile:
    """Put a charter and its founders' requests into one document."""
    ordered = sorted(requests, key=lambda each: each.request.name)
    return CharterFile(
        kind="tapestry-charter/1", entry=encode_base64(entry), requests=tuple(ordered)
    )


def open_charter(document: CharterFile) -> OpenedCharter:
    """Check a charter: its signature, its founders and what each of them sent.

    Raises:
        ProtocolError, RuleError: The entry is no charter.
        VerificationError: The coordinator or a founder's key did not sign.
        RuleError: The requests are others than the charter names, or two parties have
            one key.
    """
    entry = decode_base64(document.entry)
    state = apply(None, entry, 0)
    requests = {each.request.name: each for each in document.requests}
    sent = {name: each.request.digest for name, each in requests.items()}
    if sent != state.charter.requests or len(sent) != len(document.requests):
        raise RuleError(
            "the charter names other requests than its file holds; ask the coordinator"
            " for the file again",
            code="accepted-request-differs",
        )
    for each in document.requests:
        check_request(each, federation=state.federation)
    charter = state.charter
    outside = charter.policy.witnesses
    check_distinct(document.requests, charter.log, charter.coordinator, outside)
    return OpenedCharter(
        entry=entry, federation=state.federation, body=state.charter, requests=requests
    )


def read_document(
    path: Path, model: type[DocumentT], *, limit: int = MAX_BYTES
) -> DocumentT:
    """Read a document from a file that another party sent.

    Raises:
        ConfigError: The file is missing, or no plain file.
        VerificationError: It is too large, or no document of this kind.
    """
    data = read_bytes(path, limit=limit)
    try:
        return model.decode(data, limit=limit)
    except ProtocolError as error:
        raise VerificationError(
            f"{path} is no {_kind(model)} that this release reads: {error}; ask for"
            " the file again",
            code=error.code,
        ) from None


def _kind(model: type[Strict]) -> str:
    """Return what a document is called, by its field: tapestry-charter/1."""
    (kind,) = get_args(model.model_fields["kind"].annotation)
    return str(kind).removeprefix("tapestry-").partition("/")[0]


def read_bytes(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """Read a file that another party sent.

    Raises:
        ConfigError: The file is missing, or no plain file.
        VerificationError: It is too large.
    """
    try:
        return read_plain(path, limit=limit, links=True)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", code="file-unreadable"
        ) from None
    except VerificationError as error:
        raise VerificationError(
            f"{path.parent}: {error}; name the file that was sent", code=error.code
        ) from None


def read_entry(path: Path) -> bytes:
    """Read a signed entry of the log; the log's rules check what it says.

    Raises:
        ConfigError: The file cannot be read, or is no signed entry.
        VerificationError: It is no plain file, or too large.
    """
    entry = read_bytes(path)
    try:
        open_entry(entry)
    except TapestryError as error:
        raise ConfigError(
            f"{path} is no signed entry of a log: {error}; name the file that the"
            " signing command wrote",
            code="entry-malformed",
        ) from None
    return entry


def read_acceptance(path: Path) -> Signed:
    """Read an acceptance; its signature is for the log's rules to check.

    Raises:
        ConfigError: The file is missing, or no plain file.
        VerificationError: It is too large, or no acceptance.
    """
    try:
        signed = open_entry(read_bytes(path))
    except (ProtocolError, IncompleteError) as error:
        raise VerificationError(
            f"{path} is no acceptance that this release reads: {error}; ask for the"
            " file again",
            code=error.code,
        ) from None
    if not isinstance(signed.event.body, CharterAccepted):
        raise VerificationError(
            f"{path} is an entry of another kind, {signed.event.body.type}; name the"
            " files that end in .acceptance",
            code="acceptance-malformed",
        )
    return signed


def check_records(name: str, records: int, policy: Policy) -> None:
    """Require as many records as a round with noise can be planned for.

    Args:
        name: The institution's.
        records: Their number as its request says it, rounded down.
        policy: The federation's, or a draft of it.

    Raises:
        RuleError: They are fewer than ten, and each round has noise.
    """
    if not records and "none" not in policy.noise:
        raise RuleError(
            f"{name!r} has fewer than ten records, and the policy wants noise: no round"
            " could be planned for it; join with more records",
            code="records-too-few",
        )


def check_distinct(
    requests: Iterable[RequestFile],
    log: str,
    coordinator: Coordinator,
    outside: Iterable[OutsideWitness] = (),
    files: Sequence[Path] = (),
) -> None:
    """Require that no two parties of a founding have one name or one key.

    Args:
        requests: The founders'.
        log: The key of the log.
        coordinator: Its name and key.
        outside: The witnesses of the policy: neither coordinator nor members.
        files: Those of the requests, in their order, to be named.

    Raises:
        RuleError: Two parties have one name or one key.
    """
    owners = {
        coordinator.name: "the coordinator",
        VerifyKey.parse(coordinator.key).public.hex(): "the coordinator",
        VerifyKey.parse(log).public.hex(): "the log",
    }
    for witness in outside:
        key = VerifyKey.parse(witness.key)
        marks = [(witness.name, "name"), (f"witness {key.name}", "name of a key")]
        marks += [(key.public.hex(), "key")]
        _claim(owners, f"the witness {witness.name!r}", marks)
    for each, file in zip_longest(requests, files):
        request = each.request
        marks = [(request.name, "name"), (request.transport, "transport key")]
        for what, key in zip(_KEYS, request.member.verify_keys, strict=True):
            marks += [(key.public.hex(), f"{what} key")]
        named = VerifyKey.parse(request.witness).name
        marks += [(f"witness {named}", "name of a witness key")]
        _claim(
            owners, f"{request.name!r} in {file}" if file else repr(request.name), marks
        )


_KEYS = ("root", "node", "witness", "community")


def _claim(
    owners: dict[str, str], party: str, marks: Iterable[tuple[str, str]]
) -> None:
    for mark, what in marks:
        if mark in owners:
            raise RuleError(
                f"the {what} of {party} is that of {owners[mark]} too; each"
                " institution sends one request, with keys of its own, and a witness"
                " that is no member has another name and key than all others",
                code="key-taken",
            )
        owners[mark] = party
