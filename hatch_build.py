"""The build hook that takes the time out of wheels and source archives."""

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_TIME = "1580601600"  # 2 February 2020, the backend's own default


class FixedTimeHook(BuildHookInterface):
    """Gives every file in an archive the same time, whatever the environment says."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Set the time before the archive is begun."""
        os.environ["SOURCE_DATE_EPOCH"] = _TIME
