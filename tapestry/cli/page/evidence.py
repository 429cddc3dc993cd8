"""What it cost, who saw what, and how to check all of it."""

from tapestry.cli.page import words
from tapestry.cli.page.data import Privacy, Run
from tapestry.cli.page.markup import (
    Child,
    Markup,
    behind,
    element,
    joined,
    paragraphs,
    table,
)
from tapestry.cli.page.plots import Bar, bars

_LIMITS = (
    (
        "An institution that lies about its own text.",
        (
            "Masks hide each contribution, so nobody can look whether it is honest. "
            "Bounds on its size, and gates on the sum, limit the harm; they do not "
            "exclude it."
        ),
    ),
    (
        "A coordinator that refuses service.",
        (
            "It can stop or delay the work. It cannot read a contribution or change "
            "the rules unseen."
        ),
    ),
    (
        "That an institution took part, when, and with how many bytes.",
        (
            "Masks and noise protect records, not the fact of membership. With few "
            "institutions, the sum says something about each one's text as a whole."
        ),
    ),
    (
        "More institutions in league with the coordinator than agreed.",
        "The masks hold up to the number of colluding members named above.",
    ),
    (
        "What the given base already knew.",
        (
            "The promise covers what was learned in this run, not what its makers "
            "trained on."
        ),
    ),
)


def privacy(run: Run) -> Markup:
    """Show what each institution spent, of what it had agreed to."""
    if not run.epsilon:
        return joined()
    nodes, promise = sorted(run.epsilon), run.privacy
    drawn = [
        Bar(
            label=run.label(node),
            value=run.spent(node) or 0.0,
            text=_spent_words(run, node),
            limit=run.epsilon_limit.get(node),
        )
        for node in nodes
    ]
    title = "Privacy loss epsilon of each institution against its limit"
    return joined(
        element("h2", {"id": "privacy"}, "What it cost in privacy"),
        paragraphs(
            promise.statement
            or "ε bounds how much anybody can learn about one record from all that was "
            "published: 0 is nothing. Each institution sets its own limit, and its "
            "node refuses to go beyond it. The dashed frame is the limit.",
        ),
        element("figure", {}, bars(title, drawn)),
        element("p", {"class": "note"}, _promise_words(promise)),
        behind("The same as a table", _epsilon_table(run, title)),
    )


def sight(run: Run) -> Markup:
    """Say what the coordinator could see, and how one knows."""
    if not run.coordinator_view:
        return joined()
    rows: list[list[Child]] = [
        [
            s.item,
            element(
                "td",
                {"class": "text " + ("yes" if s.seen else "no")},
                element("b", {}, "\u25cf seen" if s.seen else "\u25cb not seen"),
            ),
            s.detail or words.NONE,
        ]
        for s in run.coordinator_view
    ]
    header = ["What", "By the coordinator", "How one knows"]
    caption = "What passed through the coordinator's hands in this run"
    return joined(
        element("h2", {"id": "coordinator"}, "What the coordinator could see"),
        table(caption, header, rows, text_columns=3),
        _masks(run),
    )


def traffic(run: Run) -> Markup:
    """Show what left each institution."""
    if not run.bytes_out:
        return joined()
    totals = {node: sum(kinds.values()) for node, kinds in run.bytes_out.items()}
    nodes = sorted(totals)
    kinds = sorted(
        {kind for by_kind in run.bytes_out.values() for kind in by_kind},
        key=lambda kind: (
            -sum(by_kind.get(kind, 0) for by_kind in run.bytes_out.values())
        ),
    )
    drawn = [
        Bar(label=run.label(n), value=float(totals[n]), text=words.size(totals[n]))
        for n in nodes
    ]
    rows = [
        [kind, *(words.whole(run.bytes_out[n].get(kind)) for n in nodes)]
        for kind in kinds
    ]
    rows.append(["all together", *(words.whole(totals[n]) for n in nodes)])
    title = "Bytes that left each node, by kind of message"
    return joined(
        element("h2", {"id": "traffic"}, "What left each institution"),
        paragraphs("The list of messages is closed: nothing else can leave a node."),
        element("figure", {}, bars(title, drawn)),
        behind("Each kind of message", table(title, ["Message", *nodes], rows)),
    )


def time(run: Run) -> Markup:
    """Show where the time went."""
    known = {stage: v for stage, v in run.seconds.items() if v is not None}
    if not known:
        return joined()
    drawn = [Bar(label=s, value=v, text=words.duration(v)) for s, v in known.items()]
    title = "Seconds for each stage"
    rows = [[stage, f"{value:.1f}"] for stage, value in known.items()]
    peak = run.peak_rss_mb
    memory = (
        f"At its peak the run took {words.whole(peak)} MB of memory." if peak else ""
    )
    return joined(
        element("h2", {"id": "time"}, "Where the time went"),
        paragraphs(memory) if memory else "",
        element("figure", {}, bars(title, drawn)),
        behind("The same as a table", table(title, ["Stage", "Seconds"], rows)),
    )


def published(run: Run) -> Markup:
    """Name what was published, by its digests."""
    if not run.releases and not run.adapters:
        return joined()
    rows: list[list[Child]] = []
    for release in run.releases:
        after = (
            f"after round {release.round}" if release.round is not None else words.NONE
        )
        rows.append([release.name, "base", after, _code(release.digest)])
    for adapter in run.adapters:
        told = f"for {run.label(adapter.country)}" if adapter.country else ""
        if adapter.epsilon is not None:
            told += f", ε\u00a0{words.epsilon(adapter.epsilon)}"
        rows.append(
            [
                adapter.name,
                "adapter",
                told.strip(", ") or words.NONE,
                _code(adapter.digest),
            ]
        )
    return joined(
        element("h2", {"id": "published"}, "What was published"),
        table(
            "Releases and adapters",
            ["Name", "Kind", "About", "Digest"],
            rows,
            text_columns=4,
        ),
    )


def log(run: Run) -> Markup:
    """State the facts of the log."""
    facts = run.log
    if facts.size is None:
        return joined()
    rows: list[list[Child]] = [
        ["Name of the log", _code(facts.origin)],
        ["Entries", words.whole(facts.size)],
        ["Root of its tree", _code(facts.root)],
        ["Cosigned by", words.enumerated(facts.cosignatures) or "nobody"],
        ["Cosignatures needed", words.whole(facts.quorum)],
    ]
    return joined(
        element("h2", {"id": "log"}, "The log"),
        paragraphs(
            "Every step is an entry, signed by who took it. The members cosign the "
            "log's size and root (a checkpoint); from then on nobody can change, drop "
            "or reorder an entry without being noticed."
        ),
        table(
            "The log as it was last cosigned", ["Fact", "Value"], rows, text_columns=2
        ),
    )


def check(run: Run) -> Markup:
    """Say how to verify all of this oneself."""
    base = run.releases[-1].name if run.releases else run.final_base or "base-1"
    own = run.adapters[0].country or run.adapters[0].name if run.adapters else "COUNTRY"
    steps = (
        "# the whole log: every signature, every proof, every rule",
        "tapestry audit verify bundle",
        "# the privacy loss, recomputed from what the log says",
        "tapestry audit account bundle",
        "# one adapter: its files, its lineage, its licence",
        f"tapestry adapter verify adapters/{own}",
        "# the models themselves, side by side",
        f"tapestry chat --base releases/{base} --adapter adapters/{own}",
    )
    return joined(
        element("h2", {"id": "verify"}, "Check it yourself"),
        paragraphs(
            "Run these in the folder that holds this page. The first two need the "
            "files alone: no server, no graphics card, no machine-learning software. "
            "Each ends with exit status 0 if all holds."
        ),
        element("pre", {}, "\n".join(steps)),
    )


def limits(run: Run) -> Markup:
    """Say what is not protected."""
    items = [
        element("li", {}, element("b", {}, what), " ", why) for what, why in _LIMITS
    ]
    if any(run.spent(node) is None for node in run.epsilon):
        what = "Single records, in this run."
        why = "It ran without noise, so it makes no promise of differential privacy."
        items.insert(0, element("li", {}, element("b", {}, what), " ", why))
    return joined(
        element("h2", {"id": "limits"}, "What is not protected"),
        element("ul", {"class": "plain"}, *items),
    )


def software(run: Run) -> Markup:
    """Name the versions, so that the run can be repeated."""
    if not run.software:
        return joined()
    rows = [[name, version] for name, version in sorted(run.software.items())]
    return behind(
        "Software versions",
        table("Software", ["Name", "Version"], rows, text_columns=2),
    )


def _spent_words(run: Run, node: str) -> str:
    limit = run.epsilon_limit.get(node)
    spent = words.epsilon(run.spent(node))
    return spent if limit is None else f"{spent} of {words.short(limit)}"


def _epsilon_table(run: Run, title: str) -> Markup:
    found = dict.fromkeys(kind for runs in run.epsilon.values() for kind in runs)
    kinds = [kind for kind in found if kind != "total"]
    rows = []
    for node in sorted(run.epsilon):
        spent = run.epsilon[node]
        cells = [words.epsilon(spent[k]) if k in spent else words.NONE for k in kinds]
        limit = words.short(run.epsilon_limit.get(node))
        rows.append([node, *cells, words.epsilon(run.spent(node)), limit])
    return table(title, ["Node", *kinds, "Together", "Limit"], rows)


def _promise_words(promise: Privacy) -> str:
    noise, clip = promise.noise_multiplier, promise.clip_norm
    facts = [
        f"unit of privacy: one {promise.unit}" if promise.unit else "",
        f"adjacency: {promise.adjacency}" if promise.adjacency else "",
        "" if promise.delta is None else f"δ = {words.plain(promise.delta)}",
        "" if noise is None else f"noise multiplier {noise:g}",
        "" if clip is None else f"gradients clipped to norm {clip:g}",
    ]
    return words.capital("; ".join(fact for fact in facts if fact))


def _masks(run: Run) -> Markup:
    s = run.secagg
    if s.n is None:
        return joined()
    sentences = [
        (
            f"The masks: {words.counted(s.n, 'institution')} in a round, at least "
            f"{words.short(s.threshold)} of them needed to open the sum, a sum never "
            f"opened over fewer than {words.short(s.min_cohort)}, safe against the "
            "coordinator together with up to "
            f"{words.counted(s.max_colluding or 0, 'member')}."
        )
    ]
    if s.length is not None:
        sentences.append(f"Each contribution has {words.whole(s.length)} numbers.")
    return element("p", {"class": "note"}, " ".join(sentences))


def _code(text: str) -> Child:
    return element("code", {}, text) if text else words.NONE
