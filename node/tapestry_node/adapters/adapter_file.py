"""``adapters/NAME.toml``: the settings of one of an institution's adapters.

An institution may have several, by language, domain or region. Each has a file with the
table ``[adapter]`` of ``node.toml``, but for ``publish``, and a few words about it. An
adapter without a file is trained as ``node.toml`` says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, TypeAdapter, ValidationError

from tapestry.errors import ConfigError
from tapestry.inputs.faults import show
from tapestry.schema import Name, Printable
from tapestry.settings import Settings
from tapestry_governance.events.event_body import Language
from tapestry_node.settings import AdapterTraining, NodeSettings

PUBLICATIONS = "adapters"  # below the node's folder
_SUFFIX = ".toml"
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_Words = Annotated[Printable, Field(max_length=60)]


class AdapterFile(Settings):
    """The content of the file: what the adapter is for, and how it is trained."""

    language: Language | None = None  # None: the first of the data
    domain: Annotated[_Words, Field(examples=["law"])] = ""
    region: Annotated[_Words, Field(examples=["Bretagne"])] = ""
    adapter: AdapterTraining


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedAdapter:
    """An adapter by its name, before it has a version."""

    name: str
    file: AdapterFile

    @classmethod
    def own(cls, settings: NodeSettings, name: str | None = None) -> Self:
        """Return the adapter of ``node.toml``; without a name it has the member's."""
        training = settings.adapter.model_dump(exclude={"publish"})
        file = AdapterFile.model_validate({"adapter": training})
        return cls(name=name or settings.name, file=file)

    @classmethod
    def read(
        cls, folder: Path, name: str, settings: NodeSettings, *, file: Path | None
    ) -> Self:
        """Read the settings of an adapter: a file, its own, or those of ``node.toml``.

        Raises:
            ConfigError: The name is no name of an adapter, the file that is named is
                not there, or a setting breaks a rule.
        """
        check_name(name)
        place = file or settings_path(folder, name)
        if file is None and not place.exists():
            return cls.own(settings, name)
        return cls(name=name, file=AdapterFile.read(place))


def check_name(name: str) -> None:
    """Refuse what no adapter is named, before a path is made of it.

    Raises:
        ConfigError: It is no name that the log could have.
    """
    try:
        _NAME.validate_python(name, strict=True)
    except ValidationError:
        raise ConfigError(
            f"{show(name)} is no name of an adapter: up to 63 of a-z, 0-9, dots and"
            " hyphens, and no dot or hyphen first",
            code="adapter-name-malformed",
        ) from None


def settings_path(folder: Path, name: str) -> Path:
    """Return where the settings of an adapter are."""
    return folder / PUBLICATIONS / f"{name}{_SUFFIX}"


def names_in(folder: Path, suffix: str = _SUFFIX) -> Iterator[str]:
    """Yield the names of the adapters that have a file with a suffix, in order.

    Edge cases:
        A file of another name is no adapter's, and is left alone.
    """
    for path in sorted((folder / PUBLICATIONS).glob(f"*{suffix}")):
        try:
            check_name(name := path.name.removesuffix(suffix))
        except ConfigError:
            continue
        yield name
