"""Files of untrusted folders: none is waited for, none is read beyond its limit."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tapestry.errors import VerificationError
from tapestry.inputs.plain_file import open_plain, read_plain
from tests.support.refusals import refused


def test_a_plain_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345678")
    assert read_plain(file, limit=8) == b"12345678"
    with refused(VerificationError, "file-too-large", match="file .* 7 bytes"):
        read_plain(file, limit=7)


def test_a_sparse_file_of_a_terabyte_costs_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.truncate(file, 1 << 40)
    with refused(VerificationError, "file-too-large", match="10 bytes"):
        read_plain(file, limit=10)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        Path.mkdir,
        _socket,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/dev/tty"),
    ],
    ids=["pipe", "folder", "socket", "endless device", "terminal"],
)
@pytest.mark.parametrize("links", [False, True])
def test_what_is_no_plain_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None], links: bool
) -> None:
    path = tmp_path / "x"
    make(path)
    with pytest.raises((VerificationError, OSError)):
        read_plain(path, limit=10, links=links)


def test_a_link_is_followed_only_where_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"here")
    (tmp_path / "link").symlink_to("file")
    assert read_plain(tmp_path / "link", limit=4, links=True) == b"here"
    with refused(VerificationError, "link-not-allowed"):
        open_plain(tmp_path / "link")
