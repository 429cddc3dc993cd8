"""The founding of a federation: keys, requests, a charter and its acceptances.

Bytes in, bytes out; ``founding_files`` has the files that travel::

    institution   request     its public keys, signed for by each of them
    coordinator   charter     entry 0: the founders by name and digest of request
    institution   acceptance  an entry by its root key, which brings its keys

The charter's *fingerprint* is what the founders read to one another before they accept:
200 bits of the digest of entry 0. A coordinator that shows two founders two charters
would have to find two with the same fingerprint, which takes 2**100 attempts.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from tapestry.encoding import decode_digest
from tapestry.keys import Algorithm, SigningKey, VerifyKey
from tapestry.tlog.trust_policy import TrustPolicy, Witness
from tapestry_governance.events.envelope import Author, sign_entry
from tapestry_governance.events.federation_events import (
    CharterAdopted,
    Coordinator,
    Founder,
    Policy,
)
from tapestry_governance.events.member_events import CharterAccepted, MembershipRequest
from tapestry_governance.founding_files import OpenedCharter, RequestFile
from tapestry_governance.rules.member_rules import check_accepted, check_readers
from tapestry_governance.rules.replay import apply

MEMBER_KEYS = MappingProxyType(
    {
        "root": Algorithm.SIGNATURE,
        "node": Algorithm.SIGNATURE,
        "witness": Algorithm.COSIGNATURE,
        "community": Algorithm.SIGNATURE,
    }
)
"""The keys of a member by purpose, with what they sign."""

COORDINATOR = "coordinator"
_FINGERPRINT_BYTES = 25


def generate_member_key(name: str, purpose: str) -> SigningKey:
    """Draw a key of a member for a purpose."""
    algorithm = MEMBER_KEYS[purpose]
    return SigningKey.generate(f"{name}/{purpose}", algorithm=algorithm)


def make_request(
    name: str,
    keys: Mapping[str, VerifyKey],
    *,
    transport: str,
    languages: Sequence[str],
    records: int,
) -> MembershipRequest:
    """Ask for membership.

    Args:
        name: The institution's.
        keys: Its keys by purpose.
        transport: The SHA-256, in hex, of the key that connects to the SuperLink.
        languages: Of its records.
        records: Their number; it is rounded down here to 10, or to 1 %.
    """
    return MembershipRequest(
        name=name,
        transport=transport,
        languages=tuple(languages),
        records=rounded_down(records),
        held_out=None,
        **{purpose: str(keys[purpose]) for purpose in MEMBER_KEYS},
    )


def rounded_down(records: int) -> int:
    """Round a number of records down to two digits, and at least to ten.

    An exact count tells, over the years, about single persons.
    """
    step = 10
    while records >= 100 * step:
        step *= 10
    return records // step * step


@dataclass(frozen=True, slots=True, kw_only=True)
class CharterTerms:
    """The content of a charter besides its founders."""

    federation: str
    log: VerifyKey  # named by the log's origin
    address: str  # host and port that institutions dial
    authority: str  # digest of the certificate that vouches for the address
    policy: Policy  # the first one

    @classmethod
    def of(cls, charter: OpenedCharter) -> "CharterTerms":
        """Read the terms of a charter."""
        body = charter.body
        return cls(
            federation=charter.federation,
            log=VerifyKey.parse(body.log),
            address=body.address,
            authority=body.authority,
            policy=body.policy,
        )


def make_charter(
    terms: CharterTerms,
    requests: Iterable[MembershipRequest],
    *,
    author: SigningKey,
    now: datetime,
) -> bytes:
    """Write entry 0, signed by the coordinator.

    Args:
        terms: All but the founders.
        requests: The founders', in any order.
        author: The coordinator's key.
        now: Timezone-aware.

    Raises:
        ValueError: Names or keys occur twice, or there are fewer than 2 founders.
    """
    founders = sorted((each.name, each.digest) for each in requests)
    charter = CharterAdopted(
        log=str(terms.log),
        coordinator=Coordinator(name=COORDINATOR, key=str(author.verify_key)),
        address=terms.address,
        authority=terms.authority,
        members=tuple(Founder(name=n, request=request) for n, request in founders),
        policy=terms.policy,
    )
    speaker = Author(federation=terms.federation, actor=COORDINATOR, role="coordinator")
    return sign_entry(speaker.event(charter, now=now, seen=None), author)


def accept_charter(
    charter: bytes,
    asked: RequestFile,
    *,
    root: SigningKey,
    readers: Iterable[str],
    now: datetime,
) -> bytes:
    """Write a founder's acceptance, signed by its root key.

    Args:
        charter: Entry 0.
        asked: The founder's request, as its other keys signed it.
        root: The key that the request names as root.
        readers: The other founders that it heard read the fingerprint out.
        now: Timezone-aware.

    Raises:
        RuleError: The charter names another request, or readers are too few or no
            other founders.
    """
    state = apply(None, charter, 0)
    name, heard = asked.request.name, sorted(set(readers))
    check_readers(state.charter, heard, actor=name)
    accepted = CharterAccepted(
        charter=state.genesis,
        request=asked.request,
        possession=asked.possession,
        readers=tuple(heard),
    )
    check_accepted(state.charter, accepted, actor=name, genesis=state.genesis)
    speaker = Author(federation=state.federation, actor=name, role="root")
    return sign_entry(speaker.event(accepted, now=now, seen=None), root)


def trust_policy_of(
    log: VerifyKey, requests: Iterable[MembershipRequest], policy: Policy
) -> TrustPolicy:
    """Trust a log that a quorum of the founders cosigned, and of outside witnesses."""
    keys = [VerifyKey.parse(request.witness) for request in requests]
    outside = [(VerifyKey.parse(each.key), each.url) for each in policy.witnesses]
    return TrustPolicy.of_members(
        log,
        keys,
        outside=[Witness(name=key.name, key=key, url=url) for key, url in outside],
        outside_quorum=policy.outside_quorum,
    )


def founding_trust(charter: OpenedCharter) -> TrustPolicy:
    """Return the trust policy of a charter: log key and founders' witnesses."""
    requests = [each.request for each in charter.requests.values()]
    log, policy = VerifyKey.parse(charter.body.log), charter.body.policy
    return trust_policy_of(log, requests, policy)


def fingerprint(genesis: str) -> str:
    """Spell 200 bits of the digest of entry 0: ten groups of four (RFC 4648, 6)."""
    bits = hashlib.sha256(b"tapestry-fingerprint/1\n" + decode_digest(genesis)).digest()
    text = base64.b32encode(bits[:_FINGERPRINT_BYTES]).decode("ascii")
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))
