"""Founders of a federation in memory: keys, requests, and the charter of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ec

from tapestry.keys import SigningKey
from tapestry.transport_keys import public_text, transport_digest
from tapestry_coordinator.superlink.tls import make_authority
from tapestry_governance import founding
from tapestry_governance.events.federation_events import Policy
from tapestry_governance.founding import CharterTerms
from tapestry_governance.founding_files import (
    Invitation,
    InvitationTerms,
    OpenedCharter,
    RequestFile,
    bind_charter,
    invite,
    open_charter,
    sign_request,
)
from tests.support.log_world import World, fake_digest

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def member_keys(name: str) -> dict[str, SigningKey]:
    purposes = founding.MEMBER_KEYS
    return {each: founding.generate_member_key(name, each) for each in purposes}


def asks(
    name: str,
    keys: Mapping[str, SigningKey],
    *,
    federation: str = "rivers",
    records: int = 1234,
) -> RequestFile:
    """Ask with a new transport key."""
    transport = ec.generate_private_key(ec.SECP384R1())
    request = founding.make_request(
        name,
        {purpose: key.verify_key for purpose, key in keys.items()},
        transport=transport_digest(public_text(transport)),
        languages=["de"],
        records=records,
    )
    return sign_request(request, keys, transport=transport, federation=federation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Founders:
    """Institutions that hold their keys, and the two keys of a coordinator."""

    keys: Mapping[str, Mapping[str, SigningKey]]
    log: SigningKey
    author: SigningKey

    @classmethod
    def of(cls, names: Sequence[str]) -> "Founders":
        return cls(
            keys={name: member_keys(name) for name in names},
            log=SigningKey.generate("rivers.example/log"),
            author=SigningKey.generate("coordinator/author"),
        )

    def requests(self) -> list[RequestFile]:
        return [asks(name, keys) for name, keys in self.keys.items()]

    def entry(
        self, requests: Sequence[RequestFile], *, terms: CharterTerms | None = None
    ) -> bytes:
        """Entry 0 for these requests, on terms that another charter had."""
        terms = terms or CharterTerms(
            federation="rivers",
            log=self.log.verify_key,
            address="rivers.example:443",
            authority=fake_digest("authority"),
            policy=World().policy(),
        )
        asked = [each.request for each in requests]
        return founding.make_charter(terms, asked, author=self.author, now=NOW)

    def charter(self, requests: Sequence[RequestFile]) -> OpenedCharter:
        return open_charter(bind_charter(self.entry(requests), requests))

    def accept(
        self, charter: OpenedCharter, name: str, readers: Sequence[str] = ()
    ) -> bytes:
        """Accept by the root key; by default the next two founders read it out."""
        others = sorted(self.keys)
        at = others.index(name)
        next_two = {others[(at + step) % len(others)] for step in (1, 2)} - {name}
        return founding.accept_charter(
            charter.entry,
            charter.requests[name],
            root=self.keys[name]["root"],
            readers=readers or next_two,
            now=NOW,
        )


def invitation_of(policy: Policy, **changes: object) -> Invitation:
    """An invitation by new keys; ``changes`` are of its terms."""
    log = SigningKey.generate("rivers.example/log")
    author = SigningKey.generate("coordinator/author")
    authority = make_authority(SigningKey.generate("rivers/authority"))
    terms = {
        "federation": "rivers",
        "log": str(log.verify_key),
        "coordinator": str(author.verify_key),
        "address": "rivers.example:443",
        "authority": authority.decode("ascii"),
        "workload": "language",
        "base": "tiny",
        "policy": policy,
    }
    return invite(
        InvitationTerms.model_validate(terms | changes), log=log, author=author
    )
