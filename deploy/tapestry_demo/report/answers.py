"""The section on each country: its answers, and the quality to expect of them."""

import unicodedata
from collections.abc import Sequence

from tapestry.html import numbers
from tapestry.html.markup import (
    Child,
    Markup,
    element,
    joined,
    outside,
    paragraphs,
)
from tapestry_demo.report import names, odds
from tapestry_demo.report.data import Country, Model, PromptAnswers, RunFigures
from tapestry_demo.report.links import Folder

_SMALL = 1_000_000_000  # parameters
_NARROW, _WIDE = (12, 6), (7, 4)  # characters of a phrase that comes twice, thrice


def countries(run: RunFigures, folder: Folder) -> Markup:
    """Draw for each country its institution, its gains, and prompts with answers."""
    if not run.countries:
        return joined()
    told = _expectation(run)
    return joined(
        element("h2", {"id": "countries"}, "Country by country"),
        paragraphs(told) if told else "",
        *(_country(run, country, folder) for country in run.countries),
    )


def repeats(text: str) -> bool:
    """Return whether 12 characters of an answer come twice, or 6 come three times.

    In a script of wide characters, which carry more, 7 and 4 of them are enough.
    Stretches without a letter or digit do not count, and none overlaps itself.
    """
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    lengths = _WIDE if 2 * wide > len(text) else _NARROW
    return any(
        _most(text, n) >= times for n, times in zip(lengths, (2, 3), strict=True)
    )


def _most(text: str, length: int) -> int:
    """Count the most frequent stretch of a length, without overlaps."""
    starts = range(len(text) - length + 1)
    pieces = {text[n : n + length] for n in starts}
    found = (p for p in pieces if sum(map(str.isalnum, p)) * 2 >= length)
    return max((text.count(piece) for piece in found), default=0)


def _expectation(run: RunFigures) -> str:
    """Describe what to expect of a model of this size, as this run's data show it."""
    if run.model is None and not run.samples and not run.language_share:
        return ""
    sentences = [_size(run.model), *_habits(run.samples), _languages(run)]
    if run.samples:
        sentences.append(
            "Whether an answer is true was not checked; language models often state "
            "what is not. A figure that got better says that the model predicts "
            "such text better, not that its answers are good."
        )
    return " ".join(s for s in sentences if s)


def _size(model: Model | None) -> str:
    if model is None or model.parameters is None:
        return ""
    told = f"{model.name} has {numbers.whole(model.parameters)} parameters"
    if model.parameters >= _SMALL:
        return f"{told}."
    return (
        f"{told}, which is small: the assistants that people know are far larger. It "
        "shows that the machinery works; it is no assistant."
    )


def _habits(samples: Sequence[PromptAnswers]) -> list[str]:
    """Count the answers with a fault that a reader would notice."""
    pairs = [(s.prompt.strip(), a.strip()) for s in samples for a in s.answers.values()]
    if not pairs:
        return []
    answers = [answer for _, answer in pairs]
    counts = [
        (sum(map(repeats, answers)), "repeats itself", "repeat themselves"),
        (
            sum(bool(p) and p in a for p, a in pairs),
            "copies the prompt",
            "copy the prompt",
        ),
        (sum(not answer for answer in answers), "is empty", "are empty"),
    ]
    told = [
        f"{numbers.spelled(count)} {one if count == 1 else many}"
        for count, one, many in counts
        if count
    ]
    shown = f"{numbers.counted(len(answers), 'answer')} below"
    if not told:
        return [f"None of the {shown} is empty, repeats itself or copies the prompt."]
    return [f"Of the {shown}, {numbers.enumerated(told)}."]


def _languages(run: RunFigures) -> str:
    """Count the answers in the language of their prompt."""
    if not run.language_share:
        if not run.samples:
            return ""
        return (
            "In which language it answers was not counted: it may be another one than "
            "the prompt's."
        )
    own = {f"adapter-{c.name}": c.name for c in run.countries}
    found: dict[str, list[tuple[int, int]]] = {}
    for model in run.in_order(run.language_share):
        shares = run.language_share[model]
        if model in own:  # an adapter is asked about in its own country
            shares = {n: s for n, s in shares.items() if n == own[model]}
        name = "the adapters" if model in own else names.model(run, model)
        found.setdefault(name, []).extend(shares.values())
    told = []
    for name, counts in found.items():
        right, asked = sum(n for n, _ in counts), sum(n for _, n in counts)
        if asked:
            told.append(
                f"{numbers.whole(right)} of {numbers.whole(asked)} "
                f"({numbers.percent(right / asked)}) by {name}"
            )
    if not told:
        return ""
    return f"Answers in the prompt\u2019s language: {numbers.enumerated(told)}."


def _country(run: RunFigures, country: Country, folder: Folder) -> Markup:
    title = {"id": f"country-{run.countries.index(country) + 1}"}
    samples = [s for s in run.samples if s.country == country.name]
    return joined(
        element("h3", title, names.country(run, country.name)),
        element("p", {"class": "note"}, _facts(run, country)),
        paragraphs(*filter(None, [_progress(run, country), _share(run, country)])),
        _links(run, country, folder),
        *(
            _sample(run, sample, country=country, number=f"{n} of {len(samples)}")
            for n, sample in enumerate(samples, 1)
        ),
    )


def _facts(run: RunFigures, country: Country) -> str:
    spent = run.spent(country.name)
    facts = [
        numbers.capital(country.institution),
        ""
        if country.records is None
        else numbers.counted(
            country.records, f"private {run.privacy.unit or 'record'}"
        ),
        f"text under {country.licence}" if country.licence else "",
        ""
        if country.name not in run.epsilon
        else "no bound on privacy loss"
        if spent is None
        else f"privacy loss ε\u00a0{numbers.epsilon(spent)}, a factor of "
        f"{numbers.at_most(odds.factor(spent))}",
    ]
    return " · ".join(fact for fact in facts if fact)


def _progress(run: RunFigures, country: Country) -> str:
    final, own = run.final_base, f"adapter-{country.name}"
    shared, with_own = run.gain(final, country.name), run.gain(own, country.name)
    told = []
    if shared is not None:
        vague = "" if run.is_clear(final, country.name) else " (too little to be sure)"
        told.append(f"the shared model {numbers.better(shared)}{vague}")
    if with_own is not None:
        vague = "" if run.is_clear(own, country.name) else " (too little to be sure)"
        told.append(f"{names.adapter(country.name)} {numbers.better(with_own)}{vague}")
    if not told:
        return ""
    what = "answers" if run.measure == "answers" else "text"
    return (
        f"At predicting {what} in {names.language(run, country.name)}, compared with "
        f"the model as it was given: {numbers.enumerated(told)}."
    )


def _share(run: RunFigures, country: Country) -> str:
    told = []
    for model in run.in_order(run.language_share):
        share = run.language_share[model].get(country.name)
        if share is not None and share[1]:
            told.append(
                f"{numbers.whole(share[0])} of {numbers.whole(share[1])} by "
                f"{names.model(run, model)}"
            )
    if not told:
        return ""
    tongue = names.language(run, country.name)
    return f"Answers in {tongue} to prompts in {tongue}: {numbers.enumerated(told)}."


def _links(run: RunFigures, country: Country, folder: Folder) -> Markup:
    targets = []
    for adapter in run.adapters:
        if country.name in (adapter.country, adapter.name):
            card = f"adapters/{adapter.name}/README.md"
            targets.append((card, "The adapter's model card"))
            promise = f"privacy/{adapter.name}.md"
            targets.append((promise, "What it promises about records"))
    found = folder.links(targets)
    if not found:
        return joined()
    parts: list[Child] = []
    for one in found:
        parts += [" · ", one] if parts else [one]
    return element("p", {"class": "note"}, *parts)


def _sample(
    run: RunFigures, sample: PromptAnswers, *, country: Country, number: str
) -> Markup:
    tag = country.language if country.language != "und" else ""
    models = run.in_order(sample.answers)
    told = [
        element("p", {"class": "tag"}, f"Prompt {number}"),
        outside("blockquote", sample.prompt, kind="prompt", language=tag),
        element(
            "dl",
            {"class": "answers"},
            *(_answer(run, m, sample, country) for m in models),
        ),
    ]
    if sample.reference:
        told += [
            element("p", {"class": "tag"}, "The held-out answer"),
            outside("blockquote", sample.reference, kind="reference", language=tag),
        ]
    label = f"Prompt {number}, {names.country(run, country.name)}"
    return element("section", {"class": "sample", "aria-label": label}, *told)


def _answer(
    run: RunFigures, model: str, sample: PromptAnswers, country: Country
) -> Markup:
    name = f"adapter-{country.name}" if model == "adapter" else model
    text = sample.answers[model]
    shown = (
        outside("dd", text, kind="answer", language="")
        if text.strip()
        else element("dd", {"class": "answer none"}, "(it answered with nothing)")
    )
    title = numbers.capital(names.model(run, name))
    return element("div", {}, element("dt", {"class": "tag"}, title), shown)
