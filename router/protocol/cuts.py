"""Pictures cut out of a request's bytes before they are parsed as JSON.

A request with thirty screenshots is 99.9 % base64.  Parsing it whole makes a second copy of all that as Python
strings and stops the event loop for a tenth of a second per 100 MB; finding where each picture begins and ends
takes `bytes.find`, which is a hundred times faster.  So each base64 payload of a `data:image/…;base64,` URL (and
each bare one that begins like a picture and fills a JSON string) is replaced by a short *token*, the rest is parsed,
and whoever meets a token asks `Cuts.payload` for the bytes, which are a view into the body as it arrived.

A token consists of base64 letters only, so that everything that recognises a payload recognises a token; it holds a
random word that no client can know.  What does not look exactly as expected is left alone: the parser is the
reference, and cutting only spares it work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

LEAST_CUT = 4096
"""Smaller payloads cost the parser nothing worth sparing."""

_MOST_TRIED = 10_000
"""Beginnings of one kind that are looked at: twice as many as a request may hold images.  What begins like a payload
and is none costs the event loop a microsecond or two, and a body has room for millions of it."""

_SCHEME = b"data:image/"
_MARK = b";base64,"
_LONGEST_TYPE = 64
_DEEPEST_ESCAPE = 7
"""Backslashes before the quote of a JSON string in a string in a string in a string."""

_AROUND_A_URL = (b")", b"'", b"<")
_SAMPLE = 64
_SAMPLE_OF_PAYLOAD = re.compile(rb"""[^"\\ )'<]{64}""")
"""A payload that is cut has none of these letters, so it fills one of the samples that are taken so close; words have a
space in nearly all of these, and a history has thousands of words."""

_LAST_LETTERS = re.compile(rb"[A-Za-z0-9+/_-]*={0,2}")
_WEBP, _WEBP_FORM = b'"UklGR', b"RUJQ"
"""`RIFF` and, behind four bytes of length, `WEBP`."""
_BARE_STARTS = (b'"iVBORw0KGgo', b'"/9j/', b'"R0lGOD', _WEBP)
"""PNG, JPEG, GIF and WEBP in base64, at the start of a JSON string; in a JSON string within one, the quote is `\\"`."""


@dataclass(slots=True)
class Cuts:
    """The payloads of one request, by token."""

    body: bytearray
    word: str
    spans: list[tuple[int, int]] = field(default_factory=list)

    def payload(self, text: str) -> memoryview | None:
        """The base64 bytes for which `text` stands; `None` if it is no token of this request."""
        index = text.removeprefix(self.word)
        if len(index) == len(text) or not index.isdigit() or int(index) >= len(self.spans):
            return None
        start, end = self.spans[int(index)]
        return memoryview(self.body)[start:end]

    def restored(self, value: Any) -> Any:
        """`value` with payloads back in place of tokens, for whoever wants the request as it came."""
        if isinstance(value, str):
            return re.sub(re.escape(self.word) + r"\d+", self._text, value) if self.word in value else value
        if isinstance(value, list):
            return [self.restored(item) for item in value]
        if isinstance(value, dict):
            return {self.restored(key): self.restored(item) for key, item in value.items()}
        return value

    def _text(self, match: re.Match[str]) -> str:
        payload = self.payload(match[0])
        return match[0] if payload is None else bytes(payload).decode("utf-8", "replace")

    def token(self, start: int, end: int) -> bytes:
        self.spans.append((start, end))
        return f"{self.word}{len(self.spans) - 1}".encode()


def cut(body: bytearray, word: str) -> tuple[bytes | bytearray, Cuts]:
    """`body` with tokens in place of large payloads, and what they stand for.

    `word`: random letters and digits, at least 128 bits, made anew for each request.
    """
    cuts = Cuts(body, word)
    if not _may_hold_payloads(body):
        return body, cuts
    places = _data_urls(body)
    for mark in _BARE_STARTS:
        places += _bare(body, mark, places)
    if not places:
        return body, cuts
    pieces: list[bytes | memoryview] = []
    view = memoryview(body)
    position = 0
    for start, end in sorted(places):
        pieces += (view[position:start], cuts.token(start, end))
        position = end
    pieces.append(view[position:])
    return b"".join(pieces), cuts


def _may_hold_payloads(body: bytearray) -> bool:
    """Never wrong where there are any."""
    samples = range(0, len(body) - _SAMPLE + 1, LEAST_CUT - _SAMPLE + 1)
    return len(body) >= LEAST_CUT and any(_SAMPLE_OF_PAYLOAD.match(body, at) for at in samples)


def _data_urls(body: bytearray) -> list[tuple[int, int]]:
    places = []
    position = tried = 0
    while tried < _MOST_TRIED and (found := body.find(_SCHEME, position)) >= 0:
        tried += 1
        mark = body.find(_MARK, found, found + _LONGEST_TYPE)
        position = found + len(_SCHEME)
        if mark >= 0:
            start = mark + len(_MARK)
            end, position = _payload(body, start)
            if end - start >= LEAST_CUT:
                places.append((start, end))
    return places


def _bare(body: bytearray, start_mark: bytes, known: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Payloads without a data URL; searched only between those already known."""
    places = []
    gaps = zip(
        [0, *(end for _, end in sorted(known))], [*(start for start, _ in sorted(known)), len(body)], strict=True
    )
    tried = 0
    for low, high in gaps:
        position = low
        while tried < _MOST_TRIED and (found := body.find(start_mark, position, high)) >= 0:
            tried += 1
            start = found + 1
            end, position = _payload(body, start)
            if start_mark == _WEBP and body[start + 12 : start + 16] != _WEBP_FORM:
                continue  # another RIFF file: sound
            if end - start >= LEAST_CUT and end <= high:
                places.append((start, end))
    return places


def _payload(body: bytearray, start: int) -> tuple[int, int]:
    """Where the payload ends that begins at `start` (at `start` itself if none does), and where to look for the next.

    It ends with the JSON string in which it stands, and must fill it.  In a JSON string within a JSON string the
    closing quote is escaped; a backslash anywhere else, or a space, means that this is no plain payload, and neither is
    any that begins before the last of them: looking there again would cost the square of the body's length.
    """
    quote = body.find(b'"', start)
    if quote < 0:
        return start, len(body)
    end = quote
    while end > max(start, quote - _DEEPEST_ESCAPE) and body[end - 1] == 0x5C:
        end -= 1
    foreign = max(body.rfind(b"\\", start, end), body.rfind(b" ", start, end))
    if foreign >= 0:
        return start, foreign + 1
    last = _LAST_LETTERS.fullmatch(body, max(start, end - 64), end)
    if last is None or any(body.find(sign, start, end) >= 0 for sign in _AROUND_A_URL):
        return start, end  # `![picture](data:…)` and the like: the string holds more than the payload
    return end, max(end, start)
