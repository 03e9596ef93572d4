"""Many at once: streams that nobody reads, clients that leave, more than there is room for, and a process that ends or
is killed in the middle of it.

With `CHIASM_FAULTS=1` in the numbers that a release is held to.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest
from PIL import Image

from tests.brain import Asked, Brain, Hangs, Script, Waits, Wire, chunk, looks, says
from tests.eyes import Eyes, Look, sees
from tests.live import (
    DEADLINE,
    Footprint,
    House,
    Line,
    Options,
    ServiceProcess,
    becomes,
    live,
    picture,
    post,
    service_process,
    shown,
    soon,
    user,
)
from tests.pure_splice import read_stream

pytestmark = [pytest.mark.anyio, pytest.mark.live]

RELEASE: Final = bool(os.environ.get("CHIASM_FAULTS"))


# Streams that nobody reads

HELD: Final = 100 if RELEASE else 40

ON_THE_WAY: Final = 30_000_000
"""Bytes of one stream that can lie in the kernel's buffers, on both sides of the service, and in its own."""

HELD_BYTES: Final = 1_000_000
"""Of the service for one stream that is not read, beside the words that the stream has said."""

FEW: Final = 8
"""Descriptors: of the store's threads, and of an idle connection to the brain."""


async def endless(asked: Asked, wire: Wire) -> None:
    event = chunk("chatcmpl-endless", {"content": "x" * 8000})
    await wire.head(200, {"content-type": "text/event-stream"})
    while True:
        await wire.send(event)


async def still(asked: Sequence[Asked]) -> None:
    """Until nothing more is taken from the brain."""
    loop = asyncio.get_running_loop()
    end, before = loop.time() + DEADLINE, -1
    while (sent := sum(one.sent for one in asked)) != before:
        assert loop.time() < end, "the brain is still being read"
        before = sent
        await asyncio.sleep(0.5)


def resident(service: ServiceProcess) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def descriptors(service: ServiceProcess) -> int:
    return len(os.listdir(f"/proc/{service.process.pid}/fd"))


async def test_streams_that_nobody_reads_hold_a_bounded_part_of_their_words_and_delay_nobody(tmp_path: Path) -> None:
    async with Brain() as brain, Eyes() as eyes:
        tables = Options(server={"drain_seconds": 1}).tables(brain.url, eyes.url)
        async with service_process(tmp_path, tables) as service:
            brain.answers = lambda asked: endless if asked.messages[-1]["content"] == "Flood." else says("Hello.")
            house = House(brain, eyes, service.port, httpx.AsyncClient())
            assert await hello(house) == "Hello."
            await becomes(lambda: not brain.open_connections)
            before, files = resident(service), descriptors(service)
            brain.asked.clear()
            async with AsyncExitStack() as stack:
                for _ in range(HELD):
                    line = house.line(user("Flood."), stream=True, receive_buffer=4096)
                    await stack.enter_async_context(line)
                    await line.until(b'"content":"x')
                held = list(brain.asked)
                await still(held)
                sent = [asked.sent for asked in held]
                assert len(sent) == HELD
                assert max(sent) < ON_THE_WAY
                # What was taken from the brain lies in the kernel behind the service, or was said and is kept.
                assert resident(service) - before < 1.5 * sum(sent) + HELD * HELD_BYTES
                assert descriptors(service) <= files + 2 * HELD + FEW
                for _ in range(5):
                    assert await hello(house) == "Hello."
                assert not any(asked.over.is_set() for asked in held), "and none of them is given up for it"
                full = resident(service)
            await becomes(lambda: all(asked.gone.is_set() for asked in held))
            await becomes(lambda: descriptors(service) <= files + FEW)
            assert resident(service) <= full + HELD_BYTES
            await house.client.aclose()
            service.terminate()
            await service.ended()
            assert "Traceback" not in service.log.read_text()


async def hello(house: House) -> str:
    async with house.line(user("Hi."), stream=True) as line:
        return read_stream((await line.rest()).body).text


# Clients that leave

LEAVING: Final = 10_000 if RELEASE else 400
AT_ONCE: Final = 50


@pytest.mark.usefixtures("brief_connections")
@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": True}), ("asyncio", {"use_uvloop": False})],
    ids=["uvloop", "asyncio"],
)
async def test_clients_that_leave_at_any_moment_by_any_way_are_all_forgotten() -> None:
    async with live(server={"heartbeat_seconds": 0.02}) as house:
        house.eyes.answers = lambda asked: sees("A cat.", after=0.02)
        questions = iter(range(10**9))

        def brain(asked: Asked) -> Script:
            if "tools" in asked.json and asked.messages[-1]["role"] == "user":
                return says("Hm.", Waits(0.005), looks(1, f"What? {next(questions)}"))
            return says(Waits(0.01), "Hello", Waits(0.02), " there.")

        house.brain.answers = brain
        await house.chat(user("Hi."), stream=True)
        await house.chat(user(shown(picture(1))), stream=True)
        await becomes(lambda: not house.brain.open_connections and not house.eyes.open_connections)
        before = Footprint.now()
        chance = random.Random(LEAVING)
        bodies = [
            post(orjson.dumps({"messages": [message], "stream": stream}))
            for message in (user("Hi."), user(shown(picture(1))))
            for stream in (True, False)
        ]

        async def leaver() -> None:
            for _ in range(LEAVING // AT_ONCE):
                reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
                request, waits = chance.choice(bodies), chance.random() < 0.5
                whole = waits or chance.random() < 0.6
                writer.write(request if whole else request[: chance.randrange(len(request))])
                if waits:  # else, on a machine that is busy, all of them would have left before anything began
                    await reader.read(1)
                await asyncio.sleep(chance.random() * 0.1)
                await leave(writer, chance.choice(["reset", "close", "half"]))

        await soon(asyncio.gather(*(leaver() for _ in range(AT_ONCE))), 600)
        asked = [*house.brain.asked, *house.eyes.asked]
        assert len(house.brain.asked) > LEAVING / 4, "too few got through to show anything"
        await becomes(lambda: all(one.over.is_set() for one in asked))
        assert any(one.gone.is_set() for one in house.brain.asked)
        assert any(one.gone.is_set() for one in house.eyes.asked)
        answers = await soon(asyncio.gather(*(house.chat(user("Hi."), stream=n % 2 == 0) for n in range(40))))
        assert {answer.text for answer in answers} == {"Hello there."}
        assert (await house.chat(user(shown(picture(1))), stream=True)).text == "Hm.\n\nHello there."
        await before.returns()
        assert house.eyes.running == 0


async def leave(writer: asyncio.StreamWriter, way: str) -> None:
    if way == "reset":
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    elif way == "half" and writer.can_write_eof() and not writer.is_closing():
        with suppress(OSError):
            writer.write_eof()
        await asyncio.sleep(0.01)
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


# More than there is room for

ROOM: Final = 20


@pytest.mark.parametrize("stream", [True, False])
async def test_of_ten_times_as_many_as_there_is_room_for_the_excess_is_told_at_once_and_no_answer_is_cut(
    stream: bool,
) -> None:
    async with live(connections=ROOM) as house:
        go_on = asyncio.Event()
        house.brain.answers = lambda asked: says("Hello", Waits(go_on), " there.")
        async with AsyncExitStack() as stack:
            first = [house.line(user("Hi."), stream=stream) for _ in range(ROOM)]
            for line in first:
                await stack.enter_async_context(line)
            await soon(house.brain.came(ROOM))
            if stream:
                await asyncio.gather(*(line.until(b"Hello") for line in first))

            async def one_more() -> tuple[int, str, str]:
                async with house.line(user("Hi."), stream=stream) as line:
                    got = await soon(line.rest(), 1.0)
                    return got.status, got.error["code"], got.headers["retry-after"]

            for _ in range(9):
                told = Counter(await asyncio.gather(*(one_more() for _ in range(ROOM))))
                assert told == {(503, "overloaded", "1"): ROOM}
                assert (await house.get("/healthz")).status == 200
            assert len(house.brain.asked) == ROOM, "nobody was asked for them"
            assert not any(asked.over.is_set() for asked in house.brain.asked)
            go_on.set()
            for line in first:
                assert House.read(await line.rest(), {"stream": stream}).text == "Hello there."
        await soon(served_again(house))


async def served_again(house: House) -> None:
    """There is room as soon as the service has noticed that the others have left."""
    while (await house.send({"messages": [user("Hi.")]})).status != 200:
        pass


async def test_looks_beyond_ten_times_what_the_eyes_take_are_words_and_every_answer_is_whole() -> None:
    async with live(vision={"max_concurrency": 2}) as house:
        go_on = asyncio.Event()
        house.eyes.answers = lambda asked: sees("A cat.", after=go_on)
        house.brain.answers = lambda asked: (
            says("So.") if asked.messages[-1]["role"] == "tool" else says("Let me look.", looks(1, "What?"))
        )
        asking = [
            asyncio.ensure_future(house.chat(user(f"{n}", shown(picture(n))), stream=n % 2 == 0)) for n in range(40)
        ]
        await soon(house.brain.came(40 + 22))  # those for whom there is no room in the line are told at once
        assert house.eyes.at_once == 2
        go_on.set()
        assert {answer.text for answer in await soon(asyncio.gather(*asking))} == {"Let me look.\n\nSo."}
        told = [asked.messages[-1]["content"] for asked in house.brain.asked if asked.messages[-1]["role"] == "tool"]
        assert len(told) == 40
        assert sum("busy" in words for words in told) == 22
        assert sum("A cat." in words for words in told) == 18


# The end of the process

STREAMS: Final = 200 if RELEASE else 20


async def test_sigterm_lets_all_streams_end_that_do_so_in_time_and_tells_the_others(tmp_path: Path) -> None:
    async with Brain() as brain, Eyes() as eyes:
        tables = Options(server={"drain_seconds": 3}).tables(brain.url, eyes.url)
        async with service_process(tmp_path, tables) as service:
            ends = asyncio.Event()
            brain.answers = lambda asked: (
                says("Hello", Hangs())
                if asked.messages[-1]["content"] == "Hang."
                else says("Hello", Waits(ends), " there.")
            )
            house = House(brain, eyes, service.port, httpx.AsyncClient())
            async with AsyncExitStack() as stack:
                lines = [house.line(user("Hang." if n % 2 else "Hi."), stream=True) for n in range(STREAMS)]
                for line in lines:
                    await stack.enter_async_context(line)
                await asyncio.gather(*(line.until(b"Hello") for line in lines))
                service.terminate()
                await asyncio.sleep(0.2)
                ends.set()
                answers = [read_stream((await line.rest()).body) for line in lines]
            await service.ended()
            await house.client.aclose()
            assert "Traceback" not in service.log.read_text()
        for answer in answers[::2]:
            assert (answer.text, answer.finish, answer.error) == ("Hello there.", "stop", None)
        for answer in answers[1::2]:
            assert (answer.text, answer.finish) == ("Hello", None)
            assert answer.error is not None
            assert answer.error["code"] == "server_shutdown"


KILLS: Final = 20 if RELEASE else 4
WRITERS: Final = 6


async def test_a_service_that_is_killed_while_it_writes_serves_no_wrong_picture_and_starts_again(
    tmp_path: Path,
) -> None:
    """Of every image that was ever shown it later looks at that image, or says that it is gone."""
    chance = random.Random(9)
    shown_so_far: list[int] = []
    gone = kept = cut = 0
    async with Brain() as brain, Eyes() as eyes:
        store = {"kind": "disk", "path": str(tmp_path / "store")}
        tables = Options(server={"drain_seconds": 1}, store=store).tables(brain.url, eyes.url)
        brain.answers = lambda asked: (
            says("So.")
            if asked.messages[-1]["role"] == "tool"
            else says(looks(1, f"Which is {asked.messages[-1]['content'][0]['text']}?" if _new(asked) else "Again?"))
        )
        eyes.answers = lambda asked: sees("A card.")
        for turn in range(KILLS):
            async with service_process(tmp_path, tables) as service:
                for seed in chance.sample(shown_so_far, min(3, len(shown_so_far))):
                    found = await looked_at_again(service.port, brain, eyes, seed, turn)
                    gone, kept = gone + (not found), kept + found
                shows = [
                    asyncio.ensure_future(keeps_showing(service.port, turn * 1000 + n * 100, shown_so_far))
                    for n in range(WRITERS)
                ]
                await one_more(shown_so_far)
                await asyncio.sleep(chance.random() * 0.2)
                service.process.kill()
                await service.ended()
                cut += sum(await asyncio.gather(*shows))
                assert "Traceback" not in service.log.read_text()
    assert cut >= KILLS, "hardly a kill met a request, so little was shown"
    assert kept > 0, "nothing was ever kept, so nothing was shown"
    assert len(shown_so_far) > KILLS
    assert gone <= kept


def _new(asked: Asked) -> bool:
    return isinstance(asked.messages[-1]["content"], list)


def conversation(seed: int) -> dict[str, str]:
    return {"x-chiasm-conversation": f"of-{seed}"}


async def one_more(answered: list[int]) -> None:
    before = len(answered)
    await becomes(lambda: len(answered) > before)


async def keeps_showing(port: int, seed: int, answered: list[int]) -> bool:
    """New images one after the other, until the service is gone; whether that was in the middle of an answer."""
    while True:
        body = {"messages": [user(f"{seed}", shown(picture(seed)))], "stream": True}
        try:
            async with Line(port, post(orjson.dumps(body), headers=conversation(seed))) as line:
                got = await soon(line.rest())
        except (OSError, EOFError) as error:
            return not isinstance(error, ConnectionRefusedError)
        assert read_stream(got.body).text == "So.", "a whole answer or none"
        answered.append(seed)
        seed += 1


async def looked_at_again(port: int, brain: Brain, eyes: Eyes, seed: int, turn: int) -> bool:
    """By its number alone.  Raises AssertionError where it is another picture."""
    before = len(eyes.asked)
    brain.asked.clear()
    brain.will(says(looks(1, f"Once more, {turn}?")), says("So."))
    body = {"messages": [user("And in [Image #1]?")], "stream": True}
    async with Line(port, post(orjson.dumps(body), headers=conversation(seed))) as line:
        assert read_stream((await soon(line.rest())).body).text == "So."
    told = str(brain.asked[-1].messages[-1]["content"])
    if len(eyes.asked) == before:
        assert "no longer available" in told or "There is no image" in told, told
        return False
    (seen,) = Look(eyes.asked[-1]).pictures
    assert pixels(seen) == pixels(picture(seed))
    return True


def pixels(data: bytes) -> Any:
    with Image.open(BytesIO(data)) as image:
        return image.convert("RGB").tobytes()
