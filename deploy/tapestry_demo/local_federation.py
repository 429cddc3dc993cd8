"""The founding of a federation in a folder: keys, trust policy, charter, settings.

In a real federation each institution does its part of this on its own machine;
``tapestry demo`` does it for all of them on one machine::

    coordinator/   coordinator.toml trust-policy.txt keys/ log/ held-out/
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
from tapestry.keys import Algorithm, SigningKey, VerifyKey
from tapestry.settings import write_new
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_governance.events.envelope import Author, sign_entry
from tapestry_governance.events.types import CharterAdopted, Coordinator, Member, Policy
from tapestry_governance.log.writer import Log
from tapestry_node.settings import NodeSettings

NODE_KEYS = {
    "root": Algorithm.SIGNATURE,
    "node": Algorithm.SIGNATURE,
    "witness": Algorithm.COSIGNATURE,
    "community": Algorithm.SIGNATURE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Institution:
    """A founding member: its name, its private data, and its settings."""

    name: str
    data: Path
    settings: Mapping[str, object]  # a node.toml without the genesis


@dataclass(frozen=True, slots=True, kw_only=True)
class Founding:
    """The agreement of the founders: plan, policy and members."""

    coordinator: CoordinatorSettings
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
    coordinator = directory / "coordinator"
    log_key, author = _make_keys(coordinator, founding.coordinator)
    members = [
        (each, _member_keys(directory / "nodes" / each.name, each.name))
        for each in sorted(founding.institutions, key=lambda each: each.name)
    ]
    charter = CharterAdopted(
        log=str(log_key.verify_key),
        coordinator=Coordinator(name="coordinator", key=str(author.verify_key)),
        members=tuple(_member(each.name, keys) for each, keys in members),
        policy=founding.policy,
    )
    speaker = Author(
        federation=founding.coordinator.federation,
        actor="coordinator",
        role="coordinator",
    )
    event = speaker.event(charter, now=datetime.now(UTC), seen=None)
    entry = sign_entry(event, author, *(keys["root"] for _, keys in members))
    with Log.create(coordinator / "log", key=log_key) as log:
        log.append([entry])
    trust = TrustPolicy.of_members(
        log_key.verify_key,
        [VerifyKey.parse(member.witness) for member in charter.members],
    ).encode()
    genesis = digest(entry)
    _write_settings(directory, founding, trust=trust, genesis=genesis)
    return genesis


def _make_keys(
    folder: Path, settings: CoordinatorSettings
) -> tuple[SigningKey, SigningKey]:
    _new_folder(folder / "keys")
    log_key = SigningKey.generate(settings.origin)
    author = SigningKey.generate("coordinator/author")
    log_key.save(folder / "keys" / "log.key")
    author.save(folder / "keys" / "author.key")
    return log_key, author


def _member_keys(folder: Path, name: str) -> dict[str, SigningKey]:
    _new_folder(folder / "keys")
    keys = {
        purpose: SigningKey.generate(f"{name}/{purpose}", algorithm=algorithm)
        for purpose, algorithm in NODE_KEYS.items()
    }
    for purpose, key in keys.items():
        key.save(folder / "keys" / f"{purpose}.key")
    return keys


def _member(name: str, keys: Mapping[str, SigningKey]) -> Member:
    return Member(
        name=name, **{purpose: str(key.verify_key) for purpose, key in keys.items()}
    )


def _write_settings(
    directory: Path, founding: Founding, *, trust: bytes, genesis: str
) -> None:
    coordinator = directory / "coordinator"
    (coordinator / "trust-policy.txt").write_bytes(trust)
    plan = to_toml(founding.coordinator.model_dump(), CoordinatorSettings)
    write_new(coordinator / "coordinator.toml", tomli_w.dumps(plan))
    for each in founding.institutions:
        folder = directory / "nodes" / each.name
        (folder / "trust-policy.txt").write_bytes(trust)
        shutil.copytree(each.data, folder / "data")
        settings = {**each.settings, "name": each.name, "genesis": genesis}
        text = tomli_w.dumps(to_toml(settings, NodeSettings))
        write_new(folder / "node.toml", text)
        NodeSettings.read(folder / "node.toml")


def _new_folder(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, mode=0o700)
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise ConfigError(
            f"{folder.parent} exists; choose an empty folder", code="file-exists"
        ) from None
