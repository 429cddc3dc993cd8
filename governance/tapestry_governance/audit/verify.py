"""The audit of a bundle: a fixed list of steps.

Each step either holds, with counts, or ends the audit with the code of the rule that
is broken::

    files        every file is listed and as listed; nothing else is there; the files
                 of artifacts are read in their step, when the log has named them
    trust        the log and the witnesses that this audit trusts
    signatures   the log and a quorum of witnesses signed the checkpoint
    log          the entries are under its root, and every tile follows from them
    charter      entry 0 is the genesis; its log and witnesses are the trusted ones
    events       canonical, signed by their authors, within the rules
    turns        old and new witnesses signed each change      (when there is one)
    since        an older checkpoint is a prefix               (when one is given)
    age          the trust is at most a year older than the newest checkpoint
    privacy      no node reports less than its parameters cost
    blobs        further content has the digest it is named by
    sums         chunks of masked uploads add up to the sums that the log names
    artifacts    releases and adapters in the bundle are those in the log

Guarantees:
    ``verify`` returns ``AuditVerdict.HOLDS`` only if every step held. It reads files of
    the bundle alone; nothing comes from the network. An unforeseen error is no verdict:
    it names its step, and ends the audit as a bug or as incomplete.

Not protected:
    Trust in the bundle's own ``trust-policy.txt``: give the one you hold, which may
    also be that of a later turn. The age of the bundle: compare its checkpoint with one
    you kept (``since``). The genesis: compare it; its author says when the log began.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from tapestry.artifacts.foreign_files import refuse
from tapestry.encoding import digest_file
from tapestry.errors import (
    ConfigError,
    ForeignFileError,
    IncompleteError,
    InconsistentLog,
    ProtocolError,
    ResourceError,
    RuleError,
    TapestryError,
    VerificationError,
)
from tapestry.tlog import tiles
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry.tlog.tiles import StoredEntries
from tapestry.tlog.trust_policy import CosignedCheckpoint, TrustPolicy
from tapestry_governance.audit.bundle import SUMS, Bundle, open_bundle
from tapestry_governance.audit.published_folders import check_artifacts
from tapestry_governance.audit.step_faults import within_step
from tapestry_governance.audit.sum_evidence import check_sums
from tapestry_governance.audit.turn_audit import (
    FollowedLog,
    Found,
    check_age,
    dated,
    step_over_turns,
)
from tapestry_governance.events.envelope import DecodedEvents, Signed, open_entry
from tapestry_governance.log.outbox_heads import FILE, HeadReport
from tapestry_governance.log.turns import Turns
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply_signed

if TYPE_CHECKING:
    from tapestry_governance.audit.privacy_accounts import Account


_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CONTENT = re.compile(  # fields whose content is in no other part of a bundle
    r'"(?:data|dataset|evaluation|held_out|limits|plan|reasons|report|suite_digest|text)"'
    r':"(sha256:[0-9a-f]{64})"'
)
_SHOWN = 10


class AuditVerdict(IntEnum):
    """The result of an audit; the number is the exit status."""

    HOLDS = 0
    FAILS = 1  # a signature, proof, digest or format
    RULE_BROKEN = 2
    INCOMPLETE = 3  # something is missing or from the future
    FOREIGN_FILE = 4  # a file lies in the folder that is not part of it


_SEVERITY = (  # as ``exit_status.worst``
    AuditVerdict.FAILS,
    AuditVerdict.RULE_BROKEN,
    AuditVerdict.FOREIGN_FILE,
    AuditVerdict.INCOMPLETE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditStep:
    """One step of an audit with its verdict."""

    name: str
    verdict: AuditVerdict
    detail: str
    code: str | None = None  # of the rule that is broken; None if the step holds
    counts: dict[str, int] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()  # files that are not part of the folder


@dataclass(slots=True, kw_only=True)
class Audit:
    """An audit under way, with the results of its steps for later ones."""

    folder: Path
    trust_file: bytes | None
    since_file: bytes | None
    steps: list[AuditStep] = field(default_factory=list)
    accounts: "list[Account]" = field(default_factory=list)
    bundle: Bundle = field(init=False)
    trust: TrustPolicy = field(init=False)  # the bundle's
    given: TrustPolicy = field(init=False)  # the same, or that of a later turn
    opened: CosignedCheckpoint = field(init=False)
    entries: StoredEntries = field(init=False)
    state: FederationState = field(init=False)
    # Sizes of checkpoints: who alone named each, or None if several members did, or the
    # coordinator: one member alone ages nothing.
    seen: dict[int, str | None] = field(default_factory=dict)
    contents: set[str] = field(
        default_factory=set
    )  # digests of further content, as entries name it
    unnamed: set[str] = field(default_factory=set)  # blobs that no entry has named yet
    unchecked: list[str] = field(default_factory=list)  # all that was not checked
    faults: Mapping[str, TapestryError] = field(default_factory=dict)  # by artifact

    @property
    def has_turned(self) -> bool:
        """True if the log changed its witnesses, or the bundle has turns."""
        return bool(self.bundle.turns) or len(self.state.trusted) > 1

    @property
    def verdict(self) -> AuditVerdict:
        """The verdict of the last step, which is the audit's."""
        return self.steps[-1].verdict


def verify(
    folder: Path, *, trust: bytes | None = None, since: bytes | None = None
) -> Audit:
    """Audit a bundle.

    ``trust`` is the policy that the auditor holds; without it the bundle's own counts.
    ``since`` is a checkpoint that the auditor kept from an earlier audit.

    Raises:
        ConfigError: The path is not a folder, so nothing was audited.
        HiddenError: A step has a bug, so there is no verdict.
    """
    if not folder.is_dir():
        message = f"{folder} is not the folder of a bundle"
        raise ConfigError(message, code="folder-missing")
    audit = Audit(folder=folder, trust_file=trust, since_file=since)
    for name, step in _STEPS.items():
        if name == "since" and since is None:
            continue
        if name == "turns" and not audit.has_turned:
            continue
        if name == "outbox" and FILE not in audit.bundle.files:
            audit.unchecked += _counted(audit.state.active, "heads of outboxes")
            continue
        audit.steps.append(_run(name, step, audit))
        if audit.verdict is not AuditVerdict.HOLDS:
            break
    return audit


def _run(name: str, step: Callable[[Audit], Found], audit: Audit) -> AuditStep:
    try:
        with within_step(name):
            detail, counts = step(audit)
    except (TapestryError, OSError) as caught:
        error = caught
        if isinstance(error, OSError):
            message = f"cannot read {error.filename}: {error.strerror}"
            error = ResourceError(message, code="file-unreadable")
        return AuditStep(
            name=name,
            verdict=verdict_of(error),
            detail=str(error),
            code=error.code,
            foreign=getattr(error, "files", ()),
        )
    verdict = AuditVerdict.HOLDS
    return AuditStep(name=name, verdict=verdict, detail=detail, counts=counts)


def verdict_of(error: TapestryError) -> AuditVerdict:
    """Return the verdict of a step that ends with an error."""
    match error:
        case RuleError():
            return AuditVerdict.RULE_BROKEN
        case ForeignFileError():
            return AuditVerdict.FOREIGN_FILE
        case IncompleteError() | ResourceError():
            return AuditVerdict.INCOMPLETE
        case _:
            return AuditVerdict.FAILS


def _files(audit: Audit) -> Found:
    audit.bundle = open_bundle(audit.folder)
    audit.unnamed = set(audit.bundle.blobs)
    count, later = len(audit.bundle.files), len(audit.bundle.unread)
    but = f", {later} of them compared with the log below" if later else ""
    return f"{count} files, each as listed{but}", {"files": count}


def _trust(audit: Audit) -> Found:
    given = audit.trust_file is not None
    audit.trust = audit.given = TrustPolicy.parse_printed(audit.bundle.policy)
    if audit.trust_file is not None:
        audit.given = TrustPolicy.parse(audit.trust_file)
    if audit.given != audit.trust and not audit.bundle.turns:
        message = "the bundle's trust-policy.txt is not the trust policy given"
        raise VerificationError(message, code="trust-policy-differs")
    logs, witnesses = len(audit.trust.logs), len(audit.trust.witnesses)
    whose = "the policy given" if given else "the bundle's own trust-policy.txt"
    quorum = _quorum_of(audit.trust) or f"none of {witnesses} witnesses"
    detail = f"{whose}: {logs} log, {quorum}"
    return detail, {"logs": logs, "witnesses": witnesses}


def _quorum_of(trust: TrustPolicy) -> str:
    """Say how many witnesses of which groups must have cosigned."""
    groups = {group.name: group for group in trust.groups}
    if trust.quorum not in groups:
        return ""
    top = groups[trust.quorum]
    parts = [groups[name] for name in top.members if name in groups]
    said = [f"{g.threshold} of {len(g.members)} {g.name}" for g in parts]
    if len(parts) == len(top.members) == top.threshold:
        return " and ".join(said)
    return f"{top.threshold} of {len(top.members)} witnesses"


def _signatures(audit: Audit) -> Found:
    if audit.bundle.turns:
        audit.opened = _unopened(audit.bundle.checkpoint)
        count = len(audit.bundle.turns)
        return f"checked below, over {count} turns of the witnesses", {"turns": count}
    audit.opened = audit.trust.open_published(audit.bundle.checkpoint)
    return dated(audit.opened, audit.trust)


def _unopened(note: bytes) -> CosignedCheckpoint:
    """Read a checkpoint whose signatures are checked once its witnesses are known."""
    return CosignedCheckpoint(checkpoint=read_claim(note), note=note, cosignatures=())


def _log(audit: Audit) -> Found:
    checkpoint = audit.opened.checkpoint
    audit.entries = tiles.verify(audit.folder, checkpoint)
    count = sum(file.startswith("tile/") for file in audit.bundle.files)
    detail = f"{checkpoint.size} entries under the root, {count} tiles follow from them"
    return detail, {"entries": checkpoint.size, "tiles": count}


def _since(audit: Audit) -> Found:
    older = _open_older(audit, audit.since_file or b"")
    checkpoint = audit.opened.checkpoint
    if older.origin != checkpoint.origin:
        message = f"seen was log {older.origin}, here is {checkpoint.origin}"
        raise InconsistentLog(message, code="log-origin-differs")
    if older.size > checkpoint.size:
        message = f"rollback: {older.size} entries were seen, here {checkpoint.size}"
        raise InconsistentLog(message, code="log-shrunk")
    if audit.state.past.root(older.size) != older.root:
        message = f"fork: another log of {older.size} entries was seen"
        raise InconsistentLog(message, code="log-forked")
    new = checkpoint.size - older.size
    return f"the {older.size} entries seen are a prefix, {new} are new", {"new": new}


def _open_older(audit: Audit, note: bytes) -> Checkpoint:
    """Open a checkpoint that an auditor kept; an error quotes nothing of the file."""
    try:
        trust = Turns(audit.trust).in_force(audit.state, read_claim(note).size)
        return trust.open_pending(note).checkpoint
    except ProtocolError as error:
        message = "the file given with --since is no checkpoint; name one that you kept"
        raise ProtocolError(message, code=error.code) from None


def _charter(audit: Audit) -> Found:
    if not audit.entries:
        raise IncompleteError("the log is empty", code="log-empty")
    first = open_entry(audit.entries[0])
    if first.digest != audit.bundle.genesis:
        message = f"entry 0 is {first.digest}, not the genesis {audit.bundle.genesis}"
        raise VerificationError(message, code="genesis-differs")
    audit.state = apply_signed(None, first)
    charter = audit.state.charter
    if charter.log not in {str(log.key) for log in audit.trust.logs}:
        message = f"the charter's log {charter.log} is not the trusted one"
        raise VerificationError(message, code="charter-log-untrusted")
    count = len(charter.members)
    detail = f"{audit.state.federation}, {count} members, genesis {first.digest}"
    return detail, {"members": count}


def _events(audit: Audit) -> Found:
    signatures, kinds = 0, Counter[str]()
    state: FederationState | None = None
    for index, entry in enumerate(audit.entries):
        try:
            signed = open_entry(entry)
        except TapestryError as error:
            raise error.at(f"entry {index}") from error
        state = apply_signed(state, signed)
        _note_names(audit, signed)
        signatures += len(signed.signatures)
        kinds[signed.event.type] += 1
    audit.state = state or audit.state
    trust = Turns(audit.trust).in_force(audit.state, audit.state.size)
    known = {str(witness.key) for witness in trust.witnesses}
    for member in audit.state.members.values():
        if member.witness not in known:
            message = f"{member.name}'s witness key {member.witness} is not trusted"
            raise VerificationError(message, code="witness-untrusted")
    detail = (
        f"{audit.state.size} canonical, {signatures} author signatures,"
        f" no rule broken; {kinds['round.closed']} rounds closed,"
        f" {kinds['round.aborted']} aborted"
    )
    if disputes := kinds["round.disputed"]:
        members = {
            actor for found in audit.state.disputes.values() for actor, _ in found
        }
        detail += f"; {disputes} disputes of them, by {', '.join(sorted(members))}"
    counts = {"events": audit.state.size, "author_signatures": signatures}
    return detail, counts | dict(sorted(kinds.items()))


def _note_names(audit: Audit, signed: Signed) -> None:
    """Note the checkpoint and the digests that an entry names."""
    if signed.event.seen is not None:
        size, actor = signed.event.seen.size, signed.event.actor
        is_lead = signed.event.role == "coordinator"
        if is_lead or audit.seen.setdefault(size, actor) != actor:
            audit.seen[size] = None
    payload = signed.payload.decode()
    audit.contents.update(_CONTENT.findall(payload))
    if audit.unnamed:
        audit.unnamed.difference_update(_DIGEST.findall(payload))


def _turns(audit: Audit) -> Found:
    bundle = audit.bundle
    audit.opened, found = step_over_turns(
        _followed(audit), bundle.turns, bundle.checkpoint
    )
    return found


def _age(audit: Audit) -> Found:
    return check_age(_followed(audit), audit.opened)


def _outbox(audit: Audit) -> Found:
    """Say what is overdue; one member alone can claim it, so the verdict holds."""
    sizes = [size for size, alone in audit.seen.items() if alone is None]
    found = HeadReport.of(audit.bundle.heads, state=audit.state, sizes=sizes)
    detail = f"{len(found.heads)} heads of members, signed over this log"
    detail += "".join(f"; OVERDUE: {each}" for each in found.warnings)
    return detail, {
        "heads": len(found.heads),
        "missing": len(found.missing),
        "withheld": len(found.withheld),
        "stale": len(found.stale),
    }


def _followed(audit: Audit) -> FollowedLog:
    return FollowedLog(
        state=audit.state,
        entries=audit.entries,
        trust=audit.trust,
        given=audit.given,
        since=audit.since_file,
    )


def _privacy(audit: Audit) -> Found:
    # The accountant takes seconds to load; an audit that ends before does not need it.
    from tapestry_governance.audit.privacy_accounts import check, recompute

    try:
        audit.accounts = check(audit.state.spending)
    except RuleError:
        audit.accounts = recompute(audit.state.spending)
        raise
    without = sum(account.recomputed is None for account in audit.accounts)
    detail = f"{len(audit.accounts)} accounts of a node and a block, none understated"
    if without:
        detail += f"; {without} promise nothing (no noise)"
    return detail, {"accounts": len(audit.accounts), "without_promise": without}


def _blobs(audit: Audit) -> Found:
    blobs = audit.bundle.blobs
    if audit.unnamed:
        refuse("blobs that no entry names", foreign=audit.unnamed)
    for name, path in blobs.items():
        if digest_file(path) != name:
            message = f"blob {name} has another digest"
            raise VerificationError(message, code="blob-digest-differs")
    lacking = {f"{each[:15]}…" for each in audit.contents - blobs.keys()}
    audit.unchecked += _counted(lacking, "contents that entries name by digest")
    return f"{len(blobs)} blobs, each named by its digest", {"blobs": len(blobs)}


def _sums(audit: Audit) -> Found:
    found = check_sums(audit.folder / SUMS, DecodedEvents(audit.entries))
    closed = {each.index for each in audit.state.closed}
    lacking = {f"entry {index}" for index in closed - found.chunks_of.keys()}
    audit.unchecked += _counted(lacking, "sums of closed rounds")
    for index, (checked, of) in sorted(found.chunks_of.items()):
        if checked < of:
            rest = f"{of - checked} of {of} chunks of the sum that entry {index} names"
            audit.unchecked.append(rest)
    detail = (
        f"{found.chunks} of {found.all_chunks} chunks of {found.rounds} sums recomputed"
        " from the masked uploads"
    )
    return detail, {
        "rounds": found.rounds,
        "chunks": found.chunks,
        "all_chunks": found.all_chunks,
    }


def _artifacts(audit: Audit) -> Found:
    state, folders = audit.state, audit.bundle.artifacts
    found = check_artifacts(
        folders,
        state=state,
        entries=audit.entries,
        policy=audit.bundle.policy,
        listed=audit.bundle.artifact_digests,
    )
    audit.faults = found.faults
    if found.faults:
        _refuse_faulty(found.faults)
    logged = state.releases.keys() | state.adapters.keys()
    missing = logged - folders.keys()
    unfitted = (found.whole & state.adapters.keys()) - found.fitted
    audit.unchecked += _counted(missing, "releases and adapters that are not here")
    audit.unchecked += _counted(
        found.listed, "releases and adapters that are here by manifest alone"
    )
    audit.unchecked += _counted(unfitted, "adapters whose base is not here")
    detail = (
        f"{len(logged)} releases and adapters in the log: {len(found.whole)} here with"
        f" all files, {len(found.listed)} by manifest, {len(missing)} not in this"
        " bundle"
    )
    return detail, {
        "logged": len(logged),
        "whole": len(found.whole),
        "manifests": len(found.listed),
    }


def _refuse_faulty(faults: Mapping[str, TapestryError]) -> None:
    """Raise the fault that weighs most, with the names of all faulty artifacts.

    Raises:
        TapestryError: There is a fault, as the caller has made sure.
    """
    order = list(_SEVERITY)
    name = min(faults, key=lambda each: (order.index(verdict_of(faults[each])), each))
    others = ", ".join(sorted(faults.keys() - {name}))
    also = f"; so are {others}" if others else ""
    raise faults[name].at(f"artifact {name} is faulty{also}")


def _counted(names: Collection[str], what: str) -> list[str]:
    """Return one line with the number of names and the first few; none if empty."""
    shown = ", ".join(sorted(names)[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{len(names)} {what}: {shown}{more}"] if names else []


_STEPS: dict[str, Callable[[Audit], Found]] = {
    "files": _files,
    "trust": _trust,
    "signatures": _signatures,
    "log": _log,
    "charter": _charter,
    "events": _events,
    "turns": _turns,
    "since": _since,
    "age": _age,
    "outbox": _outbox,
    "privacy": _privacy,
    "blobs": _blobs,
    "sums": _sums,
    "artifacts": _artifacts,  # the last, so that all else holds beside a faulty one
}
