"""A coordinator's folder is lost, and another one recovers the log and is voted for."""

import shutil
from pathlib import Path

from tapestry_coordinator import coordinator_folder
from tapestry_coordinator.settings import CoordinatorSettings
from tests.support.commands import tapestry
from tests.support.federation import Federation

VOTERS = ("fi", "fr", "id")


def ok(*words: object) -> str:
    """Run a command that ends well; returns what it prints."""
    done = tapestry(*words)
    assert done.exit_code == 0, done.stderr
    return str(done.stdout)


def lose(federation: Federation) -> Path:
    """Lose the coordinator's folder, make one with new keys; returns the old one."""
    folder = federation.coordinator
    old = folder.rename(folder.with_name("old"))
    renew(federation, old, folder)
    return old


def renew(federation: Federation, old: Path, folder: Path) -> None:
    """Make a coordinator's folder with new keys."""
    coordinator_folder.init(
        folder,
        CoordinatorSettings.read(old / "coordinator.toml"),
        workload="language",
        base="tiny",
        policy=federation.view("fr").state.policy,
        passphrase=None,
    )


def node(federation: Federation, name: str) -> Path:
    """The folder of a node."""
    return federation.directory / "nodes" / name


def recover(federation: Federation, *names: str) -> str:
    """Recover from the mirrors of members, whose nodes run."""
    words: list[object] = []
    for name in names:
        words += ["--from", node(federation, name) / "view.db"]
    trust = node(federation, "fr") / "trust-policy.txt"
    return ok(
        "coordinator", "recover", federation.coordinator, *words, "--trust", trust
    )


def propose(federation: Federation, *, by: str = "fr") -> Path:
    """Propose the keys of the new folder; returns the ballot."""
    folder = federation.coordinator
    made = federation.directory / "coordinator.proposal"
    invitation = folder / "simulated.invite"
    node_words = ("--node", node(federation, by), "-o", made)
    ok("governance", "propose", "coordinator", invitation, *node_words)
    said = ok("coordinator", "submit", folder, made)
    assert ": 0 of " in said
    (ballot,) = folder.glob("coordinator-*.ballot")
    return ballot


def vote(federation: Federation, ballot: Path, *names: str) -> str:
    """Let members vote with the ballot and their root keys alone."""
    made: list[Path] = []
    for name in names:
        made.append(federation.directory / f"{name}.vote")
        key = node(federation, name) / "keys" / "root.key"
        said = ok("governance", "vote", ballot, "yes", "--key", key, "-o", made[-1])
        assert "not cosigned" in said
    return ok("coordinator", "submit", federation.coordinator, *made)


def replace(federation: Federation, *, mirror: str = "fi") -> Path:
    """Lose the coordinator, and have its successor named; returns the old folder."""
    old = lose(federation)
    recover(federation, mirror)
    vote(federation, propose(federation), *VOTERS)
    return old


def begin_again(federation: Federation, old: Path, run_id: str) -> None:
    """Give the new folder a plan for a run of its own, from the given base."""
    place = federation.coordinator / "runs" / run_id
    shutil.copytree(old / "runs" / "run" / "held-out", place / "held-out")
    plan = (old / "runs" / "run" / "run.toml").read_text()
    (place / "run.toml").write_text(plan.replace('"run"', f'"{run_id}"'))
