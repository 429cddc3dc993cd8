"""``policy.toml``: a policy that people edit, for a charter or a proposal."""

from pathlib import Path

from tapestry.settings import Settings
from tapestry_governance.events.federation_events import Policy


class PolicySettings(Policy, Settings):
    """The file, with decimals as numbers."""


def read_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        ConfigError: There is no file, or a setting is invalid; all are named.
    """
    return Policy.model_validate(PolicySettings.read(path).model_dump())
