"""Whatever ends a server's connection in the middle of a body, whoever reads the body learns of it at once."""

from __future__ import annotations

import asyncio
import gc
import logging

import httpx
import pytest

from router.http_client import BROKEN, http_client
from router.upstream import Upstream
from tests.brain import Asked, LoopbackServer, Script, Wire
from tests.live import Footprint, becomes, soon

pytestmark = [pytest.mark.anyio, pytest.mark.live]

BAD = {
    "no number": b"zzz\r\nno chunk\r\n",
    "a number and more": b"5zz\r\n",
    "no number at all": b"\r\n\r\n",
    "a chunk that is longer than it says": b"5\r\nhelloXX\r\n",
    "a good chunk and a bad one": b"5\r\nhello\r\nzzz\r\n",
}


def begins_well(heard: asyncio.Event, then: bytes = b"", *, reset: bool = False) -> Script:
    """One chunk; when that was heard, something that is none, or the end of the connection."""

    async def script(asked: Asked, wire: Wire) -> None:
        await wire.head(200, {"content-type": "text/event-stream"})
        await wire.send(b"data: 1\n\n")
        await heard.wait()
        if then:
            await wire.raw(then)
            await wire.until_hung_up()
        elif reset:
            wire.reset()
        else:
            wire.close()

    return script


async def says_two_words(asked: Asked, wire: Wire) -> None:
    await wire.head(200, {"content-type": "text/plain"})
    await wire.send(b"one ")
    await asyncio.sleep(0.01)
    await wire.send(b"two")
    await wire.end()


async def read(client: httpx.AsyncClient, server: LoopbackServer, heard: asyncio.Event) -> bytes:
    body = b""
    async with client.stream("POST", server.url) as answer:
        async for chunk in answer.aiter_raw():
            body += chunk
            heard.set()
    return body


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_chunk_that_is_none_ends_the_answer_at_once(bad: bytes) -> None:
    async with LoopbackServer() as server, http_client() as client:
        heard = asyncio.Event()
        server.will(begins_well(heard, bad))
        with pytest.raises(BROKEN):
            await soon(read(client, server, heard))
        await becomes(lambda: not server.open_connections)


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
async def test_a_connection_that_ends_in_a_body_is_an_error_and_nothing_is_logged(
    reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with LoopbackServer() as server, http_client() as client:
        heard = asyncio.Event()
        server.will(begins_well(heard, reset=reset))
        with pytest.raises(BROKEN):
            await soon(read(client, server, heard))
    gc.collect()  # an error that nobody has asked for is logged when it is forgotten
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_connection_that_is_used_a_hundred_times_gathers_nothing() -> None:
    async with LoopbackServer() as server, http_client() as client:
        server.answers = lambda asked: says_two_words
        gc.collect()
        assert await read(client, server, asyncio.Event()) == b"one two"
        (connection,) = server.open_connections
        before = Footprint.now()
        readers = _stream_readers()
        for _ in range(100):
            assert await read(client, server, asyncio.Event()) == b"one two"
        assert server.open_connections == {connection}
        gc.collect()
        assert _stream_readers() <= readers + 1
        await before.returns()


async def test_an_answer_that_moves_and_marks_is_taken_as_it_is_and_marks_nothing() -> None:
    async def moves(asked: Asked, wire: Wire) -> None:
        await wire.head(302, {"location": "/v1/elsewhere", "set-cookie": "mark=1; Path=/"})
        await wire.end()

    async with LoopbackServer() as server, http_client() as client:
        server.answers = lambda asked: moves
        for _ in range(2):
            async with client.stream("POST", server.url + "/here") as answer:
                assert answer.status_code == 302
        assert [asked.path for asked in server.asked] == ["/v1/here"] * 2
        assert not any("cookie" in asked.headers for asked in server.asked)


@pytest.mark.parametrize("letters", [1, 16_000, 17_000, 600_000])
async def test_a_body_of_any_length_arrives_whole_and_says_how_long_it_is(letters: int) -> None:
    async with LoopbackServer() as server, http_client() as client:
        server.answers = lambda asked: says_two_words
        upstream = Upstream(client, base_url=server.url, model="m", api_key="")
        async with upstream.complete("/chat/completions", {"text": "x" * letters}, {}) as answer:
            assert b"".join([chunk async for chunk in answer.chunks]) == b"one two"
        (asked,) = server.asked
        assert asked.json == {"text": "x" * letters, "model": "m"}
        assert asked.headers["content-length"] == str(len(asked.body))
        assert "transfer-encoding" not in asked.headers


def _stream_readers() -> int:
    return sum(type(thing).__name__ == "StreamReader" for thing in gc.get_objects())
