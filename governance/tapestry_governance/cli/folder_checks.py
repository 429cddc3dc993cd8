"""Checks of a folder, one after the other: what each found, and the verdict of all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from tapestry_governance.cli.audit import WORDS, status

if TYPE_CHECKING:
    from tapestry_governance.audit.verify import Audit
    from tapestry_governance.events.model_events import (
        AdapterPublished,
        ReleasePublished,
    )

_Entry = TypeVar("_Entry", "AdapterPublished", "ReleasePublished")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckStep:
    """One check."""

    name: str
    status: ExitStatus
    detail: str
    checked: bool = True
    foreign: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for people."""
        return f"{_word(self):<13}{self.name:<8}{self.detail}"

    def to_json(self) -> dict[str, Any]:
        """One object for machines; ``holds`` is null if nothing was checked."""
        holds = self.status is ExitStatus.HOLDS if self.checked else None
        return {"name": self.name, "holds": holds, "detail": self.detail}


def run(
    steps: list[CheckStep],
    name: str,
    check: Callable[[], Any],
    describe: Callable[[Any], str],
) -> Any:
    """Run one check and note what came of it; None if it failed.

    Raises:
        ConfigError: The check was asked for in the wrong way.
    """
    try:
        value = check()
    except ConfigError:
        raise
    except TapestryError as error:
        foreign = getattr(error, "files", ())
        status = status_of(error)
        steps.append(
            CheckStep(name=name, status=status, detail=str(error), foreign=foreign)
        )
        return None
    steps.append(CheckStep(name=name, status=ExitStatus.HOLDS, detail=describe(value)))
    return value


def check_log(
    steps: list[CheckStep],
    directory: Path,
    check: Callable[["Audit"], Any],
    describe: Callable[[Any], str],
    *,
    bundle: Path | None,
    trust: bytes | None,
) -> None:
    """Hold a folder against a verified bundle, by default the one near it.

    Args:
        steps: Where to note what came of it.
        directory: The folder; ``bundle/`` is looked for beside its parent.
        check: Holds the folder against the log, and returns its entry.
        describe: Says what the entry is.
        bundle: The bundle, if it lies elsewhere.
        trust: The trust policy that the reader holds.
    """
    beside = directory.resolve().parent.parent / "bundle"
    if bundle is None and not beside.is_dir():
        detail = "no audit bundle at hand; name it with --bundle"
        missing = ExitStatus.INCOMPLETE
        steps.append(
            CheckStep(name="log", status=missing, detail=detail, checked=False)
        )
        return
    run(
        steps,
        "log",
        lambda: check(audited(bundle or beside, trust=trust)),
        describe,
    )


def find(
    entries: Mapping[str, _Entry], *, kind: str, name: str, manifest_digest: str | None
) -> _Entry:
    """Find what was published with these files, or under the folder's name.

    Raises:
        IncompleteError: Nothing was.
    """
    for entry in entries.values():
        if entry.manifest_digest == manifest_digest:
            return entry
    if name in entries:
        return entries[name]
    raise IncompleteError(f"the log has no {kind} {name}", code="name-not-published")


def conclude(
    steps: Sequence[CheckStep], report: Mapping[str, Any], *, as_json: bool
) -> ExitStatus:
    """Print the steps, or a report with them in it, and return the verdict."""
    verdict = worst(step.status for step in steps)
    if as_json:
        rows = [step.to_json() for step in steps]
        foreign = [name for step in steps for name in step.foreign]
        found = {"steps": rows, "foreign_files": foreign, "exit": int(verdict)}
        console.say_json({**report, **found})
    else:
        for step in steps:
            console.say(step)
    return verdict


def audited(bundle: Path, *, trust: bytes | None) -> "Audit":
    """Verify a bundle.

    Raises:
        TapestryError: It does not hold; the kind of error is the kind of verdict.
    """
    from tapestry_governance.audit.verify import verify

    audit = verify(bundle, trust=trust)
    detail = f"the bundle does not verify: {audit.steps[-1].detail}"
    match status(audit):
        case ExitStatus.HOLDS:
            return audit
        case ExitStatus.RULE_BROKEN:
            raise RuleError(detail)
        case ExitStatus.INCOMPLETE:
            raise IncompleteError(detail)
        case ExitStatus.FOREIGN_FILE:
            raise ForeignFileError(detail, audit.steps[-1].foreign)
        case _:
            raise VerificationError(detail)


def log_holds(steps: Sequence[CheckStep]) -> bool:
    """Whether the log was checked, and vouches for the folder."""
    return any(s.name == "log" and s.status is ExitStatus.HOLDS for s in steps)


def _word(step: CheckStep) -> str:
    return WORDS[step.status] if step.checked else "not checked"
