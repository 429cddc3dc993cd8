"""``tapestry audit``: anyone checks everything, from files alone.

Exit status: 0 it holds; 1 a signature, proof or digest does not; 2 a rule is broken;
3 something is missing or unknown, so there is no verdict; 64 wrong usage.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from click.exceptions import UsageError
from typer.core import TyperGroup

from tapestry.encoding import decode_fraction
from tapestry.errors import ConfigError, IncompleteError
from tapestry_governance.account import Account
from tapestry_governance.audit import Audit, Verdict, verify
from tapestry_governance.bundle import read_small
from tapestry_governance.statement import state_privacy, to_markdown

USAGE = 64
_VERDICTS = {
    Verdict.HOLDS: "holds",
    Verdict.FAILS: "FAILS",
    Verdict.RULE_BROKEN: "RULE BROKEN",
    Verdict.INCOMPLETE: "INCOMPLETE",
}


class VerdictGroup(TyperGroup):
    """Commands whose wrong usage exits 64: 2 means that a rule is broken."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what comes before a command; without any, show the help."""
        with _wrong_usage():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with _wrong_usage():
            return super().invoke(ctx)


@contextmanager
def _wrong_usage() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        error.exit_code = USAGE  # type: ignore[misc]  # of this one error alone
        raise


app = typer.Typer(
    cls=VerdictGroup, help="Check everything, from files alone.", no_args_is_help=True
)

BundleFolder = Annotated[Path, typer.Argument(help="The bundle's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")]
TrustFile = Annotated[
    Path | None, typer.Option(help="The policy.txt you hold; default: the bundle's.")
]
SinceFile = Annotated[
    Path | None, typer.Option(help="A checkpoint you kept from an earlier audit.")
]


@app.command("verify")
def verify_command(
    bundle: BundleFolder,
    trust: TrustFile = None,
    since: SinceFile = None,
    as_json: AsJson = False,
) -> None:
    """Verify the whole log and all that comes with it."""
    audit = _audit(bundle, trust=trust, since=since)
    if as_json:
        print(json.dumps(_report(audit), indent=2))
    else:
        _print_steps(audit)
    raise typer.Exit(int(audit.verdict))


@app.command("account")
def account_command(
    bundle: BundleFolder,
    trust: TrustFile = None,
    as_json: AsJson = False,
) -> None:
    """Recompute epsilon per node and run; the bundle is verified first."""
    audit = _audit(bundle, trust=trust, since=None)
    if as_json:
        report = {"accounts": [_row(each) for each in audit.accounts]}
        print(json.dumps(report | _verdict(audit), indent=2))
    else:
        _print_accounts(audit)
    raise typer.Exit(int(audit.verdict))


@app.command("statement")
def statement_command(
    bundle: BundleFolder,
    name: Annotated[str, typer.Argument(help="A release or adapter in the log.")],
    trust: TrustFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what a release or adapter promises; the bundle is verified first."""
    audit = _audit(bundle, trust=trust, since=None)
    if audit.verdict is not Verdict.HOLDS:
        print(f"{_VERDICTS[audit.verdict]}: {audit.steps[-1].detail}")
        raise typer.Exit(int(audit.verdict))
    try:
        statement = state_privacy(audit.events, name)
    except IncompleteError as error:
        typer.echo(f"tapestry audit: {error}", err=True)
        raise typer.Exit(int(Verdict.INCOMPLETE)) from None
    if as_json:
        print(json.dumps(statement.to_json(), indent=2))
    else:
        print(to_markdown(statement), end="")


def _audit(bundle: Path, *, trust: Path | None, since: Path | None) -> Audit:
    try:
        return verify(
            bundle,
            trust=None if trust is None else read_small(trust),
            since=None if since is None else read_small(since),
        )
    except ConfigError as error:
        _refuse_usage(str(error))


def _refuse_usage(message: str) -> NoReturn:
    typer.echo(f"tapestry audit: {message}", err=True)
    raise typer.Exit(USAGE)


def _print_steps(audit: Audit) -> None:
    for step in audit.steps:
        print(f"{_VERDICTS[step.verdict]:<12}{step.name:<12}{step.detail}")
    if audit.verdict is not Verdict.HOLDS:
        print(f"{_VERDICTS[audit.verdict]}: {audit.steps[-1].detail}")
        return
    note_trust(audit.trust_file)
    lacking = " and ".join(audit.unchecked)
    but = f"; not in the bundle, so not checked: {lacking}" if lacking else ""
    print(f"HOLDS: {len(audit.steps)} steps, every one holds{but}")


def note_trust(trust: bytes | None) -> None:
    """Remind of where the trust comes from, unless the reader brought it along."""
    if trust is None:
        typer.echo(
            "note: trusted was the bundle's own policy.txt; give the one you hold"
            " with --trust",
            err=True,
        )


def _print_accounts(audit: Audit) -> None:
    for each in audit.accounts:
        run = each.run_id or "(all runs)"
        print(
            f"{each.node:<16}{run:<24}"
            f"epsilon {_shown(each.recomputed):>9} recomputed,"
            f" {each.reported or 'none':>9} reported,"
            f"{_fallback(each)}"
            f" delta {each.target_delta}, {each.rounds} rounds,"
            f" {each.adapters} adapters, {each.steps} steps"
        )
    if audit.verdict is not Verdict.HOLDS:
        print(f"{_VERDICTS[audit.verdict]}: {audit.steps[-1].detail}")


def _fallback(account: Account) -> str:
    if account.fallback_recomputed is None:
        return ""
    return f" {account.fallback_recomputed:.4f} if all others collude,"


def _shown(epsilon: float | None) -> str:
    return "none" if epsilon is None else f"{epsilon:.4f}"


def _report(audit: Audit) -> dict[str, Any]:
    steps = [
        {
            "name": step.name,
            "holds": step.verdict is Verdict.HOLDS,
            "detail": step.detail,
            "counts": step.counts,
        }
        for step in audit.steps
    ]
    accounts = [_row(each) for each in audit.accounts]
    return {"steps": steps, "accounts": accounts} | _verdict(audit)


def _verdict(audit: Audit) -> dict[str, Any]:
    names = {
        Verdict.HOLDS: "holds",
        Verdict.FAILS: "fails",
        Verdict.RULE_BROKEN: "rule_broken",
        Verdict.INCOMPLETE: "incomplete",
    }
    verdict = audit.verdict
    reason = None if verdict is Verdict.HOLDS else audit.steps[-1].detail
    found = {"verdict": names[verdict], "exit": int(verdict), "reason": reason}
    return found | {"unchecked": audit.unchecked}


def _row(account: Account) -> dict[str, Any]:
    reported = account.reported
    return {
        "node": account.node,
        "run": account.run_id,
        "epsilon_recomputed": account.recomputed,
        "epsilon_reported": None if reported is None else decode_fraction(reported),
        "epsilon_fallback": account.fallback_recomputed,
        "target_delta": account.target_delta,
        "rounds": account.rounds,
        "adapters": account.adapters,
        "steps": account.steps,
        "unit": "record",
        "adjacency": "add-remove",
        "understated": account.is_understated,
    }
