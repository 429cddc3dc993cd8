"""A request costs a node what is new, however long the log is."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestry_governance.events import envelope
from tapestry_governance.log.mirror import LogMirror
from tests.support.federation import Base
from tests.support.node_under_log import NodeUnderLog


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the events that are decoded and the entries that a mirror reads."""
    counts: Counter[str] = Counter()
    plain: Callable[..., Any] = envelope.read_plain_event
    entries = LogMirror.entries

    def decode(data: bytes) -> Any:
        counts["decoded"] += 1
        return plain(data)

    def read(self: LogMirror, start: int, stop: int) -> list[bytes]:
        found = entries(self, start, stop)
        counts["read"] += len(found)
        return found

    monkeypatch.setattr(envelope, "read_plain_event", decode)
    monkeypatch.setattr(LogMirror, "entries", read)
    return counts


def test_a_request_decodes_no_more_under_a_longer_log(
    base: Base, tmp_path: Path, counted: Counter[str]
) -> None:
    found = []
    for size in (60, 700):
        under = NodeUnderLog(tmp_path / str(size), base, size=size)
        assert len(under.log.entries) >= size
        under.serve()  # a first round, after which nothing of the history is new
        counted.clear()
        under.serve()
        found.append(dict(counted))
        under.close()
    assert found[0] == found[1]
    assert 0 < found[0]["decoded"] < 20
    assert found[0]["read"] < 20


def test_a_node_that_starts_again_serves_under_the_same_log(
    base: Base, tmp_path: Path
) -> None:
    under = NodeUnderLog(tmp_path / "node", base, size=120)
    under.serve()
    under.restart()
    under.serve()
    under.close()
