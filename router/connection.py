"""One client's connection, with an end to every wait for the client.

uvicorn's protocol waits for ever in four places, and whoever opens many connections and does nothing on them would have
them all.  Here each has a limit:

*   **the head of a request**: `HEAD_SECONDS` from the moment the connection was made, or from the first byte after an
    answer; and `MOST_HEAD_BYTES`;
*   **the body**: waited for by whoever reads it (`router.door.read_body`);
*   **an answer that is not taken**: less than `LEAST_TAKEN` bytes of it in `STALLED_SECONDS` and the connection is
    aborted.  Closing is not enough: a transport that closes waits until all is written;
*   **the number of connections**: one beyond the limit is told so, and one far beyond it is not let in.

A second request while the first is being answered (pipelining, which no client in use does) is not taken: the
connection ends with the first answer, and the client asks again on a new one.  uvicorn would stop reading until then,
and not notice that the client hangs up.

**Upgrades are declined**, as RFC 9110, section 7.8, lets a server do: Java's client offers `Upgrade: h2c` with every
request.  The parser under uvicorn takes what follows such a head for the other protocol, and would read the body as a
second request if it came a moment later.  So the head is read once more without the offer, by a parser of its own, from
the fields as the first one understood them.

An application that gives a client up calls `scope["extensions"][GIVE_UP]()`: the connection is gone at once, with what
lies in its buffers.
"""

from __future__ import annotations

import asyncio
import sys
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any, Final, cast

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from router import response
from router.errors import BadRequest, ChiasmError, HeadTooLarge, HeadTooSlow, Overloaded
from router.protocol.chat.writer import error_body
from router.response import GIVE_UP, Receive, Send, send_json

HEAD_SECONDS = 10.0
"""Clients send it in one go.  An idle new connection has as long: browsers open some in advance."""

KEEP_ALIVE_SECONDS = 75
"""After an answer.  Longer than clients' pools (5 to 15 seconds) and proxies' (60) keep one, so that it is they who
close."""

MOST_HEAD_BYTES = 64 * 1024
"""Address and headers.  Cookies of a browser are the longest that come; servers in front of us allow 8 to 32 KiB."""

LEAST_TAKEN = 16 * 1024
"""What a client has to take of a waiting answer in `STALLED_SECONDS`: 2 kbit/s."""

LINGER_SECONDS = 2.0
"""For a client that still sends what is refused."""

REFUSED_IN_WORDS: Final = 256
"""Connections beyond the limit that are answered; more are closed at once."""

BUSY_SECONDS = 1.0
"""`Retry-After` of those."""


class Connection(HttpToolsProtocol):
    """`config.limit_concurrency` is the number of connections; `None`: no limit."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._application = self.app
        self._most, self.limit_concurrency = self.limit_concurrency, None  # ours answers in the shape of all errors
        self._deaf = False
        """What comes is thrown away; the connection is about to end."""
        self._offered = False
        """The head that has just come offers another protocol."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_began = False
        self._head_bytes = 0
        self._write_timer: asyncio.TimerHandle | None = None
        self._untaken = 0
        self._moved = False
        """Whether what came last began a request or was part of a body."""
        self._unmoved = 0
        """Bytes since then: trailers and chunk extensions, of which nobody reads any."""

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._most is not None and len(self.connections) > self._most + REFUSED_IN_WORDS:
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_over()
        self._stop_watching()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """A client that closes its side has hung up, as far as anyone can tell from here.  asyncio would first write
        all that waits for it, and we would hear of it only then, which may be never."""
        if not self._answered():
            self.give_up()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._head_began = self._moved = False
        self._unset_keepalive_if_required()
        self._parse(data)
        self._unmoved = 0 if self._moved or self._in_head else self._unmoved + len(data)
        if self._unmoved > MOST_HEAD_BYTES:
            self.give_up()
            return
        if self._deaf or self.transport.is_closing():
            return
        if self._head_timer is None and self._answered():
            self._await_head()  # also for bytes that begin no request
        if self._in_head and not self._head_began:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(HeadTooLarge(_TOO_LARGE))

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._offered:
                self._decline(data[upgrade.args[0] :])
            else:  # CONNECT
                self.send_400_response("")
        except httptools.HttpParserError:
            self.send_400_response("")

    def _decline(self, rest: bytes) -> None:
        """Read the head again, and what came behind it, as if the client had offered nothing."""
        self._offered = False
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        fields = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(fields))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self._parse(head + rest)

    def _give_up_on(self, scope: dict[str, Any]) -> None:
        """For an application, which may find that its client has left after it has told it all: then the next request
        may be at work on this connection."""
        if not self._answered() and self.cycle.scope is scope:
            self.give_up()

    def give_up(self) -> None:
        """Let go of the client, whatever is still to be said to it."""
        self._leave_unanswered()
        self.transport.abort()

    def _leave_unanswered(self) -> None:
        if not self._answered():
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    # Heads

    def on_message_begin(self) -> None:
        if self._deaf:
            return
        self._moved = True
        super().on_message_begin()
        scope = cast(dict[str, Any], self.scope)
        scope["extensions"] = {GIVE_UP: lambda: self._give_up_on(scope)}
        self._in_head = self._head_began = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        if self._deaf:
            return
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT" and self._answered():
            self._offered = True
            return
        self._head_over()
        if not self._answered():
            self._deaf = True
            self.cycle.keep_alive = False
            return
        if (fault := self._misread()) is not None:
            self._refuse(BadRequest(fault))
            return
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MOST_HEAD_BYTES:
            self.app = _says(HeadTooLarge(_TOO_LARGE))
        elif self._most is not None and len(self.connections) > self._most:
            self.app = self._only_alive
        else:
            self.app = self._application
        super().on_headers_complete()

    def _misread(self) -> str | None:
        """What a server in front of us may have understood otherwise, and the parser lets through (RFC 9112, section
        3.2)."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            return f"HTTP/{version} is not spoken here, use HTTP/1.1"
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            return "a request names its host once (the Host header)"
        return None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else a trailer
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._moved = True
        if not self._deaf:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._deaf and not self._offered:
            super().on_message_complete()

    async def _only_alive(self, scope: Any, receive: Receive, send: Send) -> None:
        """A process that has too much to do is alive all the same, and is not to be restarted for it."""
        busy = Overloaded("too many connections; try again soon", retry_after=BUSY_SECONDS)
        app: Any = self._application if scope["path"] == "/healthz" else _says(busy)
        await app(scope, receive, send)

    def _answered(self) -> bool:
        """Nothing is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_late)

    def _head_over(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(HeadTooSlow(f"the head of the request was not complete after {HEAD_SECONDS:g} seconds"))
        elif not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequest("this is not an HTTP request"))

    def _refuse(self, error: ChiasmError) -> None:
        """Say so, unless that would stand in the middle of an answer, and close."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        self._head_over()
        if not self._answered() and self.cycle.response_started:
            self.transport.close()
            return
        self._leave_unanswered()
        body = orjson.dumps(error_body(error))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[error.status] + head + body)
        self.transport.write_eof()
        # To close with bytes unread resets the connection, and the client would not get to see this.
        self._head_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    # Answers that are not taken

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        self._stop_watching()
        super().resume_writing()

    def _watch_writing(self) -> None:
        if self._write_timer is None and self.transport.get_write_buffer_size():
            self._untaken = self._not_taken()
            self._write_timer = self.loop.call_later(response.STALLED_SECONDS, self._look_at_writing)

    def _stop_watching(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _look_at_writing(self) -> None:
        self._write_timer = None
        if self.transport.get_write_buffer_size() and self._not_taken() > self._untaken - LEAST_TAKEN:
            self.give_up()
        else:
            self._watch_writing()

    def _not_taken(self) -> int:
        """Bytes that wait here and in the system: that takes more from us only by the megabyte, so that what waits
        here may stand still for a while although the client takes something."""
        waiting = self.transport.get_write_buffer_size()
        try:
            answer = ioctl(self.transport.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4))
        except (OSError, AttributeError):
            return waiting
        return waiting + int.from_bytes(answer, sys.byteorder)


_TOO_LARGE = f"the head of the request is larger than {MOST_HEAD_BYTES // 1024} KiB"


def _says(error: ChiasmError) -> Any:
    """An application that knows only this answer."""

    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        headers = {"connection": "close"}
        if error.retry_after is not None:
            headers["retry-after"] = f"{error.retry_after:g}"
        await send_json(send, error.status, orjson.dumps(error_body(error)), headers)

    return answer
