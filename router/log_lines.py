"""How a record of the log is written: one line, and of an exception its place but not its words.

Nothing of what clients, brain or eyes say belongs into a log.  Our own lines are worded so, but the words of an
exception nobody foresaw hold what it stumbled over (a `KeyError` is nothing else), and a server's words can hold line
ends, keys and pictures.

Whatever is logged while a request is served carries its id, which stands in `REQUEST_ID` meanwhile.
"""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

REQUEST_ID: ContextVar[str] = ContextVar("chiasm_request_id", default="")
"""Of the request that this task, or the task that began it, serves; empty where there is none."""

_EXCEPTIONS: Final = 8
"""Of a chain or a group, that are written."""

_SECRET = re.compile(r"data:image/\S+|\bBearer\s+\S+|\b(?:sk|pk)-[A-Za-z0-9_-]{8,}|[A-Za-z0-9+/]{64,}={0,2}")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Fields(dict[str, Any]):
    """What a line says by name: `log.info("exchange %s", Fields(turns=2))`.  In text it is written as logfmt; in JSON
    each has a key of its own."""

    def __str__(self) -> str:
        return " ".join(f"{name}={_logfmt(value)}" for name, value in self.items())


def _logfmt(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if re.fullmatch(r"[^\s\"=]+", text) else json.dumps(text, ensure_ascii=False)


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
        line = super().formatMessage(record)
        if (id_ := REQUEST_ID.get()) and "request_id" not in _fields(record):
            line += f" request_id={id_}"
        return _plain(line)

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        if ei[1] is None:
            return ""
        lines = [line for _, error in zip(range(_EXCEPTIONS), _chain(ei[1]), strict=False) for line in _placed(error)]
        return "".join(lines).rstrip("\n")


class JsonLines(LogLines):
    """The same, each line one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        message = str(record.msg).removesuffix("%s").rstrip() if fields else record.getMessage()
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": _plain(message),
            **({"request_id": id_} if (id_ := REQUEST_ID.get()) else {}),
            **{name: _plain(value) if isinstance(value, str) else value for name, value in fields.items()},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


FORMATTERS: Final = {
    "text": lambda: LogLines("%(asctime)s %(levelname)s %(name)s %(message)s"),
    "json": JsonLines,
}
"""By `server.log_format`."""


def _fields(record: logging.LogRecord) -> Fields:
    return record.args if isinstance(record.args, Fields) else Fields()


def _plain(text: str) -> str:
    return _UNSEEN.sub(" ", _SECRET.sub("[…]", text))


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
