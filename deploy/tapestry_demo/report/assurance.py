"""The sections for experts: the coordinator's view, traffic, log, and how to verify."""

import shlex

from tapestry.html import numbers
from tapestry.html.markup import (
    Cell,
    Child,
    Markup,
    behind,
    element,
    joined,
    paragraphs,
    table,
)
from tapestry_demo.report import names
from tapestry_demo.report.data import SUSPECT, RunFigures, Sight
from tapestry_demo.report.links import Folder
from tapestry_demo.wire_tap import WireTap

Rows = list[list[Child | Cell]]

_SEEN = {
    True: Cell("yes", "\u25cf seen"),
    False: Cell("no", "\u25cb not seen"),
    None: Cell("yes", "? in doubt"),
}


def coordinator_view(tap: WireTap, *, is_private: bool) -> list[Sight]:
    """List what the coordinator saw, by what passed the tap and what messages can hold.

    ``is_private`` says that the log's accounts bound the privacy loss of every node.

    Returns:
        One row for each thing. The update of one institution has a row only if the tap
        saw uploads to test.
    """
    rows = [
        Sight(
            item="any private record",
            seen=tap.found > 0,
            detail=(
                "no message of the closed list has a place for a record; a publication"
                " carries an adapter's card, with public held-out text and what the"
                f" models answered to it{_searched(tap)}{_passed(tap)}"
            ),
        ),
        Sight(
            item="loss or gradient of any one institution",
            seen=False,
            detail="no message of the closed list has a field for them",
        ),
        Sight(
            item="sum of the updates of a round",
            seen=True,
            detail="this is what is aggregated"
            + (", with the noise of differential privacy" if is_private else ""),
        ),
        Sight(
            item="who took part, how many records each declared, when",
            seen=True,
            detail="in the log, which is public",
        ),
    ]
    if tap.p_value is not None:
        tested = Sight(
            item="the update of any one institution",
            seen=False if tap.p_value >= SUSPECT else None,
            detail=(
                f"{tap.uploads} uploads seen from the coordinator's place,"
                f" {int(tap.counts.sum()):,} bytes; chi-squared test against"
                f" uniform bytes: p = {tap.p_value:.3f}"
            ),
        )
        rows.insert(1, tested)
    return rows


def _searched(tap: WireTap) -> str:
    """Tell the result of the search for private text in all that was sent."""
    if not tap.searched:
        return ""
    times = "not once" if not tap.found else f"{tap.found} times"
    return (
        f"; {tap.searched} pieces of private text were looked for in all that was sent,"
        f" and found {times}"
    )


def _passed(tap: WireTap) -> str:
    """List the kinds of message that passed the tap; empty where it saw none."""
    return f"; seen were {', '.join(sorted(tap.kinds))}" if tap.kinds else ""


def sight(run: RunFigures) -> Markup:
    """Draw what the coordinator could see, and how that is known."""
    rows: Rows = [
        [numbers.capital(s.item), _SEEN[s.seen], numbers.capital(s.detail)]
        for s in run.sights
    ]
    header = ["What", "By the coordinator", "How one knows"]
    caption = "What passed through the coordinator\u2019s hands in this run"
    return joined(
        element("h2", {"id": "coordinator"}, "What the coordinator could see"),
        table(caption, header, rows, text_columns=3),
        _masks(run),
    )


def traffic(run: RunFigures) -> Markup:
    """Draw the bytes that left each institution, by kind of message."""
    sums: dict[str, int] = {}
    for by_kind in run.bytes_out.values():
        for kind, count in by_kind.items():
            sums[kind] = sums.get(kind, 0) + count
    nodes = run.nodes(run.bytes_out)
    rows: Rows = [
        [
            numbers.capital(names.message(kind)),
            *(numbers.size(run.bytes_out[n].get(kind)) for n in nodes),
        ]
        for kind in sorted(sums, key=lambda kind: (-sums[kind], kind))
    ]
    totals = [sum(run.bytes_out[n].values()) for n in nodes]
    rows.append(["All together", *map(numbers.size, totals)])
    header = ["Message", *(names.title(n) for n in nodes)]
    return joined(
        element("h3", {"id": "traffic"}, "What left each institution"),
        paragraphs(
            "The list of messages is closed: no other kind can leave. The most that "
            f"left one institution is {numbers.size(max(totals))}."
        ),
        table("Bytes that left each institution", header, rows),
    )


def members(run: RunFigures) -> Markup:
    """Draw the list of institutions, with the amount of their text."""
    rows: Rows = [
        [
            names.country(run, c.name),
            numbers.capital(c.institution),
            c.licence,
            numbers.whole(c.records),
        ]
        for c in run.countries
    ]
    header = [
        "Country",
        "Institution",
        "Licence of the text",
        "Private records, at least",
    ]
    caption = "Who took part, and with how many records; the log rounds them down."
    return joined(
        element("h3", {"id": "members"}, "Who took part"),
        table(caption, header, rows, text_columns=3),
    )


def time(run: RunFigures) -> Markup:
    """Draw the time of each stage."""
    slowest = sorted(run.seconds.items(), key=lambda item: (-item[1], item[0]))
    rows: Rows = [
        [numbers.capital(names.stage(stage)), numbers.duration(value)]
        for stage, value in slowest
    ]
    took = numbers.duration(sum(run.seconds.values()))
    peak = numbers.size(run.peak_rss_mb * 1e6)
    return joined(
        element("h3", {"id": "time"}, "Where the time went"),
        paragraphs(f"The run took {took} and {peak} of memory at its peak."),
        table("Time for each stage", ["Stage", "Time"], rows),
    )


def published(run: RunFigures, folder: Folder) -> Markup:
    """Draw what was published, with its digests."""
    rows: Rows = []
    for release in run.releases:
        card = f"releases/{release.name}/README.md"
        shown = folder.link(card, numbers.capital(names.model(run, release.name)))
        rows.append([shown, _promise(folder, release.name), _code(release.digest)])
    for adapter in run.adapters:
        card = f"adapters/{adapter.name}/README.md"
        name = names.adapter(adapter.country)
        shown = folder.link(card, numbers.capital(name))
        loss = (
            ""
            if adapter.epsilon is None
            else f"\u03b5 {numbers.epsilon(adapter.epsilon)}"
        )
        told = joined(loss, " " if loss else "", _promise(folder, adapter.name))
        rows.append([shown, told, _code(adapter.digest)])
    return joined(
        element("h3", {"id": "published"}, "What was published"),
        table(
            "The shared models and the adapters",
            ["Name", "Promise about records", "Digest"],
            rows,
            text_columns=3,
        ),
    )


def decisions(run: RunFigures) -> Markup:
    """Draw what members voted on, and how it stands; nothing where there was no vote.

    A release that members have not approved is a candidate.
    """
    if not run.decisions:
        return joined()
    rows: Rows = []
    for each in run.decisions:
        votes = [f"{names.title(name)}: {vote}" for name, vote in each.votes.items()]
        rows.append(
            [
                numbers.capital(names.model(run, each.what)),
                numbers.capital(each.standing),
                f"{numbers.whole(each.yes)} of {numbers.whole(each.needed)} needed",
                ", ".join(votes) or "no vote",
                "\u2013" if each.decided is None else f"Entry {each.decided}",
            ]
        )
    return joined(
        element("h3", {"id": "decisions"}, "What members decided"),
        table(
            "Releases and proposals, by the members\u2019 votes",
            ["What", "Standing", "Yes votes", "Votes", "Decided by"],
            rows,
            text_columns=5,
        ),
    )


def log(run: RunFigures, folder: Folder) -> Markup:
    """Draw the facts of the log."""
    facts = run.log
    signers = numbers.enumerated([names.signer(w) for w in facts.cosignatures])
    rows: Rows = [
        ["Name of the log", _code(facts.origin)],
        ["Entries", numbers.whole(facts.size)],
        ["Root of its tree", _code(facts.root)],
        ["Cosigned by", signers or "no member"],
        ["Cosignatures needed", numbers.whole(facts.quorum)],
        ["Size and root, signed", folder.link("bundle/checkpoint", "checkpoint")],
        [
            "Whose signatures count",
            folder.link("bundle/trust-policy.txt", "trust policy"),
        ],
    ]
    return joined(
        element("h3", {"id": "log"}, "The log"),
        paragraphs(
            "Every step is an entry, signed by who took it. The members cosign the "
            "log\u2019s size and root (a checkpoint). "
            + (
                "As many signed as are needed: a change, loss or reordering of an "
                "entry is noticed from now on."
                if facts.has_quorum
                else "Fewer signed than are needed, so this log proves nothing yet."
            )
        ),
        table(
            "The log as it was last cosigned", ["Fact", "Value"], rows, text_columns=2
        ),
    )


def check(run: RunFigures) -> Markup:
    """Draw the commands that verify all of this; they paste into a shell."""
    base = shlex.quote(f"releases/{run.releases[-1].name}")
    steps = [
        ("The whole log: every signature, proof and rule.", "audit verify bundle"),
        ("The privacy loss, recomputed from the log.", "audit account bundle"),
        ("The last shared model: its files.", f"release verify {base}"),
    ]
    if run.adapters:
        own = shlex.quote(f"adapters/{run.adapters[0].name}")
        what = "One adapter: its files, lineage and licence."
        steps.append((what, f"adapter verify {own}"))
        talk = f"chat --base {base} --adapter {own}"
        steps.append(("Both models, to talk to, side by side.", talk))
    items = [
        element("li", {}, what, element("pre", {}, f"tapestry {command}"))
        for what, command in steps
    ]
    return joined(
        element("h2", {"id": "verify"}, "Check it yourself"),
        element(
            "p",
            {},
            "Run these in the folder that holds this page, with the package installed; "
            "where the program is not on the path, ",
            element("code", {}, "python -m tapestry"),
            " stands for it. Audits need the files alone: no server, no graphics card, "
            "no machine-learning software. Each audit ends with status 0 if all holds.",
        ),
        element("ol", {"class": "plain steps"}, *items),
    )


def software(run: RunFigures) -> Markup:
    """Draw the versions, so that the run can be repeated."""
    rows: Rows = [
        [name, _code(version)] for name, version in sorted(run.software.items())
    ]
    return behind(
        "Software versions",
        table("Software", ["Name", "Version"], rows, text_columns=2),
    )


def _promise(folder: Folder, name: str) -> Child:
    path = f"privacy/{name}.md"
    return folder.link(path, "statement") if path in folder else ""


def _masks(run: RunFigures) -> Markup:
    s = run.secagg
    told = (
        f"The masks: {numbers.counted(s.n, 'institution')} in a round, at least "
        f"{numbers.short(s.threshold)} of them needed to open the sum, no sum opened "
        f"over fewer than {numbers.short(s.min_cohort)}, designed to hold against the "
        f"coordinator {_together(s.max_colluding)}. Each contribution has "
        f"{numbers.whole(s.length)} numbers."
    )
    return element("p", {"class": "note"}, told)


def _together(colluding: int) -> str:
    if not colluding:
        return "alone"
    return f"together with up to {numbers.counted(colluding, 'member')}"


def _code(text: str) -> Markup:
    return element("code", {}, text)
