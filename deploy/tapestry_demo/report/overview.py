"""The first screen of the page, in sentences that need no prior knowledge."""

from tapestry.html import numbers
from tapestry.html.markup import Child, Markup, element, link
from tapestry_demo.report import names, odds
from tapestry_demo.report.data import SUSPECT, RunFigures, UploadTest


def headline(run: RunFigures) -> str:
    """Sum up the run from its own figures."""
    who = numbers.capital(numbers.counted(len(run.countries), "institution"))
    return f"{who} trained one language model together{_change(run)}"


def _change(run: RunFigures) -> str:
    """Count the institutions for which the model got better, worse or neither."""
    if not run.gains:
        return "; how good it became was not measured"
    found = [run.change(country.name) for country in run.countries]
    if len(set(found)) == 1:
        verb = "got " if found[0] in ("better", "worse") else "was "
        return f", and the model {verb}{found[0]} for all of them"
    counts = [(kind, found.count(kind)) for kind in dict.fromkeys(sorted(found))]
    told = [f"{kind} for {numbers.spelled(count)}" for kind, count in counts]
    return f": {numbers.enumerated(told)}"


def opening(run: RunFigures) -> Markup:
    """Draw four answers: the change, its privacy, the coordinator's view, the audit."""
    rows = [
        ("What changed", _improved(run)),
        ("Privacy of one record", _private(run)),
        ("What the coordinator saw", _seen(run)),
        ("Who checked it", _checked(run)),
    ]
    shown = [
        element("div", {}, element("dt", {}, topic), element("dd", {}, *told))
        for topic, told in rows
    ]
    return element("dl", {"class": "opening"}, *shown)


def _improved(run: RunFigures) -> list[Child]:
    return _spaced([_who(run), *_outcome(run), *_adapters(run)])


def _who(run: RunFigures) -> str:
    places = numbers.enumerated([names.place(c.name) for c in run.countries])
    count = numbers.capital(numbers.counted(len(run.countries), "institution"))
    return (
        f"{count} ({places}) trained one computer model of language together,"
        f" {run.model.name}.{_kept(run)}"
    )


def _kept(run: RunFigures) -> str:
    """State what the closed list of messages gives, unless uploads are in doubt."""
    if run.private_text.found:
        return " But private text was found in what was sent: something is wrong."
    if run.is_in_doubt:
        return ""
    return " By design, no message that leaves an institution carries a private record."


def _outcome(run: RunFigures) -> list[Child]:
    final, gains = run.final_base, run.gains
    if final is None or not gains:
        return ["What the shared model gained was not measured."]
    told: list[Child] = [
        "The shared model now predicts the answers in dialogues that it has never seen",
        element("strong", {}, _listed(run, gains)),
        "than the model as it was given.",
    ]
    vague = [names.language(run, n) for n in gains if not run.is_clear(final, n)]
    if vague:
        told.append(
            f"For {numbers.enumerated(vague)} the difference is so small that other "
            "test texts could have turned it round."
        )
    return told


def _adapters(run: RunFigures) -> list[Child]:
    found = {c.name: run.gain(f"adapter-{c.name}", c.name) for c in run.countries}
    gains = {name: gain for name, gain in found.items() if gain is not None}
    if not gains:
        return []
    places = numbers.enumerated([names.place(name) for name in gains])
    who = "each country" if len(gains) == len(run.countries) else places
    return [
        f"With an add-on (an adapter) that {who} trained on its own text, it is",
        element("strong", {}, _listed(run, gains)),
        ".",
    ]


def _listed(run: RunFigures, gains: dict[str, float]) -> str:
    """List each language with its gain."""
    return numbers.enumerated(
        [f"{numbers.better(g)} in {names.language(run, n)}" for n, g in gains.items()]
    )


def _private(run: RunFigures) -> list[Child]:
    worst, unit = run.worst_epsilon, run.privacy.unit or "record"
    if worst is None:
        return [
            "No bound holds. ",
            element("strong", {}, "This run promises no differential privacy:"),
            f" nothing is proven about what can be learned about a single {unit}.",
        ]
    delta = run.privacy.delta or 0.0
    guess = odds.right_guess(worst, delta=delta)
    told: list[Child] = [
        (
            "Whatever an observer looks for in everything that was published: between "
            f"a run that used one particular {unit} and a run that did not, the "
            "probability to find it differs"
        ),
        element("strong", {}, f"by a factor of {numbers.at_most(odds.factor(worst))}"),
        *([f"plus at most {numbers.chance(delta)}"] if delta else []),
        f"(ε{numbers.SPACE}={numbers.SPACE}{numbers.epsilon(worst)}).",
        _verdict(guess, unit),
        link("#privacy", "How to read this number"),
    ]
    return _spaced(told)


def _verdict(guess: float, unit: str) -> str:
    at_most = (
        f"an observer who must say of one {unit} whether it was used, and would be "
        "right half of the time by tossing a coin, could be right "
        f"{numbers.likely(guess)} of the time"
    )
    match odds.verdict(guess):
        case "weak":
            return (
                "That is a weak promise, and in the worst case nearly none: "
                f"{at_most}. It is what is proven, not what an attack achieved."
            )
        case "moderate":
            return f"That is a moderate promise. In the worst case, {at_most}."
    return f"That is a strong promise. Even in the worst case, {at_most}."


def _seen(run: RunFigures) -> list[Child]:
    told: list[Child] = [
        *_masked(run),
        f"Of {numbers.counted(len(run.sights), 'thing')} on",
        link("#coordinator", "the list below"),
        f"{_counts(run)}.",
        _test(run.upload_test),
    ]
    return _spaced(told)


def _masked(run: RunFigures) -> list[Child]:
    """State what the masks hide, unless a test doubts them."""
    if run.is_in_doubt:
        return ["The coordinator adds up the contributions."]
    return [
        (
            "The coordinator adds up the contributions. By design, masks hide "
            "each of them, so that it can open"
        ),
        element("strong", {}, "only their sum"),
        ".",
    ]


def _counts(run: RunFigures) -> str:
    """Count the things that were seen, that were not, and that are in doubt."""
    seen = [s.seen for s in run.sights]
    kinds = (
        (seen.count(True), "saw"),
        (seen.count(False), "could not see"),
        (seen.count(None), "may have seen"),
    )
    told = [f"{verb} {numbers.spelled(count)}" for count, verb in kinds if count]
    return f"it {numbers.enumerated(told)}"


def _test(test: UploadTest | None) -> str:
    if test is None:
        return "In this run no test looked at the uploads from the coordinator's place."
    uploads = numbers.counted(test.uploads, "upload")
    p_value = numbers.probability(test.p_value)
    if test.is_suspect:
        return (
            f"But a test of the {uploads} says that they do not look random, as masked "
            f"numbers must (p-value {p_value}). Something may be wrong."
        )
    return (
        "What each institution sent looked random: a statistical test of the "
        f"{uploads} ({numbers.size(test.bytes)}) found no pattern "
        f"(p{numbers.SPACE}={numbers.SPACE}{p_value}; below "
        f"{numbers.probability(SUSPECT)} would be suspect)."
    )


def _checked(run: RunFigures) -> list[Child]:
    log = run.log
    signers = numbers.counted(len(log.cosignatures), "member")
    few = f", fewer than the {numbers.spelled(log.quorum or 0)} needed"
    told: list[Child] = [
        (
            f"The log of this run has {numbers.counted(log.size, 'entry', 'entries')}, "
            f"signed by {signers}{'' if log.has_quorum else few}."
        ),
        *_found(log.verdict),
        link("#verify", "Any reader can repeat the audit"),
    ]
    return _spaced(told)


def _found(verdict: str) -> list[Child]:
    if verdict != "holds":
        return [f"The audit\u2019s verdict is {verdict!r}: not all of it holds."]
    return [
        "The audit read the files alone, without keys or records,",
        element("strong", {}, "and all of it holds."),
    ]


def _spaced(parts: list[Child]) -> list[Child]:
    """Put a space between parts, but none before a stop."""
    found: list[Child] = []
    for part in (part for part in parts if part != ""):
        if found and part != ".":
            found.append(" ")
        found.append(part)
    if found and isinstance(parts[-1], Markup):
        found.append(".")
    return found
