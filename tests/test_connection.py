"""Whoever sends or takes too slowly, or opens too many connections, is let go of, and nobody else notices."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress

import orjson
import pytest

import router.bodies
import router.connection
import router.door
import router.response
from tests.brain import Script, Waits, says
from tests.live import DEADLINE, Footprint, House, Line, becomes, live, post, soon, user

pytestmark = [pytest.mark.anyio, pytest.mark.live]

BODY = orjson.dumps({"messages": [user("Hi.")]})
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
SOON = 0.4
"""Stands for the limits of real use in these tests."""


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with live() as house:
        yield house


async def ended(line: Line) -> bytes:
    """All that came until the other side closed."""
    with suppress(ConnectionError):
        while await line.more():
            pass
    return bytes(line.raw)


async def drip(line: Line, data: bytes, every: float = SOON / 8) -> bytes:
    """Send byte by byte until the other side closes, and answer what it said."""

    async def send() -> None:
        for byte in data:
            line.write(bytes([byte]))
            await asyncio.sleep(every)

    sending = asyncio.ensure_future(send())
    try:
        return await ended(line)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes of bodies that have been let in, by tenant."""
    taken: Counter[str] = Counter()
    take = router.bodies.Bodies.take

    def noted(self: router.bodies.Bodies, share: router.bodies.Share, size: int) -> None:
        take(self, share, size)
        taken[share.tenant] += size

    monkeypatch.setattr(router.bodies.Bodies, "take", noted)
    return taken


# Heads


@pytest.fixture
def short_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.connection, "HEAD_SECONDS", SOON)


@pytest.mark.usefixtures("short_heads")
async def test_a_connection_on_which_nothing_comes_is_closed(house: House) -> None:
    async with Line(house.port, b"") as line:
        assert await ended(line) == b""


@pytest.mark.usefixtures("short_heads")
async def test_half_a_head_is_a_408_and_a_closed_connection(house: House) -> None:
    async with Line(house.port, HEAD) as line:
        got = await line.rest()
        assert (got.status, got.error["code"], got.headers["connection"]) == (408, "request_timeout", "close")
        await ended(line)


@pytest.mark.usefixtures("short_heads")
async def test_a_head_that_drips_has_no_longer(house: House) -> None:
    async with Line(house.port, b"") as line:
        assert (await drip(line, HEAD + b"x-long: " + b"x" * 1000)).startswith(b"HTTP/1.1 408 ")


@pytest.mark.usefixtures("short_heads")
@pytest.mark.parametrize("drops", [b"\r\n" * 500, HEAD + b"x-long: " + b"x" * 1000], ids=["line ends", "a head"])
async def test_what_drips_behind_an_answer_has_no_longer(house: House, drops: bytes) -> None:
    house.brain.will(says("Hello."))
    async with Line(house.port, post(BODY)) as line:
        assert (await line.rest()).status == 200
        await drip(line, drops)


@pytest.mark.usefixtures("short_heads")
async def test_a_long_answer_is_no_slow_head(house: House) -> None:
    gate = asyncio.Event()
    house.brain.will(says("Hel", Waits(gate), "lo."))
    async with Line(house.port, post(orjson.dumps({"messages": [user("Hi.")], "stream": True}))) as line:
        await line.until(b"Hel")
        await asyncio.sleep(2 * SOON)
        gate.set()
        await line.until(b"[DONE]")


async def test_a_connection_is_kept_for_the_next_request(house: House) -> None:
    house.brain.answers = lambda asked: says("Hello.")
    async with Line(house.port, post(BODY)) as line:
        for _ in range(3):
            assert (await line.rest()).status == 200
            line.raw.clear()
            line.write(post(BODY))
        assert (await line.rest()).status == 200


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "without an end"])
async def test_a_head_that_is_too_large_is_a_431(house: House, whole: bool) -> None:
    head = HEAD + b"x-long: " + b"x" * 100_000 + (b"\r\n\r\n" if whole else b"")
    async with Line(house.port, b"") as line:
        for at in range(0, len(head), 10_000):
            line.write(head[at : at + 10_000])
            await asyncio.sleep(0.01)
        got = await line.rest()
        assert (got.status, got.error["code"]) == (431, "headers_too_large")
        await ended(line)
    assert house.brain.asked == []


async def test_what_is_not_http_is_told_so_in_the_shape_of_all_errors(house: House) -> None:
    async with Line(house.port, b"\x16\x03\x01\x02\x00 hello?\r\n\r\n") as line:
        got = await line.rest()
        assert (got.status, got.error["type"]) == (400, "invalid_request_error")
        await ended(line)


@pytest.mark.parametrize(
    "endless", [b"a:b\r\n" * 1000, b"x" * 5000], ids=["many trailers", "one trailer without an end"]
)
async def test_what_stands_behind_a_body_is_not_kept_and_has_an_end(house: House, endless: bytes) -> None:
    head = HEAD.replace(b"POST /v1/chat/completions", b"POST /nowhere") + b"transfer-encoding: chunked\r\n\r\n0\r\nb:"
    async with Line(house.port, head) as line:
        with suppress(ConnectionError):
            for _ in range(200):  # a megabyte
                line.write(endless)
                await asyncio.sleep(0.001)
        await ended(line)
    assert (await house.get("/healthz")).status == 200


async def test_trailers_of_a_few_words_do_no_harm(house: House) -> None:
    house.brain.will(says("Hello."))
    chunked = b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nx-checksum: 1\r\n\r\n" % (len(BODY), BODY)
    async with Line(house.port, HEAD + chunked) as line:
        assert (await line.rest()).status == 200
    assert "x-checksum" not in house.brain.asked[0].headers


# Bodies


@pytest.fixture
def short_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.door, "BODY_PAUSE_SECONDS", SOON)


@pytest.mark.usefixtures("short_bodies")
async def test_half_a_body_is_a_408_and_a_closed_connection(house: House) -> None:
    async with Line(house.port, post(BODY)[:-5]) as line:
        got = await line.rest()
        assert (got.status, got.error["code"], got.headers["connection"]) == (408, "request_timeout", "close")
        await ended(line)


@pytest.mark.usefixtures("short_bodies")
async def test_a_body_that_drips_is_a_408_although_something_always_comes(house: House) -> None:
    async with Line(house.port, post(b"", headers={"content-length": "1000"})) as line:
        assert b'"code":"request_timeout"' in await drip(line, b" " * 1000)


@pytest.mark.usefixtures("short_bodies")
async def test_a_large_body_at_a_fair_rate_has_its_time(house: House) -> None:
    house.brain.will(says("Hello."))
    async with Line(house.port, post(b"", headers={"content-length": str(len(BODY) + 10 * 65_536)})) as line:
        for _ in range(10):
            line.write(b" " * 65_536)
            await asyncio.sleep(SOON / 4)
        line.write(BODY)
        assert (await line.rest()).status == 200


async def test_bodies_beyond_what_fits_are_a_503_and_those_before_it_are_answered(
    monkeypatch: pytest.MonkeyPatch, taken: Counter[str]
) -> None:
    monkeypatch.setattr("router.bodies.Bodies.__init__.__kwdefaults__", {"tenants": 1, "most": 2**20})
    async with live(server={"max_body_mib": 1}) as house:
        house.brain.answers = lambda asked: says("Hello.")
        begun = post(b"", headers={"content-length": str(700_000 + len(BODY))}) + b" " * 700_000
        async with Line(house.port, begun) as first:
            await becomes(lambda: taken.total() == 700_000)
            async with Line(house.port, begun) as second:
                got = await second.rest()
                assert (got.status, got.error["code"], got.headers["retry-after"]) == (503, "overloaded", "1")
            first.write(BODY)
            assert (await first.rest()).status == 200
        assert (await house.send(b" " * 900_000 + BODY)).status == 200


async def test_one_tenants_bodies_do_not_keep_another_out(monkeypatch: pytest.MonkeyPatch, taken: Counter[str]) -> None:
    monkeypatch.setattr("router.bodies.Bodies.__init__.__kwdefaults__", {"tenants": 1, "most": 2 * 2**20})
    async with live(server={"max_body_mib": 1, "api_keys": ["a", "b"]}) as house:
        house.brain.answers = lambda asked: says("Hello.")

        def begun(key: str) -> bytes:
            headers = {"content-length": str(700_000 + len(BODY)), "x-api-key": key}
            return post(b"", headers=headers) + b" " * 700_000

        async with Line(house.port, begun("a")):
            await becomes(lambda: taken.total() == 700_000)
            async with Line(house.port, begun("a")) as second, Line(house.port, begun("b")) as other:
                assert (await second.rest()).status == 503
                other.write(BODY)
                assert (await other.rest()).status == 200


# Answers


def large(size: int = 30_000_000) -> Script:
    return says(*["x" * 65_536] * (size // 65_536))


@pytest.fixture
def short_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.response, "STALLED_SECONDS", SOON)


@pytest.mark.usefixtures("short_stalls")
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("close", [True, False], ids=["to be closed", "kept alive"])
async def test_the_socket_of_a_client_that_takes_nothing_is_really_gone(
    house: House, stream: bool, close: bool
) -> None:
    house.brain.will(large())
    before = Footprint.now()
    body = orjson.dumps({"messages": [user("Hi.")], "stream": stream})
    headers = {"connection": "close"} if close else {}
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    with sock:
        await loop.sock_connect(sock, ("127.0.0.1", house.port))
        await loop.sock_sendall(sock, post(body, headers=headers))
        await soon(house.brain.came())
        await becomes(lambda: Footprint.now().descriptors <= before.descriptors + 1)  # this one


async def test_a_client_that_takes_a_whole_answer_slowly_but_steadily_gets_all_of_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router.response, "STALLED_SECONDS", 1.0)
    house.brain.will(large())
    async with Line(house.port, post(BODY), receive_buffer=65_536) as line:
        await line.until(b"x" * 1000)
        for _ in range(10):
            await asyncio.sleep(0.3)
            goal = len(line.raw) + 500_000
            while len(line.raw) < goal:
                await line.more()
        async with asyncio.timeout(DEADLINE):
            assert len((await line.rest()).body) > 29_000_000


async def test_a_client_that_reads_a_stream_slowly_but_steadily_gets_all_of_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router.response, "STALLED_SECONDS", 1.0)
    house.brain.will(says(*["x" * 65_536] * 120))
    async with Line(
        house.port, post(orjson.dumps({"messages": [user("Hi.")], "stream": True})), receive_buffer=65_536
    ) as line:
        await line.until(b"x" * 1000)
        for _ in range(8):
            await asyncio.sleep(0.3)
            goal = len(line.raw) + 100_000
            while len(line.raw) < goal:
                await line.more()
        async with asyncio.timeout(DEADLINE):
            assert b"[DONE]" in (await line.rest()).body


# Many


async def test_one_connection_too_many_is_told_so_and_the_process_stays_alive() -> None:
    async with live(connections=2) as house:
        house.brain.answers = lambda asked: says("Hello.")
        async with Line(house.port, b""), Line(house.port, b""):
            await asyncio.sleep(0.05)
            got = await house.send(BODY)
            assert (got.status, got.error["code"], got.headers["retry-after"]) == (503, "overloaded", "1")
            assert (await house.get("/healthz")).status == 200
        await asyncio.sleep(0.05)
        assert (await house.send(BODY)).status == 200


async def test_connections_far_beyond_the_limit_are_not_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.connection, "REFUSED_IN_WORDS", 1)
    async with live(connections=1) as house:
        port = house.port
        async with Line(port, b""), Line(port, b""), Line(port, post(BODY)) as third:
            assert await ended(third) == b""


@pytest.mark.usefixtures("short_heads", "short_bodies", "short_stalls")
async def test_a_crowd_that_does_nothing_leaves_nothing_behind_and_delays_nobody(house: House) -> None:
    # More than Linux takes for a client: what lies there whole is an answer that is over, and nobody waits for it.
    house.brain.answers = lambda asked: says("Hello.") if "Hi." in str(asked.messages) else large(6_000_000)
    assert (await house.send(BODY)).status == 200
    before = Footprint.now()
    slow = post(orjson.dumps({"messages": [user("Much.")]}))
    crowd = [Line(house.port, start, receive_buffer=4096) for start in (b"", HEAD, post(BODY)[:-5], slow) * 25]
    for line in crowd:
        await line.__aenter__()
    assert (await house.send(BODY)).status == 200
    await becomes(lambda: Footprint.now().tasks <= before.tasks)
    await becomes(lambda: Footprint.now().descriptors <= before.descriptors + len(crowd))
    for line in crowd:
        await line.hang_up()
    await before.returns()


async def test_who_pipelines_and_hangs_up_is_not_worked_for(house: House) -> None:
    house.brain.will(says(Waits(asyncio.Event())))
    streamed = post(orjson.dumps({"messages": [user("Hi.")], "stream": True}))
    async with Line(house.port, streamed + streamed):
        asked = await soon(house.brain.came())
        await asyncio.sleep(0.05)
    await soon(asked.gone.wait())


async def test_of_two_requests_in_one_go_the_first_is_answered_and_the_connection_ends(house: House) -> None:
    house.brain.will(says("Hello."))
    async with Line(house.port, post(BODY) + post(BODY, headers={"x-request-id": "second"}) + b"x" * 1000) as line:
        said = await ended(line)
    assert said.count(b"HTTP/1.1 200 ") == said.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in said
    assert len(house.brain.asked) == 1
