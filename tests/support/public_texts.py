"""Reads a file of public text, and stops at what is wrong with it."""

from pathlib import Path

from tapestry.inputs.faults import Faults
from tapestry.workloads.language.dialogue import Text
from tapestry.workloads.language.text_rows import public_texts


def read_public_texts(path: Path) -> list[Text]:
    """Read a file as ``public_texts`` does; its faults are an error."""
    faults = Faults()
    texts = public_texts(path, faults)
    faults.check(path)
    return texts
