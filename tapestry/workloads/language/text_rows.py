"""Rows of JSON lines that hold text: plain texts, and dialogues as messages.

Records and public text share this form. What a file and a line of JSON may hold is the
rule of ``tapestry.inputs.text_reader``.
"""

import unicodedata
from pathlib import Path
from typing import Any

from tapestry.inputs.faults import Faults, InputFault
from tapestry.inputs.text_reader import first_fault, is_invisible, kind_of, read_rows
from tapestry.workloads.language.dialogue import Dialogue, Text

_ROLES = ("user", "assistant")


def public_texts(path: Path, faults: Faults) -> list[Text]:
    """Read a file of public text: a text or a dialogue a line, as ``text_of_row``.

    What breaks a rule of ``text_reader``, has another key, or has a text that shows
    nothing becomes a fault, and so does a file that cannot be read or is empty.
    """
    return [text for _, text in public_rows(path, faults)]


def public_rows(path: Path, faults: Faults) -> list[tuple[int, Text]]:
    """Read a file as ``public_texts`` does, each text with the number of its line."""
    rows: list[tuple[int, Text]] = []
    before = len(faults)
    for number, row in read_rows(path, faults):
        rule = fault_of_row(row)
        if rule is None and is_invisible(shown_part(text := text_of_row(row))):
            rule = "the text is empty or shows nothing; take the line out"
        if rule is None:
            rows.append((number, text))
        else:
            faults.add(InputFault(path, rule, line=number, code="record-invalid"))
    if not rows and len(faults) == before:
        faults.add(
            InputFault(path, 'is empty; want lines {"text": "..."}', code="file-empty")
        )
    return rows


def text_of_row(row: dict[str, Any]) -> Text:
    """Return the text or the dialogue of a row in which ``fault_of_row`` finds nothing.

    ::

        {"text": "..."}
        {"messages": [{"role": "user", "content": "..."},
                      {"role": "assistant", "content": "..."}]}
    """
    if "text" in row:
        return str(row["text"])
    return Dialogue(turns=tuple(str(each["content"]) for each in row["messages"]))


def shown_part(text: Text) -> str:
    """Return what must show something: a text, or the answers of a dialogue."""
    return text if isinstance(text, str) else "".join(text.answers)


def whole_text(text: Text) -> str:
    """Return all of a text or dialogue."""
    return text if isinstance(text, str) else "\n".join(text.turns)


def fault_of_row(row: dict[str, Any], *, keys: tuple[str, ...] = ()) -> str | None:
    """Return which rule the keys or the text of a row break, or None."""
    known = ("messages" if "messages" in row else "text", *keys)
    if (rule := _fault_of_keys(row, known)) is not None:
        return rule
    if "messages" in row:
        return _fault_of_messages(row["messages"])
    if "text" not in row:
        return (
            '"text" is missing; want an object such as {"text": "..."}, or one with'
            ' "messages"'
        )
    return _fault_of_text(row["text"], "text")


def _fault_of_keys(row: dict[str, Any], known: tuple[str, ...]) -> str | None:
    wanted = " and ".join(f'"{key}"' for key in known)
    for place, key in enumerate(row, start=1):
        if key not in known:
            meant = next((k for k in known if k not in row and _is_like(key, k)), None)
            hint = f', which looks like "{meant}"' if meant else ""
            return f"key {place} of {len(row)} is not {wanted}{hint}; take it out"
    return None


def _fault_of_messages(messages: object) -> str | None:
    """Return which rule a dialogue breaks: turns of user and assistant, in turn."""
    if not isinstance(messages, list):
        return f'"messages" is {kind_of(messages)}; want a list of messages'
    if not messages or len(messages) % 2:
        return (
            f'"messages" has {len(messages)} messages; want pairs, a user\'s and then'
            " the assistant's"
        )
    for place, message in enumerate(messages, start=1):
        role = _ROLES[(place - 1) % 2]
        if not isinstance(message, dict):
            rule: str | None = f"is {kind_of(message)}; want an object"
        elif (rule := _fault_of_keys(message, ("role", "content"))) is None:
            if message.get("role") != role:
                rule = f'is not of role "{role}"; user and assistant take turns'
            else:
                rule = _fault_of_text(message.get("content"), "content")
        if rule is not None:
            return f'"messages", message {place}: {rule}'
    return None


def _fault_of_text(text: object, name: str) -> str | None:
    if not isinstance(text, str):
        return f'"{name}" is {kind_of(text)}; want text in quotes'
    rule = first_fault(text)
    return None if rule is None else f'"{name}" {rule}'


def _is_like(key: str, known: str) -> bool:
    """Return whether a key could be meant for a known one, such as ``patient_ID``."""
    letters = "".join(filter(str.isalnum, unicodedata.normalize("NFKC", key)))
    return letters.casefold().startswith(known) or letters.casefold().endswith(known)
