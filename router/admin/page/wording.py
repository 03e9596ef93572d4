"""How sizes, times and strangers' words are written.

Escaping is the templates' affair.  Here goes what does harm as text: characters that turn a line around, so that
`exe.gpj` reads as `jpg.exe`, and those that nobody sees.
"""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime

_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
_LINE_ENDS = re.compile(r"[\r\n\t\v\f\x85\u2028\u2029]+")
_KIB = 1024


def words(text: str) -> str:
    """Several lines; what nobody would see is seen as �."""
    return _UNSEEN.sub("\ufffd", text.replace("\r\n", "\n"))


def line(text: str) -> str:
    """One line."""
    return words(_LINE_ENDS.sub(" ", text)).strip()


def size(count: int) -> str:
    """Bytes: `87.9 KiB`."""
    if count < _KIB:
        return f"{count} B"
    amount, units = count / _KIB, iter(("KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while amount >= _KIB and unit != "TiB":
        amount, unit = amount / _KIB, next(units)
    return f"{amount:.1f} {unit}"


def count(number: int) -> str:
    return f"{number:,}"


def money(amount: float) -> str:
    """Two digits behind the point, or two that are not 0: a look costs far less than a hundredth."""
    if not amount:
        return "0"
    if amount >= 0.1:
        return f"{amount:,.2f}"
    return f"{amount:.{1 - math.floor(math.log10(amount))}f}".rstrip("0")


def iso(seconds: float) -> str:
    return _at(seconds).isoformat(timespec="seconds") if seconds else ""


def utc(seconds: float) -> str:
    return _at(seconds).strftime("%Y-%m-%d %H:%M:%S UTC") if seconds else ""


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


_STEPS = ((60, 1, "s"), (3600, 60, "min"), (48 * 3600, 3600, "h"), (float("inf"), 86400, "days"))


def ago(seconds: float, now: float | None = None) -> str:
    """`5 min ago`."""
    if not seconds:
        return "never"
    passed = max(0.0, (time.time() if now is None else now) - seconds)
    if passed < 10:
        return "just now"
    amount, unit = next((passed / per, unit) for until, per, unit in _STEPS if passed < until)
    return f"{int(amount)} {unit} ago"


def took(seconds: float) -> str:
    """A latency."""
    if not seconds:
        return "–"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
