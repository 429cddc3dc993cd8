"""The section "What is not protected": the list of README.md, word for word.

A test compares the two, so that neither can promise more than the other.
"""

import re

from tapestry.html.markup import Markup, element, joined, paragraphs
from tapestry_demo.report.data import RunFigures

LIMITS = (
    (
        "An institution that lies about its own data. Its influence is bounded, and "
        "gates reject a sum that does harm; masks make it impossible to look at its "
        "update alone."
    ),
    "A coordinator that refuses service.",
    "That an institution takes part, when, and how many bytes it sends.",
    (
        "An institution's text as a whole, in a small cohort: the promise is for one "
        "record, and the sum over three says something about each of the three."
    ),
    "Several records about one person as one: the promise is for a record.",
    (
        "The list of what left a node, from anyone who can write to its disk: receipts "
        "are a chain, which shows a gap in the middle, but not that the last ones were "
        "deleted or that it was made anew."
    ),
    "More members colluding with the coordinator than agreed.",
    "What the given base had already seen before this federation began.",
)
_NO_NOISE = (
    "Single records, in this run. For at least one institution no bound on the privacy "
    "loss is known, so the run makes no promise of differential privacy."
)


def limits(run: RunFigures) -> Markup:
    """Draw the list of what is not protected; one item more where noise is missing."""
    items = (_NO_NOISE, *LIMITS) if run.worst_epsilon is None else LIMITS
    return joined(
        element("h2", {"id": "limits"}, "What is not protected"),
        paragraphs(
            "What follows is not protected, in this run or any other of this software."
        ),
        element("ul", {"class": "plain"}, *map(_item, items)),
    )


def _item(text: str) -> Markup:
    """Draw one limit; its part up to the first stop is the topic, in bold."""
    topic, stop, rest = re.split(r"(?<=\w)([.:;])(?= |$)", text, maxsplit=1)
    return element("li", {}, element("b", {}, topic + stop), rest)
