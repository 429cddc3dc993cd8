"""A founder's folder: keys that are made once, and a charter that is compared."""

from pathlib import Path

import pytest

from tapestry.encrypted_keys import is_encrypted
from tapestry.errors import ConfigError, IncompleteError, RuleError
from tapestry.keys import SigningKey
from tapestry_governance.founding import fingerprint
from tapestry_governance.member_folder import (
    check_fingerprint,
    check_sent,
    draft_differences,
    has_keys,
    join,
    make_keys,
    policy_differences,
)
from tests.support.founders import Founders, asks, invitation_of, member_keys
from tests.support.log_world import World, fake_digest
from tests.support.refusals import refused

NAMES = ("nordland", "ostrava", "sueden")
MINE = '# mine\nfederation = "rivers"\nname = "sueden"\n[policy]\nmin_cohort = 3\n'


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.*")}


def test_keys_are_made_once(tmp_path: Path) -> None:
    assert not has_keys(tmp_path)
    first = make_keys(tmp_path, "sueden", root=None, passphrase=None)
    assert has_keys(tmp_path)
    before = _files(tmp_path)
    again = make_keys(tmp_path, "sueden", root=None, passphrase="another one")  # noqa: S106
    assert again.root == first.root
    assert {p: str(k.verify_key) for p, k in again.own.items()} == {
        p: str(k.verify_key) for p, k in first.own.items()
    }
    assert _files(tmp_path) == before
    assert not is_encrypted(tmp_path / "keys" / "root.key")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.key")} == {0o600}
    assert (tmp_path / "keys" / "transport").stat().st_mode & 0o777 == 0o600


def test_a_short_passphrase_leaves_no_keys(tmp_path: Path) -> None:
    with refused(ConfigError, "passphrase-too-short"):
        make_keys(tmp_path, "sueden", root=None, passphrase="short")  # noqa: S106
    assert list(tmp_path.iterdir()) == []


def test_a_root_key_that_was_moved_away_is_not_replaced(tmp_path: Path) -> None:
    made = make_keys(tmp_path, "sueden", root=None, passphrase=None)
    (tmp_path / "keys" / "root.key").unlink()  # into a safe
    before = _files(tmp_path)
    with refused(IncompleteError, "key-missing", match="--root"):
        make_keys(tmp_path, "sueden", root=None, passphrase=None)
    again = make_keys(tmp_path, "sueden", root=made.root, passphrase=None)
    assert again.root == made.root
    assert _files(tmp_path) == before


def test_a_folder_has_one_root_key(tmp_path: Path) -> None:
    made = make_keys(tmp_path, "sueden", root=None, passphrase=None)
    assert make_keys(tmp_path, "sueden", root=made.root, passphrase=None).root == (
        made.root
    )
    other = SigningKey.generate("sueden/root").verify_key
    with refused(ConfigError, "setting-differs", match="one root key"):
        make_keys(tmp_path, "sueden", root=other, passphrase=None)


def test_a_charter_has_the_request_that_was_sent() -> None:
    founders = Founders.of(NAMES)
    sent = founders.requests()
    charter = founders.charter(sent)
    for each in sent:
        check_sent(charter, each)
    for other in (
        asks("sueden", member_keys("sueden")),  # swapped
        asks("sueden", founders.keys["sueden"]),  # another transport key
        asks("frankreich", member_keys("frankreich")),
    ):
        with refused(RuleError, "accepted-request-differs"):
            check_sent(charter, other)


def test_a_fingerprint_is_typed_as_it_was_heard() -> None:
    founders = Founders.of(NAMES)
    charter = founders.charter(founders.requests())
    right = fingerprint(charter.genesis)
    for typed in (right, right.lower(), right.replace("-", ""), f" {right} "):
        check_fingerprint(charter, typed)
    for typed in ("", right[:-1], right + "A", right[::-1], "ß" * 40):
        with refused(RuleError, "fingerprint-differs") as caught:
            check_fingerprint(charter, typed)
        assert right[:4] not in str(caught.value)


def test_a_node_joins_one_federation(tmp_path: Path) -> None:
    founders = Founders.of(NAMES)
    charter = founders.charter(founders.requests())
    path = tmp_path / "node.toml"
    with refused(ConfigError, "file-missing"):
        join(tmp_path, charter)
    path.write_text(MINE)
    join(tmp_path, charter)
    joined = path.read_bytes()
    assert joined.startswith(f'genesis = "{charter.genesis}"\n# mine\n'.encode())
    trust = tmp_path / "trust-policy.txt"
    edited = trust.read_bytes() + b"# edited\n"
    trust.write_bytes(edited)
    join(tmp_path, charter)
    assert path.read_bytes() == joined
    assert trust.read_bytes() == edited
    (tmp_path / "view.db").touch()
    join(tmp_path, charter)
    other = Founders.of(NAMES)
    with refused(ConfigError, "joined-elsewhere", match=charter.genesis):
        join(tmp_path, other.charter(other.requests()))
    assert path.read_bytes() == joined
    assert trust.read_bytes() == edited


def test_a_charter_that_was_rewritten_is_joined_before_a_log_is_mirrored(
    tmp_path: Path,
) -> None:
    founders = Founders.of(NAMES)
    first = founders.charter(founders.requests())
    path, trust = tmp_path / "node.toml", tmp_path / "trust-policy.txt"
    path.write_text(MINE)
    join(tmp_path, first)
    old = trust.read_bytes()
    again = founders.charter([asks(name, member_keys(name)) for name in NAMES])
    join(tmp_path, again)
    assert path.read_text() == f'genesis = "{again.genesis}"\n{MINE}'
    assert trust.read_bytes() != old
    path.write_text(path.read_text().replace('"rivers"', '"lakes"'))
    with refused(ConfigError, "joined-elsewhere", match="'lakes'"):
        join(tmp_path, first)


def test_terms_that_differ_from_the_invitations_are_told(tmp_path: Path) -> None:
    draft = World().policy()
    (tmp_path / "sueden.invite").write_bytes(invitation_of(draft).encode())
    assert draft_differences(tmp_path, "sueden", draft) == []
    changed = draft.model_copy(
        update={"max_accounts": 17, "max_attempt": 2, "adapter_licences": ("MIT",)}
    )
    found = draft_differences(tmp_path, "sueden", changed)
    assert {line.split()[0] for line in found} == {
        *("max_accounts", "max_attempt", "adapter_licences")
    }
    assert f"max_accounts {draft.max_accounts}, the charter's 17" in found


RULES = """[policy]
min_cohort = 3
max_colluding = 1
noise = ["local"]
epsilon_limit = 20
target_delta = 0.00001
max_checkpoint_age = 86400
bases = ["{base}"]
"""


@pytest.mark.parametrize(
    ("mine", "other", "said"),
    [
        ("min_cohort = 3", "min_cohort = 5", "min_cohort 5, the charter's min_cohort"),
        ('["local"]', '["local", "none"]', "noise ['local', 'none'], the charter's"),
        ("_limit = 20", "_limit = 1.5", "epsilon_limit 1.5, the charter's epsilon_cap"),
        ("0.00001", "0.000001", "target_delta 0.000001, the charter's max_delta"),
        ("{base}", fake_digest("another"), "bases ['sha256:"),
        ("max_colluding = 1\n", "", "max_colluding None, the charter's"),
    ],
)
def test_each_rule_that_differs_is_told(
    tmp_path: Path, mine: str, other: str, said: str
) -> None:
    policy = (
        World()
        .policy()
        .model_copy(
            update={"epsilon_cap": "20", "max_delta": "0.00001", "noise": ("local",)}
        )
    )
    assert policy.bases != "any"
    base = policy.bases[0].model
    path = tmp_path / "node.toml"
    path.write_text(RULES.replace("{base}", base))
    known = set(policy_differences(tmp_path, policy))
    path.write_text(RULES.replace(mine, other).replace("{base}", base))
    (found,) = set(policy_differences(tmp_path, policy)) - known
    assert found.startswith(said)
