"""Talks with the server, each within a limit, and none while the server is down.

The client library's own limits are per read and per write, and the same for every command; its retries multiply them
(ten by default).  So here it does what it is good at (connecting, TLS, AUTH, the protocol), and one deadline stands
around a whole talk.  Whatever breaks a talk off, a hang-up of the client included, costs the connection: the next one
must not read an answer that was meant for this one.

No text of the server reaches a message: a server that does not know a command repeats its arguments, and those of AUTH
are a password.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis import exceptions
from redis.asyncio.connection import AbstractConnection, ConnectionPool

from cache.breaker import FAILURES, Breaker
from cache.redis.address import Address
from cache.store import StoreError

T = TypeVar("T")

ANSWER_SECONDS = 0.25
"""For a whole talk about a small value.  A server near by needs a hundredth of it; a client that waits for its first
token should not notice the rest."""

BYTES_PER_SECOND = 10 * 2**20
"""What a talk about a large value may count on besides, so that its limit grows with its size: a gigabit line that ten
share.  An image of 20 MiB has 2.25 seconds, but only once the server has answered a PING within the small limit."""

SMALL_BYTES = 2**16
"""Records are far below, most images above."""

SMALL_LANES = 32
LARGE_LANES = 4
"""Talks at once, each on a connection of its own.  Apart, because a record must not queue behind images; few for large
ones, because four images at once fill a line, and each is in memory twice."""

OPEN_SECONDS = 10.0
"""For so long a server that failed several times in a row is not asked.  What the store forgets meanwhile is made up
for, so there is no hurry to know that it is back."""

SLICE_BYTES = 2**18
"""Handed to the socket, or asked for, in one go: over 20 MiB in one piece the event loop stood still for 20 to 200
milliseconds."""

_CODES = frozenset({"CLUSTERDOWN", "MASTERDOWN", "MISCONF", "MOVED", "NOREPLICAS"})
"""First words of refusals that say what is wrong with the server and nothing else."""

Command = tuple[str | bytes | int, ...]


class Talk:
    """A connection for as long as one thing is asked on it."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection: Any = connection  # whose methods have no types

    async def ask(self, *commands: Command) -> list[object]:
        """Send these in one go; their replies.

        A key that holds something other than a string gives `None` to whoever reads it, since such a value is nobody's
        of ours.  Any other refusal is raised, after the last reply has come.
        """
        for piece in self._connection.pack_commands(commands):
            for start in range(0, len(piece), SLICE_BYTES):
                part = memoryview(piece)[start : start + SLICE_BYTES]
                await self._connection.send_packed_command([part], check_health=False)
        return accepted([await self._reply() for _ in commands])

    async def exchange(self, *commands: Command) -> list[object] | None:
        """These as one transaction; `None` where a watched key was touched before it began."""
        *_, outcome = await self.ask(("MULTI",), *commands, ("EXEC",))
        if outcome is None:
            return None
        replies = accepted(items(outcome))
        if len(replies) != len(commands):
            raise exceptions.InvalidResponse
        return replies

    async def _reply(self) -> object:
        try:
            return await self._connection.read_response()
        except exceptions.ResponseError as error:
            return error


def accepted(replies: Sequence[object]) -> list[object]:
    """The replies, `None` for those from a key that holds no string; any other refusal among them is raised."""
    for reply in replies:
        if isinstance(reply, exceptions.ResponseError) and not _of_another_type(reply):
            raise reply
    return [None if isinstance(reply, exceptions.ResponseError) else reply for reply in replies]


def _of_another_type(refusal: exceptions.ResponseError) -> bool:
    return str(refusal).startswith("WRONGTYPE")


def number(reply: object) -> int:
    """A reply that is a number, or what answers is no Redis."""
    if isinstance(reply, int):
        return reply
    raise exceptions.InvalidResponse


def done(reply: object) -> bool:
    """Whether a command that changes something was carried out, rather than found its condition not met."""
    if reply is None or reply == b"OK" or isinstance(reply, int):
        return reply is not None
    raise exceptions.InvalidResponse


def items(reply: object) -> list[object]:
    """A reply that is a list, or what answers is no Redis."""
    if isinstance(reply, list):
        return reply
    raise exceptions.InvalidResponse


def text(reply: object) -> bytes:
    """A reply that is a string, or what answers is no Redis."""
    if isinstance(reply, bytes):
        return reply
    raise exceptions.InvalidResponse


class Server:
    """The server at `address`.  `answer_seconds` is what a talk about a small value may take, `clock` the breaker's."""

    def __init__(self, address: Address, *, answer_seconds: float, clock: Callable[[], float]) -> None:
        self._answer_seconds = answer_seconds
        self._breaker = Breaker(clock, open_seconds=OPEN_SECONDS)
        self._last_fault = ""
        self._small = asyncio.Semaphore(SMALL_LANES)
        self._large = asyncio.Semaphore(LARGE_LANES)
        options = {
            **address.options,
            "retry": None,
            "socket_timeout": None,
            "socket_connect_timeout": answer_seconds,
            "health_check_interval": 0,
            "protocol": 2,  # the older form does all that is needed here, and AUTH is not mixed with anything
            "driver_info": None,
        }
        self._pool: Any = ConnectionPool(address.connection, max_connections=SMALL_LANES + LARGE_LANES, **options)

    def __repr__(self) -> str:
        return f"<Server {self._breaker!r}>"

    async def talk(self, work: Callable[[Talk], Awaitable[T]], *, size: int = 0) -> T:
        """What `work` brings back.  `size`: bytes of value that may have to be carried.

        Raises `StoreError` for whatever the server or the way to it does wrong.
        """
        if self._breaker.state == "open":
            raise self._left_alone()
        fault: BaseException
        async with self._large if size > SMALL_BYTES else self._small:
            if self._breaker.wait() is not None:
                raise self._left_alone()
            try:
                outcome = await self._in_time(work, size)
            except exceptions.ResponseError as error:
                # It answers, and others of its answers may be good: a full one can still be read.
                self._breaker.succeeded()
                fault = error
            except (exceptions.RedisError, OSError, EOFError, ValueError, RuntimeError) as error:
                # TimeoutError is an OSError.  The last three are how the library stumbles over what is no Redis.
                self._breaker.failed()
                fault = error
            except StoreError:
                self._breaker.succeeded()
                raise
            except BaseException:
                self._breaker.given_up()
                raise
            else:
                self._breaker.succeeded()
                return outcome
        self._last_fault = _words(fault)
        # Raised out here so that no traceback leads to what the server said.
        raise StoreError(self._last_fault)

    async def ask(self, *commands: Command, read: Callable[[list[object]], T], size: int = 0) -> T:
        """`Talk.ask`, in a talk of its own.  What `read` does not understand is the server's fault."""

        async def work(talk: Talk) -> T:
            return read(await talk.ask(*commands))

        return await self.talk(work, size=size)

    async def close(self) -> None:
        """Let go of the connections; nothing may be under way."""
        with suppress(exceptions.RedisError, OSError):
            await self._pool.disconnect()

    async def _in_time(self, work: Callable[[Talk], Awaitable[T]], size: int) -> T:
        async with asyncio.timeout(self._answer_seconds) as deadline:
            connection = await self._pool.get_connection()
            try:
                talk = Talk(connection)
                if size > SMALL_BYTES:
                    await talk.ask(("PING",))
                    now = asyncio.get_running_loop().time()
                    deadline.reschedule(now + self._answer_seconds + size / BYTES_PER_SECOND)
                return await work(talk)
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                await self._pool.release(connection)

    def _left_alone(self) -> StoreError:
        return StoreError(f"Redis failed {FAILURES} times in a row and is left alone for a while: {self._last_fault}")


def _words(fault: BaseException) -> str:
    match fault:
        case exceptions.AuthenticationError() | exceptions.AuthorizationError():
            return "Redis refuses the name or the password in the store's url"
        case exceptions.NoPermissionError():
            return "Redis does not allow the user in the store's url what a store needs; SECURITY.md lists it"
        case exceptions.BusyLoadingError():
            return "Redis is still loading its data"
        case exceptions.OutOfMemoryError():
            return "Redis is full: raise its maxmemory, or let it drop old entries (maxmemory-policy allkeys-lru)"
        case exceptions.ReadOnlyError():
            return "this Redis is a read-only replica; name the primary in the store's url"
        case exceptions.ResponseError():
            code = str(fault).partition(" ")[0]
            return f"Redis refused what it was asked ({code})" if code in _CODES else "Redis refused what it was asked"
        case exceptions.TimeoutError() | TimeoutError():
            return "Redis did not answer in time"
        case exceptions.ConnectionError() if isinstance(fault.__context__, ssl.SSLError):
            return "no TLS with Redis; does this machine trust its certificate, and is the name in the url its own?"
        case exceptions.ConnectionError() | OSError() | EOFError():
            return "Redis is out of reach"
        case _:
            return "what answers at the store's url is no Redis"
