"""What users install is what is tested: wheels in empty environments.

The lock that developers use (``constraints.txt``) is no part of what a user installs.
So the wheel is built and installed with the newest versions that there are and with
the lowest that ``pyproject.toml`` allows, bare and with each extra alone.

This needs a package index, so ``.ci/run`` asks for it with ``CHECK_INSTALL=1``.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry_governance.events.round_events import RoundOpened
from tests.install.environments import (
    Installed,
    Plan,
    build_wheel,
    environment,
    find_python,
    install,
    remove,
)
from tests.support.audit_bundles import bundle_of
from tests.support.federation import NAMES, Base, Federation
from tests.support.federation_fixtures import base as base
from tests.support.log_world import World, fake_digest, renamed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("CHECK_INSTALL") != "1",
        reason="needs a package index; CHECK_INSTALL=1 asks for it, as .ci/run does",
    ),
]
PLANS = [
    Plan(),
    Plan(lowest=True),
    Plan(python="3.12"),
    Plan(python="3.13"),
    Plan(python="3.13", lowest=True),
    Plan(extra="chat"),
    Plan(extra="serve"),
    Plan(extra="coordinator"),
    Plan(extra="node"),
    Plan(extra="demo"),
    Plan(extra="demo", lowest=True),
]
ROLES = {
    "audit": ("verify", "account", "statement"),
    "adapter": ("verify", "list"),
    "release": ("verify",),
    "witness": ("init", "run", "sign"),
    "node": ("run", "check", "status", "pause", "leave", "budget", "egress"),
    "coordinator": ("status",),
    "demo": (),
    "chat": (),
}
# What an extra is for must be there: modules that its role's commands import.
MODULES = {
    "chat": ["rich.table", "gguf"],
    "serve": ["tapestry_serve.assistant", "uvicorn"],
    "coordinator": ["tapestry_coordinator.flower", "tapestry_coordinator.run"],
    "node": ["tapestry_node.flower"],
    "demo": ["tapestry_demo.demo_command", "tapestry_coordinator.superlink.supervisor"],
}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def wheel(place: Path) -> Path:
    return build_wheel(place)


@pytest.fixture(scope="module", params=PLANS, ids=str)
def installed(
    request: pytest.FixtureRequest, wheel: Path, place: Path
) -> Iterator[Installed]:
    plan: Plan = request.param
    if plan.python and find_python(plan.python) is None:
        pytest.skip(reason=f"no Python {plan.python} on this machine: not checked")
    found = install(plan, wheel, place / "env")
    yield found
    remove(found)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A bundle for each verdict, by its exit status."""
    folder = tmp_path_factory.mktemp("bundles")
    found = {
        status: bundle_of(World().grow(), folder / str(status)).folder
        for status in (0, 1, 3, 4)
    }
    (found[1] / "genesis.sha256").write_text("sha256:0\n")
    (found[3] / "checkpoint").unlink()
    (found[4] / ".DS_Store").write_bytes(b"\x00")
    broken = World().grow()
    bad = renamed(broken.manifest(3), policy_digest=fake_digest("lax"))
    broken.entries.append(broken.entry(RoundOpened(manifest=bad)))
    found[2] = bundle_of(broken, folder / "2").folder
    return found


@pytest.fixture(scope="module")
def node_folder(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a node that has not seen the log yet."""
    federation = Federation(tmp_path_factory.mktemp("federation"), base)
    federation.close()
    return federation.directory / "nodes" / NAMES[0]


def test_every_command_explains_itself(installed: Installed) -> None:
    assert installed.run("--version").stdout.startswith("tapestry ")
    for role, verbs in ({"": ()} if installed.plan.extra else ROLES).items():
        for verb in ("", *verbs):
            done = installed.run(*filter(None, (role, verb)), "--help")
            assert (done.returncode, done.stderr) == (0, ""), (role, verb)


def test_an_audit_holds_and_each_status_is_its_own(
    installed: Installed, bundles: dict[int, Path]
) -> None:
    # Neither an extra nor a newer Python changes what a verdict is called.
    whole = not installed.plan.extra and not installed.plan.python
    for status, bundle in bundles.items() if whole else [(0, bundles[0])]:
        done = installed.run("audit", "verify", bundle, "--json")
        assert done.returncode == status, done.stderr
        assert json.loads(done.stdout)["exit"] == status
    for words in (["audit", "verify"], ["audit", "verify", "gone"], ["horse"], []):
        done = installed.run(*words)
        assert done.returncode == 64, done.stderr
        assert "Traceback" not in done.stderr
    if whole:
        assert _interrupted(installed, bundles[0]) == 130


def test_a_role_finds_all_that_its_extra_promises(
    installed: Installed, node_folder: Path, tmp_path: Path
) -> None:
    """Or else one line names the extra to install."""
    extra = installed.plan.extra
    commands: dict[str, tuple[list[str | Path], set[int]]] = {
        "chat": (["--base", "tiny", "--prompt", "hi", "--max-tokens", "2"], {0}),
        "serve": (["tiny"], {3}),  # no log names it
        "node": (["check", node_folder], {3}),  # it is told no SuperLink yet
        "demo": (["--out", tmp_path / "out", "--base", "gone"], {64}),
    }
    if extra:
        imports = "; ".join(f"import {name}" for name in MODULES[extra])
        done = installed.run("-c", imports, program="python")
        assert done.returncode == 0, done.stderr
    if extra in commands:
        words, statuses = commands[extra]
        done = installed.run(extra, *words)
        assert done.returncode in statuses, done.stderr
        assert "is not installed" not in done.stderr
    lacking = {"": commands.keys(), "chat": {"node"}}.get(extra, set())
    for role in sorted(lacking):
        done = installed.run(role, *commands[role][0])
        assert done.returncode == 3, done.stderr
        assert f"pip install 'tapestry-federated[{role}]'" in done.stderr
        assert done.stderr.count("\n") == 1


def _interrupted(installed: Installed, bundle: Path) -> int:
    """Interrupt an audit that waits for somebody to read what it prints."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, bytes(4096)):
            pass
    os.set_blocking(writer, True)
    tapestry = installed.folder / "bin" / "tapestry"
    with (
        subprocess.Popen(
            [tapestry, "audit", "verify", bundle],
            env=environment(installed.folder),
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.DEVNULL,
        ) as process,
        os.fdopen(reader, "rb") as printed,
    ):
        os.close(writer)
        _wait_until_idle(process.pid)
        process.send_signal(signal.SIGINT)
        printed.read()
        return process.wait(timeout=300)


def _wait_until_idle(pid: int) -> None:
    """Wait until a process sleeps and has used no processor time for half a second."""
    deadline = time.monotonic() + 300
    before, same = "", 0
    while same < 10:
        assert time.monotonic() < deadline, f"process {pid} never waited: {before}"
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        state, used = fields[0], f"{fields[11]} {fields[12]}"
        assert state != "Z", "it ended before it could be interrupted"
        same = same + 1 if state == "S" and used == before else 0
        before = used
        time.sleep(0.05)
