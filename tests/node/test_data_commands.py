"""``tapestry node data``: what it prints, and what is wrong with a list."""

from pathlib import Path

import pytest

from tapestry.errors import ConfigError, IncompleteError
from tapestry_node.data import withdrawal
from tests.scenarios.test_growing_data import GROWING, persons, withdraw
from tests.support.federation_fixtures import Found
from tests.support.refusals import refused


def test_a_withdrawal_says_what_rests_on_the_persons(found: Found) -> None:
    from click.testing import CliRunner

    from tapestry_node.cli import app

    federation = found(data=persons)
    federation.run()
    federation.approve()
    listed = federation.directory / "keys.txt"
    listed.write_text("\nperson-1\nperson-2\n\n")
    folder = str(federation.directory / "nodes" / GROWING)
    command = ["data", "withdraw", folder, "--keys", str(listed)]
    plan = CliRunner().invoke(app, [*command, "--plan"])
    assert plan.exit_code == 0, plan.output
    assert plan.stdout.splitlines()[0] == "releases   base-1"
    assert not federation.nodes[GROWING].store.reading().withdrawn
    done = CliRunner().invoke(app, command)
    lines = done.stdout.splitlines()
    assert lines[0] == "withdrawn  2 of 2; they train no more"
    assert lines[1:] == plan.stdout.splitlines()
    assert lines[3] == "retrain    from the given base: 1 rounds again"
    assert lines[4].startswith("cost       epsilon 2.4472 at delta 1e-05 once more")
    again = CliRunner().invoke(app, command)
    assert again.stdout.splitlines()[0] == "withdrawn  0 of 2; they train no more"


def test_single_records_are_taken_out_of_the_folder(found: Found) -> None:
    federation = found()
    federation.cosign()
    done = withdraw(federation, "person-0")
    assert isinstance(done.exception, ConfigError)
    assert done.exception.code == "unit-unsupported"
    assert "take the records out of the folder" in str(done.exception)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_a_list_of_nobody_is_refused(found: Found, text: str) -> None:
    federation = found(data=persons)
    federation.cosign()
    listed = federation.directory / "keys.txt"
    listed.write_text(text)
    folder = federation.directory / "nodes" / GROWING
    with refused(ConfigError, "file-empty", match="a key in each line"):
        withdrawal.run(folder, listed, only_plan=False)


def test_a_node_that_never_ran_has_nobody_to_withdraw(
    found: Found, tmp_path: Path
) -> None:
    federation = found(data=persons)
    federation.close()
    folder = federation.directory / "nodes" / GROWING
    (folder / "node.db").unlink()
    listed = tmp_path / "keys.txt"
    listed.write_text("person-0\n")
    with refused(IncompleteError, "state-missing", match="never ran"):
        withdrawal.run(folder, listed, only_plan=True)
