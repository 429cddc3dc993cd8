"""An operator's years in minutes: paused, resumed, away, and the exit; by commands.

Each party is a process of its own, in a folder of its own, over TLS.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.scenarios.test_service import NAMES, PLAN, Site, found_by_commands, run
from tests.support.commands import tapestry

pytestmark = pytest.mark.slow

NAME = NAMES[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = found_by_commands(tmp_path_factory.mktemp("site"))
    site.lead()
    for name in NAMES:
        site.start(name, "node", "run")
    try:
        yield site
    finally:
        for name in list(site.processes):
            site.stop(name)


def status(site: Site) -> dict[str, Any]:
    said = tapestry("node", "status", site.place / NAME, "--json")
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def seen(site: Site) -> dict[str, Any]:
    """Return what the coordinator says of the member."""
    (found,) = [m for m in site.status()["members"] if m["name"] == NAME]
    return dict(found)


def test_a_member_whose_records_are_gone_says_so_at_both_ends(site: Site) -> None:
    site.wait(lambda: seen(site)["here"])
    assert site.stop(NAME) == 0
    data = site.place / f"records of {NAME}"
    data.rename(site.place / "elsewhere")
    site.start(NAME, "node", "run")
    site.wait(lambda: seen(site)["here"] and seen(site)["refuses"] is not None)
    assert seen(site)["refuses"] == "folder-missing"
    assert seen(site)["words"] == "a folder that it is told to read is not there"
    told = status(site)
    assert (told["state"], told["code"], told["ready"]) == (
        "refusing",
        "folder-missing",
        False,
    )
    assert str(data) in told["words"]
    assert str(data) not in (site.place / "rivers.log").read_text()
    assert site.stop(NAME) == 64  # as it would have ended at once
    (site.place / "elsewhere").rename(data)
    site.start(NAME, "node", "run")
    site.wait(lambda: seen(site)["here"] and seen(site)["refuses"] is None)


def test_a_run_waits_for_a_member_that_is_paused(site: Site) -> None:
    run("node", "pause", site.place / NAME)
    site.plan("run-1", "--base", "tiny")
    site.wait(lambda: status(site)["ready"])
    site.wait(lambda: bool(site.status()["runs"]))
    time.sleep(5)
    (begun,) = site.status()["runs"]
    assert (begun["rounds"], begun["end"]) == ([], "")
    run("node", "resume", site.place / NAME)
    site.wait(lambda: site.ended("run-1"))
    assert site.closed("run-1") == 2
    found = status(site)
    assert found["budget"]["spent"] > 0
    assert found["checkpoint_age"] < 600
    assert found["certificate_days"] > 300


def test_a_member_leaves_while_the_coordinator_is_away(site: Site) -> None:
    folder = site.place / NAME
    site.stop("rivers")
    site.wait(lambda: status(site)["state"] == "waiting")
    found = status(site)
    log = (site.place / f"{NAME}.log").read_text()
    assert f"{found['words']} [{found['code']}]" in log
    phrase = site.place / "secrets" / "passphrase"
    run("node", "leave", folder, "--confirm", NAME, "--passphrase-file", phrase)
    assert "leaves" in tapestry("node", "status", folder).stdout
    site.lead()
    site.wait(lambda: "by entry" in tapestry("node", "leave", folder).stdout)
    site.wait(site.is_cosigned)
    done = tapestry(
        *("coordinator", "plan", site.coordinator, "run-2", *PLAN),
        *("--held-out", site.place / "public", "--epsilon", "1"),
        *("--base", "tiny", "--option", "sequence_length=32"),
    )
    assert done.exit_code == 64
    assert "the federation has 2 members" in done.stderr
    bundle = site.place / "bundle"
    run("coordinator", "bundle", site.coordinator, "-o", bundle)
    run("audit", "verify", bundle)
