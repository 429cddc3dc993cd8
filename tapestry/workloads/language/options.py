"""The language workload's part of a training plan."""

from typing import Annotated, Self

from pydantic import Field

from tapestry.protocol.round_manifest import Options
from tapestry.schema import Strict
from tapestry.workloads.base import read_options


class LanguageOptions(Strict):
    """The options of a language plan (``TrainingPlan.options``)."""

    sequence_length: Annotated[int, Field(ge=8, le=8192)]  # tokens of a window

    @classmethod
    def of(cls, options: Options) -> Self:
        """Read the options of a plan or of settings.

        Raises:
            ConfigError: An option is missing, unknown or out of range.
        """
        return read_options(options, cls)

    def to_options(self) -> Options:
        """Return them as a plan holds them."""
        return {"sequence_length": self.sequence_length}
