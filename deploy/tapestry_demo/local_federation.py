"""The founding of a federation on one machine, by the functions of the commands.

In a real federation each institution does its part on its own machine, and its people
compare the charter's fingerprint. ``tapestry demo`` does it for all of them; its keys
lie open, as nobody is there to type a passphrase::

    coordinator/   coordinator.toml policy.toml keys/ tls/ log/ runs/
    nodes/<name>/  node.toml trust-policy.txt keys/ data/
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from tapestry.encrypted_keys import load_key
from tapestry.errors import ConfigError, ResourceError
from tapestry.inputs.setting_values import to_toml
from tapestry.settings import write_new
from tapestry.storage import durable_files
from tapestry_coordinator.coordinator_folder import init, open_log, write_charter
from tapestry_coordinator.run_folders import PLAN, run_folder
from tapestry_coordinator.settings import CoordinatorSettings, RunSettings
from tapestry_governance.events.federation_events import Policy
from tapestry_governance.founding import accept_charter
from tapestry_governance.founding_files import (
    Invitation,
    OpenedCharter,
    read_document,
)
from tapestry_governance.member_folder import join, make_keys, write_request
from tapestry_node.settings import NodeSettings

ADDRESS = "localhost:443"  # in the charter; on one machine nodes are told a port


@dataclass(frozen=True, slots=True, kw_only=True)
class Institution:
    """A founding member: its name, its private data, and its settings."""

    name: str
    data: Path
    settings: Mapping[str, object]  # a node.toml without the genesis
    languages: Sequence[str] = ()  # with records, what its request says of them
    records: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Founding:
    """The agreement of the founders: plan, policy and members."""

    coordinator: CoordinatorSettings
    run: RunSettings
    policy: Policy
    institutions: Sequence[Institution]


def found(directory: Path, founding: Founding) -> str:
    """Write the folders of a new federation and return the genesis digest.

    Raises:
        ConfigError: A folder of a party exists already.
        ResourceError: A file cannot be written, or the data cannot be read.
    """
    try:
        return _found(directory, founding)
    except OSError as error:
        raise ResourceError(
            f"cannot found a federation in {directory}: {error}",
            code="file-unwritable",
        ) from error


def _found(directory: Path, founding: Founding) -> str:
    coordinator, run = directory / "coordinator", founding.run
    _require_free(coordinator)
    invitation = init(
        coordinator,
        founding.coordinator,
        workload=run.training.workload,
        base=run.base,
        policy=founding.policy,
        passphrase=None,
    )
    plan = tomli_w.dumps(to_toml(run.model_dump(), RunSettings))
    place = run_folder(coordinator, run.run_id)
    durable_files.make_folders(place)
    write_new(place / PLAN, plan)
    invited, folders = read_document(invitation, Invitation), dict[str, Path]()
    for each in founding.institutions:
        folders[each.name] = directory / "nodes" / each.name
        ask(folders[each.name], each, invited)
    requests = [folder / f"{name}.request" for name, folder in folders.items()]
    charter = write_charter(coordinator, requests, is_planned=False).charter
    acceptances = [_accept(folder, name, charter) for name, folder in folders.items()]
    open_log(coordinator, acceptances)
    return charter.genesis


def ask(folder: Path, institution: Institution, invitation: Invitation) -> None:
    """Make the folder of an institution and its request."""
    _require_free(folder)
    keys = make_keys(folder, institution.name, root=None, passphrase=None)
    shutil.copytree(institution.data, folder / "data")
    settings = {**institution.settings, "name": institution.name}
    text = tomli_w.dumps(to_toml(settings, NodeSettings))
    write_new(folder / "node.toml", text)
    NodeSettings.read(folder / "node.toml")
    write_request(
        folder,
        institution.name,
        invitation,
        keys,
        languages=institution.languages,
        records=institution.records,
    )


def _accept(folder: Path, name: str, charter: OpenedCharter) -> Path:
    """Accept a charter as this program, which read it to itself."""
    entry = accept_charter(
        charter.entry,
        charter.requests[name],
        root=load_key(folder / "keys" / "root.key", passphrase=None),
        readers=charter.requests.keys() - {name},
        now=datetime.now(UTC),
    )
    path = folder / f"{name}.acceptance"
    durable_files.replace_file(path, entry)
    join(folder, charter)
    return path


def _require_free(folder: Path) -> None:
    if folder.exists():
        raise ConfigError(
            f"{folder} exists; choose an empty folder", code="file-exists"
        )
