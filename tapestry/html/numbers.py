"""Numbers, dates and lists as people read them, in the one format of the pages.

The decimal sign is a point, thousands are set apart by a comma, a percentage has one
decimal, and a unit follows after a space that does not break. No number is written
with an exponent.
"""

import math
from collections.abc import Sequence
from datetime import datetime

NONE = "\u2013"  # stands where there is no number
SPACE = "\u00a0"  # between a number and its unit
_MINUS = "\u2212"
LEAST = 0.0005  # smaller changes are called none; percentages have one decimal
_MOST = 1e6  # a factor beyond is no bound in practice
_COUNTS = (
    "0", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve",
)  # fmt: skip


def bits(value: float | None) -> str:
    """Bits per byte have four significant digits, and never over three decimals."""
    return NONE if value is None else f"{value:,.{_decimals(value, most=3)}f}"


def percent(share: float) -> str:
    """A share of one is a percentage with one decimal."""
    return f"{100 * share:,.1f}".replace("-", _MINUS) + f"{SPACE}%"


def better(gain: float | None) -> str:
    """A gain is better, a loss is worse, and what rounds to zero is neither."""
    if gain is None:
        return NONE
    if abs(gain) < LEAST:
        return "unchanged"
    return f"{percent(abs(gain))} {'better' if gain > 0 else 'worse'}"


def likely(probability: float) -> str:
    """A probability that is an upper bound: rounded up, and one below 1 never to 1."""
    if 0.999 < probability < 1:
        return f"nearly 100{SPACE}%"
    return percent(math.ceil(round(probability * 1000, 6)) / 1000)


def probability(value: float) -> str:
    """A p-value has three decimals, and is never zero."""
    return "less than 0.001" if value < 0.001 else f"{value:.3f}"


def chance(value: float) -> str:
    """A small probability is one in so many."""
    if value <= 0:
        return NONE
    return f"1 in {whole(1 / value)}" if value <= 0.1 else percent(value)


def epsilon(value: float | None) -> str:
    """A privacy loss has two decimals; without a number there is no bound."""
    return "no bound" if value is None else f"{value:,.2f}"


def factor(value: float) -> str:
    """A bound on a factor is rounded up."""
    if value > _MOST:
        return f"more than {whole(_MOST)}"
    places = 0 if value >= 100 else 1 if value >= 10 else 2
    scale = 10.0**places
    return f"{math.ceil(value * scale - 1e-9) / scale:,.{places}f}"


def at_most(value: float) -> str:
    """A bound on a factor, in words; one beyond a million bounds nothing."""
    if value > _MOST:
        return f"{factor(value)}, which in practice is no bound"
    return f"at most {factor(value)}"


def short(value: float | None) -> str:
    """Any other number has up to four significant digits and no exponent."""
    if value is None:
        return NONE
    text = f"{value:,.{_decimals(value, most=12)}f}".replace("-", _MINUS)
    return text.rstrip("0").rstrip(".") if "." in text else text


def whole(value: float | None) -> str:
    """A count has a comma between thousands."""
    return NONE if value is None else f"{value:,.0f}".replace("-", _MINUS)


def size(count: float | None) -> str:
    """A number of bytes is given in powers of a thousand."""
    if count is None:
        return NONE
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    places = 1 if units[0] != "bytes" and value < 99.95 else 0
    return f"{value:,.{places}f}{SPACE}{units[0]}"


def duration(seconds: float) -> str:
    """A time span has at most two units."""
    if seconds < 59.5:
        return f"{seconds:.{1 if seconds < 9.95 else 0}f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    return f"{whole(minutes // 60)}{SPACE}h {minutes % 60}{SPACE}min"


def date(text: str) -> str:
    """A time such as ``2026-11-23 21:40 UTC`` names its month; other text stays."""
    try:
        found = datetime.strptime(text.replace("UTC", "+0000"), "%Y-%m-%d %H:%M %z")
    except ValueError:
        return text
    return f"{found.day} {found:%B %Y, %H:%M} UTC"


def enumerated(words: Sequence[str]) -> str:
    """Words are joined as in a sentence."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def spelled(number: int) -> str:
    """A number up to twelve is written out."""
    return _COUNTS[number] if 0 < number < len(_COUNTS) else whole(number)


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number stands before its noun; up to twelve it is written out."""
    word = spelled(number) if number else "no"
    return f"{word} {noun if number == 1 else plural or noun + 's'}"


def capital(text: str) -> str:
    """A sentence begins with a capital letter."""
    return text[:1].upper() + text[1:]


def _decimals(value: float, *, most: int) -> int:
    """Return how many decimals show four significant digits."""
    if value == 0 or not math.isfinite(value):
        return 0
    return min(max(3 - math.floor(math.log10(abs(value))), 0), most)
