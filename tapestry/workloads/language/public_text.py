"""Reader of an institution's public text, on which its adapter is measured.

The text is checked before an adapter costs anything, because its card shows it:
``read`` requires that each line can be read and encoded and repeats no record, and that
the base can begin to answer the prompts. A base that fails later in an answer fails
when the card is written.

Guarantees:
    What ``read`` returns is what it looked at. A message names file, line and rule,
    and holds nothing of a line but, at most, the code of one character that the base
    does not know; nothing at all of a line that repeats a record.

Edge cases:
    Whether a line repeats a record depends on the records. The operator is told so, by
    line; to the coordinator it is a node that is not ready, as for any other fault.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tapestry.errors import TapestryError
from tapestry.inputs.faults import Faults, InputFault
from tapestry.workloads.language.dialogue import Text
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.sample_answers import prompts_of
from tapestry.workloads.language.text_rows import public_rows

FILE = "held-out.jsonl"
_REPEATS = (
    "repeats a private record, or the beginning or a question of one, and would be"
    " published; take the line out"
)
_TRIED_TOKENS = 2  # reads the prompt, then goes on from what it kept of it
Row = tuple[int, Text]  # with the number of its line


def read(
    folder: Path,
    *,
    model: LanguageModel,
    repeated: Callable[[Sequence[Text]], list[int]],
) -> list[Text]:
    """Read all public text of a node's folder, if there is any, and try it out.

    Raises:
        ConfigError: A line cannot be read, repeats a record, or is one that the model
            cannot read or answer; each is named, up to ten.
    """
    path, faults = folder / FILE, Faults()
    if not os.path.lexists(path):
        return []
    rows = public_rows(path, faults)
    private = set(repeated([text for _, text in rows]))
    for place in sorted(private):
        faults.add(
            InputFault(path, _REPEATS, line=rows[place][0], code="text-repeats-record")
        )
    others = [row for place, row in enumerate(rows) if place not in private]
    for line, rule in _tried(model, others):
        faults.add(InputFault(path, rule, line=line, code="text-not-tokenizable"))
    faults.check(path)
    return [text for _, text in rows]


def _tried(model: LanguageModel, rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
    """Yield the lines that the model cannot read, or of which it cannot be asked."""
    unread = []
    for line, text in rows:
        if (rule := _why_unread(model, text)) is not None:
            unread.append(line)
            yield line, rule
    texts = [text for _, text in rows]
    prompts = prompts_of(texts)
    if not prompts or _why_unanswered(model, prompts) is None:
        return
    for prompt in prompts:  # one by one, to name them
        rule = _why_unanswered(model, [prompt])
        line = next(line for line, text in rows if prompt in prompts_of([text]))
        if rule is not None and line not in unread:
            yield line, rule


def _why_unread(model: LanguageModel, text: Text) -> str | None:
    try:
        rule = model.find_fault(text)
    except Exception as error:  # noqa: BLE001 - a tokenizer raises anything
        rule = f"the base cannot read it: {type(error).__name__}"
    return None if rule is None else f"{rule}; take the line out"


def _why_unanswered(model: LanguageModel, prompts: Sequence[Text]) -> str | None:
    try:
        model.complete_all(prompts, max_tokens=_TRIED_TOKENS)
    except TapestryError as error:
        return f"{error}; take the line out"
    except Exception as error:  # noqa: BLE001 - of the model, such as a long prompt
        return (
            f"the base cannot answer its prompt: {type(error).__name__}; shorten it or"
            " take the line out"
        )
    return None
