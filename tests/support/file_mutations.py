"""What may befall one file of a folder: its bytes, its name, its kind, its mode."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

Mutation = Callable[[Path, Path], object]  # of a file, with another file of the folder
Respelling = Callable[[bytes], bytes]
_STRANGER = "\u2014 stranger.example/w AAECAwQFBgcICQoLDA0ODw==\n".encode()


def _flip(place: float) -> Mutation:
    def flip(path: Path, _: Path) -> None:
        data = bytearray(path.read_bytes())
        data[min(int(len(data) * place), len(data) - 1)] ^= 1
        path.write_bytes(data)

    return flip


def _swap(path: Path, other: Path) -> None:
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def _outside(path: Path) -> Path:
    """Move a file out of every folder that is checked, and return where it is."""
    place = path.parent
    while place.parent.name != "work":
        place = place.parent
    target = place.parent.parent / "outside"
    shutil.move(path, target)
    return target


def _case(path: Path, _: Path) -> None:
    name = path.name
    path.rename(path.with_name(name.upper() if name != name.upper() else name.lower()))


def _look_alike(path: Path, _: Path) -> None:
    """Spell the first letter or digit in full width: one name in normal form KC."""
    name = path.name
    at = next(i for i, each in enumerate(name) if each.isalnum())
    path.rename(
        path.with_name(name[:at] + chr(ord(name[at]) + 0xFEE0) + name[at + 1 :])
    )


def _folder(path: Path, _: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def _fifo(path: Path, _: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _lines(change: Callable[[list[bytes]], list[bytes]]) -> Respelling:
    return lambda data: b"".join(change(data.splitlines(keepends=True)))


def _line_after(word: bytes, line: bytes) -> Respelling:
    """Put a line before the first one that has a word in it."""

    def change(lines: list[bytes]) -> list[bytes]:
        at = next((i for i, each in enumerate(lines) if word in each), len(lines))
        return [*lines[:at], line, *lines[at:]]

    return _lines(change)


# Additions and orders that a reader of text may pass over. Where one changes the bytes
# of a file, a check must fail.
RESPELLINGS: dict[str, Respelling] = {
    "a comment in front": lambda data: b"# a letter to the reader\n" + data,
    "a comment at the end": lambda data: data + b"# a letter to the reader\n",
    "a comment in the middle": _line_after(b"witness", b"#\n"),
    "an empty line in front": lambda data: b"\n" + data,
    "a line of blanks at the end": lambda data: data + b" \t\n",
    "a blank at the end": lambda data: data + b" ",
    "4 KiB of blanks at the end": lambda data: data + b" " * 4096,
    "4 KiB of lines at the end": lambda data: data + b"\n" * 4096,
    "4 KiB of comments in front": lambda data: b"#" * 4095 + b"\n" + data,
    "two blanks for one": lambda data: data.replace(b" ", b"  ", 1),
    "a tab for a blank": lambda data: data.replace(b" ", b"\t", 1),
    "lines end with CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "a byte-order mark": lambda data: b"\xef\xbb\xbf" + data,
    "first line doubled": _lines(lambda lines: [*lines[:1], *lines]),
    "last line doubled": _lines(lambda lines: [*lines, *lines[-1:]]),
    "last lines swapped": _lines(lambda lines: [*lines[:-2], *reversed(lines[-2:])]),
    "lines reversed": _lines(lambda lines: lines[::-1]),
    "a stranger's signature at the end": lambda data: data + _STRANGER,
    "a stranger's signature in front": _line_after("\u2014".encode(), _STRANGER),
}


def respelled(change: Respelling) -> Mutation:
    """Return a mutation of a file by a change of its bytes."""
    return lambda path, _: path.write_bytes(change(path.read_bytes()))


# After these the file is another one, or none: a check must fail.
CHANGES: dict[str, Mutation] = {
    "first byte flipped": _flip(0),
    "middle byte flipped": _flip(0.5),
    "last byte flipped": _flip(1),
    "emptied": lambda path, _: path.write_bytes(b""),
    "cut in half": lambda path, _: path.write_bytes(
        path.read_bytes()[: path.stat().st_size // 2]
    ),
    "last byte cut": lambda path, _: path.write_bytes(path.read_bytes()[:-1]),
    "line feed added": lambda path, _: path.write_bytes(path.read_bytes() + b"\n"),
    "NUL added": lambda path, _: path.write_bytes(path.read_bytes() + b"\0"),
    "doubled": lambda path, _: path.write_bytes(path.read_bytes() * 2),
    "swapped with another": _swap,
    "replaced by another": lambda path, other: shutil.copyfile(other, path),
    "removed": lambda path, _: path.unlink(),
    "renamed": lambda path, _: path.rename(path.with_name(f"x{path.name}")),
    "renamed with a suffix": lambda path, _: path.rename(f"{path}.json"),
    "moved up": lambda path, _: path.rename(path.parent.parent / path.name),
    "copied beside": lambda path, _: shutil.copyfile(path, f"{path}.copy"),
    "in capitals": _case,
    "in full width": _look_alike,
    "a link to itself elsewhere": lambda path, _: path.symlink_to(_outside(path)),
    "a link to another": _link,
    "a link to itself": lambda path, _: _link(path, path),
    "a folder": _folder,
    "a FIFO": _fifo,
}
# After these it has the same bytes: a check may hold.
HARMLESS: dict[str, Mutation] = {
    "unreadable": lambda path, _: path.chmod(0o000),
    "executable": lambda path, _: path.chmod(0o755),
    "setuid": lambda path, _: path.chmod(0o4755),
    "writable by all": lambda path, _: path.chmod(0o666),
    "a hard link": lambda path, _: os.link(path, _outside_name(path)),
    "older": lambda path, _: os.utime(path, (0, 0)),
}


def _outside_name(path: Path) -> Path:
    place = path.parent
    while place.parent.name != "work":
        place = place.parent
    return place.parent.parent / "linked"
