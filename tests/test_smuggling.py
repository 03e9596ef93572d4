"""No client, and no proxy in front that reads a request differently, gets a second request in behind a first.

Each payload is one that two servers read differently; what it hides asks the brain or for `/healthz`.  The answer is
one 400 and the end of the connection, and nobody hears of what was hidden.  An offer of another protocol is declined,
and the body behind it read as a body.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import orjson
import pytest

from tests.brain import says
from tests.live import House, Line, live, post, soon, user

pytestmark = [pytest.mark.anyio, pytest.mark.live]

BODY = orjson.dumps({"messages": [user("Hi.")]})
HIDDEN = post(orjson.dumps({"messages": [user("Hidden.")]}))
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def head(*fields: bytes, line: bytes = b"POST /v1/chat/completions HTTP/1.1", host: bytes = b"host: x") -> bytes:
    return b"\r\n".join([*filter(None, (line, host)), *fields, b"", b""])


def sized(size: int) -> bytes:
    return b"content-length: %d" % size


WITH_HIDDEN = len(BODY + HIDDEN)

PAYLOADS = {
    "both lengths": head(sized(len(BODY)), b"transfer-encoding: chunked") + b"0\r\n\r\n" + HIDDEN,
    "both lengths, the other way round": head(b"transfer-encoding: chunked", sized(6)) + b"0\r\n\r\n" + HIDDEN,
    "two lengths": head(sized(len(BODY)), sized(WITH_HIDDEN)) + BODY + HIDDEN,
    "twice the same length": head(sized(len(BODY)), sized(len(BODY))) + BODY + HIDDEN,
    "two lengths in one field": head(b"content-length: %d, %d" % (len(BODY), len(BODY))) + BODY + HIDDEN,
    "a length with a sign": head(b"content-length: +%d" % len(BODY)) + BODY + HIDDEN,
    "a negative length": head(b"content-length: -1") + BODY + HIDDEN,
    "a length in hexadecimal": head(b"content-length: 0x%x" % len(BODY)) + BODY + HIDDEN,
    "a length beyond all numbers": head(b"content-length: 18446744073709551617") + BODY + HIDDEN,
    "a length with a space in it": head(b"content-length: 1 0") + BODY + HIDDEN,
    "no length": head(b"content-length: ") + BODY + HIDDEN,
    "a space before the colon": head(b"content-length : %d" % len(BODY), sized(0)) + BODY + HIDDEN,
    "a space before the colon of the coding": head(b"transfer-encoding : chunked", sized(5)) + b"0\r\n\r\n" + HIDDEN,
    "a folded field": head(b"transfer-encoding:\r\n chunked", sized(5)) + b"0\r\n\r\n" + HIDDEN,
    "a folded coding alone": head(b"x-a: b\r\n\ttransfer-encoding: chunked", sized(5)) + b"0\r\n\r\n" + HIDDEN,
    "an unknown coding and a length": head(b"transfer-encoding: xchunked", sized(len(BODY))) + BODY + HIDDEN,
    "an unknown coding": head(b"transfer-encoding: xchunked") + CHUNKED + HIDDEN,
    "a coding behind chunked": head(b"transfer-encoding: chunked, identity") + CHUNKED + HIDDEN,
    "a coding with a control character": head(b"transfer-encoding: \x0bchunked") + CHUNKED + HIDDEN,
    "a bare line feed in the head": head(b"x-a: b\ntransfer-encoding: chunked", sized(5)) + b"0\r\n\r\n" + HIDDEN,
    "a bare carriage return in the head": head(b"x-a: b\rtransfer-encoding: chunked", sized(5)) + b"0\r\n\r\n" + HIDDEN,
    "a null byte in a field": head(b"x-a: b\x00c", sized(len(BODY))) + BODY + HIDDEN,
    "a field without a colon": head(b"transfer-encoding chunked", sized(len(BODY))) + BODY + HIDDEN,
    "a field without a name": head(b": chunked", sized(len(BODY))) + BODY + HIDDEN,
    "line feeds alone": head(sized(len(BODY))).replace(b"\r\n", b"\n") + BODY + HIDDEN,
    "a chunk size that is none": head(b"transfer-encoding: chunked") + b"0x5\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    "a chunk size with a sign": head(b"transfer-encoding: chunked") + b"+5\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    "a chunk size beyond all numbers": head(b"transfer-encoding: chunked") + b"10000000000000005\r\nhello" + HIDDEN,
    "a chunk longer than its size": head(b"transfer-encoding: chunked") + b"5\r\nhelloworld\r\n0\r\n\r\n" + HIDDEN,
    "line feeds alone between chunks": head(b"transfer-encoding: chunked") + CHUNKED.replace(b"\r\n", b"\n") + HIDDEN,
    "a line feed in a chunk extension": head(b"transfer-encoding: chunked") + b"5;a\nb\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    "two hosts": head(b"host: y", sized(len(BODY))) + BODY + HIDDEN,
    "no host": head(sized(len(BODY)), host=b"") + BODY + HIDDEN,
    "no version": b"GET /healthz\r\n\r\n" + HIDDEN,
    "another version": head(sized(len(BODY)), line=b"POST /v1/chat/completions HTTP/1.2") + BODY + HIDDEN,
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "a tunnel": head(line=b"CONNECT x:80 HTTP/1.1") + HIDDEN,
    "a space in the address": head(sized(len(BODY)), line=b"POST /v1/chat completions HTTP/1.1") + BODY + HIDDEN,
    "a space before the method": b" " + head(sized(len(BODY))) + BODY + HIDDEN,
    "an offer and both lengths": (
        head(b"connection: upgrade", b"upgrade: h2c", sized(6), b"transfer-encoding: chunked") + b"0\r\n\r\n" + HIDDEN
    ),
    "an offer and two lengths": (
        head(b"connection: upgrade", b"upgrade: h2c", sized(len(BODY)), sized(WITH_HIDDEN)) + BODY + HIDDEN
    ),
    "an offer and a folded coding": (
        head(b"connection: upgrade", b"upgrade: h2c\r\n transfer-encoding: chunked", sized(5)) + b"0\r\n\r\n" + HIDDEN
    ),
}


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with live() as house:
        house.brain.answers = lambda asked: says("Hello.")
        yield house


async def said(line: Line) -> bytes:
    """All that came until the other side closed."""
    with suppress(ConnectionError):
        while await line.more():
            pass
    return bytes(line.raw)


@pytest.mark.parametrize("pause", [False, True], ids=["in one go", "the hidden one later"])
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
async def test_what_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_a_request(
    house: House, payload: bytes, pause: bool
) -> None:
    first, hidden = payload.removesuffix(HIDDEN), HIDDEN
    async with Line(house.port, first if pause else first + hidden) as line:
        if pause:
            await asyncio.sleep(0.02)
            line.write(hidden)
        answer = await said(line)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert house.brain.asked == []


# Offers of another protocol

JAVA = (
    b"connection: Upgrade, HTTP2-Settings",
    b"http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    b"upgrade: h2c",
)
OFFERS = {"h2c": JAVA, "a web socket": (b"connection: upgrade", b"upgrade: websocket"), "two": (*JAVA, b"Upgrade: foo")}


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
@pytest.mark.parametrize(
    "size", [None, 1, 7, 1000], ids=lambda size: "in one go" if size is None else f"{size} by {size}"
)
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
async def test_an_offer_of_another_protocol_is_declined_and_the_body_read(
    house: House, offer: tuple[bytes, ...], size: int | None, chunked: bool
) -> None:
    framing = b"transfer-encoding: chunked" if chunked else sized(len(BODY))
    request = head(*offer, b"content-type: application/json", b"x-request-id: java", framing)
    request += CHUNKED if chunked else BODY
    async with Line(house.port, b"") as line:
        for _ in range(2):  # the connection is good for another one
            for start in range(0, len(request), size or len(request)):
                line.write(request[start : start + (size or len(request))])
                await asyncio.sleep(0)
            got = await line.rest()
            assert (got.status, got.headers["x-request-id"]) == (200, "java")
            assert "upgrade" not in got.headers
            line.raw.clear()
    assert [asked.messages for asked in house.brain.asked] == [[user("Hi.")]] * 2


async def test_a_body_that_comes_long_after_its_offer_is_a_body_and_no_request(house: House) -> None:
    async with Line(house.port, head(*JAVA, sized(len(HIDDEN)))) as line:
        await asyncio.sleep(0.05)
        line.write(HIDDEN)
        got = await line.rest()
        assert got.status == 400  # as JSON it is none
        assert got.error["message"].startswith("the body is not")
    assert house.brain.asked == []


async def test_what_stands_behind_the_body_of_an_offer_ends_the_connection(house: House) -> None:
    async with Line(house.port, head(*JAVA, sized(len(BODY))) + BODY + HIDDEN) as line:
        answer = await said(line)
    assert (answer.count(b"HTTP/1.1 "), answer.count(b"HTTP/1.1 200 ")) == (1, 1)
    assert [asked.messages for asked in house.brain.asked] == [[user("Hi.")]]


async def test_an_offer_without_a_body_is_answered_as_if_it_were_none(house: House) -> None:
    async with Line(house.port, head(*JAVA, line=b"GET /healthz HTTP/1.1")) as line:
        assert (await line.rest()).status == 200
        line.raw.clear()
        line.write(head(b"connection: upgrade", b"upgrade: websocket", line=b"GET /v1/chat/completions HTTP/1.1"))
        assert (await line.rest()).status == 405


async def test_an_offer_is_no_longer_way_round_the_limits_of_a_head(house: House) -> None:
    async with Line(house.port, head(*JAVA, b"x-long: " + b"x" * 100_000, sized(2)) + b"{}") as line:
        assert (await soon(line.rest())).status == 431
    assert house.brain.asked == []
