"""Checks of a folder, one after the other: what each found, and the verdict of all.

Exit status as that of ``tapestry audit``: 0 it holds; 1 a check fails; 2 the log
breaks a rule; 3 something is missing or was not checked, so there is no verdict.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer

from tapestry.cli.audit import USAGE, VerdictGroup
from tapestry.errors import (
    ConfigError,
    IncompleteError,
    RuleError,
    TapestryError,
)
from tapestry_governance.audit import Audit, Verdict, verdict_of, verify
from tapestry_governance.events import AdapterPublished, ReleasePublished

_Entry = TypeVar("_Entry", AdapterPublished, ReleasePublished)


class FolderGroup(VerdictGroup):
    """Commands for which a folder or file that is not there is wrong usage."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            typer.echo(f"tapestry {ctx.info_name}: {error}", err=True)
            raise typer.Exit(USAGE) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One check."""

    name: str
    verdict: Verdict
    detail: str
    checked: bool = True

    def __str__(self) -> str:
        """One line for people."""
        return f"{_word(self):<13}{self.name:<8}{self.detail}"

    def to_json(self) -> dict[str, Any]:
        """One object for machines; ``holds`` is null if nothing was checked."""
        holds = self.verdict is Verdict.HOLDS if self.checked else None
        return {"name": self.name, "holds": holds, "detail": self.detail}


def run(
    steps: list[Step],
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
        steps.append(Step(name=name, verdict=verdict_of(error), detail=str(error)))
        return None
    steps.append(Step(name=name, verdict=Verdict.HOLDS, detail=describe(value)))
    return value


def check_log(
    steps: list[Step],
    directory: Path,
    check: Callable[[Audit], Any],
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
        step = Step(
            name="log", verdict=Verdict.INCOMPLETE, detail=detail, checked=False
        )
        steps.append(step)
        return
    run(
        steps,
        "log",
        lambda: check(_audited(bundle or beside, trust=trust)),
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
    raise IncompleteError(f"the log has no {kind} {name}")


def conclude(
    steps: Sequence[Step], report: Mapping[str, Any], *, as_json: bool
) -> NoReturn:
    """Print the steps, or a report with them in it, and exit with the verdict."""
    verdict = _overall(steps)
    if as_json:
        rows = [step.to_json() for step in steps]
        found = {**report, "steps": rows, "exit": int(verdict)}
        print(json.dumps(found, indent=2))
    else:
        for step in steps:
            print(step)
    raise typer.Exit(int(verdict))


def _audited(bundle: Path, *, trust: bytes | None) -> Audit:
    """Verify a bundle.

    Raises:
        TapestryError: It does not hold; the kind of error is the kind of verdict.
    """
    audit = verify(bundle, trust=trust)
    detail = f"the bundle does not verify: {audit.steps[-1].detail}"
    match audit.verdict:
        case Verdict.HOLDS:
            return audit
        case Verdict.RULE_BROKEN:
            raise RuleError(detail)
        case Verdict.INCOMPLETE:
            raise IncompleteError(detail)
        case _:
            raise TapestryError(detail)


def _overall(steps: Sequence[Step]) -> Verdict:
    """The worst that was found; what is missing mends nothing."""
    verdicts = [step.verdict for step in steps]
    found = [verdict for verdict in verdicts if verdict is not Verdict.INCOMPLETE]
    worst = max(found, default=Verdict.HOLDS)
    return max(verdicts) if worst is Verdict.HOLDS else worst


def log_holds(steps: Sequence[Step]) -> bool:
    """Whether the log was checked, and vouches for the folder."""
    return any(s.name == "log" and s.verdict is Verdict.HOLDS for s in steps)


def _word(step: Step) -> str:
    if not step.checked:
        return "not checked"
    words = {0: "holds", 1: "FAILS", 2: "RULE BROKEN", 3: "INCOMPLETE"}
    return words[int(step.verdict)]
