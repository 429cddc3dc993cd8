"""A release as it has to be: a function of the log and of the given base's files.

Tensors are the replica's, rounded to the given base's types; settings files are those
of the given base, byte for byte; the card is printed from the log. So whoever follows
the rounds can rebuild all of a release, card included, and compare its manifest with
the one that is to be published.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from tapestry.artifacts.card_section import standing_section
from tapestry.artifacts.manifest import Manifest
from tapestry.artifacts.model_identity import ModelContent
from tapestry.artifacts.model_writer import describe_model, write_model
from tapestry.model.replica import Replica
from tapestry.protocol.round_manifest import RoundManifest


@dataclass(frozen=True, kw_only=True)
class ReleaseDraft:
    """The files of a release that is to be published under a name."""

    name: str
    round_number: int
    first: RoundManifest  # the plan of the run's first round
    replica: Replica  # after the round
    given: ModelContent
    card_fields: Mapping[str, str]

    @property
    def model_digest(self) -> str:
        """The identity of the released model."""
        return self.replica.release_digest

    @property
    def parameters_digest(self) -> str:
        """The digest of its parameters."""
        return self.replica.released.parameters

    @cached_property
    def manifest(self) -> Manifest:
        """All files; computed without writing them."""
        files = describe_model(self._content, card=self.card.encode())
        return Manifest(format="tapestry-manifest/1", files=files)

    def write(self, folder: Path) -> None:
        """Write the files that the manifest lists.

        Raises:
            ResourceError: The disk is full, or the folder cannot be written.
        """
        write_model(folder, self._content, card=self.card.encode())

    @property
    def _content(self) -> ModelContent:
        return replace(self.given, tensors=self.replica.rounded(), hashes=None)

    @property
    def card(self) -> str:
        """The model card.

        Edge cases:
            Where nothing names the given base's licence, neither does the card. The
            members choose the licence of the release itself; the card has none.
        """
        kind = "".join(f"{key}: {value}\n" for key, value in self.card_fields.items())
        licence = self.given.licence
        front = f'tapestry:\n  given_base_licence: "{licence}"\n' if licence else ""
        terms = f"it is under {licence}" if licence else "see it for its licence"
        rows = "\n".join(f"| {key} | {value} |" for key, value in self._facts())
        return f"""---
{kind}tags: [tapestry, federated]
{front}---

# {self.name}

A base model that institutions trained together. No record left an institution; the
coordinator saw masked sums only. Every step is in the federation's log.

| | |
|---|---|
{rows}

Changed from the given base; {terms}. Its notices, if it has any, lie beside this card.

{standing_section("release", self.name)} The command checks the
files and parameters as well, and that the log has them.
"""

    def _facts(self) -> list[tuple[str, object]]:
        privacy = self.first.privacy
        facts: list[tuple[str, object]] = [
            ("model", f"`{self.model_digest}`"),
            ("parameters", f"`{self.parameters_digest}`"),
            ("given base", f"`{self.first.model_digest}`"),
            ("run", self.first.run_id),
            ("rounds", self.round_number),
            ("noise", privacy.noise),
        ]
        if privacy.noise != "none":
            facts += [
                ("noise multiplier", privacy.noise_multiplier),
                ("unit of privacy", privacy.unit),
                ("adjacency", privacy.adjacency),
            ]
        return facts
