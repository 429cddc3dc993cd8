"""The environment of a process: each oddity works, or is one line with the way out.

Real processes with real environments; what they print is what a user would see.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tapestry.cli.exit_status import ExitStatus
from tapestry.environment import direct, is_loopback, proxies, without_proxies
from tapestry.errors import ConfigError
from tests.support.processes import (
    STRANGER,
    as_root,
    environment,
    run,
)
from tests.support.refusals import refused


@pytest.mark.slow
@pytest.mark.parametrize("command", [["--version"], ["demo"]])
def test_a_current_folder_that_is_gone_is_said_in_one_line(
    tmp_path: Path, command: list[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        f"import os; os.rmdir({str(gone)!r}); from tapestry.cli import main;"
        f" main({command!r})"
    )
    done = run("-c", code, env=dict(os.environ), cwd=gone)
    assert done.returncode == ExitStatus.INCOMPLETE
    (line,) = done.stderr.splitlines()
    assert "the current folder cannot be reached" in line
    assert "cd" in line


def test_a_python_without_docstrings_is_told_which_variable_to_unset() -> None:
    env = environment(PYTHONOPTIMIZE="2")
    done = run("-m", "tapestry", "demo", "--base", "tiny", env=env)
    assert done.returncode == ExitStatus.USAGE
    assert "unset PYTHONOPTIMIZE" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert run("-m", "tapestry", "audit", "--help", env=env).returncode == 0


@as_root
@pytest.mark.slow
def test_a_base_opens_in_the_strangest_of_environments(tmp_path: Path) -> None:
    """No home, no known user, no such locale or temporary folder, odd numbers."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed")
    cache = tmp_path / "cache"
    cache.mkdir()
    os.chown(cache, STRANGER, STRANGER)
    env = environment(
        TAPESTRY_CACHE=str(cache),
        USER=None,
        LOGNAME=None,
        LANG="xx_YY.UTF-8",
        LC_ALL="xx_YY",
        OMP_NUM_THREADS="many",
        CUDA_VISIBLE_DEVICES=",-3x",
        TMPDIR="/nonexistent",
        PYTHONHASHSEED="7",
    )
    identity = [f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    reading = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    code = (
        "from tapestry.workloads.language.base_models import open_base; "
        "open_base('tiny')"
    )
    done = subprocess.run(
        [setpriv, *identity, *reading, sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [file.name for file in cache.glob("tiny-*/config.json")] == ["config.json"]


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_secrets_are_private_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    from tapestry.keys import SigningKey
    from tapestry.transport_keys import make_transport_key
    from tapestry_node.budget.ledger import Ledger, PrivacyPromise
    from tapestry_node.node_state import NodeState

    terms = PrivacyPromise(
        records=9,
        epsilon=8.0,
        fallback_epsilon=8.0,
        delta=1e-5,
    )
    before = os.umask(mask)
    try:
        SigningKey.generate("fr/node").save(tmp_path / "node.key")
        make_transport_key(tmp_path / "transport")
        store = NodeState(tmp_path / "node.db", exclusive=True)
        store.secret("name", b"secret")
        Ledger.open(store, terms)
    finally:
        os.umask(before)
    private = {path.name for path in tmp_path.iterdir()} - {
        *("transport.pub", "node.db.mirror")
    }
    assert {"node.key", "transport", "node.db"} <= private
    assert {"node.db-wal", "node.lock"} <= private
    for name in private:
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600, name
    store.close()
    assert (tmp_path / "transport.pub").stat().st_mode & 0o777 == 0o666 & ~mask


PROXIES = {
    **dict.fromkeys(("HTTP_PROXY", "https_proxy"), "http://127.0.0.1:9"),
    **dict.fromkeys(("ALL_PROXY", "all_proxy"), "socks5://127.0.0.1:9"),
    "grpc_proxy": "nonsense",
    "NO_PROXY": "example.org",
}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:9092", True),
        ("127.8.8.8:1", True),
        ("localhost:9092", True),
        ("LocalHost.:9092", True),
        ("[::1]:9092", True),
        ("::1", True),
        ("10.0.0.1:9092", False),
        ("localhost.example.org:9092", False),
        ("[2001:db8::1]:9092", False),
        ("example.org:9092", False),
        ("", False),
    ],
)
def test_this_machine_is_told_from_others(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_children_get_no_proxy_and_all_else() -> None:
    found = without_proxies({**PROXIES, "PATH": "/bin", "HTTP_PROXY_USER": "x"})
    assert proxies(found) == ["NO_PROXY", "no_proxy"]
    assert found["no_proxy"] == found["NO_PROXY"] == "127.0.0.1,localhost,::1"
    assert (found["PATH"], found["HTTP_PROXY_USER"]) == ("/bin", "x")


def test_a_proxy_is_kept_for_real_hosts_and_put_aside_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in PROXIES.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with direct("superlink.example.org:9092"):
        assert dict(os.environ) == before
    with direct("127.0.0.1:9092"):
        assert proxies(os.environ) == ["NO_PROXY", "no_proxy"]
    assert dict(os.environ) == before


def test_a_proxy_that_cannot_be_used_is_named_and_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import threading

    from tapestry_node.flower import serve

    for name in proxies(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", "horse://user:secret@proxy.example.org")
    with refused(ConfigError, "proxy-unsupported", match="HTTPS_PROXY") as caught:
        serve(
            lambda request, _: request,
            superlink="superlink.example.org:9092",
            root_certificates=tmp_path,
            auth_key=tmp_path,
            stop=threading.Event(),
        )
    assert "secret" not in str(caught.value)
