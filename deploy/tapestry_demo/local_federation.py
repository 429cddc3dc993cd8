"""The founding of a federation in a folder: keys, trust policy, charter, settings.

In a real federation each institution does its part of this on its own machine;
``tapestry demo`` does it for all of them on one machine::

    flower/tls/    the authority's certificate
    coordinator/   coordinator.toml run.toml trust-policy.txt keys/ log/ held-out/
    nodes/<name>/  node.toml trust-policy.txt keys/ data/
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from tapestry.encoding import digest
from tapestry.errors import ConfigError, ResourceError
from tapestry.inputs.setting_values import to_toml
from tapestry.keys import SigningKey
from tapestry.settings import Settings, write_new
from tapestry_coordinator.settings import CoordinatorSettings, RunSettings
from tapestry_coordinator.superlink.tls import (
    make_node_key,
    make_server_certificate,
    transport_digest,
)
from tapestry_governance.events.federation_events import Policy
from tapestry_governance.events.member_events import MembershipRequest
from tapestry_governance.founding import (
    CharterTerms,
    accept_charter,
    generate_coordinator_keys,
    generate_member_keys,
    make_charter,
    make_request,
    trust_policy_of,
)
from tapestry_governance.log.writer import Log
from tapestry_node.settings import NodeSettings

ENGINE_FOLDER = "flower"
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
    coordinator, settings = directory / "coordinator", founding.coordinator
    log_key, author = generate_coordinator_keys(origin=settings.origin)
    _save(coordinator, {"log": log_key, "author": author})
    authority = make_server_certificate(directory / ENGINE_FOLDER / "tls").authority
    founders = [
        _founder(directory / "nodes" / each.name, each)
        for each in sorted(founding.institutions, key=lambda each: each.name)
    ]
    requests = [request for request, _ in founders]
    terms = CharterTerms(
        federation=settings.federation,
        log=log_key.verify_key,
        address=settings.address,
        authority=digest(authority.read_bytes()),
        policy=founding.policy,
    )
    charter = make_charter(terms, requests, author=author, now=datetime.now(UTC))
    names = [request.name for request in requests]
    acceptances = [
        accept_charter(
            charter,
            request,
            keys,
            readers=[name for name in names if name != request.name],
            now=datetime.now(UTC),
        )
        for request, keys in founders
    ]
    with Log.create(coordinator / "log", key=log_key) as log:
        log.append([charter, *acceptances])
    trust = trust_policy_of(log_key.verify_key, requests).encode()
    genesis = digest(charter)
    _write_settings(directory, founding, trust=trust, genesis=genesis)
    return genesis


def _founder(
    folder: Path, institution: Institution
) -> tuple[MembershipRequest, dict[str, SigningKey]]:
    keys = generate_member_keys(institution.name)
    _save(folder, keys)
    transport = make_node_key(folder / "keys" / "transport")
    request = make_request(
        institution.name,
        keys,
        transport=transport_digest(transport),
        languages=institution.languages,
        records=institution.records,
    )
    return request, keys


def _save(folder: Path, keys: Mapping[str, SigningKey]) -> None:
    _new_folder(folder / "keys")
    for purpose, key in keys.items():
        key.save(folder / "keys" / f"{purpose}.key")


def _write_settings(
    directory: Path, founding: Founding, *, trust: bytes, genesis: str
) -> None:
    coordinator = directory / "coordinator"
    (coordinator / "trust-policy.txt").write_bytes(trust)
    _write_toml(coordinator / "coordinator.toml", founding.coordinator)
    _write_toml(coordinator / "run.toml", founding.run)
    for each in founding.institutions:
        folder = directory / "nodes" / each.name
        (folder / "trust-policy.txt").write_bytes(trust)
        shutil.copytree(each.data, folder / "data")
        node = {**each.settings, "name": each.name, "genesis": genesis}
        text = tomli_w.dumps(to_toml(node, NodeSettings))
        write_new(folder / "node.toml", text)
        NodeSettings.read(folder / "node.toml")


def _write_toml(path: Path, settings: Settings) -> None:
    write_new(path, tomli_w.dumps(to_toml(settings.model_dump(), type(settings))))


def _new_folder(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, mode=0o700)
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise ConfigError(
            f"{folder.parent} exists; choose an empty folder", code="file-exists"
        ) from None
