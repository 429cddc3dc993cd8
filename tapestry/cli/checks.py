"""Checks of a folder, one after the other: what each found, and the verdict of all.

Exit status as that of ``tapestry audit``: 0 it holds; 1 a check fails; 2 the log
breaks a rule; 3 something is missing or was not checked, so there is no verdict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from tapestry.cli.audit import USAGE, VerdictGroup
from tapestry.errors import (
    ConfigError,
    IncompleteError,
    ResourceError,
    RuleError,
    TapestryError,
)
from tapestry_governance.audit import Audit, Verdict, verify

NO_BUNDLE = "no audit bundle at hand; name it with --bundle"


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
        steps.append(Step(name=name, verdict=_verdict(error), detail=str(error)))
        return None
    steps.append(Step(name=name, verdict=Verdict.HOLDS, detail=describe(value)))
    return value


def skip(steps: list[Step], name: str, detail: str) -> None:
    """Note that something could not be checked, and how it could."""
    verdict = Verdict.INCOMPLETE
    steps.append(Step(name=name, verdict=verdict, detail=detail, checked=False))


def audited(bundle: Path, *, trust: bytes | None) -> Audit:
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


def overall(steps: Sequence[Step]) -> Verdict:
    """The worst that was found; what is missing mends nothing."""
    verdicts = [step.verdict for step in steps]
    found = [verdict for verdict in verdicts if verdict is not Verdict.INCOMPLETE]
    worst = max(found, default=Verdict.HOLDS)
    return max(verdicts) if worst is Verdict.HOLDS else worst


def log_holds(steps: Sequence[Step]) -> bool:
    """Whether the log was checked, and vouches for the folder."""
    return any(s.name == "log" and s.verdict is Verdict.HOLDS for s in steps)


def _verdict(error: TapestryError) -> Verdict:
    match error:
        case RuleError():
            return Verdict.RULE_BROKEN
        case IncompleteError() | ResourceError():
            return Verdict.INCOMPLETE
        case _:
            return Verdict.FAILS


def _word(step: Step) -> str:
    if not step.checked:
        return "not checked"
    words = {0: "holds", 1: "FAILS", 2: "RULE BROKEN", 3: "INCOMPLETE"}
    return words[int(step.verdict)]
