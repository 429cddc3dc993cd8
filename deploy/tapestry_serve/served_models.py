"""The models of a server: a base and its adapters, by id, each with its lineage.

Guarantees:
    What runs are the bytes that were checked; no file is read twice. Ids are looked
    up, never joined to a path. A lineage names digests of what runs, and entries of the
    log that was verified.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapestry.cli import console
from tapestry.encoding import canonical_json, digest
from tapestry.errors import ConfigError, IncompleteError
from tapestry.tlog.checkpoint import read_claim
from tapestry_governance import registry
from tapestry_governance.vote_count import unknown_files, withdrawn_files

if TYPE_CHECKING:
    from tapestry.workloads.hardware import Machine
    from tapestry.workloads.language.model import LanguageModel
    from tapestry_governance.member_view import MemberView
    from tapestry_governance.rules.federation_state import FederationState

BASE = "base"
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One id of a server."""

    id: str
    lineage: Mapping[str, Any]
    is_logged: bool  # the log names base and adapter
    refused: str | None = None  # why it answers nothing, by the log

    @property
    def digest(self) -> str:
        """The digest of the lineage, which an answer names."""
        return digest(canonical_json(dict(self.lineage)))

    @property
    def badge(self) -> str:
        """The extent of what was verified: ``log``, or ``files`` alone."""
        return "log" if self.is_logged else "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModels:
    """A loaded base, its adapters, and what is served of them."""

    model: "LanguageModel"
    adapters: Mapping[str, registry.CheckedAdapter]
    served: Mapping[str, ServedModel] = field(default_factory=dict)


def load(
    base: str,
    adapters: Sequence[tuple[str | None, Path]],
    *,
    machine: "Machine | None" = None,
) -> ServedModels:
    """Load a base, and adapters that belong to it, each under its id.

    An id is the folder's name, if none is given.

    Raises:
        ConfigError: Two have the same id, an id is spelled wrong, or a folder is
            missing or no model.
        TapestryError: A folder breaks a rule of the registry.
    """
    from tapestry.workloads.language.base_models import open_base

    places: dict[str, Path] = {}
    for given, folder in adapters:
        if not folder.is_dir():
            raise ConfigError(
                f"no adapter folder {folder}; name one with --adapter",
                code="folder-missing",
            )
        name = given or folder.resolve().name
        if name in places or name == BASE:
            other = f"{places[name]} and " if name in places else ""
            raise ConfigError(
                f"two models have the id {name!r}: {other}{folder}; give one another:"
                f" --adapter NAME={folder}",
                code="adapter-name-duplicated",
            )
        places[name] = folder
    found = {name: registry.check_folder(folder) for name, folder in places.items()}
    model = open_base(base, machine=machine)
    content = model.given
    shape = registry.BaseShape(
        digest=content.digest,
        parameters_digest=content.manifest.parameters,
        shapes={name: value.shape for name, value in content.tensors.items()},
    )
    for each in found.values():
        registry.check_fit(each, shape)
    return ServedModels(model=model, adapters=found)


def check_ids(names: Sequence[str]) -> None:
    """Require ids that a request can spell.

    Raises:
        ConfigError: One has other characters than a-z, 0-9 and hyphens, or too many.
    """
    for name in names:
        if not _ID.fullmatch(name):
            raise ConfigError(
                f"id {console.shown(name)!r}: want up to 63 of a-z, 0-9 and hyphens;"
                " say --adapter NAME=DIR",
                code="model-id-invalid",
            )


def with_lineage(
    loaded: ServedModels,
    *,
    name: str,
    log: "MemberView | None",
    engine: Mapping[str, Any],
) -> ServedModels:
    """Add the lineage of the base, which is called ``name``, and of each adapter."""
    served = {BASE: _served(loaded, BASE, None, name=name, log=log, engine=engine)}
    for each, found in loaded.adapters.items():
        served[each] = _served(loaded, each, found, name=name, log=log, engine=engine)
    return replace(loaded, served=served)


def _served(
    loaded: ServedModels,
    model: str,
    adapter: registry.CheckedAdapter | None,
    *,
    name: str,
    log: "MemberView | None",
    engine: Mapping[str, Any],
) -> ServedModel:
    base = loaded.model.given.digest
    manifests = [] if adapter is None else [adapter.manifest_digest]
    facts: dict[str, Any] = {"entries": [], "adapter": {}}
    refused, is_logged = None, False
    if log is not None:
        is_logged = not unknown_files(log.state, model=base, manifests=manifests)
        facts |= _facts(log.state, base, adapter)
        found = withdrawn_files(log.state, model=base, manifests=manifests)
        refused = "; ".join(str(each) for each in found if each.refused) or None
    described = (
        []
        if adapter is None
        else [{"name": model, **_files(adapter), **facts["adapter"]}]
    )
    lineage: dict[str, Any] = {
        "base": {"name": name, "digest": base},
        "adapters": described,
        "log": None
        if log is None
        else {**_log(log), "entry_indexes": facts["entries"]},
        "privacy": facts.get("privacy"),
        "engine": dict(engine),
    }
    return ServedModel(id=model, lineage=lineage, is_logged=is_logged, refused=refused)


def _files(adapter: registry.CheckedAdapter) -> dict[str, Any]:
    return {"manifest_digest": adapter.manifest_digest}


def _log(log: "MemberView") -> dict[str, Any]:
    claim = read_claim(log.note)
    return {"origin": claim.origin, "size": claim.size, "root": claim.root.hex()}


def _facts(
    state: "FederationState", base: str, adapter: registry.CheckedAdapter | None
) -> dict[str, Any]:
    """Find the entries of the log on a base and an adapter, and what they promise."""
    facts: dict[str, Any] = {"entries": [], "adapter": {}}
    for each in state.releases.values():
        if each.model_digest == base:
            facts["entries"].append(state.published[each.name])
    if adapter is None:
        return facts
    for event in state.adapters.values():
        if event.manifest_digest != adapter.manifest_digest:
            continue
        facts["entries"].append(state.published[event.name])
        facts["adapter"] = {
            "published_as": event.name,
            "version": event.version,
            "country": event.country,
            "language": event.language,
            "licence": event.licence,
        }
        if event.epsilon is not None:
            facts["privacy"] = {"epsilon": event.epsilon, "delta": event.target_delta}
    facts["entries"].sort()
    return facts


def require_logged(found: ServedModels) -> None:
    """Refuse to serve what the log does not name.

    Raises:
        IncompleteError: The log, or an entry of it, is missing.
    """
    for each in found.served.values():
        if not each.is_logged:
            raise IncompleteError(
                f"no log names {each.id!r} with these files; name a bundle that does"
                " (--bundle), or serve it by its files alone: --allow-unlogged",
                code="model-not-logged",
            )
