"""What a shell, a service manager or a container may start a command in."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tests.fuzzing.draws import Draw

ENVIRONMENT: Mapping[str, tuple[str | None, ...]] = {
    "LC_ALL": ("C", "C.UTF-8", "tr_TR.UTF-8", "xx_YY.KOI8-R", ""),
    "PYTHONIOENCODING": ("ascii", "ascii:strict", "latin-1", "utf-8:surrogateescape"),
    "PYTHONUTF8": ("0", "1"),
    "PYTHONOPTIMIZE": ("1", "2"),
    "TERM": ("dumb", "", "xterm-256color", None),
    "COLUMNS": ("1", "0", "-5", "3", "x", "100000"),
    "HOME": (None, "", "relative", "/proc/none", "/dev/null", "~", "\udcff"),
    "XDG_CACHE_HOME": ("", "relative", "/dev/null/x", "/proc/none"),
    "TAPESTRY_CACHE": (None, "", "relative", "/dev/null/x", "~nobody-here", "~", "\n"),
    "TMPDIR": ("/proc/none", "relative", ""),
    "HTTPS_PROXY": ("http://127.0.0.1:1", "nonsense", "socks5://[::1", "\udcff"),
    "OMP_NUM_THREADS": ("1", "0", "x"),
    "TZ": ("", "Nowhere/None", ":/dev/null", "Asia/Kathmandu"),
    "PATH": (None, "", "/nowhere"),
}
"""Variables, and what they are set to; None takes them away."""

_STDIN = (
    b"", b"ciao\n", b"ciao", b"\n", b"\xff\xfe\n", b"a\0b\n", b"\x1b[31m\n", b"\r\n",
    "日本語\n".encode(), b"one\ntwo\n\nthree\n", b"\xed\xa0\x80\n", b"x" * 3000 + b"\n",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Everything around a command but its words and its folder."""

    environment: Mapping[str, str | None]  # changes; None takes a variable away
    stdin: bytes
    closed: Collection[str]  # streams
    full: bool  # the disk of standard output; processes alone
    encoding: str  # of the streams, within this process


def draw_surroundings(draw: Draw, *, apart: bool) -> Surroundings:
    """Draw surroundings; usual ones more often than odd ones."""
    names = [draw.one(list(ENVIRONMENT)) for _ in range(draw.one((0, 0, 1, 2, 5)))]
    streams = ("stdin", "stdout", "stderr")
    return Surroundings(
        environment={name: draw.one(ENVIRONMENT[name]) for name in names},
        stdin=draw.one(_STDIN),
        closed=[name for name in streams if draw.chance(0.04)],
        full=apart and draw.chance(0.05),
        encoding=draw.one(("utf-8",) * 7 + ("ascii", "ascii", "latin-1")),
    )
