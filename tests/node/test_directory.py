"""The files of a node's folder that people write, and its mirror of the log."""

from pathlib import Path

import pytest

from tapestry.errors import ConfigError, ResourceError, VerificationError
from tapestry.keys import SigningKey
from tapestry_node.directory import open_mirror, read_trust
from tapestry_node.node_keys import KeyRing
from tapestry_node.settings import NodeSettings
from tests.support.log_world import World
from tests.support.node_folders import NAME, fifo, run
from tests.support.refusals import refused


def settings_of(folder: Path) -> NodeSettings:
    return NodeSettings.read(folder / "node.toml")


def own_keys(folder: Path) -> dict[str, SigningKey]:
    return KeyRing.read(folder, NAME).keys


def test_keys_are_read_by_purpose(idle: Path) -> None:
    keys = own_keys(idle)
    assert set(keys) == {"node", "witness", "community"}
    for purpose, key in keys.items():
        loaded = SigningKey.load(idle / "keys" / f"{purpose}.key")
        assert key.verify_key == loaded.verify_key
        assert key.name == f"{NAME}/{purpose}"


@pytest.mark.parametrize("purpose", ["node", "witness", "community"])
def test_a_key_that_is_missing_or_open_to_others_is_refused(
    idle: Path, purpose: str
) -> None:
    path = idle / "keys" / f"{purpose}.key"
    path.chmod(0o644)
    with refused(ConfigError, "key-file-not-private", match=str(path)):
        own_keys(idle)
    path.unlink()
    with refused(ConfigError, "file-unreadable", match=str(path)):
        own_keys(idle)


def test_the_trust_policy_names_the_log_and_the_witnesses(idle: Path) -> None:
    trust = read_trust(idle)
    ours = own_keys(idle)["witness"].verify_key
    assert ours in {witness.key for witness in trust.witnesses}
    assert len(trust.witnesses) == 4


def test_a_wrong_line_of_the_trust_policy_is_named_with_its_file(idle: Path) -> None:
    secret = (idle / "keys" / "node.key").read_text().strip()
    file = idle / "trust-policy.txt"
    file.write_text(f"# ours\n{secret}\n")
    said = f"^{file}: trust policy: line 2 is no log, witness,"
    with refused(ConfigError, "trust-policy-malformed", match=said) as caught:
        read_trust(idle)
    assert "PRIVATE" not in str(caught.value)
    assert secret[-24:] not in str(caught.value)
    done = run("check", idle)
    assert done.exit_code == 2
    said = f"\nrefused   {caught.value} [trust-policy-malformed]\n"
    assert said in done.stdout


def test_a_trust_policy_that_is_no_plain_file_is_refused_at_once(idle: Path) -> None:
    fifo(idle / "trust-policy.txt")
    with pytest.raises(ConfigError, match=r"trust-policy\.txt is no plain file"):
        read_trust(idle)


def test_a_mirror_that_only_reads_has_to_be_there(idle: Path) -> None:
    for path in idle.glob("view.db*"):
        path.unlink()
    with refused(ResourceError, "database-unavailable", match=r"view\.db"):
        open_mirror(idle, settings_of(idle), readonly=True)
    assert not (idle / "view.db").exists()
    open_mirror(idle, settings_of(idle)).close()
    assert (idle / "view.db").exists()


def test_a_mirror_holds_the_log_that_the_settings_name(used: Path) -> None:
    mirror = open_mirror(used, settings_of(used), readonly=True)
    assert mirror.size > 0
    assert NAME in mirror.state.members
    mirror.close()
    other = settings_of(used).model_copy(update={"genesis": World().found().genesis})
    with refused(VerificationError, "genesis-differs"):
        open_mirror(used, other, readonly=True)
