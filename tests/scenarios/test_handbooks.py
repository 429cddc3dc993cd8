"""What README and the handbooks print for first sessions runs as it is printed.

CONTRIBUTING tells which comments mark the blocks. The sessions share one tiny demo, in
a folder that holds what README says is there: ``.venv``, and 300 texts of one's own.
"""

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "node/README.md",
        "coordinator/README.md",
        "governance/README.md",
        "deploy/README.md",
    )
]
TEXTS = 300
_PROGRAMS = Path(sys.executable).parent
_BLOCK = re.compile(
    r"^<!-- (run|shows|types): ([a-z]+) -->\n```\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
_MARK = "@@ status"
_STATUS = re.compile(r"# exit (\d+)\b")
_HERE = re.compile(r"<<'(\w+)'")
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(slots=True)
class Command:
    """A command of a page: what it promises, and what it printed."""

    text: str
    shows: str | None = None
    printed: str = ""
    status: int | None = None

    @property
    def expected(self) -> int:
        """The exit status that the page promises."""
        found = _STATUS.search(self.text.split("\n", 1)[0])
        return int(found[1]) if found else 0


@dataclass(slots=True)
class Session:
    """The blocks of one name: commands for a shell, and dialogues on a terminal."""

    commands: list[Command] = field(default_factory=list)
    dialogues: list[str] = field(default_factory=list)


def _commands(block: str) -> Iterator[str]:
    """Split a block where a person would press Enter on a whole command."""
    lines = iter(block.splitlines())
    for line in lines:
        text = line
        while text.endswith("\\"):
            text += "\n" + next(lines)
        if found := _HERE.search(line):
            while not text.endswith(f"\n{found[1]}"):
                text += "\n" + next(lines)
        yield text


def _sessions() -> dict[str, Session]:
    found: dict[str, Session] = defaultdict(Session)
    for page in PAGES:
        for kind, name, text in _BLOCK.findall(page.read_text("utf-8")):
            session = found[name]
            if kind == "run":
                session.commands += map(Command, _commands(text))
            elif kind == "shows":
                session.commands[-1].shows = text
            else:
                session.dialogues.append(text)
    return dict(found)


SESSIONS = _sessions()


def _matches(shown: str, printed: str) -> bool:
    """Compare output with a page, in which ``...`` stands for any text or lines."""
    pattern = ""
    for line in shown.rstrip("\n").split("\n"):
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += re.escape(line.rstrip()).replace(r"\.\.\.", ".*") + r" *\n"
    return re.fullmatch(pattern, printed.rstrip("\n ") + "\n") is not None


def _own_texts(folder: Path) -> None:
    """Write 300 records of three kinds, as an institution might have them."""
    folder.mkdir()
    third = TEXTS // 3
    for number in range(third):
        text = f"Lettera numero {number}: il tempo è bello, e la strada è lunga."
        (folder / f"lettera-{number}.txt").write_text(text, "utf-8")
    rows = [
        {"text": f"La nota {n} dice: si chiude alle {n % 12}."} for n in range(third)
    ]
    dialogues = [
        {
            "messages": [
                {"role": "user", "content": f"Quanto fa {n} più uno?"},
                {"role": "assistant", "content": f"Fa {n + 1}."},
            ]
        }
        for n in range(third)
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in [*rows, *dialogues]]
    (folder / "note.jsonl").write_text("\n".join(lines), "utf-8")


@dataclass(frozen=True, slots=True)
class Stranger:
    """Somebody in front of a shell, in a folder of her own."""

    folder: Path
    programs: Path

    def environment(self) -> dict[str, str]:
        """Her environment; the programs are found, and nothing else of this test."""
        path = os.pathsep.join([str(self.programs), os.environ["PATH"]])
        mine = {"PATH": path, "TAPESTRY_CACHE": str(self.folder / "cache")}
        hers = os.environ.keys() - {"PYTHONDONTWRITEBYTECODE"}  # no person sets it
        if self.programs != _PROGRAMS:
            hers -= {"PYTHONPATH"}  # what she installed is what she runs
        found = {name: os.environ[name] for name in hers}
        return {**found, **mine, "TERM": "dumb", "COLUMNS": "80"}

    def run(self, name: str) -> list[Command]:
        """Run a session's commands in one shell, which goes on after a failure."""
        commands = SESSIONS[name].commands
        script = "".join(
            f"{command.text}\nprintf '\\n{_MARK} %s\\n' $?\n" for command in commands
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", script],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # as on a screen
            text=True,
            check=False,
        )
        parts = re.split(rf"\n{_MARK} (\d+)\n", done.stdout)
        assert len(parts) == 2 * len(commands) + 1, done.stdout[-2000:]
        for command, printed, status in zip(
            commands, parts[::2], parts[1::2], strict=False
        ):
            command.printed, command.status = printed, int(status)
        return commands

    def ask(self, name: str) -> str:
        """Hold a session's dialogue on a terminal, and return the screen."""
        (dialogue,) = SESSIONS[name].dialogues
        screen = self._type(dialogue)
        assert _matches(dialogue, screen), screen
        return screen

    def use(self, card: Path) -> str:
        """Run the first way in which a card loads its adapter, and its question."""
        here, _, both = _PYTHON.findall(card.read_text("utf-8"))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", here + both],
            cwd=card.parents[2],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def _type(self, dialogue: str) -> str:
        """Run a command on a terminal, and type what the page types."""
        command = next(
            line[2:] for line in dialogue.splitlines() if line.startswith("$ ")
        )
        typed = [line[2:] for line in dialogue.splitlines() if line.startswith(">")]
        keyboard, terminal = pty.openpty()
        with subprocess.Popen(
            ["bash", "--norc", "-c", command],
            cwd=self.folder,
            env=self.environment(),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        ) as shell:
            os.close(terminal)
            screen = b""
            while chunk := _read(keyboard):
                screen += chunk
                if typed and screen.endswith(b"> "):
                    os.write(keyboard, f"{typed.pop(0)}\n".encode())
        os.close(keyboard)
        text = _ANSI.sub("", screen.decode().replace("\r\n", "\n"))
        assert shell.returncode == 0, text
        return f"$ {command}\n{text}"


def _read(terminal: int) -> bytes:
    with contextlib.suppress(OSError):  # Linux says so when nobody writes any more
        return os.read(terminal, 4096)
    return b""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """Somebody who made README's first demo."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(_PROGRAMS)
    _own_texts(folder / "texts")
    found = Stranger(folder, _PROGRAMS)
    _check(found.run("start"))
    return found


@pytest.fixture(scope="module")
def auditor(
    stranger: Stranger, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stranger]:
    """An auditor, with an installation of her own where packages can be had."""
    if os.environ.get("CHECK_INSTALL") != "1":
        yield stranger
        return
    source = tmp_path_factory.mktemp("source") / "tapestry"
    skipped = shutil.ignore_patterns(".*", "demo*", "shared", "__pycache__")
    shutil.copytree(ROOT, source, ignore=skipped)
    _check(Stranger(source, stranger.programs).run("install"))
    yield Stranger(stranger.folder, source / "auditor" / "bin")
    shutil.rmtree(source)


@dataclass(frozen=True, slots=True)
class Sessions:
    """All sessions, on their way."""

    commands: Mapping[str, "Future[list[Command]]"]
    screen: "Future[str]"  # of the citizen's dialogue
    answer: "Future[str]"  # of the code on a card

    def check(self, name: str) -> str:
        """Compare a session with its page, and return what it printed."""
        return _check(self.commands[name].result())


@pytest.fixture(scope="module")
def sessions(stranger: Stranger, auditor: Stranger) -> Iterator[Sessions]:
    """Hold the sessions, two at a time; the handbook's goes on with the operator's."""
    card = stranger.folder / "first/adapters/italy/README.md"
    others = {"auditor": stranger, "coordinator": stranger, "audit": auditor}
    with ThreadPoolExecutor(2) as pool:
        operator = pool.submit(stranger.run, "operator")
        commands = {
            "operator": operator,
            "citizen": pool.submit(stranger.run, "citizen"),
        }
        operator.result()
        commands["node"] = pool.submit(stranger.run, "node")
        for name, who in others.items():
            commands[name] = pool.submit(who.run, name)
        yield Sessions(
            commands,
            pool.submit(stranger.ask, "citizen"),
            pool.submit(stranger.use, card),
        )


def _check(commands: list[Command]) -> str:
    """Compare statuses and output with the page; return all that was printed."""
    for command in commands:
        told = f"$ {command.text}\n{command.printed[-4000:]}"
        assert command.status == command.expected, told
        assert "Traceback" not in command.printed, told
        if command.shows is not None:
            assert _matches(command.shows, command.printed), told
    return "".join(command.printed for command in commands)


def test_every_marked_block_is_run_here() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    marks = re.findall(r"<!-- (?:run|shows|types)\b", text)
    assert len(marks) == len(_BLOCK.findall(text))
    readme = {"start", "auditor", "operator", "citizen"}
    assert set(SESSIONS) == readme | {"node", "coordinator", "install", "audit"}


def test_a_shell_keeps_its_state_and_each_command_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = "X=1\nfalse\ncat <<'END' && (exit 3)  # exit 3\n$X\nEND\necho \\\n  $X\n"
    session = Session(commands=[Command(text) for text in _commands(block)])
    monkeypatch.setitem(SESSIONS, "x", session)
    found = Stranger(tmp_path, _PROGRAMS).run("x")
    assert [command.status for command in found] == [0, 1, 3, 0]
    assert [command.printed for command in found] == ["", "", "$X\n", "1\n"]
    _check([found[0], *found[2:]])
    with pytest.raises(AssertionError, match=r"\$ false"):
        _check(found)
    found[3].shows = "2"
    with pytest.raises(AssertionError, match="echo"):
        _check(found[2:])


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("a\nb", "a\nb\n", True),
        ("a\nb", "a\nb\nc\n", False),
        ("a\n...\nc", "a\nc\n", True),
        ("a\n...", "a\nb\nc\n", True),
        ("a ... c", "a b c\n", True),
        ("a ... c", "a b\nc\n", False),
        ("a.c", "abc\n", False),
    ],
)
def test_three_dots_alone_stand_for_what_varies(
    shown: str, printed: str, expected: bool
) -> None:
    assert _matches(shown, printed) is expected


def test_an_auditor_verifies_from_files_alone(sessions: Sessions) -> None:
    said = sessions.check("auditor")
    assert "HOLDS: 12 steps, every one holds" in said
    assert "unit of privacy | record" in said
    for name in ("brazil", "italy", "netherlands", "spain"):
        assert f"## Records of {name}" in said
    assert "holds        log     italy 1  by italy  italy  it" in said


def test_an_audit_goes_step_by_step_and_each_fault_has_its_status(
    sessions: Sessions,
) -> None:
    said = sessions.check("audit")
    statuses = {command.status for command in SESSIONS["audit"].commands}
    assert statuses == {0, 1, 3, 4}
    for name in ("brazil", "italy", "netherlands", "spain"):
        assert re.search(rf"^{name} .* recomputed, ", said, re.MULTILINE)
    assert "not part of it: .DS_Store" in said
    assert "checkpoint is missing" in said


def test_an_operator_learns_what_a_node_would_do_with_her_texts(
    sessions: Sessions,
) -> None:
    said = sessions.check("operator")
    assert f"data      {TEXTS} records in 101 files" in said
    assert "language it, licence CC0-1.0" in said
    assert "missing   node.toml has no [transport]" in said
    assert "is spent" in said


def test_an_operator_mends_what_check_says_is_missing(sessions: Sessions) -> None:
    said = sessions.check("node")
    assert f"data      {TEXTS + 1} records in 102 files" in said
    assert re.search(r"^\S+  masked_input +\d+  sha256:", said, re.MULTILINE)


def test_a_coordinator_shows_its_rounds(sessions: Sessions) -> None:
    sessions.check("coordinator")


def test_a_citizen_gets_an_answer_of_each(sessions: Sessions) -> None:
    said = sessions.check("citizen")
    for word in ("Ciao, come stai?", "base", "italy", "spain"):
        assert word in said


def test_a_citizen_is_asked_until_she_has_no_more_to_say(sessions: Sessions) -> None:
    # The command, the votes on the base, and two answers.
    assert sessions.screen.result().count("italy") == 4


def test_a_cards_code_runs_where_readme_says(sessions: Sessions) -> None:
    assert sessions.answer.result().strip()


def test_the_settings_that_the_handbook_prints_are_the_demos(
    stranger: Stranger,
) -> None:
    text = (ROOT / "node/README.md").read_text("utf-8")
    section = text.split("## What you decide")[1]
    found = re.search(r"^```toml\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert found is not None
    printed = tomllib.loads(found[1])
    made = tomllib.loads((stranger.folder / "first/nodes/italy/node.toml").read_text())
    assert printed.pop("transport")  # the demo's nodes do not dial
    for each in (printed, made):  # of one run, and of one machine
        assert each.pop("genesis").startswith("sha256:")
        assert all(base.startswith("sha256:") for base in each["policy"].pop("bases"))
    assert printed == made
