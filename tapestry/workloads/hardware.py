"""The machine that a model computes on: its device and its memory."""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_LIMITS = (  # of a container: cgroup 2, cgroup 1
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def memory_bytes() -> int | None:
    """Return the memory for all processes together; None if the system does not say.

    Edge cases:
        In a container that has a limit, the limit. Memory in use is not subtracted, so
        that the answer stays the same from one round to the next.
    """
    found = []
    with suppress(AttributeError, OSError, ValueError):  # no Unix
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _LIMITS:
        try:
            found.append(int(path.read_text("ascii")))
        except (OSError, ValueError):
            continue  # none of these, or "max"
    return min(found, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The device that a process may use, as torch names it, and its main memory."""

    device: str = "cpu"
    memory: int | None = field(default_factory=memory_bytes)  # bytes; None: unknown
