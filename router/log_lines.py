"""How a record of the log is written: one line, and of an exception its place but not its words.

Nothing of what clients, brain or eyes say belongs into a log.  Our own lines are worded so, but the words of an
exception nobody foresaw hold what it stumbled over (a `KeyError` is nothing else), and a server's words can hold line
ends, keys and pictures.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Final

_EXCEPTIONS: Final = 8
"""Of a chain or a group, that are written."""

_SECRET = re.compile(r"data:image/\S+|\bBearer\s+\S+|\b(?:sk|pk)-[A-Za-z0-9_-]{8,}|[A-Za-z0-9+/]{64,}={0,2}")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class LogLines(logging.Formatter):
    """A `logging.Formatter`; exceptions are written without their messages."""

    def format(self, record: logging.LogRecord) -> str:
        # What another formatter made of the exception lies in the record, to be used again.
        kept, record.exc_text = record.exc_text, None
        try:
            return super().format(record)
        finally:
            record.exc_text = kept

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _UNSEEN.sub(" ", _SECRET.sub("[…]", super().formatMessage(record)))

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        if ei[1] is None:
            return ""
        lines = [line for _, error in zip(range(_EXCEPTIONS), _chain(ei[1]), strict=False) for line in _placed(error)]
        return "".join(lines).rstrip("\n")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, those inside it, and those that it came from."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        cause = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        waiting += [cause] if cause is not None else []


def _placed(error: BaseException) -> list[str]:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return ["Traceback (most recent call last):\n", *traceback.format_tb(error.__traceback__), f"{name}\n"]
