"""Three institutions and a coordinator found a federation, and train a first release.

The page ``deploy/FOUNDING.md`` is run as it is printed: the commands as processes, each
in its machine's folder; files go from one to another as by mail. ``...`` in what a
command prints stands for any text.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.keys import SigningKey
from tapestry_governance.log.writer import Log
from tapestry_governance.rules.replay import apply_all
from tests.support.ports import free_port
from tests.support.processes import environment, run

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "deploy" / "FOUNDING.md"
MACHINES = ("coordinator", "nordland", "ostrava", "sueden", "vault")
LOOKS = {
    ("node", "check"), ("node", "budget"), ("coordinator", "status"),
    ("governance", "list"),
}  # fmt: skip
POLLED = {("coordinator", "status"), ("governance", "list"), ("node", "check")}
_SECONDS = 300.0


def _machine(root: Path, name: str) -> None:
    (root / name / "pass").mkdir(parents=True)
    phrase = root / name / "pass" / "phrase"
    phrase.write_text(f"the secret words of {name}", "utf-8")
    phrase.chmod(0o600)
    _write_rows(root / name / "records" / "rows.jsonl", name)
    if name == "coordinator":
        for language in ("nl", "cs", "sv"):
            _write_rows(root / name / "public" / f"{language}.jsonl", language)


def _write_rows(path: Path, name: str) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [json.dumps({"text": f"row {n} of {name} on rivers"}) for n in range(60)]
    path.write_text("\n".join(rows) + "\n", "utf-8")


def _matches(wanted: list[str], said: str) -> bool:
    parts = "\n".join([*wanted, ""]).split("...")
    return re.fullmatch("(?s:.*)".join(map(re.escape, parts)), said) is not None


def _blocks() -> list[tuple[str, list[str]]]:
    """Each step of the page, with what it prints."""
    found = re.findall(r"^```\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    transcript = "".join(found)
    blocks: list[tuple[str, list[str]]] = []
    for line in filter(None, re.sub(r" \\\n +", " ", transcript).splitlines()):
        if re.match(r"\w+\$ |mail ", line):
            blocks.append((line, []))
        else:
            blocks[-1][1].append(line)
    return blocks


class _Walk:
    """The machines, and what was learned and started on the way."""

    def __init__(self, root: Path) -> None:
        self.root, self.fingerprint, self.port = root, "", free_port()
        self.last = ""  # what a step said that is taken again
        self.running: list[subprocess.Popen[bytes]] = []
        self.environment = environment(HOME=str(root))

    def take(self, step: str, wanted: list[str]) -> None:
        """Take a step of the page, and compare what it prints."""
        step = self._fill(step)
        words = step.split()
        if words[0] == "mail":
            self._mail(words[1], words[2:])
        elif words[-1] == "&":
            self._leave_running(words[0][:-1], words[2:-1])
        else:
            expected = [self._fill(line) for line in wanted]
            end = time.monotonic() + _SECONDS
            while not (said := self._say(step, words, expected)):
                assert time.monotonic() < end, self.last
            if words[3] == "fingerprint":
                self.fingerprint = said.strip()

    def _fill(self, text: str) -> str:
        address = f"localhost:{self.port}"
        text = text.replace("rivers.example:443", address)
        text = text.replace("rivers.example", "localhost")
        return text.replace("FINGERPRINT", self.fingerprint or "...")

    def _mail(self, name: str, machines: list[str]) -> None:
        for each in machines:
            source, place = self.root / name, self.root / each
            if source.is_dir():
                shutil.copytree(source, place / source.name)
            else:
                shutil.copy(source, place)

    def _say(self, step: str, words: list[str], expected: list[str]) -> str:
        """Run a command; nothing, if it only looks and is to look again."""
        machine = self.root / words[0].removesuffix("$")
        done = run("-m", "tapestry", *words[2:], env=self.environment, cwd=machine)
        if (done.returncode, done.stderr) == (0, "") and _matches(
            expected, done.stdout
        ):
            return done.stdout
        self.last = f"{step}\n{done}"
        assert tuple(words[2:4]) in POLLED, self.last
        assert all(process.poll() is None for process in self.running), self._logs()
        time.sleep(1)
        return ""

    def _leave_running(self, machine: str, words: list[str]) -> None:
        place = self.root / machine
        with (place / "run.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tapestry", *words],
                env={**self.environment, "OMP_NUM_THREADS": "1"},
                cwd=place,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.running.append(process)

    def _logs(self) -> str:
        return "\n".join(path.read_text() for path in self.root.glob("*/run.log"))

    def end(self) -> None:
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait(_SECONDS)


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[_Walk]:
    for name in MACHINES:
        _machine(tmp_path, name)
    walk = _Walk(tmp_path)
    yield walk
    walk.end()


def test_institutions_found_a_federation_and_train_from_machine_to_machine(
    walk: _Walk,
) -> None:
    for step, wanted in _blocks():
        walk.take(step, wanted)
    rivers = walk.root / "coordinator" / "rivers"
    key = SigningKey.load(rivers / "keys" / "log.key")
    state = apply_all(None, Log.read(rivers / "log", key=key))
    assert state is not None
    assert list(state.releases) == ["base-1"]
    assert not list((walk.root / "sueden").rglob("root.key"))
    files = [*walk.root.rglob("*.request"), *walk.root.rglob("*.invite")]
    assert len(files) == 3 + 4 + 4 + 3


def test_each_party_gets_there_in_few_commands() -> None:
    commands = [step.split() for step, _ in _blocks() if not step.startswith("mail")]
    first = next(n for n, words in enumerate(commands) if words[3] == "status")
    counted = Counter(
        words[0].removesuffix("$")
        for words in commands[:first]
        if tuple(words[2:4]) not in LOOKS
    )
    counted["sueden"] += counted.pop("vault")
    assert counted == {"coordinator": 5, "nordland": 4, "ostrava": 4, "sueden": 6}
