"""``tapestry serve`` as a command: what it refuses, and how it begins and ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.commands import Result, tapestry
from tests.support.running_server import write_folders

TOKEN = "t" * 40
MAIN = "import sys; from tapestry.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("serve"))


def serve(*words: object) -> Result:
    return tapestry("serve", *words)


def code(found: Result) -> str:
    assert "Traceback" not in found.stderr
    return str(json.loads(found.stdout)["error"]["code"])


def test_what_no_log_names_is_not_served(folders: Path) -> None:
    found = serve(folders / "base-1", "--port", 0, "--json")
    assert (found.exit_code, code(found)) == (3, "model-not-logged")


def test_other_machines_need_a_token(folders: Path, tmp_path: Path) -> None:
    base = folders / "base-1"
    found = serve(base, "--host", "192.0.2.1", "--json")
    assert (found.exit_code, code(found)) == (64, "token-missing")
    file = tmp_path / "tokens"
    for text, mode, want in (
        (TOKEN, 0o644, "secret-readable"),
        ("short", 0o600, "token-too-short"),
        ("", 0o600, "token-too-short"),
    ):
        file.write_text(text)
        file.chmod(mode)
        found = serve(base, "--token-file", file, "--json")
        assert (found.exit_code, code(found)) == (64, want)
    found = serve(base, "--token-file", tmp_path / "none", "--json")
    assert code(found) == "file-unreadable"


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = serve("no-such-base", "--port", port, "--json")
    assert (found.exit_code, code(found)) == (3, "port-in-use")


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (["--adapter", "none"], "folder-missing"),
        (["--adapter", "UPPER={de}"], "model-id-invalid"),
        (["--adapter", "x={de}", "--adapter", "x={it}"], "adapter-name-duplicated"),
        (["--device", "cuda:99"], "device-missing"),
        (["--trust", "{de}/README.md"], "usage"),
        (["--public-url", "ask.example"], "usage"),
        (["--public-url", "https://ask.example/page"], "usage"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    folders: Path, words: list[str], want: str
) -> None:
    given = [w.format(de=folders / "de", it=folders / "it") for w in words]
    found = serve(folders / "base-1", "--port", 0, "--json", *given)
    assert found.exit_code != 0
    assert code(found) == want


@contextmanager
def process(*words: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, "-c", MAIN, "serve", *map(str, words), "--json"]
    started = subprocess.Popen(
        [*command, "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ},
    )  # fmt: skip
    try:
        assert started.stdout is not None
        yield started, json.loads(started.stdout.readline())
    finally:
        started.kill()
        started.wait()


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_server_says_where_it_is_answers_and_ends_when_told(
    folders: Path, tmp_path: Path, end: signal.Signals
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{'u' * 32}\n{TOKEN}\n")
    tokens.chmod(0o600)
    words = (
        folders / "base-1",
        "--adapter",
        f"it={folders / 'it'}",
        "--allow-unlogged",
    )
    with process(*words, "--token-file", tokens) as (server, said):
        assert said["models"] == {"base": "files", "it": "files"}
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=said["url"], trust_env=False, timeout=60) as client:
            body = {"model": "it", "prompt": "x", "max_tokens": 2}
            assert client.post("/v1/completions", json=body).status_code == 401
            found = client.post("/v1/completions", json=body, headers=headers)
            assert found.json()["tapestry"]["model"] == "it"
            assert "<title>Tapestry" in client.get("/").text
        server.send_signal(end)
        _, errors = server.communicate(timeout=60)
        assert server.returncode in {0, 130, -int(end)}
        assert "Traceback" not in errors
        assert "x" * 3 not in errors
