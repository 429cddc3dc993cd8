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
    return joined(
        element("h2", {"id": "countries"}, "Country by country"),
        paragraphs(_expectation(run)),
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
    return (
        f"{_size(run.model)} {_habits(run.samples)} In which language it answers was "
        "not counted: it may be another one than the prompt's. Whether an answer is "
        "true was not checked; language models often state what is not. A figure that "
        "got better says that the model predicts such text better, not that its "
        "answers are good."
    )


def _size(model: Model) -> str:
    told = f"{model.name} has {numbers.whole(model.parameters)} parameters"
    if model.parameters >= _SMALL:
        return f"{told}."
    return (
        f"{told}, which is small: the assistants that people know are far larger. It "
        "shows that the machinery works; it is no assistant."
    )


def _habits(samples: Sequence[PromptAnswers]) -> str:
    """Count the answers with a fault that a reader would notice."""
    pairs = [(s.prompt.strip(), a.strip()) for s in samples for a in s.answers.values()]
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
        return f"None of the {shown} is empty, repeats itself or copies the prompt."
    return f"Of the {shown}, {numbers.enumerated(told)}."


def _country(run: RunFigures, country: Country, folder: Folder) -> Markup:
    title = {"id": f"country-{run.countries.index(country) + 1}"}
    samples = [s for s in run.samples if s.country == country.name]
    return joined(
        element("h3", title, names.country(run, country.name)),
        element("p", {"class": "note"}, _facts(run, country)),
        paragraphs(_progress(run, country)),
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
        "at least "
        + numbers.counted(country.records, f"private {run.privacy.unit or 'record'}"),
        f"text under {country.licence}",
        "no bound on privacy loss"
        if spent is None
        else f"privacy loss ε\u00a0{numbers.epsilon(spent)}, a factor of "
        f"{numbers.at_most(odds.factor(spent))}",
    ]
    return " · ".join(facts)


def _progress(run: RunFigures, country: Country) -> str:
    models = [
        (run.final_base, "the shared model"),
        (f"adapter-{country.name}", names.adapter(country.name)),
    ]
    told = []
    for model, name in models:
        gain = run.gain(model, country.name)
        if gain is not None:
            is_clear = run.is_clear(model, country.name)
            vague = "" if is_clear else " (too little to be sure)"
            told.append(f"{name} {numbers.better(gain)}{vague}")
    if not told:
        told = ["not measured"]
    return (
        f"At predicting answers in {names.language(run, country.name)}, compared with "
        f"the model as it was given: {numbers.enumerated(told)}."
    )


def _links(run: RunFigures, country: Country, folder: Folder) -> Markup:
    targets = []
    for adapter in run.adapters:
        if country.name in (adapter.country, adapter.name):
            card = f"adapters/{adapter.name}/README.md"
            targets.append((card, "The adapter's model card"))
            promise = f"privacy/{adapter.name}.md"
            targets.append((promise, "What it promises about records"))
    parts: list[Child] = []
    for one in folder.links(targets):
        parts += [" · ", one] if parts else [one]
    return element("p", {"class": "note"}, *parts)


def _sample(
    run: RunFigures, sample: PromptAnswers, *, country: Country, number: str
) -> Markup:
    tag = country.language
    models = run.in_order(sample.answers)
    told = [
        element("p", {"class": "tag"}, f"Prompt {number}"),
        outside("blockquote", sample.prompt, kind="prompt", language=tag),
        element(
            "dl",
            {"class": "answers"},
            *(_answer(run, m, sample, country) for m in models),
        ),
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
