"""Identity of a model: the digest of all that changes what is computed with it.

The identity is that of a manifest, which names the parameters by type and value,
however they are spread over files, each settings file by its bytes, and the licence
that the model's card names::

    {"files":[{"content":"sha256:…","name":"config.json","size":612}, …],
     "format":"tapestry-model/1","licence":"apache-2.0","parameters":"sha256:…"}

So a model with another tokenizer, rope setting, chat template or licence is another
model. Of the card itself only the licence counts: the rest of it is text for people.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from tapestry.artifacts.manifest import File
from tapestry.encoding import digest
from tapestry.schema import Digest, Strict
from tapestry.vectors import Parameters, parameters_digest

_LICENCE = r"[A-Za-z0-9][A-Za-z0-9.+-]{0,79}"
_FRONT = re.compile(r"\A---\n(.*?)^---$", re.DOTALL | re.MULTILINE)
_NAMED = re.compile(  # the hub's word, or that of a release's card
    rf"""^(?:license|  given_base_licence): *(["']?)({_LICENCE})\1 *$""", re.MULTILINE
)
_NONE = frozenset({"other", "unknown"})  # the hub's words for "read the card"


class ModelManifest(Strict):
    """The parts of a model that make it this one; its digest is the identity."""

    format: Literal["tapestry-model/1"] = "tapestry-model/1"
    parameters: Digest
    licence: Annotated[str, Field(pattern=f"^{_LICENCE}$")] | None
    files: tuple[File, ...]  # in order of name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContent:
    """Tensors and settings files of a model, held in memory."""

    tensors: Parameters  # as they are stored
    files: Mapping[str, bytes] = field(default_factory=dict)
    licence: str | None = None
    hashes: Mapping[str, str] | None = None  # of the tensors, if they are known

    @property
    def manifest(self) -> ModelManifest:
        """The manifest, whose digest is the identity."""
        return ModelManifest(
            parameters=parameters_digest(self.tensors, self.hashes),
            licence=self.licence,
            files=describe_files(self.files),
        )

    @property
    def digest(self) -> str:
        """The identity."""
        return self.manifest.digest


def describe_files(files: Mapping[str, bytes]) -> tuple[File, ...]:
    """List files with size and digest, in order of name."""
    return tuple(
        File(name=name, size=len(data), content=digest(data))
        for name, data in sorted(files.items())
    )


def licence_in(card: bytes) -> str | None:
    """Return the licence that a model card names in its front matter, if it does."""
    try:
        front = _FRONT.match(card.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    found = _NAMED.search(front[1]) if front else None
    return found[2] if found and found[2] not in _NONE else None
