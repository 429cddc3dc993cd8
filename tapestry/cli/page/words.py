"""Numbers as people read them."""

from collections.abc import Sequence

NONE = "\u2013"  # stands where there is no number
_MINUS = "\u2212"


def bits(value: float | None) -> str:
    """Bits per byte."""
    return NONE if value is None else f"{value:.3f}"


def percent(value: float | None, *, digits: int = 1) -> str:
    """Print a relative change with its sign."""
    if value is None:
        return NONE
    text = f"{100 * value:+.{digits}f}"
    return ("±0" if float(text) == 0 else text.replace("-", _MINUS)) + " %"


def epsilon(value: float | None) -> str:
    """A privacy loss; without a number there is no bound."""
    return "no bound" if value is None else f"{value:.2f}"


def short(value: float | None) -> str:
    """Any other number."""
    return NONE if value is None else f"{value:.4g}"


def plain(value: float) -> str:
    """A small number without an exponent."""
    return f"{value:.12f}".rstrip("0").rstrip(".")


def whole(value: float | None) -> str:
    """A count, with thin spaces between thousands."""
    return NONE if value is None else f"{value:,.0f}".replace(",", "\u202f")


def size(count: float | None) -> str:
    """A number of bytes, in powers of a thousand."""
    if count is None:
        return NONE
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return (
                f"{value:.0f} {unit}"
                if value >= 100 or unit == "bytes"
                else f"{value:.1f} {unit}"
            )
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float | None) -> str:
    """A time span, in at most two units."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def enumerated(words: Sequence[str]) -> str:
    """Join words as a sentence does."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun; numbers up to twelve are written out."""
    names = [
        "no",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    ]
    word = names[number] if number < len(names) else str(number)
    return f"{word} {noun if number == 1 else plural or noun + 's'}"


def capital(text: str) -> str:
    """Begin a sentence."""
    return text[:1].upper() + text[1:]
