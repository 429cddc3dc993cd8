"""The title and licence of a given base, for the card of a release."""

import re
from pathlib import Path

from tapestry.workloads.base import BaseOrigin

_FIELDS = {"library_name": "transformers", "pipeline_tag": "text-generation"}
_NAMED = {  # the bases of ``base_models`` that have a name
    "smollm2": BaseOrigin(
        title="SmolLM2-135M-Instruct by HuggingFaceTB",
        licence="Apache-2.0",
        fields=_FIELDS,
    ),
    "tiny": BaseOrigin(title="random parameters", licence=None, fields=_FIELDS),
}
_FRONT = re.compile(r"\A---\n(.*?)^---$", re.DOTALL | re.MULTILINE)
_LICENCE = re.compile(  # the hub's word, or that of a release's card
    r"""^(?:license|  given_base_licence): *(["']?)"""
    r"""([A-Za-z0-9][A-Za-z0-9.+-]{0,79})\1 *$""",
    re.MULTILINE,
)
_NO_LICENCE = frozenset({"other", "unknown"})  # the hub's words for "read the card"


def origin_of(base: str) -> BaseOrigin:
    """Return the title and licence of a base, by its name or folder.

    Edge cases:
        The licence of a folder is what its own card names in its front matter.
    """
    if base in _NAMED:
        return _NAMED[base]
    licence = _licence_in(Path(base) / "README.md")
    return BaseOrigin(title="a model folder", licence=licence, fields=_FIELDS)


def _licence_in(card: Path) -> str | None:
    """Read the licence from a model card's front matter, if it names one."""
    try:
        front = _FRONT.match(card.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    found = _LICENCE.search(front[1]) if front else None
    return found[2] if found and found[2] not in _NO_LICENCE else None
