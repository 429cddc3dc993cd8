"""``tapestry governance propose | list | export | vote``: what members decide."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH, Argument, Command, as_json
from tapestry.cli.passphrases import passphrase_file, unlock
from tapestry.errors import ConfigError
from tapestry_governance.cli.audit import trust_file

if TYPE_CHECKING:
    from tapestry_governance.ballot_paper import OpenedPaper
    from tapestry_governance.events.member_events import Proposal
    from tapestry_governance.member_view import MemberView

node_option = click.option(
    "--node", type=PATH, metavar="DIR", help="A node's folder, whose mirror is read."
)
bundle_option = click.option(
    "--bundle", type=PATH, metavar="DIR", help="An audit bundle, instead of a node."
)
key_option = click.option(
    "--key",
    type=PATH,
    metavar="FILE",
    help="The root key; default: keys/root.key in the node's folder.",
)
output_option = click.option(
    "--output", "-o", type=PATH, metavar="FILE", help="Where the file is written."
)


class _ProposeOptions(TypedDict):
    what: tuple[str, ...]
    reason: str | None
    node: Path | None
    bundle: Path | None
    trust: bytes | None
    key: Path | None
    output: Path | None
    passphrase_file: Path | None
    as_json: bool


@click.command(cls=Command)
@click.argument(
    "kind",
    cls=Argument,
    metavar="KIND",
    help="One of policy, admit, remove, root, coordinator, pause, resume, withdraw.",
)
@click.argument(
    "what",
    cls=Argument,
    metavar="[WHAT]...",
    nargs=-1,
    default=(),
    help="For policy FILE.toml, for admit REQUEST, for remove NAME, for root NAME and"
    " KEY.pub, for coordinator INVITATION, for withdraw NAME.",
)
@click.option(
    "--reason",
    metavar="CODE",
    help="With withdraw: a word, such as unsafe. What is compromised or unlawful_data"
    " is refused under every policy.",
)
@node_option
@bundle_option
@trust_file
@key_option
@output_option
@passphrase_file
@as_json
def propose(kind: str, **given: Unpack[_ProposeOptions]) -> None:
    """Propose something to the members, with an institution's root key.

    It is checked against the log and shown in words. Hand the file in with tapestry
    node submit, at any member's node.
    """
    from tapestry.storage.durable_files import replace_file
    from tapestry_governance import ballot_paper
    from tapestry_governance.proposal_drafts import draft

    view = _view(given["node"], given["bundle"], given["trust"])
    proposal = draft(kind, given["what"], state=view.state, reason=given["reason"])
    place = given["output"] or Path(f"{kind}.proposal")
    if not given["as_json"]:
        for line in _in_words(proposal, view):
            console.say(line)
    root = unlock(_root_path(given["key"], given["node"]), given["passphrase_file"])
    entry = ballot_paper.propose(view, proposal, root=root, now=datetime.now(UTC))
    replace_file(place, entry)
    _say_written("proposal", place, as_json=given["as_json"])


@click.command("list", cls=Command)
@node_option
@bundle_option
@trust_file
@as_json
def list_command(
    node: Path | None, bundle: Path | None, trust: bytes | None, as_json: bool
) -> None:
    """List what is and was voted on: proposals and releases, with their votes."""
    from tapestry_governance.vote_count import count_ballots

    view = _view(node, bundle, trust)
    rows = count_ballots(view.state)
    if as_json:
        found = {"entries": len(view.entries), "ballots": [asdict(row) for row in rows]}
        console.say_json(found)
        return
    for row in rows:
        votes = ", ".join(f"{name} {vote}" for name, vote in row.votes.items())
        at = "" if row.decided is None else f"; decided by entry {row.decided}"
        console.say(
            f"{row.index:>6}  {row.what:<24} {row.standing:<11}"
            f" {row.yes} of {row.needed} yes; {votes or 'no vote'}{at}"
        )
    if not rows:
        console.say("nothing was proposed, and no release published")


@click.command(cls=Command)
@click.argument(
    "subject",
    cls=Argument,
    metavar="ENTRY",
    help="The index of a proposal, as list shows it; or the name of a release.",
)
@node_option
@bundle_option
@trust_file
@output_option
@as_json
def export(
    subject: str,
    node: Path | None,
    bundle: Path | None,
    trust: bytes | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write a ballot: all that a machine needs to vote that has only the root key."""
    from tapestry.storage.durable_files import replace_file
    from tapestry_governance import ballot_paper

    view = _view(node, bundle, trust)
    index = ballot_paper.index_of(view, subject)
    place = output or Path(f"{subject}.ballot")
    replace_file(place, ballot_paper.make_paper(view, index).encode())
    if as_json:
        console.say_json({"ballot": str(place)})
    else:
        console.say(f"ballot  {place}: tapestry governance vote {place} yes --key FILE")


class _VoteOptions(TypedDict):
    node: Path | None
    bundle: Path | None
    trust: bytes | None
    key: Path | None
    reasons: Path | None
    output: Path | None
    passphrase_file: Path | None
    as_json: bool


@click.command(cls=Command)
@click.argument(
    "subject",
    cls=Argument,
    metavar="BALLOT",
    help="The ballot's file; or index or release, with --node or --bundle.",
)
@click.argument("choice", cls=Argument, metavar="VOTE", help="One of yes, no, abstain.")
@node_option
@bundle_option
@trust_file
@key_option
@click.option(
    "--reasons",
    type=PATH,
    metavar="FILE",
    help="A document with the reasons; the log gets its salted digest.",
)
@output_option
@passphrase_file
@as_json
def vote(subject: str, choice: str, **given: Unpack[_VoteOptions]) -> None:
    """Vote on a proposal or a release, with an institution's root key.

    What is signed is shown first. The last vote of a member counts, until the decision
    is in force. A no on a proposal of your own withdraws it. Hand the file in with
    tapestry node submit, at any member's node.
    """
    from tapestry.storage.durable_files import replace_file
    from tapestry_governance import ballot_paper
    from tapestry_governance.plain_words import paper_lines

    if choice not in ballot_paper.VOTES:
        message = f"{choice!r} is no vote; say yes, no or abstain"
        raise ConfigError(message, code="usage")
    opened = _paper(subject, given)
    from_file = given["node"] is None and given["bundle"] is None
    is_held = given["trust"] is not None
    if from_file and not is_held:
        console.note(
            "note: without --trust the ballot's own witnesses count: it agrees with"
            " itself, and who made it is not known"
        )
    if not given["as_json"]:
        for line in paper_lines(opened, from_file=from_file, is_held=is_held):
            console.say(line)
        console.say(f"vote      {choice}")
    digest, salt = None, b""
    if given["reasons"] is not None:
        digest, salt = _salted(given["reasons"])
    root = unlock(_root_path(given["key"], given["node"]), given["passphrase_file"])
    now = datetime.now(UTC)
    meant = ballot_paper.VOTES[choice]
    entry = ballot_paper.cast(opened, meant, root=root, reasons=digest, now=now)
    name = ballot_paper.voter(opened.paper.voters, root.verify_key)
    if choice == "no" and opened.proposal and opened.signed.event.actor == name:
        console.note(f"note: {name} made this proposal; its no withdraws it for good")
    place = given["output"] or Path(f"{name}-{opened.paper.index}.vote")
    replace_file(place, entry)
    if salt:
        replace_file(place.with_suffix(".salt"), salt.hex().encode("ascii"), mode=0o600)
    _say_written("vote", place, as_json=given["as_json"])


def _view(node: Path | None, bundle: Path | None, trust: bytes | None) -> "MemberView":
    from tapestry_governance.member_view import open_view

    return open_view(node=node, bundle=bundle, trust=trust)


def _paper(subject: str, given: _VoteOptions) -> "OpenedPaper":
    """Open a ballot's file, or make the ballot of an entry."""
    from tapestry.tlog.trust_policy import TrustPolicy
    from tapestry_governance import ballot_paper
    from tapestry_governance.founding_files import read_document

    trust = None if given["trust"] is None else TrustPolicy.parse(given["trust"])
    if given["node"] is None and given["bundle"] is None:
        limit = ballot_paper.MAX_BYTES
        paper = read_document(Path(subject), ballot_paper.BallotPaper, limit=limit)
        return ballot_paper.open_paper(paper, trust=trust)
    view = _view(given["node"], given["bundle"], given["trust"])
    index = ballot_paper.index_of(view, subject)
    return ballot_paper.open_paper(ballot_paper.make_paper(view, index))


def _root_path(key: Path | None, node: Path | None) -> Path:
    """Return where the root key lies.

    Raises:
        ConfigError: It is not named, and no node's folder either.
    """
    if key is None and node is None:
        raise ConfigError("the root key signs; name it with --key", code="usage")
    return key or Path(node or "") / "keys" / "root.key"


def _salted(path: Path) -> tuple[str, bytes]:
    from tapestry_governance.ballot_paper import salted_digest
    from tapestry_governance.founding_files import read_bytes

    return salted_digest(read_bytes(path, limit=1 << 24))


def _in_words(proposal: "Proposal", view: "MemberView") -> Iterator[str]:
    from tapestry_governance.plain_words import proposal_lines

    yield f"log       {view.state.federation}, {len(view.entries)} entries"
    for line in proposal_lines(proposal, view.state.policy):
        yield f"proposal  {line}"


def _say_written(what: str, place: Path, *, as_json: bool) -> None:
    if as_json:
        console.say_json({what: str(place)})
    else:
        console.say(f"written   {place}: tapestry node submit FOLDER {place}")
