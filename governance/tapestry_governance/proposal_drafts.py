"""Proposals from what a person names: a file that somebody sent, or a name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tapestry.encoding import digest
from tapestry.errors import ConfigError
from tapestry_governance.events.member_events import (
    Admission,
    CoordinatorReplacement,
    PauseProposal,
    PolicyChange,
    Proposal,
    Removal,
    RootReplacement,
    Withdrawal,
)
from tapestry_governance.founding import COORDINATOR
from tapestry_governance.founding_files import (
    Invitation,
    RequestFile,
    check_invitation,
    read_document,
)
from tapestry_governance.member_folder import read_public_root
from tapestry_governance.policy_file import read_policy
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.proposal_rules import published_digest


def draft(
    kind: str, words: Sequence[str], *, state: FederationState, reason: str | None
) -> Proposal:
    """Make the proposal that a kind and the words after it name.

    Raises:
        ConfigError: The kind is none, it takes other words, or a file is missing.
        VerificationError: A file is no document of its kind, or not signed by its keys.
    """
    if kind not in _WORDS or len(words) != len(_WORDS[kind]):
        known = "; ".join(" ".join([name, *each]) for name, each in _WORDS.items())
        said = " ".join([kind, *words])
        raise ConfigError(f"propose {said!r}; proposals are {known}", code="usage")
    if (reason is not None) != (kind == "withdraw"):
        message = "--reason goes with withdraw, and withdraw takes one"
        raise ConfigError(message, code="usage")
    if reason is not None:
        return _withdraw(state, words[0], reason)
    return _DRAFTS[kind](*words)


def _policy(file: str) -> Proposal:
    return PolicyChange(kind="policy", policy=read_policy(Path(file)))


def _admit(file: str) -> Proposal:
    asked = read_document(Path(file), RequestFile)
    return Admission(kind="admit", request=asked.request, possession=asked.possession)


def _remove(name: str) -> Proposal:
    return Removal(kind="remove", member=name)


def _root(name: str, file: str) -> Proposal:
    key = read_public_root(Path(file), name)
    return RootReplacement(kind="root", member=name, key=str(key))


def _coordinator(file: str) -> Proposal:
    invitation = read_document(Path(file), Invitation)
    check_invitation(invitation)
    terms = invitation.terms
    return CoordinatorReplacement(
        kind="coordinator",
        name=COORDINATOR,
        key=terms.coordinator,
        log=terms.log,
        address=terms.address,
        authority=digest(terms.authority.encode("ascii")),
    )


def _pause() -> Proposal:
    return PauseProposal(kind="pause")


def _resume() -> Proposal:
    return PauseProposal(kind="resume")


def _withdraw(state: FederationState, name: str, reason: str) -> Proposal:
    subject = published_digest(state, name)
    if subject is None:
        raise ConfigError(f"the log has no release or adapter {name!r}", code="usage")
    return Withdrawal(kind="withdraw", subject=subject, name=name, reason=reason)


_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "policy": ("FILE.toml",),
        "admit": ("REQUEST",),
        "remove": ("NAME",),
        "root": ("NAME", "KEY.pub"),
        "coordinator": ("INVITATION",),
        "pause": (),
        "resume": (),
        "withdraw": ("NAME",),
    }
)
_DRAFTS: Mapping[str, Callable[..., Proposal]] = MappingProxyType(
    {
        "policy": _policy,
        "admit": _admit,
        "remove": _remove,
        "root": _root,
        "coordinator": _coordinator,
        "pause": _pause,
        "resume": _resume,
    }
)
