"""What every command keeps to, whatever it was given."""

import hashlib
import json
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tapestry.cli.exit_status import ExitStatus
from tests.fuzzing.cases import Case

STDERR_LINES = 3  # of a message, beside help and a list of faults
LISTED_LINES = 12  # a title, ten faults, and how many more there are
LINE_LENGTH = 12_100  # 2,000 characters, of which ASCII spells some with six

_RAW = re.compile(  # what Python says and no operator should read
    r'^ *File ".*", line \d|Traceback|, line \d+, in |site-packages|<class \''
    r"|\b[A-Z]\w+(Error|Exception)\(",
    re.MULTILINE,
)
# A node's log, a demo's progress, and what a library in C says before Python runs.
_LOG = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|\[\d+:\d\d\] |libgomp: |$")
_JOURNALS = re.compile(r".*\.db-(wal|shm|journal)")  # SQLite's, also for who reads
# What a command is there to write: what a node remembers, also where a link in its
# place leads to (``mutations.replace``); how far a demo is.
_WRITTEN = {
    "run": re.compile(
        r"(kept-)?(node|view)\.db(\.mirror)?|(node|status)\.lock|status\.json"
    ),
    "pause": re.compile(r"(\w+/)?paused"),
    "leave": re.compile(r"(\w+/)?((kept-)?node\.db(\.mirror)?|\w+\.left)"),
    "demo": re.compile(r"(.*/)?demo\.json"),
    "charter": re.compile(r"rivers/rivers\.charter"),
    "open": re.compile(r"rivers/(log(/.*)?|enrolled(/\w+\.pub)?|trust-policy\.txt)"),
    "accept": re.compile(r"\w+/(\w+\.acceptance|node\.toml|trust-policy\.txt)"),
    "join": re.compile(r"\w+/(node\.toml|trust-policy\.txt)"),
    "renew": re.compile(r"rivers/tls/superlink\.(key|pem)"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended, and what it printed."""

    status: int | None  # None: it hung
    stdout: str
    stderr: str


def digest_tree(folder: Path) -> Mapping[str, str]:
    """Note what lies in a folder: kind, mode and content of each thing."""
    return {str(p.relative_to(folder)): _digest(p) for p in folder.rglob("*")}


def faults(
    case: Case, outcome: Outcome, *, secrets: Collection[str], before: Mapping[str, str]
) -> list[str]:
    """Say in what a command did not keep to the rules."""
    return [
        *_of_status(case, outcome),
        *_of_output(case, outcome),
        *(
            f"told {each!r}"
            for each in secrets
            if each in outcome.stdout + outcome.stderr
        ),
        *_of_length(outcome.stderr),
        *_of_json(case, outcome),
        *_of_files(case, before),
    ]


def _digest(path: Path) -> str:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return str(path.readlink())
    text = f"{found.st_mode:o}"
    if stat.S_ISREG(found.st_mode) and found.st_size < 1 << 30:
        with suppress(PermissionError):  # forbidden, and this is not root
            text += hashlib.sha256(path.read_bytes()).hexdigest()
    return text


def _of_files(case: Case, before: Mapping[str, str]) -> Iterator[str]:
    """Yield what is gone, changed or new; nobody's file may go, whoever writes."""
    after = digest_tree(case.folder)
    written = [_WRITTEN[word] for word in case.words if word in _WRITTEN]
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) == after.get(name) or _JOURNALS.fullmatch(name):
            continue
        if name not in after:
            yield f"removed {name!r}"
        elif not any(each.fullmatch(name) for each in written):
            yield f"{'changed' if name in before else 'made'} {name!r}"


def _of_status(case: Case, outcome: Outcome) -> Iterator[str]:
    if outcome.status not in {*ExitStatus} - {ExitStatus.INTERNAL}:
        yield "hung" if outcome.status is None else f"status {outcome.status}"
    around = case.surroundings
    # A chat without questions, and a list of nothing, say nothing.
    asked = any(word.startswith("--prompt") for word in case.words)
    silent = "list" in case.words or ("chat" in case.words and not asked)
    silent = silent or case.words[:2] == ["coordinator", "run"]
    lost = around.full or "stdout" in around.closed
    if outcome.status == 0 and lost and not silent:
        yield "status 0 where standard output takes nothing"
    told = (outcome.stdout + outcome.stderr).strip()
    if outcome.status and not told and "stderr" not in around.closed:
        yield "failed without a word"


def _of_output(case: Case, outcome: Outcome) -> Iterator[str]:
    both, given = outcome.stdout + outcome.stderr, "\n".join(case.words)
    if (found := _RAW.search(both)) and not _RAW.search(given):
        yield f"raw Python: {found[0]!r}"
    if "\x1b" in both:
        yield "an escape of the terminal"
    if "out of memory" in outcome.stderr:
        yield "read more than memory holds"


def _of_length(stderr: str) -> Iterator[str]:
    lines = [line for line in stderr.splitlines() if not _LOG.match(line)]
    if (longest := max(map(len, lines), default=0)) > LINE_LENGTH:
        yield f"a line of {longest} characters"
    listed = sum(line.startswith("  ") for line in lines)
    if not stderr.startswith("Usage:") and (
        listed > LISTED_LINES or len(lines) - listed > STDERR_LINES
    ):
        yield f"{len(lines)} lines on standard error"


def _of_json(case: Case, outcome: Outcome) -> Iterator[str]:
    """Demand one JSON value, or one a line."""
    asked = "--json" in case.words and not {"--help", "--version"} & set(case.words)
    if asked and outcome.status != ExitStatus.USAGE and outcome.stdout:
        lines = outcome.stdout.splitlines()
        if not _is_json(outcome.stdout) and not all(map(_is_json, lines)):
            yield "no JSON"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
