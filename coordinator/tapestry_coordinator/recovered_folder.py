"""A coordinator's folder whose log comes from a member's mirror, and who then leads it.

::

    coordinator init     new keys, certificates, and the invitation that names them
    coordinator recover  the log, from copies of members (``log_copies``)
    coordinator submit   the proposal to name the new keys, then the votes on it
    coordinator run      once the log names the keys of this folder

No key can sign a checkpoint before the vote: the old log key is gone, and members take
none by the new one until the log names it. So the proposal and the votes are appended
here, unsigned, and the first checkpoint after them is the turn: signed by the new key,
and cosigned by a quorum of the old witnesses.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tapestry.errors import ConfigError, IncompleteError, RuleError, TapestryError
from tapestry.keys import SigningKey, VerifyKey
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.storage import durable_files
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.led_log import MARKER
from tapestry_coordinator.log_copies import (
    LogCopy,
    check_reaches,
    newest_of,
    read_copy,
)
from tapestry_coordinator.log_reader import read_log
from tapestry_coordinator.run_folders import run_folder
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_coordinator.superlink.tls import AUTHORITY
from tapestry_governance.audit.bundle import read_small
from tapestry_governance.audit.privacy_accounts import check_new
from tapestry_governance.ballot_paper import make_paper
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import (
    CoordinatorReplacement,
    ProposalMade,
)
from tapestry_governance.log.database import LogDatabase
from tapestry_governance.log.turns import Turns
from tapestry_governance.log.writer import Log
from tapestry_governance.member_view import MemberView
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply_all
from tapestry_governance.rules.thresholds import votes_for, votes_needed

TRUST = "trust-policy.txt"
WITNESSES = "witness-policy.txt"  # for outside witnesses, once they need it


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """A log that was recovered, and what the folder still lacks."""

    copy: LogCopy
    was_there: bool  # by an earlier call
    state: FederationState  # with the votes that came since
    is_named: bool  # the log names the keys of this folder
    invitation: Path
    releases: tuple[str, ...]  # that may begin a run, and are not here
    unknown: tuple[str, ...]  # members whose transport keys are not here

    def to_json(self) -> dict[str, object]:
        """Return the object that programs read."""
        current = self.state.open_round
        return {
            "entries": self.state.size,
            "cosigned": self.copy.cosigned,
            "from": str(self.copy.place),
            "was_there": self.was_there,
            "is_named": self.is_named,
            "open_round": list(current.key) if current else None,
            "missing_releases": list(self.releases),
            "not_enrolled": list(self.unknown),
        }

    def lines(self, folder: Path) -> Iterator[str]:
        """Say which log it is, name what is missing and what that means."""
        said = "was there already" if self.was_there else f"from {self.copy.place}"
        yield f"log       {folder / 'log'}: {self.state.size} entries, {said};"
        yield f"          {self.copy.cosigned} of them cosigned by a quorum"
        yield "lost      journals, sums and uploads of all runs so far"
        if (current := self.state.open_round) is not None:
            run_id, number, _ = current.key
            yield f"          round {number} of {run_id!r} was open, and is aborted by"
            yield "          run; what members paid for it stays spent"
        for name in self.releases:
            yield f"missing   {folder / 'releases' / name}: no run begins with it until"
            yield "          its folder is there; ask who has a copy"
        if self.releases:
            yield "          a run can begin with a model that the policy names: --base"
        if not self.is_named:
            name = self.invitation.name
            yield f"next      give {self.invitation} to a member, who sends a proposal:"
            yield f"          tapestry governance propose coordinator {name}"
            yield "              --node NODE -o coordinator.proposal"
            yield f"          tapestry coordinator submit {folder} coordinator.proposal"
        for name in self.unknown:
            yield f"next      tapestry coordinator enroll {folder} {name}.request"
        if self.is_named:
            yield f"next      tapestry coordinator run {folder}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadVotes:
    """The votes on who leads a log that does not name its folder's keys."""

    ballots: Mapping[Path, tuple[int, int]]  # yes votes, and how many it takes
    state: FederationState
    is_named: bool

    def to_json(self) -> dict[str, object]:
        """Return the object that programs read."""
        ballots = [
            {"ballot": str(path), "yes": yes, "needed": needed}
            for path, (yes, needed) in self.ballots.items()
        ]
        return {"is_named": self.is_named, "ballots": ballots}

    def lines(self, folder: Path) -> Iterator[str]:
        """Tell the votes so far, and the next step."""
        for path, (yes, needed) in self.ballots.items():
            yield f"ballot    {path}: {yes} of {needed} yes; each member votes by"
            yield f"          tapestry governance vote {path.name} yes --key FILE"
            yield f"next      tapestry coordinator submit {folder} VOTE..."
        if not self.is_named:
            return
        address, authority = self.state.lead.address, folder / "tls" / AUTHORITY
        yield "named     the log names the keys of this folder; each member sets"
        yield f"          superlink = {address!r} in node.toml, takes {authority}"
        yield "          in the place of its own, and starts its node again"
        for witness in self.state.policy.witnesses:
            yield f"witness   {witness.name} has to know the new key of the log:"
            yield f"          tapestry witness init FOLDER --name {witness.name}"
            yield f"              --trust {folder / WITNESSES}"
        yield f"next      tapestry coordinator run {folder}"


def recover(
    folder: Path, copies: Sequence[Path], *, trust: bytes, seen: Sequence[bytes] = ()
) -> Recovered:
    """Give a folder of ``coordinator init`` the log, from the longest of some copies.

    Args:
        folder: The new coordinator's, with keys and settings.
        copies: Mirrors and bundles of members.
        trust: The trust policy of the founding, from outside the copies.
        seen: Cosigned checkpoints that were kept elsewhere.

    Guarantees:
        Nothing that is there is overwritten, and the log is whole or absent. Nothing is
        signed. Where the folder has the keys that the log names, it is marked as one
        that may be older: no entry is added before all members were asked.

    Edge cases:
        A second call finds the log there, also one that has votes by now.

    Raises:
        ConfigError: The folder has no settings or keys, or a log of other entries; or
            it is of another federation.
        IncompleteError: The copies are behind a checkpoint that was kept; or the folder
            has the keys of the log, in which a round without noise is open.
        TapestryError: A copy does not verify.
    """
    settings, key = _own(folder)
    with _about("--trust names no trust policy; take a member's trust-policy.txt"):
        policy = TrustPolicy.parse(trust)
    copy = newest_of([_read_copy(place, policy) for place in copies])
    for note in seen:
        with _about("--checkpoint names none that was kept of this log"):
            check_reaches(copy, note, trust=policy)
    _check_same(settings, copy.state)
    place = folder / "log"
    was_there = place.exists()
    state = _state_there(place, key, copy) if was_there else copy.state
    is_named = state.lead.log == str(key.verify_key)
    if is_named:
        lost_round(folder, state)
    if not was_there:
        durable_files.replace_file(folder / TRUST, policy.encode())
        if is_named:
            durable_files.replace_file(folder / MARKER, b"recovered\n", mode=0o600)
        _write(place, key, copy)
    return Recovered(
        copy=copy,
        was_there=was_there,
        state=state,
        is_named=is_named,
        invitation=folder / f"{settings.federation}.invite",
        releases=tuple(_missing_releases(folder, state)),
        unknown=tuple(
            name
            for name in sorted(state.active)
            if not (folder / "enrolled" / f"{name}.pub").exists()
        ),
    )


def take(folder: Path, entries: Sequence[bytes]) -> LeadVotes | None:
    """Append members' entries to a log that does not name its folder's keys.

    None where it names them: then entries wait for the service.

    Guarantees:
        All are appended or none, each as the rules and an audit want it. Nothing is
        signed.

    Edge cases:
        An entry that the log has is passed over, and the ballots are written again.

    Raises:
        ConfigError: The folder has no log, or its keys are missing.
        RuleError: An entry breaks a rule, or proposes other keys than this folder's.
        VerificationError: A signature of an entry does not hold.
        ResourceError: Another process has the log open.
    """
    if not _was_recovered(folder / "log"):
        return None
    _, key = _own(folder)
    before, _ = read_log(folder)
    if before.lead.log == str(key.verify_key):
        return None
    with Log.open(folder / "log", key=key) as log:
        before = apply_all(before, log.entries(before.size, log.size)) or before
        fresh = [entry for entry in entries if log.find(entry) is None]
        for entry in fresh:
            _check_keys(folder, entry)
        state = apply_all(before, fresh) or before
        check_new(before, state)
        log.append(fresh)
        is_named = state.lead.log == str(key.verify_key)
        ballots = {} if is_named else _write_ballots(folder, log, state)
        if is_named and state.policy.witnesses:
            durable_files.replace_file(folder / WITNESSES, state.trust.encode())
        return LeadVotes(ballots=ballots, state=state, is_named=is_named)


def lost_round(folder: Path, state: FederationState) -> RoundManifest | None:
    """Return the round that is open in the log, and that no journal here knows.

    Without noise members cosign no end that leaves out those whose sum they helped to
    open, and the lost journal alone knew them. They do accept it of a coordinator whom
    they named since, and keep their own marks.

    Edge cases:
        Another run may have been planned here under the name of the one that is lost.

    Raises:
        IncompleteError: It has no noise, and its coordinator was not replaced.
    """
    if state.open_round is None:
        return None
    manifest = state.open_round.manifest
    place = run_folder(folder, manifest.run_id)
    if Journal.is_there(place):
        with closing(Journal(place, readonly=True)) as journal:
            if manifest.encode() in [each.manifest for each in journal.rounds()]:
                return None
    if manifest.privacy.noise == "none" and not state.has_other_lead:
        raise IncompleteError(
            f"round {manifest.round_number} of {manifest.run_id!r} has no noise, is"
            " open, and the journal of its run is lost: under the same keys members"
            " cosign no end of it; make a folder with new keys, by tapestry coordinator"
            " init, recover the log into it, and have members vote on them",
            code="round-end-unknown",
        )
    return manifest


def _was_recovered(place: Path) -> bool:
    """Return whether a log was recovered; it needs no replay."""
    if not (place / "log.db").exists():
        return False
    store = LogDatabase(place, readonly=True)
    try:
        return bool(store.former())
    finally:
        store.close()


@contextmanager
def _about(what: str) -> Iterator[None]:
    """Name the file, or the option, that an error is about."""
    try:
        yield
    except TapestryError as error:
        raise error.at(what) from None


def _read_copy(place: Path, trust: TrustPolicy) -> LogCopy:
    if not place.exists():
        raise ConfigError(
            f"there is no {place}; name a member's view.db, or the folder of a bundle"
            " that tapestry node bundle wrote",
            code="file-missing",
        )
    with _about(f"{place} cannot be gone on from; take the copy of another member"):
        return read_copy(place, trust)


def _own(folder: Path) -> tuple[CoordinatorSettings, SigningKey]:
    path, key = folder / "coordinator.toml", folder / "keys" / "log.key"
    for each in (path, key):
        if not each.exists():
            raise ConfigError(
                f"there is no {each}; make keys and settings first, by tapestry"
                " coordinator init with the federation's --federation and --origin",
                code="file-missing",
            )
    return CoordinatorSettings.read(path), SigningKey.load(key)


def _check_same(settings: CoordinatorSettings, state: FederationState) -> None:
    here = {"federation": settings.federation, "origin": settings.origin}
    log = {"federation": state.federation, "origin": state.charter.origin}
    for name, value in log.items():
        if here[name] != value:
            raise ConfigError(
                f"{name} is {here[name]!r} in coordinator.toml, the copies are of"
                f" {value!r}; make a folder for it with tapestry coordinator init",
                code="federation-differs",
            )


def _state_there(place: Path, key: SigningKey, copy: LogCopy) -> FederationState:
    """Return the state of a log that is there, and that goes on from a copy."""
    known = Log.read(place, key=key)
    if known[: len(copy.entries)] != list(copy.entries):
        raise ConfigError(
            f"{place} has other entries than {copy.place}, or fewer; nothing was"
            " changed: move it away, or recover into another folder",
            code="log-exists",
        )
    return apply_all(copy.state, known[len(copy.entries) :]) or copy.state


def _write(place: Path, key: SigningKey, copy: LogCopy) -> None:
    leads = (*copy.state.former_leads, copy.state.lead)
    own = str(key.verify_key)
    former = dict.fromkeys(lead.log for lead in leads if lead.log != own)
    with (
        durable_files.replace_folder(place) as draft,
        Log.create(draft, key=key) as log,
    ):
        log.append(copy.entries)
        log.adopt(copy.notes, former=[VerifyKey.parse(each) for each in former])


def _missing_releases(folder: Path, state: FederationState) -> list[str]:
    names = (record.name for record in state.released)
    usable = (name for name in names if state.standing_of(name) != "withdrawn")
    return [name for name in usable if not (folder / "releases" / name).is_dir()]


def _check_keys(folder: Path, entry: bytes) -> None:
    """Refuse a proposal that would name a coordinator with other keys."""
    body = open_entry(entry).event.body
    proposal = body.proposal if isinstance(body, ProposalMade) else None
    if isinstance(proposal, CoordinatorReplacement):
        names = {"log": proposal.log, "author": proposal.key}
        for name, key in names.items():
            own = SigningKey.load(folder / "keys" / f"{name}.key").verify_key
            if key != str(own):
                raise RuleError(
                    f"the proposal names the {name} key {key}, this folder has {own};"
                    " propose by the invitation that lies in this folder",
                    code="own-key-differs",
                )


def _write_ballots(
    folder: Path, log: Log, state: FederationState
) -> dict[Path, tuple[int, int]]:
    """Write the ballots on who leads the log; returns how the votes stand."""
    founding = TrustPolicy.parse(read_small(folder / TRUST))
    note = log.latest() or b""
    view = MemberView(
        logged=state,
        state=state,
        entries=tuple(log.stream()),
        note=note,
        trust=Turns(founding).in_force(state, read_claim(note).size),
    )
    found = {}
    for index in state.open_proposals:
        ballot = state.ballots[index]
        if ballot.kind == "coordinator" and ballot.outcome == "open":
            path = folder / f"coordinator-{index}.ballot"
            durable_files.replace_file(path, make_paper(view, index).encode())
            found[path] = votes_for(state, ballot), votes_needed(state, ballot)
    return found
