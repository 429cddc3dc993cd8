"""The log as its coordinator opens it: keys, members behind connections, publisher."""

from dataclasses import dataclass
from pathlib import Path

from tapestry.encoding import digest
from tapestry.errors import ConfigError, IncompleteError
from tapestry.keys import SigningKey
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_coordinator.adapter_shelf import AdapterFetcher
from tapestry_coordinator.authenticated_grid import AuthenticatedGrid
from tapestry_coordinator.barred_keys import ENROLLED, bar
from tapestry_coordinator.grid import Grid, ValidatingGrid
from tapestry_coordinator.inbox import Inbox
from tapestry_coordinator.log_publisher import LogPublisher
from tapestry_coordinator.members_seen import MembersFile
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_governance.audit.bundle import read_small
from tapestry_governance.log.writer import Log

MARKER = "restored"  # a file in the folder of a log that may be an older one


@dataclass(frozen=True, slots=True, kw_only=True)
class LedLog:
    """An open log and the members that cosign it."""

    trust: bytes  # the trust policy's file
    members: AuthenticatedGrid
    publisher: LogPublisher
    inbox: Inbox

    def close(self) -> None:
        """Close the log."""
        self.publisher.log.close()


def open_led_log(
    directory: Path, grid: Grid, *, deadline: float, restored: bool = False
) -> LedLog:
    """Open the log of a coordinator's folder over a grid of connections.

    Args:
        directory: Holds ``coordinator.toml``, ``trust-policy.txt``, ``keys/`` and
            ``log/``.
        grid: The connections.
        deadline: Seconds that a cosignature may take.
        restored: Open it although it was restored and members were not asked yet; then
            nothing may be appended.

    Raises:
        IncompleteError: The log was restored from a backup, and not every member has
            told how much of it it mirrors (``restored_log``); or it was recovered, and
            does not name the key of this folder (``recovered_folder``).
        ConfigError: A file is missing, or the key signs for another log than
            coordinator.toml names.
        ResourceError: Another process has the log open.
        RuleError, ProtocolError: The log breaks its rules, or is empty.
    """
    if (directory / MARKER).exists() and not restored:
        raise IncompleteError(
            f"the log of {directory} was restored from a backup; tapestry coordinator"
            " run asks all members how much of it they mirror first",
            code="restored-unheard",
        )
    trust, key = read_small(directory / "trust-policy.txt"), _log_key(directory)
    policy = TrustPolicy.parse(trust)
    author = SigningKey.load(directory / "keys" / "author.key")
    log = Log.open(directory / "log", key=key)  # last: an error leaves no lock
    genesis = digest(next(log.stream(), b""))  # an empty log is refused below
    members = AuthenticatedGrid(
        ValidatingGrid(grid),
        genesis=genesis,
        keys=lambda: publisher.all_node_keys if restored else publisher.node_keys,
        notice=MembersFile(directory).write,
    )
    inbox = Inbox(directory)
    publisher = LogPublisher(
        log,
        trust=policy,
        key=author,
        grid=members,
        deadline=deadline,
        inbox=inbox,
    )
    if publisher.logged.lead.log != str(key.verify_key):
        log.close()
        raise IncompleteError(
            f"the log names the log key {publisher.logged.lead.log}, this folder has"
            f" {key.verify_key}; members vote on it first: tapestry coordinator submit"
            " takes the proposal and the votes",
            code="coordinator-not-named",
        )
    publisher.notice = lambda state: bar(directory / ENROLLED, state.stolen_transports)
    publisher.notice(publisher.state)
    publisher.fetch = AdapterFetcher(
        directory, trust=trust, publisher=publisher, grid=members
    ).fetch
    return LedLog(trust=trust, members=members, publisher=publisher, inbox=inbox)


def _log_key(directory: Path) -> SigningKey:
    """Load the key of the log that the settings name."""
    settings = CoordinatorSettings.read(directory / "coordinator.toml")
    log_key = SigningKey.load(directory / "keys" / "log.key")
    if log_key.name != settings.origin:
        raise ConfigError(
            f"origin is {settings.origin!r} in coordinator.toml, keys/log.key signs"
            f" for {log_key.name!r}; name the origin of the log",
            code="log-origin-differs",
        )
    return log_key
