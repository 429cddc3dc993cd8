"""Kill a log's process at every line it executes, and look at what is left.

Run as a process of its own, since it forks: ``python -m tests.support.crashes
DIRECTORY STRIDE`` prints how many places it has killed at.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import tapestry_governance
from tapestry import storage
from tapestry.tlog import checkpoint, freshness, proof, tiles, trust_policy
from tapestry.tlog.checkpoint import read_claim
from tests.support.cosigning import TIME, TRUST, WITNESSES, entry, start_log
from tests.support.kills import dies

_CODE = (
    str(Path(tapestry_governance.__file__).parent),
    str(Path(storage.__file__).parent),
    *(
        str(module.__file__)
        for module in (checkpoint, freshness, proof, tiles, trust_policy)
    ),
)
_BEFORE, _AFTER = 250, 262  # across the border of a tile


def _step(directory: Path, acknowledge: Callable[[str], object]) -> None:
    """Append, sign, cosign and publish; doing it twice is doing it once."""
    with start_log(directory) as log:
        missing = [entry(n) for n in range(_AFTER) if log.find(entry(n)) is None]
        log.append(missing)
        acknowledge(f"size {log.size}")
        signed = log.sign_checkpoint()
        acknowledge(f"signed {signed.hex()}")
        for witness in WITNESSES[:3]:
            line = read_claim(signed).cosign(witness, time=TIME)
            log.add_cosignature(log.size, line, trust=TRUST)
        note = log.publish(trust=TRUST)
        acknowledge(f"public {note.hex()}")


def _survives(directory: Path, line: int, acknowledged: Path) -> bool:
    """Run one step in a child that dies at a line; False if it did not get there."""

    def act() -> None:
        handle = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        _step(directory, lambda text: os.write(handle, text.encode() + b"\n"))

    return dies(act, line, _CODE)


def _check(directory: Path, acknowledged: Path) -> None:
    """Hold the log to what it had acknowledged, before and after opening it."""
    said = acknowledged.read_text().splitlines() if acknowledged.exists() else []
    facts = dict(line.split(" ") for line in said)
    public = directory / "public"
    if (public / "checkpoint").exists():  # as a reader sees it, without any repair
        shown = TRUST.open((public / "checkpoint").read_bytes()).checkpoint
        read = list(tiles.read_entries(public, shown.size))
        assert read == [entry(number) for number in range(shown.size)]
    if "public" in facts:
        assert (public / "checkpoint").read_bytes().hex() == facts["public"]
    with start_log(directory) as log:
        assert log.size >= int(facts.get("size", 0))
        assert log.entries(0, log.size) == [entry(n) for n in range(log.size)]
        if "signed" in facts:
            assert log.sign_checkpoint().hex() == facts["signed"]
    _step(directory, lambda _: None)
    shown = TRUST.open((public / "checkpoint").read_bytes()).checkpoint
    assert len(tiles.verify(public, shown)) == _AFTER


def _prepare(directory: Path, *, size: int) -> None:
    with start_log(directory) as log:
        log.append([entry(number) for number in range(size)])
        signed = log.sign_checkpoint()
        for witness in WITNESSES[:3]:
            line = read_claim(signed).cosign(witness, time=TIME)
            log.add_cosignature(size, line, trust=TRUST)
        log.publish(trust=TRUST)


def one_crash_each(directory: Path, *, stride: int, new: bool) -> int:
    """Kill at every ``stride``-th line, each time on a fresh copy."""
    if not new:
        _prepare(directory / "before", size=_BEFORE)
    line = 1
    while True:
        log, acknowledged = directory / "log", directory / "acknowledged"
        shutil.rmtree(log, ignore_errors=True)
        acknowledged.unlink(missing_ok=True)
        if not new:
            shutil.copytree(directory / "before", log)
        died = _survives(log, line, acknowledged)
        _check(log, acknowledged)
        if not died:
            return line // stride
        line += stride


def crash_after_crash(directory: Path, *, stride: int) -> int:
    """Kill again and again on one directory, each time a little later."""
    log, acknowledged = directory / "log", directory / "acknowledged"
    line = stride
    while _survives(log, line, acknowledged):
        line += stride
    _check(log, acknowledged)
    return line // stride


def main(directory: Path, stride: int) -> None:
    """Run all three and print how often the process was killed."""
    count = 0
    for number, new in enumerate((True, False)):
        folder = directory / str(number)
        folder.mkdir()
        count += one_crash_each(folder, stride=stride, new=new)
    (directory / "again").mkdir()
    count += crash_after_crash(directory / "again", stride=stride)
    sys.stdout.write(f"{count}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
