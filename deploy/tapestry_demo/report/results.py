"""The section of results: the chart, the cross table and the rounds."""

from collections.abc import Sequence

from tapestry.html import numbers
from tapestry.html.charts import Lane, LaneGroup, Panel, lanes, legend, panels
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
from tapestry_demo.report.data import DroppedNode, RunFigures

_LEVELS = 6
_MEASURE = (
    "Measured are bits per byte over answers in held-out dialogues, given what was said"
    " before: how many bits a model needs, on average, to write down one byte of it. A"
    " model that predicts text better needs fewer, so \u201c5.0\u00a0% better\u201d"
    " means 5.0\u00a0% fewer bits."
)


def results(run: RunFigures) -> Markup:
    """Draw the measure in a sentence, the chart, and every figure behind it."""
    return joined(
        element("h2", {"id": "results"}, "How good the models are, compared with what"),
        paragraphs(_MEASURE),
        _chart(run),
        _references(run),
        behind("Every model on every language, in bits per byte", _matrix(run)),
    )


def rounds(run: RunFigures) -> Markup:
    """Draw the change of the shared model from round to round."""
    plots = [p for p in (_panel(run, c.name) for c in run.countries) if p]
    drawn = joined()
    if plots:
        drawn = joined(
            paragraphs(
                "One small plot for each language: bits per byte from the model as it "
                "was given to the last round, fewer being better. The dashed line is "
                "the level of the given model. All plots use the same scale, so equal "
                "slopes are equal gains."
            ),
            element("figure", {}, panels(plots)),
        )
    return joined(
        element("h3", {"id": "rounds"}, "Round by round"),
        drawn,
        _rounds_table(run),
    )


def _series(run: RunFigures) -> list[tuple[str, dict[str, str]]]:
    """List the kinds of models, each with its name and its id for each country."""
    everywhere = [c.name for c in run.countries]
    final = run.final_base
    kinds = [
        ("the shared model", dict.fromkeys(everywhere, final or "")),
        ("the country\u2019s own adapter", {c: f"adapter-{c}" for c in everywhere}),
        *(
            (names.model(run, one), dict.fromkeys(everywhere, one))
            for one in ("central", "central-dp")
        ),
    ]
    return [
        (name, models)
        for name, models in kinds
        if any(run.gain(models[c], c) is not None for c in everywhere)
    ]


def _chart(run: RunFigures) -> Markup:
    series = _series(run)
    if not series:
        return joined()
    title = "Better than the model as it was given, for each language"
    groups = [
        LaneGroup(
            title=names.country(run, c.name),
            lanes=[
                Lane(series=n, value=gain, text=numbers.better(gain))
                for n, (_, models) in enumerate(series)
                if (gain := run.gain(models[c.name], c.name)) is not None
            ],
        )
        for c in run.countries
    ]
    rows: list[list[Child | Cell]] = [
        [
            names.country(run, c.name),
            numbers.bits(run.bits("given", c.name)),
            *(_both(run, models[c.name], c.name) for _, models in series),
        ]
        for c in run.countries
    ]
    given = numbers.capital(names.model(run, "given"))
    header = ["Country", given, *(numbers.capital(name) for name, _ in series)]
    return element(
        "figure",
        {},
        element("figcaption", {}, f"{title}. The upright line is that model."),
        legend([name for name, _ in series]),
        lanes(title, [group for group in groups if group.lanes]),
        behind("The same as a table", table(f"{title}; bits per byte", header, rows)),
    )


def _both(run: RunFigures, model: str, country: str) -> Markup:
    gain = numbers.better(run.gain(model, country))
    level = numbers.bits(run.bits(model, country))
    return joined(gain, " ", element("small", {}, level))


def _references(run: RunFigures) -> Markup:
    if not any(name in run.bits_per_byte for name in ("central", "central-dp")):
        return element(
            "p",
            {},
            "Not compared: what the same training gives if all institutions hand over "
            "their text, with and without noise. So this report does not say what "
            "privacy cost in quality. Two more runs, on the pooled text, answer that: ",
            element("code", {}, "tapestry demo --references"),
            ".",
        )
    told = "Training in one place shows what would have happened if all "
    told += "institutions had handed over their text."
    if "central" in run.bits_per_byte:
        told += " Without noise it promises no privacy."
    if "central-dp" in run.bits_per_byte:
        told += " With noise of the same kind it bounds the same loss, for the pooled "
        told += "text."
    return paragraphs(told + _effort(run))


def _effort(run: RunFigures) -> str:
    here = run.budget.example_gradients_federated
    there = run.budget.example_gradients_central
    if there is None:
        return ""
    if here == there:
        return f" Each way used {numbers.whole(here)} gradients of single examples."
    return (
        f" It used {numbers.whole(there)} gradients of single examples there and "
        f"{numbers.whole(here)} here."
    )


def _matrix(run: RunFigures) -> Markup:
    """Draw every model on every country's text, as a heat table."""
    models = [
        m
        for m in run.in_order(run.bits_per_byte)
        if any(v is not None for v in run.bits_per_byte[m].values())
    ]
    columns = [_column(run, models, c.name) for c in run.countries]
    means = _cells(
        [run.mean_bits(m) for m in models], [run.mean_error(m) for m in models]
    )
    rows: list[list[Child | Cell]] = [
        [numbers.capital(names.model(run, m)), *(c[n] for c in [*columns, means])]
        for n, m in enumerate(models)
    ]
    header = ["Model", *(names.country(run, c.name) for c in run.countries), "Mean"]
    told = (
        "Lower is better. Within a column, the stronger the shade, the better the "
        "model; the best one is framed and marked ★."
    )
    if run.bits_per_byte_se:
        told += (
            " After ±: the standard error of the difference from the model as it was "
            "given, over the held-out texts; other texts would move it by about as "
            "much. What another run would have given is not in it."
        )
    return table(told, header, rows, kind="matrix")


def _column(run: RunFigures, models: Sequence[str], country: str) -> list[Cell]:
    values = [run.bits(m, country) for m in models]
    errors = [run.bits_per_byte_se.get(m, {}).get(country) for m in models]
    return _cells(values, errors)


def _cells(
    values: Sequence[float | None], errors: Sequence[float | None]
) -> list[Cell]:
    known = [v for v in values if v is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    cells = []
    for value, error in zip(values, errors, strict=True):
        if value is None:
            cells.append(Cell("h0", numbers.NONE))
            continue
        level = round(_LEVELS * (high - value) / ((high - low) or 1.0))
        best = value == low and len(known) > 1
        spread = element("small", {}, f"± {numbers.bits(error)}") if error else ""
        shown = joined("★ " if best else "", numbers.bits(value), " ", spread)
        cells.append(Cell(f"h{level}" + (" best" if best else ""), shown))
    return cells


def _rounds_table(run: RunFigures) -> Markup:
    header = ["Round", "Outcome", "Included", "Dropped out", "Norm of the mean update"]
    header += [names.title(c.name) for c in run.countries]
    rows: list[list[Child | Cell]] = [
        [
            f"Round\u00a0{r.number}",
            names.outcome(r.outcome),
            numbers.enumerated([names.place(n) for n in r.included]) or numbers.NONE,
            numbers.enumerated([_dropped(d) for d in r.dropped]) or "none",
            numbers.short(r.mean_norm),
            *(numbers.bits(r.bits_per_byte.get(c.name)) for c in run.countries),
        ]
        for r in run.rounds
    ]
    caption = "The rounds; under each country, bits per byte at the end of the round"
    return table(caption, header, rows, text_columns=4)


def _dropped(node: DroppedNode) -> str:
    return f"{names.place(node.name)} ({names.lost_at(node.stage)})"


def _panel(run: RunFigures, country: str) -> Panel | None:
    """Return a plot of at least three points; two are better read as numbers."""
    points = [
        (r.number, value) for r in run.rounds if (value := r.bits_per_byte.get(country))
    ]
    given = run.bits("given", country)
    if given is not None:
        points.insert(0, (0, given))
    if len(points) < 3:
        return None
    first = "as given" if given is not None else f"round {points[0][0]}"
    return Panel(
        title=names.country(run, country),
        points=points,
        first=numbers.bits(points[0][1]),
        last=numbers.bits(points[-1][1]),
        ends=(first, f"round {points[-1][0]}"),
    )
