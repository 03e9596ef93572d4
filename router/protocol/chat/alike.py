"""Chunks of words that differ from one before them in their words only, read without being parsed.

A server says the same 250 bytes around every word.  Once such a chunk was read in full, what stands before and behind
its string is known, and whether another string in that place would have been the words: it is tried with a string that
nobody says.  JSON reads a string the same whatever it is, so from then on any event that begins and ends with the same
bytes, and has one valid string in between, says that string.  What deviates by a byte is read in full.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

import orjson

from router.protocol.parts import Part, Reasoning, Text

Words: TypeAlias = Text | Reasoning

MOST_BYTES = 64 * 1024
"""Of an event that is read here.  No word is as long."""

_TRIES = 4
"""So many kinds of chunks are learnt in a row that none after them is like: some servers count something in each.
Those that tell the time have a new kind each second."""

_PLACE = re.compile(rb'"(?:content|reasoning|reasoning_content)": ?("(?:[^"\\]|\\.)*")')
_MARK = "\0 nobody says this \0"


class Alike:
    __slots__ = ("_after", "_before", "_kind", "_tries")

    def __init__(self) -> None:
        self._before = b""
        """Up to and with the quote that begins the words; empty while no kind of chunk is known."""
        self._after = b""
        """From the quote that ends them."""
        self._kind: type[Words] = Text
        self._tries = _TRIES

    def read(self, data: bytes) -> tuple[list[Part], bytes]:
        """What the events at the beginning of `data` say, as far as they are like; and the rest, to be read in full.

        `data` begins with an event.
        """
        said: list[Part] = []
        before, after, position = self._before, self._after, 0
        while before and data.startswith(before, position):
            start = position + len(before)
            end = data.find(after, start, start + MOST_BYTES)
            try:
                words = orjson.loads(data[start - 1 : end + 1])
            except orjson.JSONDecodeError:  # also where there is no end
                break
            if not words:
                break
            said.append(self._kind(words))
            position = end + len(after)
            self._tries = _TRIES
        return said, data[position:] if position else data

    def learn(self, event: bytes, read: Callable[[bytes], Sequence[Part]]) -> None:
        """`event` said one piece of words and nothing else.  `read`: reads an event in full and keeps nothing of it."""
        if not self._tries or len(event) > MOST_BYTES or not event.startswith(b"data:"):
            return
        self._tries -= 1
        for place in _PLACE.finditer(event):
            before, after = event[: place.start(1) + 1], event[place.end(1) - 1 :]
            for kind in (Text, Reasoning):
                if read(before[:-1] + orjson.dumps(_MARK) + after[1:]) == [kind(_MARK)]:
                    self._before, self._after, self._kind = before, after, kind
                    return
