"""Adapters by commands, beside processes that run: killed, resumed, published.

Each party is a process of its own, in a folder of its own, over TLS. The run has ended,
and the coordinator asks for nothing.
"""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tapestry_coordinator.settings import CoordinatorSettings
from tests.scenarios.test_service import NAMES, Site, found_by_commands, run
from tests.support.commands import tapestry
from tests.support.operated_adapters import write_settings
from tests.support.settings_files import change_settings

pytestmark = pytest.mark.slow

NAME = NAMES[0]
LAW, CARE = f"{NAME}-law", f"{NAME}-care"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = found_by_commands(tmp_path_factory.mktemp("site"))
    path = site.coordinator / "coordinator.toml"
    change_settings(path, CoordinatorSettings, {"cosign_every": 2})
    site.plan("run-1", "--base", "tiny")
    site.lead()
    for name in NAMES:
        site.start(name, "node", "run")
    try:
        site.wait(lambda: site.ended("run-1"))
        site.approve("base-1")
        folder = site.place / NAME / "adapters"
        folder.mkdir(exist_ok=True)
        law = write_settings(folder, LAW, language="de", domain="law", epsilon="2")
        law.write_text(law.read_text().replace("steps = 2", "steps = 300"))
        care = write_settings(folder, CARE, language="de", domain="care", epsilon="1")
        for path in (law, care):  # under a licence that this federation allows
            path.write_text(path.read_text().replace("CC0-1.0", "Apache-2.0"))
        site.wait(partial(is_approved, site))  # as far as the node has accepted the log
        yield site
    finally:
        for name in list(site.processes):
            site.stop(name)


def is_approved(site: Site) -> bool:
    words = ("--release", "base-1", "--plan", "--node", site.place / NAME)
    return tapestry("adapter", "train", CARE, *words).exit_code == 0


def adapter(site: Site, verb: str, *words: object) -> str:
    done = tapestry("adapter", verb, *words, "--node", site.place / NAME)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def stands(site: Site, name: str) -> dict[str, Any]:
    rows = json.loads(adapter(site, "list", "--json"))["adapters"]
    (row,) = [row for row in rows if row["name"] == name]
    return dict(row)


def is_accepted(site: Site, name: str) -> bool:
    return bool(stands(site, name)["state"] == "accepted")


def charges(site: Site) -> list[tuple[str, int, str]]:
    said = tapestry("node", "budget", site.place / NAME, "--json")
    return [
        (each["run"], each["number"], each["state"])
        for each in json.loads(said.stdout)["charges"]
        if each["purpose"] == "adapter"
    ]


def test_a_node_that_is_killed_while_it_trains_goes_on_when_it_is_back(
    site: Site,
) -> None:
    adapter(site, "train", LAW, "--yes")
    site.wait(lambda: stands(site, LAW)["state"] == "training")
    assert "step " in stands(site, LAW)["detail"]
    process = site.processes.pop(NAME)
    process.kill()
    process.wait()
    assert charges(site) == [(LAW, 1, "reserved")]
    site.start(NAME, "node", "run")
    site.wait(lambda: stands(site, LAW)["state"] == "trained")
    assert charges(site) == [(LAW, 1, "spent")]


def test_a_command_trains_where_no_node_runs(site: Site) -> None:
    assert site.stop(NAME) == 0
    said = json.loads(adapter(site, "train", CARE, "--yes", "--json"))
    assert (said["state"], said["plan"]["release"]) == ("trained", "base-1")
    assert charges(site) == [(LAW, 1, "spent"), (CARE, 1, "spent")]
    site.start(NAME, "node", "run")


def test_both_are_published_and_one_withdrawn_while_all_runs(site: Site) -> None:
    for name in (LAW, CARE):
        adapter(site, "publish", name)
    for name in (LAW, CARE):
        site.wait(partial(is_accepted, site, name))
        assert (site.coordinator / "adapters" / name / "README.md").exists()
    adapter(site, "withdraw", LAW, "--reason", "superseded")
    site.wait(lambda: stands(site, LAW)["state"] == "withdrawn")
    site.wait(site.is_cosigned)
    bundle = site.place / "bundle of adapters"
    run("coordinator", "bundle", site.coordinator, "-o", bundle)
    audited = tapestry("audit", "verify", bundle)
    assert audited.exit_code == 0, audited.stdout
    listed = tapestry("adapter", "list", bundle, "--json")
    rows = {row["name"]: row for row in json.loads(listed.stdout)["adapters"]}
    assert rows[LAW]["members"]["withdrawn"] is not None
    assert rows[CARE]["members"]["withdrawn"] is None
    account = json.loads(tapestry("audit", "account", bundle, "--json").stdout)
    (own,) = [each for each in account["accounts"] if each["node"] == NAME]
    budget = json.loads(tapestry("node", "budget", site.place / NAME, "--json").stdout)
    assert (own["adapters"], own["unlogged"]) == (2, 0)
    assert own["epsilon_reported"] == pytest.approx(budget["spent"], abs=2e-6)
