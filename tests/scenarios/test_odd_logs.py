"""Whatever log the rules take, each command of an auditor ends with a status."""

import json
from pathlib import Path

import pytest

from tapestry.cli.exit_status import ExitStatus
from tests.support.audit_bundles import attach_proof, bundle_of
from tests.support.commands import tapestry
from tests.support.odd_logs import OddLog

VERDICTS = {
    ExitStatus.HOLDS,
    ExitStatus.FAILED,
    ExitStatus.RULE_BROKEN,
    ExitStatus.INCOMPLETE,
    ExitStatus.FOREIGN_FILE,
}


def commands(folder: Path, log: OddLog) -> list[list[object]]:
    """Write the bundle of a log; returns the words of each command."""
    world = log.world
    for name, place in log.artifacts.items():
        if name in world.folded.releases:
            attach_proof(place, world, world.folded.published[name])
    bundle = bundle_of(world, folder, artifacts=log.artifacts).folder
    trust = folder / "trust-policy.txt"
    trust.write_bytes(world.trust.encode())
    published = [*world.folded.published]
    found: list[list[object]] = [
        ["audit", "verify", bundle],
        ["audit", "account", bundle],
        ["adapter", "list", bundle],
        *(["audit", "statement", bundle, name] for name in published),
    ]
    for name, place in log.artifacts.items():
        kind = "release" if name in world.folded.releases else "adapter"
        found.append([kind, "verify", place, "--bundle", bundle])
    return [[*words, "--trust", trust] for words in found]


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=pytest.mark.slow if seed else ()) for seed in range(12)],
)
def test_a_legal_log_ends_no_command_without_a_status(
    tmp_path: Path, seed: int
) -> None:
    log = OddLog(seed, tmp_path / "artifacts").grow(20 + seed)
    for words in commands(tmp_path / "out", log):
        for more in ([], ["--json"]):
            result = tapestry(*words, *more)
            assert result.exit_code in VERDICTS, (words, result.stdout, result.stderr)
            assert "internal error" not in result.stdout + result.stderr
            if more and result.stdout:
                json.loads(result.stdout)
    assert log.taken > 12
