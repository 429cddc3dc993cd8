"""A founding's commands again: with the same values, with others, and after a crash."""

import shutil
from pathlib import Path

import pytest

from tapestry.keys import SigningKey
from tapestry_governance.events.federation_events import Policy
from tapestry_governance.founding_files import Invitation, RequestFile, invite
from tests.support.founding_place import NAMES, Place, ok, refuses
from tests.support.processes import environment, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("command", "least"),
    [
        ("coordinator init", 40),
        ("node init", 45),
        ("coordinator charter", 3),
        ("governance accept", 9),
        ("coordinator open", 20),
        ("governance key", 5),
    ],
)
def test_a_command_that_was_killed_is_run_again(
    tmp_path: Path, command: str, least: int
) -> None:
    words = ("-m", "tests.support.founding_crashes", str(tmp_path), command)
    env = environment(HOME=str(tmp_path))
    done = run(*words, env=env, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= least


def test_the_same_again_changes_nothing(founded: Place, with_requests: Place) -> None:
    before = founded.files()
    ok(founded.coordinator_init())
    ok(founded.open())
    said = refuses(founded.write_charter(), 64, "log-exists")
    assert "stands" in said
    after = founded.files()
    assert {n for n in after if after[n] != before.get(n)} <= {
        "rivers/log/log.db-shm",
        "rivers/log/log.db-wal",
        "rivers/rivers.invite",
    }
    for name in NAMES:
        ok(founded.node_init(name))
    after = founded.files()
    changed = {n for n in after if after[n] != before.get(n)}
    assert changed <= {f"{n}/{n}.request" for n in NAMES} | {
        "rivers/log/log.db-shm",
        "rivers/log/log.db-wal",
        "rivers/rivers.invite",
    }
    for name in NAMES:
        sent = RequestFile.decode(founded.request(name).read_bytes())
        known = RequestFile.decode(with_requests.request(name).read_bytes())
        assert sent.request == known.request
        ok(founded.accept(name))  # as its request is the same


def test_the_same_requests_give_the_same_charter(chartered: Place) -> None:
    before = chartered.charter.read_bytes()
    ok(chartered.node_init("sueden"))
    ok(chartered.write_charter())
    assert chartered.charter.read_bytes() == before


def test_init_with_other_values_changes_nothing(requested: Place) -> None:
    before = requested.files()
    for option, value in (
        ("--address", "rivers.example:8443"),
        ("--federation", "lakes"),
        ("--origin", "other.example/log"),
    ):
        result = requested.coordinator_init(option, value)
        assert repr(value) in refuses(result, 64, "setting-differs")
    said = refuses(requested.node_init("sueden", "--name", "o"), 64, "setting-differs")
    assert "'sueden', here it is 'o'" in said
    other = requested.root / "elsewhere"
    shutil.copytree(requested.data("sueden"), other)
    (other / "corpus.toml").unlink()
    before = requested.files()
    said = refuses(
        requested.node_init("sueden", "--data", other), 64, "setting-differs"
    )
    assert str(other) in said
    said = refuses(
        requested.node_init("sueden", "--country", "x"), 64, "setting-differs"
    )
    assert "here it is 'x'" in said
    for option, known, value in (
        ("--language", "de", "nl"),
        ("--licence", "CC0-1.0", "MIT"),
    ):
        result = requested.node_init("sueden", option, value)
        said = refuses(result, 64, "setting-differs")
        assert f"corpus.toml has {option[2:]} '{known}', here it is '{value}'" in said
    assert requested.files() == before


def test_init_of_another_base_changes_nothing(requested: Place) -> None:
    policy = requested.coordinator / "policy.toml"
    text = policy.read_text("utf-8")
    base = Invitation.decode(requested.invitation.read_bytes()).terms.policy.bases
    assert base != "any"
    policy.write_text(text.replace(base[0].model, "sha256:" + "1" * 64), "utf-8")
    before = requested.files()
    said = refuses(requested.coordinator_init(), 64, "base-differs")
    assert base[0].model in said
    assert requested.files() == before


def test_a_base_that_is_not_the_invitations_is_refused(
    requested: Place,
) -> None:
    base = Invitation.decode(requested.invitation.read_bytes())
    named = base.terms.policy.bases
    assert named != "any"
    other = named[0].model_copy(update={"model": "sha256:" + "1" * 64})
    changed: Policy = base.terms.policy.model_copy(update={"bases": (other,)})
    keys = [
        SigningKey.load(requested.coordinator / "keys" / f"{each}.key")
        for each in ("log", "author")
    ]
    terms = base.terms.model_copy(update={"policy": changed})
    requested.invitation.write_bytes(
        invite(terms, log=keys[0], author=keys[1]).encode()
    )
    shutil.rmtree(requested.node("sueden"))
    said = refuses(requested.node_init("sueden"), 64, "base-differs")
    assert other.model in said
    assert not requested.node("sueden").exists()
