"""``tapestry audit``: check everything, from files alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH, Argument, CommandGroup, as_json
from tapestry.cli.exit_status import ExitStatus

if TYPE_CHECKING:
    from tapestry_governance.audit.privacy_accounts import Account
    from tapestry_governance.audit.verify import Audit
    from tapestry_governance.vote_count import VoteCount

WORDS = {
    ExitStatus.HOLDS: "holds",
    ExitStatus.FAILED: "FAILS",
    ExitStatus.RULE_BROKEN: "RULE BROKEN",
    ExitStatus.INCOMPLETE: "INCOMPLETE",
    ExitStatus.FOREIGN_FILE: "FOREIGN FILE",
    ExitStatus.PROVISIONAL: "PROVISIONAL",
}
"""The word that people read for each verdict."""

bundle_folder = click.argument(
    "bundle", cls=Argument, type=PATH, metavar="BUNDLE", help="The bundle's folder."
)


def read_trust(
    _context: click.Context, _option: click.Parameter, path: Path | None
) -> bytes | None:
    """Read the trust policy or checkpoint that an option names."""
    from tapestry_governance.audit.bundle import read_small

    return None if path is None else read_small(path)


trust_file = click.option(
    "--trust",
    type=PATH,
    callback=read_trust,
    metavar="FILE",
    help="The trust policy that you hold; default: the bundle's own trust-policy.txt.",
)


@click.group(cls=CommandGroup)
def app() -> None:
    """Check everything, from files alone."""


@app.command("verify")
@bundle_folder
@trust_file
@click.option(
    "--since",
    type=PATH,
    callback=read_trust,
    metavar="FILE",
    help="A checkpoint that you kept from an earlier audit.",
)
@as_json
def verify_command(
    bundle: Path, trust: bytes | None, since: bytes | None, as_json: bool
) -> ExitStatus:
    """Verify the whole log and all that comes with it."""
    audit = _audit(bundle, trust=trust, since=since)
    if as_json:
        steps = [
            {
                "name": step.name,
                "holds": int(step.verdict) == ExitStatus.HOLDS,
                "detail": step.detail,
                "code": step.code,
                "counts": step.counts,
            }
            for step in audit.steps
        ]
        accounts = [_row(each) for each in audit.accounts]
        releases = {each.release: each.to_json() for each in _counts(audit)}
        report = {"steps": steps, "accounts": accounts, "releases": releases}
        console.say_json(report | _verdict(audit))
    else:
        _print_steps(audit)
    return status(audit)


@app.command("account")
@bundle_folder
@trust_file
@as_json
def account_command(bundle: Path, trust: bytes | None, as_json: bool) -> ExitStatus:
    """Recompute epsilon per node and block; the bundle is verified first."""
    audit = _audit(bundle, trust=trust)
    if as_json:
        report = {"accounts": [_row(each) for each in audit.accounts]}
        console.say_json(report | _verdict(audit))
    else:
        _print_accounts(audit)
    return status(audit)


@app.command("statement")
@bundle_folder
@click.argument(
    "name",
    cls=Argument,
    metavar="NAME",
    help="A release or adapter in the log, such as base-1.",
)
@trust_file
@as_json
def statement_command(
    bundle: Path, name: str, trust: bytes | None, as_json: bool
) -> ExitStatus:
    """Say what a release or adapter promises; the bundle is verified first."""
    from tapestry_governance.audit.privacy_statement import state_privacy, to_markdown

    audit = _audit(bundle, trust=trust)
    if not log_holds(audit) or name in audit.faults:
        return _say_failure(audit, as_json=as_json)
    note_faults(audit)
    statement = state_privacy(audit.state, name)
    if as_json:
        console.say_json(statement.to_json())
    else:
        console.say_page(to_markdown(statement))
    return ExitStatus.HOLDS


@app.command("trace")
@bundle_folder
@click.argument(
    "release", cls=Argument, metavar="RELEASE", help="A release, such as base-1."
)
@trust_file
@as_json
def trace_command(
    bundle: Path, release: str, trust: bytes | None, as_json: bool
) -> ExitStatus:
    """Walk from a release to its rounds, rules, software, accounts and votes.

    The bundle is verified first. Status 5 says that members have not approved it, or
    that they withdrew it, unless the policy only warns of that.
    """
    from tapestry.errors import IncompleteError
    from tapestry_governance.audit.release_trace import trace

    audit = _audit(bundle, trust=trust)
    if not log_holds(audit):
        return _say_failure(audit, as_json=as_json)
    note_faults(audit)
    if release not in audit.state.releases:
        raise IncompleteError(
            f"the log has no release {release}; name a newer bundle",
            code="name-not-published",
        )
    found = trace(audit, release)
    if as_json:
        console.say_json(found.to_json())
    else:
        for line in found.lines():
            console.say(line)
    holds = found.count.may_be_used
    return ExitStatus.HOLDS if holds else ExitStatus.PROVISIONAL


@app.command("software")
@click.option(
    "--files",
    is_flag=True,
    help="Read every installed file, and compare it with its package's RECORD.",
)
@click.option(
    "--policy",
    "bundle",
    type=PATH,
    metavar="BUNDLE",
    help="A bundle; its policy must allow this software. It is verified first.",
)
@trust_file
@as_json
def software_command(
    *, files: bool, bundle: Path | None, trust: bytes | None, as_json: bool
) -> ExitStatus:
    """Say what software a node is here, and whether a policy allows it.

    The digest is what rounds name and policies list. It covers all files of this
    program, each package that a node requires by its RECORD, the interpreter, and the
    environment variables that change results.
    """
    from tapestry.software_digest import software_manifest
    from tapestry_governance.software_report import SoftwareReport

    allowed = None
    if bundle is not None:
        audit = _audit(bundle, trust=trust)
        if not log_holds(audit):
            return _say_failure(audit, as_json=as_json)
        allowed = audit.state.policy.software
    found = SoftwareReport.of(software_manifest(), allowed=allowed, reads_files=files)
    if as_json:
        console.say_json(found.to_json())
    else:
        for line in found.lines():
            console.say(line)
    return found.status


def status(audit: "Audit") -> ExitStatus:
    """Return the verdict of an audit as an exit status."""
    return ExitStatus(int(audit.verdict))


def log_holds(audit: "Audit") -> bool:
    """Return whether all holds but folders of releases or adapters in the bundle."""
    return status(audit) is ExitStatus.HOLDS or bool(audit.faults)


def note_faults(audit: "Audit") -> None:
    """Tell which releases and adapters in the bundle are faulty."""
    for name, fault in sorted(audit.faults.items()):
        console.note(f"note: in the bundle {name} is faulty: {fault}")


def _audit(bundle: Path, *, trust: bytes | None, since: bytes | None = None) -> "Audit":
    from tapestry_governance.audit.verify import verify

    return verify(bundle, trust=trust, since=since)


def _say_failure(audit: "Audit", *, as_json: bool) -> ExitStatus:
    if as_json:
        console.say_json(_verdict(audit))
    else:
        _say_reason(audit)
    return status(audit)


def _say_reason(audit: "Audit") -> None:
    console.say(f"{WORDS[status(audit)]}: {audit.steps[-1].detail}")


def _print_steps(audit: "Audit") -> None:
    for step in audit.steps:
        word = WORDS[ExitStatus(int(step.verdict))]
        console.say(f"{word:<13}{step.name:<12}{step.detail}")
    if status(audit) is not ExitStatus.HOLDS:
        _say_reason(audit)
        return
    note_trust(audit.trust_file)
    for count in _counts(audit):
        console.say(f"{'members':<13}{count.release:<12}{count}")
    for each in audit.unchecked:
        console.say(f"{'not checked':<13}{each}")
    parts = len(audit.unchecked)
    but = f"; {parts} parts were not checked, as they are not here" if parts else ""
    console.say(f"HOLDS: {len(audit.steps)} steps, every one holds{but}")


def _counts(audit: "Audit") -> list["VoteCount"]:
    """Count the votes on all releases of a log that holds."""
    from tapestry_governance.vote_count import newest_counts

    if not log_holds(audit):
        return []
    state = audit.state
    return newest_counts(state, size=state.size, most=state.size)


def note_trust(trust: bytes | None) -> None:
    """Tell a reader who gave no trust policy that the bundle's own was trusted."""
    if trust is None:
        console.note(
            "note: trusted was the bundle's own trust-policy.txt; give the one you hold"
            " with --trust"
        )


def _print_accounts(audit: "Audit") -> None:
    from tapestry_governance.audit.privacy_accounts import shown

    for each in audit.accounts:
        alone, lacks = each.epsilon_fallback, each.unlogged
        collusion = "" if alone is None else f" {shown(alone)} if all others collude,"
        delta = "" if each.target_delta is None else f" delta {each.target_delta},"
        console.say(
            f"{each.node:<16}block {each.block:<4}epsilon"
            f" {shown(each.recomputed):>9} recomputed,"
            f" {each.reported or 'none':>9} reported,{collusion}{delta}"
            f" {each.rounds} rounds, {each.adapters} adapters, {each.steps} steps"
            + (f"; the log lacks {lacks} of its accounts" if lacks else "")
            + ("; reported is above, and counts" if each.is_above else "")
        )
    if status(audit) is not ExitStatus.HOLDS:
        _say_reason(audit)


def _verdict(audit: "Audit") -> dict[str, Any]:
    found = status(audit)
    word = WORDS[found].lower().replace(" ", "_")
    last = audit.steps[-1]
    reason = None if found is ExitStatus.HOLDS else last.detail
    verdict = {"verdict": word, "exit": int(found), "reason": reason, "code": last.code}
    faults = {
        name: {"code": fault.code, "detail": str(fault)}
        for name, fault in sorted(audit.faults.items())
    }
    return verdict | {
        "unchecked": audit.unchecked,
        "foreign_files": list(last.foreign),
        "faulty_artifacts": faults,
    }


def _row(account: "Account") -> dict[str, Any]:
    from tapestry.encoding import decode_decimal
    from tapestry_governance.audit.privacy_accounts import in_words

    reported = account.reported
    return {
        "node": account.node,
        "block": account.block,
        "epsilon": in_words(account.epsilon),
        "epsilon_recomputed": in_words(account.recomputed),
        "epsilon_reported": None if reported is None else decode_decimal(reported),
        "epsilon_fallback": in_words(account.epsilon_fallback),
        "target_delta": account.target_delta,
        "rounds": account.rounds,
        "adapters": account.adapters,
        "steps": account.steps,
        "unlogged": account.unlogged,
        "unit": account.unit,
        "adjacency": "add-remove",
        "understated": account.is_understated,
    }
