"""Server-sent events: bytes in, events out, wherever the network cuts.

The format (https://html.spec.whatwg.org/multipage/server-sent-events.html, "event stream interpretation") is
lines ended by LF, CR or CRLF; an empty line ends an event.  We parse bytes, because decoding first and splitting
with `str.splitlines` would also split at U+2028, U+2029 and U+0085, which JSON strings may hold unescaped.

Cost is linear in the bytes received: each byte is looked at once for the end of an event, and the buffer holds
one unfinished event at most.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""No server sends a single event of this size in earnest; a larger one would be held in memory whole."""

_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event passed `MAX_EVENT_BYTES` without ending."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """`data` is the joined data lines; a comment (`: …`) is no event and is not reported."""

    data: bytes
    event: str = ""


class SSEDecoder:
    """Feed it what the socket gave, in any pieces; it answers the events that became whole."""

    __slots__ = ("_after_cr", "_buffer", "_scanned", "_started")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._after_cr = False
        self._started = False

    @property
    def between_events(self) -> bool:
        """Whether all that came was whole events, and what comes next begins one."""
        return self._started and not self._buffer and not self._after_cr

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Raises `EventTooLarge`; the decoder is of no use after that."""
        data = self._with_lf_only(data)
        if self.between_events and data.find(b"\n\n") == len(data) - 2 and 2 <= len(data) <= MAX_EVENT_BYTES:
            event = _parse(data[:-2])  # one, as it was written: no need to put it together
            return [] if event is None else [event]
        buffer = self._buffer
        buffer += data
        if not self._started:
            if _BOM.startswith(buffer[:3]) and len(buffer) < len(_BOM):
                return []
            if buffer.startswith(_BOM):
                del buffer[: len(_BOM)]
            self._started = True
        events: list[ServerSentEvent] = []
        while (end := buffer.find(b"\n\n", self._scanned)) >= 0:
            if end > MAX_EVENT_BYTES:
                break
            event = _parse(bytes(buffer[:end]))
            del buffer[: end + 2]
            self._scanned = 0
            if event is not None:
                events.append(event)
        self._scanned = max(0, len(buffer) - 1)
        if end >= 0 or len(buffer) > MAX_EVENT_BYTES + 1:  # one line end may wait for the other
            raise EventTooLarge(f"an event of more than {MAX_EVENT_BYTES} bytes did not end")
        return events

    def close(self) -> list[ServerSentEvent]:
        """The stream is over.  The specification drops an event that lacks its empty line; servers that die early
        or forget it are common enough that we report what is there."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._scanned = 0
        event = _parse(rest)
        return [] if event is None else [event]

    def _with_lf_only(self, data: bytes) -> bytes:
        if self._after_cr and data:
            self._after_cr = False
            if data.startswith(b"\n"):
                data = data[1:]
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data


def _parse(block: bytes) -> ServerSentEvent | None:
    if block.startswith(b"data: ") and b"\n" not in block:  # what every server sends nearly always
        return ServerSentEvent(block[6:])
    lines: list[bytes] = []
    name = b""
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            lines.append(value)
        elif field == b"event":
            name = value
    if not lines:
        return None
    return ServerSentEvent(b"\n".join(lines), name.decode("utf-8", "replace"))


def data_event(data: bytes) -> bytes:
    """One event on the wire.  `data` must hold no line end (JSON has none)."""
    return b"data: " + data + b"\n\n"


def comment(words: str) -> bytes:
    """A comment: every client skips it, and it keeps proxies and clients from calling the stream dead."""
    return b": " + words.encode() + b"\n\n"
