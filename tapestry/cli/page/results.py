"""What came out: the story, the key figures, the models compared."""

from collections.abc import Sequence

from tapestry.cli.page import words
from tapestry.cli.page.data import Run
from tapestry.cli.page.markup import Markup, behind, element, joined, paragraphs, table
from tapestry.cli.page.plots import Panel, Series, dots, panels

_LEVELS = 6


def story(run: Run) -> Markup:
    """Tell what happened in plain words."""
    sentences = [
        _who(run),
        _how(run),
        _outcome(run),
        _adapters(run),
        _cost(run),
        _proof(run),
    ]
    return element("p", {"class": "lead"}, " ".join(s for s in sentences if s))


def figures(run: Run) -> Markup:
    """Show the few numbers that one should remember."""
    final, cards = run.final_base, []
    before, after = run.mean_bits("given"), run.mean_bits(final)
    if before and after is not None:
        change = words.percent((after - before) / before)
        told = f"bits per byte of the shared base: {before:.3f} to {after:.3f}, mean"
        cards.append((change, told))
    spent = [run.spent(node) for node in run.epsilon]
    if spent:
        worst = None if None in spent else max(v for v in spent if v is not None)
        told = f"at most spent by an institution{_agreed(run)}"
        cards.append((f"ε {words.epsilon(worst)}", told))
    if run.coordinator_view:
        hidden = sum(not sight.seen for sight in run.coordinator_view)
        told = "things on the list below were hidden from the coordinator"
        cards.append((f"{hidden} of {len(run.coordinator_view)}", told))
    if run.bytes_out:
        most = max(sum(kinds.values()) for kinds in run.bytes_out.values())
        cards.append(
            (words.size(most), "at most left an institution, all messages together")
        )
    if run.log.size is not None:
        signers = words.counted(len(run.log.cosignatures), "member")
        cards.append((str(run.log.size), f"log entries, cosigned by {signers}"))
    if run.seconds:
        total = sum(v for v in run.seconds.values() if v is not None)
        peak = f", {run.peak_rss_mb / 1000:.1f} GB of memory" if run.peak_rss_mb else ""
        cards.append((words.duration(total), f"for the whole run{peak}"))
    shown = [
        element(
            "li",
            {"class": "figure"},
            element("b", {}, number),
            element("span", {}, told),
        )
        for number, told in cards
    ]
    return element("ul", {"class": "figures"}, *shown) if shown else joined()


def members(run: Run) -> Markup:
    """Say who took part, with how much text."""
    if not run.countries:
        return joined()
    rows = [
        [
            c.institution or c.name,
            c.name,
            c.label,
            c.licence or words.NONE,
            words.whole(c.records),
        ]
        for c in run.countries
    ]
    header = [
        "Institution",
        "Node",
        "Language",
        "Licence of the text",
        "Private records",
    ]
    caption = "Who took part. The records stayed where they are."
    return joined(
        element("h2", {"id": "members"}, "Who took part"),
        table(caption, header, rows, text_columns=4),
    )


def matrix(run: Run) -> Markup:
    """Show every model on every country's text, as a heat table."""
    models = [
        m
        for m in ordered(run)
        if any(v is not None for v in run.bits_per_byte[m].values())
    ]
    if not models or not run.countries:
        return joined()
    header: list[str | Markup] = ["Model"]
    header += [joined(c.label, element("small", {}, c.name)) for c in run.countries]
    header.append("Mean")
    columns = [_column(run, models, c.name) for c in run.countries]
    means = _cells(
        [run.mean_bits(m) for m in models], [run.mean_error(m) for m in models]
    )
    rows: list[list[str | Markup]] = [
        [_model_name(m), *(column[n] for column in [*columns, means])]
        for n, m in enumerate(models)
    ]
    told = (
        "Bits per byte on held-out text that no model was trained on: how many bits "
        "the model needs, on average, to write down one byte of that text. Lower is "
        "better."
    )
    legend = (
        "Within a column, the stronger the shade, the better the model; the best one "
        "is framed and marked ★."
    )
    if run.bits_per_byte_se:
        legend += (
            " After ±: the standard error of the difference from the base as given, "
            "over the held-out texts; other texts would move it by about as much. What "
            "another run would have given is not in it."
        )
    return joined(
        element("h2", {"id": "matrix"}, "Every model on every language"),
        paragraphs(told),
        element("div", {"class": "matrix"}, table(legend, header, rows)),
    )


def rounds(run: Run) -> Markup:
    """Show how the shared base moved from round to round."""
    if not run.rounds:
        return joined()
    plots = [p for p in (_panel(run, c.name, c.label) for c in run.countries) if p]
    drawn = joined()
    if plots:
        title = "Bits per byte over the rounds, one small plot for each language"
        drawn = joined(
            paragraphs(
                "One small plot for each language; 0 is the base as it was given, the "
                "dashed line marks its level. All plots use the same scale, so equal "
                "slopes are equal gains."
            ),
            element("figure", {}, panels(title, plots)),
        )
    header = ["Round", "Outcome", "Included", "Dropped out", "Norm of the mean update"]
    header += [c.label for c in run.countries]
    rows = [
        [
            str(r.number),
            r.outcome or words.NONE,
            ", ".join(r.included) or words.NONE,
            ", ".join(r.dropped_names) or "nobody",
            words.short(r.mean_norm),
            *(words.bits(r.bits(c.name)) for c in run.countries),
        ]
        for r in run.rounds
    ]
    shown = table(
        "The rounds in numbers, bits per byte at the end", header, rows, text_columns=4
    )
    return joined(
        element("h2", {"id": "rounds"}, "Round by round"),
        drawn,
        behind("The same as a table", shown) if plots else shown,
    )


def comparison(run: Run) -> Markup:
    """Compare with training in one place on all the text."""
    final = run.final_base
    named = [(final, "the shared base"), ("central", "trained in one place")]
    named += [("central-dp", "in one place, with noise"), (None, "the own adapter")]
    names = dict(named)
    series = []
    for model, name in names.items():
        changes = [
            run.change(model or f"adapter-{c.name}", c.name) for c in run.countries
        ]
        if any(change is not None for change in changes):
            series.append(Series(name=name, values=[c and 100 * c for c in changes]))
    if len(series) < 2:
        return joined()
    labels = [c.label for c in run.countries]
    rows = [
        [label, *(_percent_of(s.values[n]) for s in series)]
        for n, label in enumerate(labels)
    ]
    title = (
        "Change in bits per byte against the given base, in percent, for each language"
    )
    return joined(
        element("h2", {"id": "comparison"}, "Against training in one place"),
        paragraphs(
            "What would have happened if everybody had handed over their text? The "
            "same base was trained on all of it in one place, with and without "
            f"noise{_budget_words(run)}. Zero is the base as it was given; further "
            "left is better."
        ),
        element("figure", {}, dots(title, labels, series, " %")),
        behind(
            "The same as a table",
            table(title, ["Language", *(s.name for s in series)], rows),
        ),
    )


def ordered(run: Run) -> list[str]:
    """Put the models in the order in which they came about."""
    names = [c.name for c in run.countries]

    def place(model: str) -> tuple[int, int, str]:
        prefix, _, rest = model.partition("-")
        kinds = ("given", "base", "adapter", "central")
        kind = kinds.index(prefix) if prefix in kinds else len(kinds)
        number = int(rest) if rest.isdecimal() else 0
        return kind, names.index(rest) if rest in names else number, rest

    return sorted(run.bits_per_byte, key=place)


def _panel(run: Run, country: str, label: str) -> Panel | None:
    points = [(r.number, r.bits(country)) for r in run.rounds]
    known = [(number, value) for number, value in points if value is not None]
    given = run.bits("given", country)
    if given is not None:
        known.insert(0, (0, given))
    return Panel(title=label, points=known) if len(known) > 1 else None


def _column(run: Run, models: Sequence[str], country: str) -> list[Markup]:
    values = [run.bits(m, country) for m in models]
    errors = [run.bits_per_byte_se.get(m, {}).get(country) for m in models]
    return _cells(values, errors)


def _cells(
    values: Sequence[float | None], errors: Sequence[float | None]
) -> list[Markup]:
    known = [v for v in values if v is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    cells = []
    for value, error in zip(values, errors, strict=True):
        if value is None:
            cells.append(element("td", {"class": "number"}, words.NONE))
            continue
        level = round(_LEVELS * (high - value) / ((high - low) or 1.0))
        best = value == low and len(known) > 1
        spread = element("small", {}, f"± {error:.3f}") if error else ""
        star = "★ " if best else ""
        kind = f"number h{level}" + (" best" if best else "")
        cells.append(element("td", {"class": kind}, f"{star}{value:.3f}", spread))
    return cells


def _model_name(model: str) -> str:
    prefix, _, rest = model.partition("-")
    match prefix:
        case "given":
            return "The base as given"
        case "base" if rest.isdecimal():
            return f"Shared base, release {rest}"
        case "adapter":
            return f"Adapter of {rest}"
        case "central":
            return "Trained in one place" + (", with noise" if rest == "dp" else "")
    return model


def _percent_of(value: float | None) -> str:
    return words.percent(None if value is None else value / 100)


def _who(run: Run) -> str:
    if not run.countries:
        return f"{run.title}."
    count = words.capital(words.counted(len(run.countries), "institution"))
    languages = words.enumerated([c.label for c in run.countries])
    noun = "language" if len(run.countries) == 1 else "languages"
    return (
        f"{count} with private text in their own {noun} ({languages}) improved a "
        f"shared language model{f' ({run.base})' if run.base else ''} together."
    )


def _how(run: Run) -> str:
    if not run.rounds:
        return ""
    applied = sum(r.outcome == "applied" for r in run.rounds)
    refused = len(run.rounds) - applied
    told = (
        f"In {words.counted(len(run.rounds), 'round')} nobody handed over any text: "
        "each institution trained by itself and sent a list of numbers under a mask, "
        "of which the coordinator could open only the sum."
    )
    if refused:
        was = "was" if refused == 1 else "were"
        told += f" {words.capital(words.counted(refused, 'round'))} {was} not applied."
    return told


def _outcome(run: Run) -> str:
    final = run.final_base
    changes = [run.change(final, c.name) for c in run.countries]
    known = [change for change in changes if change is not None]
    before, after = run.mean_bits("given"), run.mean_bits(final)
    if not known or not before or after is None:
        return ""
    better = sum(change < 0 for change in known)
    share = abs(after - before) / before
    verdict = "better" if after < before else "worse"
    where = (
        "every language"
        if better == len(known)
        else f"{better} of {len(known)} languages"
    )
    return (
        "On text that no model was trained on, the shared model ended "
        f"{100 * share:.1f} % {verdict} on average ({before:.3f} to {after:.3f} bits "
        f"per byte) and better than the given one in {where}."
    )


def _adapters(run: Run) -> str:
    final, gains = run.final_base, []
    for c in run.countries:
        own, base = run.bits(f"adapter-{c.name}", c.name), run.bits(final, c.name)
        if own is not None and base:
            gains.append((own - base) / base)
    if not gains:
        return ""
    mean = sum(gains) / len(gains)
    verdict = "better" if mean < 0 else "worse"
    return (
        f"{words.capital(words.counted(len(gains), 'institution'))} then each grew a "
        f"small adapter for their own language, which is {100 * abs(mean):.1f} % "
        f"{verdict} there than the shared model on average."
    )


def _cost(run: Run) -> str:
    spent = [run.spent(node) for node in run.epsilon]
    if not spent:
        return ""
    if None in spent:
        return "This run promises no differential privacy."
    worst = max(value for value in spent if value is not None)
    unit = run.privacy.unit or "record"
    return (
        f"Noise limits what anybody can learn about a single {unit}: no institution "
        f"spent more than ε = {worst:.2f}{_agreed(run)}."
    )


def _proof(run: Run) -> str:
    if run.log.size is None:
        return ""
    signers = words.counted(len(run.log.cosignatures), "member")
    return (
        f"Each step stands in a log of {run.log.size} entries that {signers} cosigned "
        "and that anybody can check, with the commands below."
    )


def _agreed(run: Run) -> str:
    limits = sorted({v for v in run.epsilon_limit.values() if v is not None})
    if not limits:
        return ""
    return f", of {words.enumerated([f'{v:g}' for v in limits])} agreed"


def _budget_words(run: Run) -> str:
    here = run.budget.example_gradients_federated
    there = run.budget.example_gradients_central
    if here is None or there is None:
        return ""
    if here == there:
        return (
            f" and the same budget of {words.whole(here)} gradients of single examples"
        )
    return (
        f" ({words.whole(there)} gradients of single examples there, "
        f"{words.whole(here)} here)"
    )
