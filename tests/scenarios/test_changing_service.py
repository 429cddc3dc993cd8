"""Members and keys change while a federation's processes run.

Each party is a process of its own, in a folder of its own, over TLS, as in
``test_service``; what a person does, is done by commands.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.encrypted_keys import load_public
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_governance.founding import fingerprint
from tapestry_governance.founding_files import (
    MAX_CHARTER_BYTES,
    CharterFile,
    open_charter,
    read_document,
)
from tests.scenarios.test_service import NAMES, ROWS, Site, found_by_commands, run
from tests.support.commands import tapestry
from tests.support.settings_files import change_settings

NEW = "tirol"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A federation that trained once, with a service that cosigns every second."""
    site = found_by_commands(tmp_path_factory.mktemp("changing"))
    path = site.coordinator / "coordinator.toml"
    change_settings(path, CoordinatorSettings, {"cosign_every": 1})
    site.plan("run-1", "--base", "tiny")
    site.lead()
    for name in NAMES:
        site.start(name, "node", "run")
    site.wait(lambda: site.ended("run-1"))
    try:
        yield site
    finally:
        for name in list(site.processes):
            site.stop(name)


def by_phrase(site: Site) -> tuple[object, ...]:
    return ("--passphrase-file", site.place / "secrets" / "passphrase")


def ballots(site: Site) -> list[dict[str, Any]]:
    listed = tapestry("governance", "list", "--node", site.place / NAMES[0], "--json")
    assert listed.exit_code == 0, listed.stderr
    found: list[dict[str, Any]] = json.loads(listed.stdout)["ballots"]
    return found


def standing(site: Site, index: int) -> str:
    (found,) = (each["standing"] for each in ballots(site) if each["index"] == index)
    return str(found)


def included(site: Site) -> list[str]:
    found: list[str] = site.status()["runs"][-1]["rounds"][-1]["included"]
    return found


@pytest.mark.parametrize("purpose", ["witness", "node", "transport"])
def test_a_key_is_rotated_while_the_node_runs(site: Site, purpose: str) -> None:
    folder = site.place / "ostrava"
    keys, entries = folder / "keys", site.status()["entries"]
    coming = keys / f"{purpose}.next"
    run("node", "rotate", folder, purpose, *by_phrase(site))
    assert coming.exists()
    site.wait(lambda: site.status()["entries"] > entries and site.is_cosigned())
    site.plan(f"run-{purpose}", "--base", "tiny", "--rounds", "1")
    site.wait(lambda: site.ended(f"run-{purpose}"))
    assert included(site) == sorted(NAMES)
    if purpose == "transport":  # which the SuperLink has to know
        run("coordinator", "enroll", site.coordinator, folder / "ostrava.request")
        assert site.stop("ostrava") == 0  # it is taken up with the next connection
        site.start("ostrava", "node", "run")
    site.wait(lambda: not coming.exists())
    site.wait(site.is_cosigned)


def test_an_institution_is_admitted_and_trains_with_the_others(
    site: Site, tmp_path: Path
) -> None:
    folder, data = site.place / NEW, site.place / f"records of {NEW}"
    data.mkdir()
    rows = [f'{{"text": "record {n} of {NEW} on snow"}}' for n in range(ROWS)]
    (data / "a.jsonl").write_text("\n".join(rows) + "\n")
    run(
        *("node", "init", folder, "--data", data, "--language", "de"),
        *("--invite", site.coordinator / "rivers.invite"),
        *("--licence", "CC0-1.0", *by_phrase(site)),
    )
    charter = site.coordinator / "rivers.charter"
    document = read_document(charter, CharterFile, limit=MAX_CHARTER_BYTES)
    heard = fingerprint(open_charter(document).genesis)
    run("node", "join", folder, charter, "--fingerprint", heard)
    request, proposal = folder / f"{NEW}.request", tmp_path / "admit.proposal"
    first = site.place / NAMES[0]
    run(
        *("governance", "propose", "admit", request, "--node", first),
        *("-o", proposal, *by_phrase(site)),
    )
    run("node", "submit", site.place / NAMES[1], proposal)  # at any member's node
    site.wait(lambda: any(NEW in each["what"] for each in ballots(site)))
    (index,) = (each["index"] for each in ballots(site) if NEW in each["what"])
    site.wait(site.is_cosigned)
    for name in NAMES[:2]:
        vote = tmp_path / f"{name}.vote"
        run(
            *("governance", "vote", index, "yes", "--node", site.place / name),
            *("-o", vote, *by_phrase(site)),
        )
        run("node", "submit", site.place / name, vote)
    site.wait(lambda: standing(site, index) != "open" and site.is_cosigned())
    run("coordinator", "enroll", site.coordinator, request)
    site.start(NEW, "node", "run")
    site.wait(
        lambda: f"{NEW}/witness" in site.status()["cosigners"] and site.is_cosigned()
    )
    site.plan("run-4", "--base", "tiny", "--rounds", "1")
    site.wait(lambda: site.ended("run-4"))
    assert included(site) == sorted([*NAMES, NEW])


def test_an_auditor_follows_it_from_the_newest_members_bundle(
    site: Site, tmp_path: Path
) -> None:
    site.wait(site.is_cosigned)
    run("node", "bundle", site.place / NEW, "-o", tmp_path / "bundle")
    trust = site.coordinator / "trust-policy.txt"
    said = tapestry("audit", "verify", tmp_path / "bundle", "--trust", trust)
    assert said.exit_code == 0, said.stdout + said.stderr
    turns = list((tmp_path / "bundle" / "turns").iterdir())
    assert len(turns) == 2  # another witness key, and a member
    root = load_public(site.place / NEW / "keys" / "root.key")
    assert root.name == f"{NEW}/root"
