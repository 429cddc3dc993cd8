"""A text that stands for a record, and the search for it in whatever leaves."""

import base64
from collections.abc import Iterator

CANARY = "MariaRossiHasTheFluK7"


def forms() -> Iterator[bytes]:
    """Spell the canary as files, dumps and libraries would."""
    plain = CANARY.encode()
    yield plain
    yield CANARY.encode("utf-16-le")
    yield CANARY.encode("utf-16-be")
    yield CANARY.encode("utf-32-le")
    yield plain.hex().encode()
    yield plain.hex().upper().encode()
    yield CANARY[::-1].encode()
    for shift in range(3):  # base64 at each alignment, less the characters at its ends
        yield base64.b64encode(b"x" * shift + plain)[4:-4]


def shown_in(data: bytes | str) -> list[bytes]:
    """Return the spellings of the canary, or of half of it, that are in some data."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    halves = [
        form[start : start + len(form) // 2]
        for form in forms()
        for start in (0, len(form) // 2)
    ]
    return [half for half in halves if half in data]


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that Python keeps behind it."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending += [current.__cause__, current.__context__]


def spelled(error: BaseException) -> str:
    """Print all that an error and those behind it hold, but the frames."""
    return "\n".join(
        f"{each!r} {each} {each.args!r} {vars(each)!r} {getattr(each, 'object', '')!r}"
        f" {getattr(each, 'doc', '')!r} {getattr(each, '__notes__', '')!r}"
        for each in chain_of(error)
    )
