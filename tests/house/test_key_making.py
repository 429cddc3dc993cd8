"""Keys and logs are made at a founding, keys at a rotation, and nowhere else."""

import ast
from collections import defaultdict

import pytest

from tests.house.test_house import ROOT, SOURCES

# What makes a key or a log, and the modules that may call it.
MAKERS = {
    "SigningKey.generate": {
        "coordinator/tapestry_coordinator/coordinator_folder.py",
        "governance/tapestry_governance/founding.py",
        "coordinator/tapestry_coordinator/superlink/tls.py",
    },
    "Ed25519PrivateKey.generate": {"tapestry/keys.py"},
    "ec.generate_private_key": {
        "tapestry/transport_keys.py",
        "coordinator/tapestry_coordinator/superlink/tls.py",
    },
    "make_transport_key": {
        "governance/tapestry_governance/member_folder.py",
        "node/tapestry_node/key_rotation.py",
    },
    "Log.create": {
        "coordinator/tapestry_coordinator/coordinator_folder.py",
        "coordinator/tapestry_coordinator/recovered_folder.py",
    },
}
# By these last words a call is taken for one that makes a key or a log.
WORDS = {"generate", "generate_private_key", "make_transport_key", "create"}
OTHERS = {"X25519PrivateKey.generate", "MLKEM768PrivateKey.generate"}  # of one round


def makers(source: str) -> set[str]:
    """Return the calls of a source that make a key or a log."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            known = name.rpartition(".")[2] in WORDS
            if known and (
                "Key" in name or "key" in name or name.endswith("Log.create")
            ):
                found.add(name)
    return found - OTHERS


def test_keys_and_logs_are_made_only_where_a_federation_is_founded() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for path in SOURCES:
        for name in makers(path.read_text("utf-8")):
            found[name].add(path.relative_to(ROOT).as_posix())
    assert found == MAKERS


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a = SigningKey.generate('a/b')", "SigningKey.generate"),
        ("a = keys.SigningKey.generate('a/b')", "keys.SigningKey.generate"),
        ("with Log.create(folder, key=key): pass", "Log.create"),
        ("x = rsa.generate_private_key(65537, 2048)", "rsa.generate_private_key"),
    ],
)
def test_a_call_that_makes_a_key_is_found(source: str, name: str) -> None:
    assert makers(source) == {name}
