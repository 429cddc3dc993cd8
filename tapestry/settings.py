"""Settings of a role: one TOML file, read once into a strict, frozen model.

Unknown keys are errors. Nothing that affects privacy or trust has a default.
Settings that change a guarantee (``policy``, ``training``, ``privacy``, ``secagg``)
and settings that change only speed (``speed``) sit in different tables.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, ValidationError

from tapestry.errors import ConfigError
from tapestry.inputs.faults import Faults, InputFault, show
from tapestry.inputs.setting_faults import explain
from tapestry.inputs.setting_values import fit
from tapestry.inputs.text_reader import read_toml
from tapestry.metrics_page import parse_address
from tapestry.schema import LocalPath, Name, Printable, Strict
from tapestry.storage.durable_files import create_file

Count = Annotated[int, Field(ge=1)]
Base = Annotated[LocalPath, Field(examples=["smollm2"])]  # or a name of the cache
WorkloadName = Annotated[Name, Field(examples=["language"])]
Targets = tuple[Annotated[Printable, Field(max_length=80, examples=["q_proj"])], ...]


def _loopback(text: str) -> str:
    parse_address(text)
    return text


LoopbackAddress = Annotated[
    str,
    Field(max_length=60, examples=["127.0.0.1:9464"]),
    AfterValidator(_loopback),
]
"""An address of this machine alone, for metrics; empty: none."""


class Settings(Strict):
    """A settings file.

    Decimals are numbers in the file, ``learning_rate = 0.1``, and text in the model, as
    in messages and events; ``tapestry.inputs.setting_values`` converts them exactly.
    """

    former_keys: ClassVar[Mapping[str, str]] = {}  # dotted; what to write now

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises:
            ConfigError: The file does not exist, ``tapestry.inputs.text_reader``
                refuses it, or settings break a rule; all of them are named, up to ten.
        """
        try:
            raw = read_toml(path)
        except FileNotFoundError as error:
            raise ConfigError(
                f"cannot read {show(path)}: {error.strerror}", code="file-missing"
            ) from None
        try:
            return cls.model_validate(fit(raw, cls))
        except ValidationError as error:
            faults = Faults()
            for line in explain(error, cls):
                faults.add(InputFault(path, line, code="setting-invalid"))
            faults.check(path)
            raise  # unreachable: an error has a line


def write_new(path: Path, text: str) -> None:
    """Write a settings file that must not exist yet.

    Raises:
        ConfigError: A file of this name exists.
        ResourceError: The file cannot be written.
    """
    try:
        create_file(path, text.encode(), mode=0o666)
    except FileExistsError:
        raise ConfigError(
            f"{path} exists; choose another folder", code="file-exists"
        ) from None
