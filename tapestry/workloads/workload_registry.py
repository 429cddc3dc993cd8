"""The workloads that are installed, by the name that plans and settings give them.

Guarantees:
    A name selects among the workloads that the caller has, and never leads to code
    from elsewhere: it is a key of a mapping, and no part of a module's path. The
    modules below are imported when they are used, so the mapping costs no torch.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import cast

from tapestry.errors import ConfigError
from tapestry.protocol.round_manifest import Options
from tapestry.workloads.base import RecordReader, Survey, Workload
from tapestry.workloads.deferred_workload import DeferredWorkload
from tapestry.workloads.hardware import Machine

Opener = Callable[[str, Path | None, Machine], Workload]
"""Loads a base, by its name or folder; the second is where expanded bases are kept."""


def _installed(module: str) -> Opener:
    """Return an opener that imports its module when it is called."""

    def opener(base: str, cache: Path | None, machine: Machine) -> Workload:
        found = import_module(module).open_base
        return cast("Workload", found(base, cache=cache, machine=machine))

    return opener


INSTALLED: Mapping[str, Opener] = MappingProxyType(
    {"language": _installed("tapestry.workloads.language.base_models")}
)

_READERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"language": ("tapestry.workloads.language.text_records", "TextReader")}
)


_FINDERS: Mapping[str, str] = MappingProxyType(
    {"language": "tapestry.workloads.language.base_models"}
)


_SURVEYS: Mapping[str, str] = MappingProxyType(
    {"language": "tapestry.workloads.language.record_survey"}
)


def open_reader(name: str) -> RecordReader | None:
    """Return the reader of a workload's records, without a base; None if unknown."""
    if name not in _READERS:
        return None
    module, reader = _READERS[name]
    return cast("RecordReader", getattr(import_module(module), reader)())


def open_survey(
    name: str, *, base: str, options: Options, begin: Callable[[str], None]
) -> Survey:
    """Return what counts a workload's records without a model; it may count nothing.

    ``begin`` is told the name of each count before it is made.
    """
    if name not in _SURVEYS:
        return lambda _, __: {}
    survey = import_module(_SURVEYS[name]).survey
    return partial(survey, base=base, options=options, begin=begin)


def open_workload(
    name: str,
    base: str,
    *,
    cache: Path | None = None,
    machine: Machine | None = None,
    workloads: Mapping[str, Opener] = INSTALLED,
) -> Workload:
    """Load a base as a workload.

    ``cache`` is where expanded bases are kept, by default a folder of the user's; a
    program or test adds to ``workloads``. The machine is this one, if none is given.

    Raises:
        ConfigError: There is no such workload or base.
        ResourceError: The base cannot be read, or is too large for the machine.
    """
    if name not in workloads:
        raise _unknown(name, workloads)
    return workloads[name](base, cache, machine or Machine())


def defer_workload(
    name: str,
    base: str,
    *,
    prepare: Callable[[], None] = lambda: None,
    machine: Machine | None = None,
) -> DeferredWorkload:
    """Read a base; its model is built when something needs it, after ``prepare``.

    Raises:
        ConfigError: There is no such workload or base, or its folder is at fault.
        ResourceError: The base cannot be read, or is too large for the machine.
    """
    reader = open_reader(name)
    if reader is None or name not in _FINDERS:
        raise _unknown(name, _FINDERS)
    found = import_module(_FINDERS[name]).find_base(base, machine=machine)
    return DeferredWorkload(found, reader=reader, prepare=prepare)


def _unknown(name: str, known: Iterable[str]) -> ConfigError:
    return ConfigError(
        f"no workload {name!r} is installed; known are {', '.join(sorted(known))}",
        code="workload-unknown",
    )
