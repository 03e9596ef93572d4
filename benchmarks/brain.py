"""A brain and eyes that cost next to nothing, so that what stands in front of them can be measured.

One process, one raw protocol, no parsing of bodies: large ones are counted and dropped, and only their last bytes are
kept, where the request says what it wants by the field `bench` (an unknown field rides through every router):

*   `stream:COUNT:RATE`: COUNT chunks, RATE per second (0: at once);
*   `hold`: one chunk, then silence until the client goes;
*   `look`: a call of `analyzeImage`; the request that brings the tool's answer gets words.

Each chunk is shaped like vLLM's and its words hold the moment of its writing in nanoseconds of the monotonic clock,
which all processes of a machine share: whoever receives it knows how long it was under way, however it was rewritten.

The eyes live under `/eyes/v1`.  When the brain's call ended, when the eyes were asked, when they answered and when the
brain was asked again is seen here, on one clock; `GET /hops` tells the two differences and forgets them.

    python benchmarks/brain.py        prints the port it listens on
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import re
import time
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import uvloop

KEPT_TAIL = 64 * 1024
"""Bytes at the end of a body that are kept: tools and the last messages are in it."""

MODEL = "Qwen/Qwen3.5-27B-Instruct"

STAMP_DIGITS = 18
"""Nanoseconds since boot, with leading zeros, so that all chunks are of one length: good for thirty years."""

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_WANTED = re.compile(rb'"bench": ?"([a-z]+):?(\d*):?(\d*)"')
_TOOL_ROLE = re.compile(rb'"role": ?"tool"')

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_ENVELOPE = (
    b'{"id":"chatcmpl-0d5f0b6f9cf54b5f9e6d1f4c6a0e7a11","object":"chat.completion.chunk","created":1760000000,"model":"'
    + MODEL.encode()
    + b'","choices":'
)


def _framed(event: bytes) -> bytes:
    """One event as a chunk of the transfer encoding."""
    return b"%x\r\n%b\r\n" % (len(event), event)


def _event(choices: bytes, tail: bytes = b"") -> bytes:
    return b"data: " + _ENVELOPE + choices + tail + b"}\n\n"


def _delta(members: bytes, finish: bytes = b"null") -> bytes:
    return b'[{"index":0,"delta":{' + members + b'},"logprobs":null,"finish_reason":' + finish + b',"token_ids":null}]'


_BEFORE, _AFTER = _framed(_event(_delta(b'"content":" t' + b"0" * STAMP_DIGITS + b' "'))).split(b"0" * STAMP_DIGITS)
_ROLE = _framed(_event(_delta(b'"role":"assistant","content":""')))
_USAGE = _event(b"[]", b',"usage":{"prompt_tokens":20,"total_tokens":120,"completion_tokens":100}')
_LAST = b"0\r\n\r\n"


def _end(reason: bytes) -> bytes:
    finish = _event(_delta(b'"content":""', b'"' + reason + b'"'))
    return b"".join(map(_framed, (finish, _USAGE, b"data: [DONE]\n\n"))) + _LAST


def _call() -> list[bytes]:
    """The pieces of a call of our tool, a fragment of its arguments at a time, as vLLM cuts them."""
    name = b'"function":{"name":"analyzeImage","arguments":""}'
    first = b'"tool_calls":[{"id":"chatcmpl-tool-5f1e","type":"function","index":0,' + name + b"}]"
    pieces = [rb"{\"image\"", rb": \"1\"", rb", \"task\"", rb": \"What", rb" does it", rb" say?", rb"\"}"]
    rest = [b'"tool_calls":[{"index":0,"function":{"arguments":"' + piece + b'"}}]' for piece in pieces]
    return [_framed(_event(_delta(members))) for members in (first, *rest)]


_CALL = b"".join(_call())
_LOOKED = json.dumps(
    {
        "id": "chatcmpl-eyes",
        "object": "chat.completion",
        "created": 1760000000,
        "model": "eyes",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The picture shows grey noise and no words."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 300, "completion_tokens": 10, "total_tokens": 310},
    }
).encode()


@dataclass
class Hops:
    """Seconds between the ends of what Chiasm does unseen: one exchange with a look at a time."""

    call_ended: float = 0.0
    looked: float = 0.0
    to_eyes: list[float] = field(default_factory=list)
    to_brain: list[float] = field(default_factory=list)

    def taken(self) -> bytes:
        told = json.dumps({"to_eyes": self.to_eyes, "to_brain": self.to_brain}).encode()
        self.to_eyes, self.to_brain = [], []
        return told


class Connection(asyncio.Protocol):
    def __init__(self, hops: Hops) -> None:
        self._hops = hops
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._path = ""
        self._left = 0
        """Bytes of the body still to come."""
        self._pieces: deque[bytes] = deque()
        self._kept = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, not the class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data, self._head = self._head[:end], self._head[end + 4 :], b""
            self._path = head.split(b" ", 2)[1].decode()
            length = _LENGTH.search(head)
            self._left = int(length[1]) if length else 0
            self._pieces.clear()
            self._kept = 0
        if data:
            self._left -= len(data)
            self._pieces.append(data)
            self._kept += len(data)
            while self._kept - len(self._pieces[0]) >= KEPT_TAIL:
                self._kept -= len(self._pieces.popleft())
        if not self._left:
            self._answer(b"".join(self._pieces)[-KEPT_TAIL:])

    def _answer(self, tail: bytes) -> None:
        if self._path.startswith("/eyes/"):
            self._answer_as_eyes()
        elif self._path.endswith("/models"):
            self._whole(json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode())
        elif self._path == "/hops":
            self._whole(self._hops.taken())
        else:
            self._complete(tail)

    def _answer_as_eyes(self) -> None:
        if self._path.endswith("/models"):
            self._whole(b'{"object":"list","data":[{"id":"eyes","object":"model"}]}')
            return
        self._hops.to_eyes.append(time.monotonic() - self._hops.call_ended)
        self._whole(_LOOKED)
        self._hops.looked = time.monotonic()

    def _complete(self, tail: bytes) -> None:
        found = _WANTED.search(tail)
        kind, count, rate = found.groups() if found else (b"stream", b"3", b"0")
        if kind == b"hold":
            self._write(_STREAM_HEAD + _ROLE + self._chunk())
        elif kind == b"look" and _TOOL_ROLE.search(tail):
            self._hops.to_brain.append(time.monotonic() - self._hops.looked)
            self._write(_STREAM_HEAD + _ROLE + self._chunk() + _end(b"stop"))
        elif kind == b"look":
            self._write(_STREAM_HEAD + _ROLE + _CALL + _end(b"tool_calls"))
            self._hops.call_ended = time.monotonic()
        elif rate == b"0":
            self._write(_STREAM_HEAD + _ROLE + self._chunk())
            self._write(b"".join(self._chunk() for _ in range(int(count) - 1)) + _end(b"stop"))
        else:
            self._write(_STREAM_HEAD + _ROLE)
            pause = 1 / int(rate)
            first = self._loop.time() + random.random() * pause  # streams of one server are not in step for long
            self._timer = self._loop.call_at(first, self._tick, first, pause, int(count))

    def _tick(self, due: float, pause: float, left: int) -> None:
        if left:
            self._write(self._chunk())
            self._timer = self._loop.call_at(due + pause, self._tick, due + pause, pause, left - 1)
        else:
            self._write(_end(b"stop"))

    def _chunk(self) -> bytes:
        return b"%b%018d%b" % (_BEFORE, time.monotonic_ns(), _AFTER)

    def _whole(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._write(head % len(body) + body)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def main() -> None:
    hops = Hops()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(hops), "127.0.0.1", 0, backlog=1024)
    gc.freeze()
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except KeyboardInterrupt:
        pass
