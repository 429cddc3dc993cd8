"""Checks of a folder, one after the other: the steps, their output and the verdict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tapestry.cli import console
from tapestry.cli.exit_status import ExitStatus, status_of, worst
from tapestry.errors import (
    ConfigError,
    ForeignFileError,
    IncompleteError,
    RuleError,
    TapestryError,
    VerificationError,
)
from tapestry_governance.audit.step_faults import within_step
from tapestry_governance.cli.audit import WORDS, note_trust, status

if TYPE_CHECKING:
    from tapestry_governance.audit.privacy_statement import Statement
    from tapestry_governance.audit.verify import Audit
    from tapestry_governance.events.model_events import (
        AdapterPublished,
        ReleasePublished,
    )
    from tapestry_governance.vote_count import AdapterStanding, VoteCount

_Value = TypeVar("_Value")
_Entry = TypeVar("_Entry", "AdapterPublished", "ReleasePublished")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckStep:
    """One check and its result."""

    name: str
    status: ExitStatus
    detail: str
    code: str | None = None  # of the rule that fails; None while the check holds
    checked: bool = True
    foreign: tuple[str, ...] = ()

    def __str__(self) -> str:
        word = WORDS[self.status] if self.checked else "not checked"
        return f"{word:<13}{self.name:<8}{self.detail}"

    def to_json(self) -> dict[str, Any]:
        """Return the object that programs read; ``holds`` is null if not checked."""
        holds = self.status is ExitStatus.HOLDS if self.checked else None
        said = {"detail": self.detail, "code": self.code}
        return {"name": self.name, "holds": holds, **said}


def require_folder(directory: Path, *, kind: str) -> None:
    """Require that the folder to check is there.

    Raises:
        ConfigError: It is not, so nothing was checked.
    """
    if not directory.is_dir():
        raise ConfigError(
            f"no folder {directory}; name the one of {kind}", code="folder-missing"
        )


def run(
    steps: list[CheckStep],
    name: str,
    check: Callable[[], _Value],
    describe: Callable[[_Value], str],
) -> _Value | None:
    """Run one check and append its step; returns the value, or None if it failed.

    Raises:
        ConfigError: An argument of the command is wrong, so nothing was checked.
        HiddenError: The check has a bug, so there is no verdict.
    """
    try:
        with within_step(name):
            value = check()
    except ConfigError:
        raise
    except TapestryError as error:
        steps.append(_failed(name, error))
        return None
    steps.append(CheckStep(name=name, status=ExitStatus.HOLDS, detail=describe(value)))
    return value


def _failed(name: str, error: TapestryError) -> CheckStep:
    return CheckStep(
        name=name,
        status=status_of(error),
        detail=str(error),
        code=error.code,
        foreign=getattr(error, "files", ()),
    )


def check_log(
    steps: list[CheckStep],
    directory: Path,
    check: Callable[["Audit"], _Entry],
    describe: Callable[[_Entry], str],
    *,
    bundle: Path | None,
    trust: bytes | None,
) -> "Statement | None":
    """Compare a folder with a verified bundle, by default the one near it.

    Returns the privacy statement of what was published, or None if nothing holds.

    ``check`` compares the folder with the log and returns its entry, which ``describe``
    puts in one line.

    Guarantees:
        The files beside the manifest are compared as well; none of them is only listed.
    """
    beside = directory.resolve().parent.parent / "bundle"
    if bundle is None and not beside.is_dir():
        error = IncompleteError(
            "no audit bundle at hand; name it with --bundle", code="bundle-missing"
        )
        steps.append(replace(_failed("log", error), checked=False))
        return None

    def compare() -> "tuple[str, Statement]":
        from tapestry_governance.audit.privacy_statement import state_privacy
        from tapestry_governance.audit.published_folders import check_copies

        audit = audited(bundle or beside, trust=trust, artifacts=False)
        entry = check(audit)
        if (fault := audit.faults.get(entry.name)) is not None:
            raise fault.at(f"the bundle's {entry.name} is faulty")
        state, policy = audit.state, audit.bundle.policy
        check_copies(
            directory, entry.name, state=state, entries=audit.entries, policy=policy
        )
        faulty = ", ".join(sorted(audit.faults))
        also = f"; faulty in the bundle, and not this: {faulty}" if faulty else ""
        return describe(entry) + also, state_privacy(state, entry.name)

    found = run(steps, "log", compare, lambda found: found[0])
    return None if found is None else found[1]


def members_step(found: "VoteCount | AdapterStanding") -> CheckStep:
    """Return the step that tells whether members approved a release, or an adapter's.

    Status 5 says that they did not, or that they withdrew it and the policy refuses it.
    """
    holds = found.may_be_used
    return CheckStep(
        name="members",
        status=ExitStatus.HOLDS if holds else ExitStatus.PROVISIONAL,
        detail=str(found),
        code=None if holds else found.code,
    )


def find(
    entries: Mapping[str, _Entry], *, kind: str, name: str, manifest_digest: str | None
) -> _Entry:
    """Find the entry that was published with these files, or under the folder's name.

    Of several with these files the one of the folder's name counts: anyone can publish
    the files of another once more.

    Raises:
        IncompleteError: The log has no such entry.
    """
    if name in entries and entries[name].manifest_digest == manifest_digest:
        return entries[name]
    for entry in entries.values():
        if entry.manifest_digest == manifest_digest:
            return entry
    if name in entries:
        return entries[name]
    raise IncompleteError(
        f"the log has no {kind} {name}; name a newer bundle with --bundle",
        code="name-not-published",
    )


def conclude(
    steps: Sequence[CheckStep],
    report: Mapping[str, Any],
    *,
    privacy: "Statement | None",
    trust: bytes | None,
    as_json: bool,
) -> ExitStatus:
    """Print the steps, or a report with them in it, and return the verdict.

    The epsilons of each institution come from the log, never from the folder. A note
    follows where the log holds by the bundle's own trust policy alone.
    """
    if any(s.name == "log" and s.status is ExitStatus.HOLDS for s in steps):
        note_trust(trust)
    verdict = worst(step.status for step in steps)
    if as_json:
        rows = [step.to_json() for step in steps]
        foreign = [name for step in steps for name in step.foreign]
        found = {"steps": rows, "foreign_files": foreign, "exit": int(verdict)}
        promises = None if privacy is None else [p.to_row() for p in privacy.promises]
        found["privacy"] = promises
        console.say_json({**report, **found})
    else:
        for step in steps:
            console.say(step)
        for line in _promises(privacy):
            console.say(f"{'':13}{'privacy':8}{line}")
    return verdict


def _promises(privacy: "Statement | None") -> list[str]:
    if privacy is None:
        return ["no statement without a log that holds; name its bundle with --bundle"]
    warned = [privacy.warning] if privacy.warning else []
    return [promise.to_line() for promise in privacy.promises] + warned


def audited(
    bundle: Path,
    *,
    trust: bytes | None,
    since: bytes | None = None,
    artifacts: bool = True,
) -> "Audit":
    """Verify a bundle.

    Without ``artifacts`` the releases and adapters in it may be faulty; all else holds.

    Raises:
        TapestryError: A step fails; the error has the verdict's kind and the step's
            code.
    """
    from tapestry_governance.audit.verify import verify

    audit = verify(bundle, trust=trust, since=since)
    step, verdict = audit.steps[-1], status(audit)
    detail, code = f"the bundle does not verify: {step.detail}", step.code or ""
    if verdict is ExitStatus.HOLDS or (audit.faults and not artifacts):
        return audit
    if verdict is ExitStatus.FOREIGN_FILE:
        raise ForeignFileError(detail, step.foreign, code=code)
    kinds = {
        ExitStatus.RULE_BROKEN: RuleError,
        ExitStatus.INCOMPLETE: IncompleteError,
    }
    raise kinds.get(verdict, VerificationError)(detail, code=code)
