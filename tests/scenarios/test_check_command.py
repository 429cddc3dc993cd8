"""``tapestry node check`` and ``egress`` of a node whose memory is behind the log."""

import pytest

from tests.scenarios.conftest import Found
from tests.support.node_folders import NAME, closed, run


@pytest.mark.parametrize("older", [False, True], ids=["deleted", "older copy"])
def test_a_node_whose_memory_is_behind_the_log_does_not_start(
    loaded: Found, *, older: bool
) -> None:
    federation = loaded()
    state = federation.directory / "nodes" / NAME / "node.db"
    mirror = state.with_name("node.db.mirror")
    federation.kill(NAME)
    before = {path: path.read_bytes() for path in (state, mirror)}
    federation.start(NAME)
    federation.run()
    folder = closed(federation)
    state.unlink()
    mirror.unlink()
    done = run("egress", folder)
    assert done.exit_code == 3
    assert "has no node.db; it was deleted; put it back" in done.stderr
    if older:
        for path, data in before.items():
            path.write_bytes(data)
    for verb in ("check", "egress") if older else ("check",):
        done = run(verb, folder)
        assert done.exit_code == 1
        told = done.stdout if verb == "check" else done.stderr
        (line,) = (each for each in told.splitlines() if "[state-restored]" in each)
        assert "uploaded for round 1 of 'run'" in line
        said = "it was deleted or is an older copy; put the newest back"
        assert line.endswith(f"{said} [state-restored]")
    assert not older or done.stdout == ""
