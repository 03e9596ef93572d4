"""Request bodies: words, long histories, and pictures that no one has seen before."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib

SIDE = 1200
"""Pixels across a screenshot; its height follows from the size wanted."""


def request(bench: str, messages: list[dict[str, object]]) -> bytes:
    """A streaming request; `bench` says what the brain is to do, and stands last so that it finds it quickly."""
    return json.dumps(
        {
            "model": "Qwen/Qwen3.5-27B-Instruct",
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "bench": bench,
        }
    ).encode()


def words(bench: str, text: str = "Tell me a story.") -> bytes:
    system: dict[str, object] = {"role": "system", "content": "You are a helpful assistant."}
    return request(bench, [system, {"role": "user", "content": text}])


def history(bench: str, size: int) -> bytes:
    """A conversation of turns of 2 kB each, `size` bytes of words in all."""
    rng = random.Random(1)
    vocabulary = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(2000)]
    messages: list[dict[str, object]] = [{"role": "system", "content": "You are a helpful assistant."}]
    while size > 0:
        text = " ".join(rng.choices(vocabulary, k=340))
        size -= len(text)
        messages.append({"role": "assistant" if len(messages) % 2 == 0 else "user", "content": text})
    messages.append({"role": "user", "content": "Go on."})
    return request(bench, messages)


class Screenshots:
    """`count` pictures of `size` bytes each that share their pixels, which are noise, so that they are made in no time;
    each has a comment of its own, so that all are different, in every body anew."""

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        height = max(1, size // (SIDE * 3 + 1))
        rows = random.Random(2).randbytes(SIDE * 3 * height)
        lines = b"".join(b"\0" + rows[start : start + SIDE * 3] for start in range(0, len(rows), SIDE * 3))
        header = struct.pack(">IIBBBBB", SIDE, height, 8, 2, 0, 0, 0)
        self._head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)
        pixels = _chunk(b"IDAT", zlib.compress(lines, 0)) + _chunk(b"IEND", b"")
        # Base64 goes by three bytes: the comment fills the head up, and the pixels begin a group of their own.
        self._comment_size = 60 + (-(len(self._head) + 12 + 60)) % 3
        self._pixels = base64.b64encode(pixels)

    def body(self, bench: str, question: str = "What do they show?") -> bytes:
        parts: list[dict[str, object]] = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,@{index}@"}}
            for index in range(self._count)
        ]
        messages: list[dict[str, object]] = [{"role": "user", "content": [{"type": "text", "text": question}, *parts]}]
        body = request(bench, messages)
        pieces: list[bytes] = []
        for index in range(self._count):
            before, body = body.split(b"@%d@" % index)
            pieces += (before, self._new_picture())
        return b"".join([*pieces, body])

    def _new_picture(self) -> bytes:
        comment = b"Comment\0" + random.randbytes(16).hex().encode()
        comment = comment.ljust(self._comment_size, b".")
        return base64.b64encode(self._head + _chunk(b"tEXt", comment)) + self._pixels


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
