"""What only sockets show: first bytes, heartbeats, hang-ups, slow readers, broken upstreams and the end of the process.

On the event loop that the service itself runs on.  What depends on how a stream is written is run in every wire
format.  What only the sockets and the loop decide (slow readers, crowds, the number of processes) is run in one, as is
what is about the bytes of Chat Completions (marked `formats`).
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import router.relay
import router.response
from tests.brain import (
    Asked,
    Begins,
    Brain,
    Breaks,
    Calls,
    Closes,
    Continues,
    Ends,
    Fails,
    Finishes,
    Hangs,
    Opens,
    Script,
    Sends,
    Thinks,
    Waits,
    Wire,
    bytes_of,
    chunk,
    closes,
    hangs,
    looks,
    refuses,
    resets,
    says,
)
from tests.eyes import Eyes, sees
from tests.live import (
    DEADLINE,
    Footprint,
    House,
    Line,
    Options,
    alive,
    becomes,
    children_of,
    function,
    live,
    picture,
    read_stream,
    service_process,
    shown,
    soon,
    user,
)
from tests.speakers import speaking
from tests.speakers.pieces import Saying
from tests.speakers.speaker import Speaker

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.usefixtures("speaker")]

CAT = picture(1)

HANG_UP_SECONDS = 1.0
"""The promise: so long after the client has gone nobody works for it any more."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def house(speaker: Speaker) -> AsyncIterator[House]:
    async with live() as house:
        yield house


# First bytes


async def test_words_leave_as_they_come(house: House) -> None:
    more, last = asyncio.Event(), asyncio.Event()
    house.brain.will(says(Thinks("Hm."), Waits(more), "Hello", Waits(last), " there."))
    async with house.line(user("Hi."), stream=True) as line:
        await line.until(house.speaker.mark(Thinks("Hm.")))
        assert b"Hello" not in line.raw
        more.set()
        await line.until(house.speaker.mark("Hello"))
        assert b"there" not in line.raw
        assert not house.brain.asked[0].over.is_set()
        last.set()
        assert read_stream((await line.rest()).body).text == "Hello there."


async def test_a_stream_says_what_it_is(house: House) -> None:
    house.brain.will(says("Hello."))
    got = await house.send({"messages": [user("Hi.")], "stream": True})
    assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert got.headers["cache-control"] == "no-store"
    assert got.headers["x-accel-buffering"] == "no"
    assert "content-length" not in got.headers


async def test_words_before_a_look_leave_before_the_eyes_have_answered(house: House) -> None:
    seen = asyncio.Event()
    house.brain.will(says("Let me look.", looks(1, "What?")), says("A cat."))
    house.eyes.will(sees("A cat.", after=seen))
    async with house.line(user(shown(CAT)), stream=True) as line:
        await line.until(b"Let me look.")
        await soon(house.eyes.came())
        seen.set()
        assert read_stream((await line.rest()).body).text == "Let me look.\n\nA cat."


async def test_a_clients_call_leaves_as_it_comes(house: House) -> None:
    more = asyncio.Event()
    begun = Begins("Read", '{"path":', "c1")
    house.brain.will(says(begun, Waits(more), Continues('"a"}'), finish="tool_calls"))
    async with house.line(user("Read."), stream=True, tools=[function("Read")]) as line:
        await line.until(rb"{\"path\":")
        more.set()
        (call,) = read_stream((await line.rest()).body).calls
        assert (call.id, call.name, call.arguments) == ("c1", "Read", '{"path":"a"}')


# Heartbeats


def beats_of(stream: bytes, mode: str) -> int:
    return sum(stream.count(beat) for beat in speaking().beats[mode])


async def until_beaten(line: Line, mode: str) -> None:
    while not beats_of(bytes(line.raw), mode):
        assert await line.more(), f"no heartbeat in {bytes(line.raw)!r}"


@pytest.mark.parametrize("mode", ["comment", "chunk"])
async def test_a_heartbeat_leaves_before_the_eyes_are_asked(mode: str) -> None:
    async with live(server={"heartbeat": mode, "heartbeat_seconds": 1000}) as house:
        seen = asyncio.Event()
        house.brain.will(says(looks(1, "What?")), says("A cat."))
        house.eyes.will(sees("A cat.", after=seen))
        async with house.line(user(shown(CAT)), stream=True) as line:
            await until_beaten(line, mode)
            await soon(house.eyes.came())
            seen.set()
            assert read_stream((await line.rest()).body).text == "A cat."


@pytest.mark.parametrize("mode", ["comment", "chunk"])
async def test_heartbeats_while_the_eyes_look(mode: str) -> None:
    async with live(server={"heartbeat": mode, "heartbeat_seconds": 0.05}) as house:
        seen = asyncio.Event()
        house.brain.will(says("Hm.", looks(1, "What?")), says("A cat."))
        house.eyes.will(sees("A cat.", after=seen))
        async with house.line(user(shown(CAT)), stream=True) as line:
            while beats_of(bytes(line.raw), mode) < 4:
                await line.until(b"\r\n\r\n")
                assert await line.more()
            seen.set()
            got = await line.rest()
            assert read_stream(got.body).text == "Hm.\n\nA cat."


@pytest.mark.parametrize("mode", ["comment", "chunk"])
async def test_heartbeats_begin_before_the_brain_has_said_a_word(mode: str) -> None:
    async with live(server={"heartbeat": mode, "heartbeat_seconds": 0.05}) as house:
        said = asyncio.Event()
        house.brain.will(says(Waits(said), "Hello."))
        async with house.line(user("Hi."), stream=True) as line:
            await until_beaten(line, mode)
            said.set()
            assert read_stream((await line.rest()).body).text == "Hello."


async def test_heartbeats_while_pictures_are_described() -> None:
    async with live(server={"heartbeat_seconds": 0.05}) as house:
        seen = asyncio.Event()
        house.eyes.will(sees("A cat.", after=seen))
        house.brain.will(says("A cat."))
        async with house.line(user(shown(CAT)), stream=True, tool_choice="none") as line:
            await until_beaten(line, "comment")
            assert house.brain.asked == []
            seen.set()
            assert read_stream((await line.rest()).body).text == "A cat."


async def test_no_heartbeat_where_it_is_off() -> None:
    async with live(server={"heartbeat": "off", "heartbeat_seconds": 0.05}) as house:
        seen = asyncio.Event()
        house.brain.will(says("Hm.", looks(1, "What?")), says("A cat."))
        house.eyes.will(sees("A cat.", after=seen))
        async with house.line(user(shown(CAT)), stream=True) as line:
            await line.until(b"Hm.")
            await soon(house.eyes.came())
            await asyncio.sleep(0.3)
            seen.set()
            body = (await line.rest()).body
            assert beats_of(body, "comment") == 0
            assert beats_of(body, "chunk") == (1 if house.speaker.name == "responses" else 0)  # as any answer begins


async def test_an_error_after_heartbeats_began_is_an_event() -> None:
    async with live(server={"heartbeat_seconds": 0.05}) as house:
        said = asyncio.Event()

        async def late(asked: Asked, wire: Wire) -> None:
            await said.wait()
            await refuses(429, "too many requests")(asked, wire)

        house.brain.will(late)
        async with house.line(user("Hi."), stream=True) as line:
            await until_beaten(line, "comment")
            said.set()
            answer = read_stream((await line.rest()).body)
            assert answer.error is not None
            assert answer.error["message"] == "too many requests"


# Hang-ups

ASK: dict[str, Any] = {"brain": says("Hello", Hangs()), "before the first word": hangs, "after headers": says(Hangs())}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("moment", ASK)
async def test_a_hang_up_closes_the_upstream(house: House, moment: str, stream: bool) -> None:
    house.brain.will(ASK[moment])
    line = house.line(user("Hi."), stream=stream)
    async with line:
        asked = await soon(house.brain.came())
        if stream and moment == "brain":
            await line.until(b"Hello")
    await soon(asked.gone.wait(), HANG_UP_SECONDS)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("fields", [{}, {"tool_choice": "none"}], ids=["a look", "a description"])
async def test_a_hang_up_cancels_the_look(house: House, stream: bool, fields: dict[str, Any]) -> None:
    if not fields:
        house.brain.will(says(looks(1, "What?"), looks(2, "What?")))
    house.eyes.answers = lambda asked: hangs
    async with house.line(user(shown(CAT), shown(picture(2))), stream=stream, **fields):
        await soon(house.eyes.came(2))
    for asked in house.eyes.asked:
        await soon(asked.gone.wait(), HANG_UP_SECONDS)


@pytest.mark.formats("chat")
async def test_a_client_that_resets_is_gone_like_any_other(house: House) -> None:
    house.brain.will(says("Hello", Hangs()))
    line = house.line(user("Hi."), stream=True)
    async with line:
        await line.until(b"Hello")
        line.reset()
        await soon(house.brain.asked[0].gone.wait(), HANG_UP_SECONDS)


async def test_a_look_in_the_background_survives_the_hang_up(house: House) -> None:
    """Of a mixed turn: the client comes back with the results of its own tools."""
    seen = asyncio.Event()
    house.brain.will(says(looks(1, "What?"), Calls("Read", "{}", "c1")))
    house.eyes.will(sees("A cat.", after=seen))
    async with house.line(user(shown(CAT)), stream=True, tools=[function("Read")]) as line:
        await line.rest()
    look = await soon(house.eyes.came())
    await asyncio.sleep(0.2)
    assert not look.gone.is_set()
    seen.set()
    await soon(look.over.wait())
    assert not look.gone.is_set()


@pytest.mark.usefixtures("brief_connections")
async def test_nothing_is_left_behind_by_answers_hang_ups_and_failures(house: House) -> None:
    house.brain.will(says("Hello."))
    await house.chat(user("Hi."), stream=True)
    before = Footprint.now()
    await before.returns()

    for stream in (True, False):
        for script in (says("Hello", Hangs()), hangs):
            house.brain.will(script)
            async with house.line(user("Hi."), stream=stream):
                await soon(house.brain.came(len(house.brain.asked) + 1))
        house.brain.will(says(looks(1, f"What? {stream}")))  # a question of its own, or the answer is remembered
        house.eyes.will(hangs)
        async with house.line(user(shown(CAT)), stream=stream):
            await soon(house.eyes.came(len(house.eyes.asked) + 1))
        house.brain.will(says(looks(1, "What?")), says("A cat."), says("Hm.", Breaks()), refuses(400, "no"))
        await house.chat(user(shown(CAT)), stream=stream)
        await house.send({"messages": [user("Hi.")], "stream": True})
        await house.send({"messages": [user("Hi.")], "stream": stream})
    await before.returns()


# Slow readers


def much(pieces: int = 4000) -> Script:
    """A quarter of a gigabyte in pieces."""
    return says(*["x" * 65_536] * pieces)


async def settled(asked: Asked) -> int:
    """How much the brain could send, as soon as that grows no more."""
    async with asyncio.timeout(DEADLINE):
        while True:
            before = asked.sent
            await asyncio.sleep(0.3)
            if asked.sent == before > 0:
                return before


@pytest.mark.formats("chat")
async def test_a_client_that_reads_slowly_slows_the_brain_down(house: House) -> None:
    house.brain.will(much())
    async with house.line(user("Hi."), stream=True, receive_buffer=65_536) as line:
        asked = await soon(house.brain.came())
        taken = await settled(asked)
        # What the kernel's buffers on the way can hold at most, each way 4 to 6 MB on Linux.
        assert taken < 30_000_000
        await line.until(b"x" * 65_536)
        while asked.sent == taken:
            await line.more()
        assert not asked.gone.is_set()
    await soon(asked.gone.wait(), HANG_UP_SECONDS)


@pytest.mark.formats("chat")
@pytest.mark.parametrize("goes_on", [True, False], ids=["the brain goes on", "the brain has stopped, too"])
async def test_a_client_that_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch, goes_on: bool) -> None:
    monkeypatch.setattr(router.response, "STALLED_SECONDS", 0.5)
    async with live(server={"heartbeat_seconds": 0.1}) as house:
        house.brain.will(much() if goes_on else says("x" * 7_900_000, Hangs()))
        async with house.line(user("Hi."), stream=True, receive_buffer=4096):
            asked = await soon(house.brain.came())
            await soon(asked.gone.wait(), 10)


# Many at once


@pytest.mark.formats("chat")
async def test_fifty_exchanges_at_once_each_get_their_own_answer() -> None:
    async with live(vision={"max_concurrency": 8}) as house:

        def brain(asked: Asked) -> Script:
            last = asked.messages[-1]
            if last["role"] == "tool":
                return says("Seen: ", re.findall(r"Task: (.*)", last["content"])[0])
            return says("Looking.", looks(1, f"task of {asked.messages[0]['content'][0]['text']}"))

        house.brain.answers = brain
        house.eyes.answers = lambda asked: sees(asked.messages[-1]["content"][-1]["text"], after=0.01)

        async def one(number: int) -> None:
            answer = await house.chat(user(f"client {number}", shown(picture(number))), stream=number % 2 == 0)
            assert answer.text == f"Looking.\n\nSeen: task of client {number}"

        await soon(asyncio.gather(*(one(number) for number in range(50))))
        assert 1 < house.eyes.at_once <= 8
        assert len(house.brain.asked) == 100


@pytest.mark.usefixtures("brief_connections")
@pytest.mark.formats("chat")
async def test_1500_clients_that_leave_at_any_moment_take_nothing_with_them(house: House) -> None:
    house.eyes.answers = lambda asked: sees("A cat.", after=0.02)

    def brain(asked: Asked) -> Script:
        if "tools" in asked.json and asked.messages[-1]["role"] == "user":
            return says("Hm.", Waits(0.005), looks(1, "What?"))
        return says(Waits(0.01), "Hello", Waits(0.02), " there.")

    house.brain.answers = brain
    await house.chat(user("Hi."), stream=True)
    before = Footprint.now()
    chance = random.Random(1500)
    requests = [
        house.posted(message, stream=stream) for message in (user("Hi."), user(shown(CAT))) for stream in (True, False)
    ]

    async def leaver() -> None:
        for _ in range(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
            writer.write(chance.choice(requests))
            if chance.random() < 0.2:  # else, on a machine that is busy, all of them might leave before anything began
                await reader.read(1)
            await asyncio.sleep(chance.random() * 0.25)
            writer.transport.abort()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    await soon(asyncio.gather(*(leaver() for _ in range(50))), 60)
    assert len(house.brain.asked) > 100, "too few got through to show anything"
    answers = await soon(asyncio.gather(*(house.chat(user("Hi."), stream=n % 2 == 0) for n in range(40))))
    assert {answer.text for answer in answers} == {"Hello there."}
    await before.returns()
    assert house.eyes.running == 0


# Broken upstreams


@pytest.mark.parametrize("broken", [resets, closes, says(Breaks())], ids=["reset", "closed", "reset after headers"])
async def test_a_connection_that_breaks_before_the_first_word_is_tried_once_more(house: House, broken: Script) -> None:
    house.brain.will(broken, says("Hello."))
    assert (await house.chat(user("Hi."), stream=True)).text == "Hello."
    house.brain.will(broken, broken)
    got = await house.send({"messages": [user("Hi.")], "stream": True})
    assert got.status == 502
    assert got.error["code"] in ("upstream_reset", "upstream_unreachable")
    assert len(house.brain.asked) == 4


async def test_the_second_turn_is_tried_once_more_too(house: House) -> None:
    house.brain.will(says("Let me look.", looks(1, "What?")), resets, says("A cat."))
    assert (await house.chat(user(shown(CAT)), stream=True)).text == "Let me look.\n\nA cat."
    assert house.brain.asked[1].body == house.brain.asked[2].body
    assert len(house.eyes.asked) == 1


async def test_after_the_first_event_nothing_is_tried_again(house: House) -> None:
    house.brain.will(says(Opens(), Waits(0.05), Breaks()))
    answer = await house.chat(user("Hi."), stream=True)
    assert answer.error is not None
    assert answer.error["code"] == "upstream_reset"
    assert len(house.brain.asked) == 1


async def test_no_status_of_the_brain_is_tried_again(house: House) -> None:
    house.brain.will(refuses(503, "busy"))
    assert (await house.send({"messages": [user("Hi.")], "stream": True})).status == 502
    assert len(house.brain.asked) == 1


def bad_framing(heard: asyncio.Event) -> Script:
    async def script(asked: Asked, wire: Wire) -> None:
        said = Saying(1, ("Hello",), {}, "stop", None, False)
        await wire.head(200, {"content-type": "text/event-stream"})
        for data in asked.speaker.voice(said, asked.json).says("Hello"):
            await wire.send(data)
        await heard.wait()
        await wire.raw(b"zzz\r\nnot a chunk\r\n")
        await wire.until_hung_up()

    return script


BROKEN: dict[str, Callable[[asyncio.Event], Script]] = {
    "reset": lambda heard: says("Hello", Waits(heard), Breaks()),
    "ended without a finish": lambda _: says("Hello", Ends()),
    "an error event": lambda _: says("Hello", Fails("CUDA error")),
    "garbage": lambda _: says("Hello", Sends(b"data: {broken\n\n"), Hangs()),
    "an endless event": lambda _: says("Hello", Sends(b"data: " + b"x" * 9_000_000), Hangs()),
    "silence": lambda _: says("Hello", Hangs()),
    "bad framing": bad_framing,
}
"""`heard`: once the client has what was said before, which in one read with the fault would be lost."""


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("turn", [1, 2])
async def test_a_break_in_the_middle_keeps_what_was_said_and_is_never_a_clean_end(fault: str, turn: int) -> None:
    async with live(text={"idle_seconds": 0.5} if fault == "silence" else {}) as house:
        if turn == 2:
            house.brain.will(says("Let me look.", looks(1, "What?")))
        heard = asyncio.Event()
        house.brain.will(BROKEN[fault](heard))
        async with house.line(user(shown(CAT)), stream=True) as line:
            await line.until(b"Hello")
            heard.set()
            answer = house.read(await line.rest(), {"stream": True})
        assert answer.text == ("Hello" if turn == 1 else "Let me look.\n\nHello")
        assert answer.error is not None
        assert answer.error["type"] == "upstream_error"
        if fault == "an error event":
            assert answer.error["message"] == "CUDA error"
        assert len(house.brain.asked) == turn
        await soon(house.brain.asked[-1].over.wait())


@pytest.mark.parametrize("fault", ["reset", "silence", "refused"])
async def test_a_second_turn_that_cannot_begin_is_an_event(fault: str) -> None:
    faults: dict[str, list[Script]] = {
        "reset": [resets, resets],
        "silence": [hangs],
        "refused": [refuses(400, "context too long")],
    }
    async with live(text={"first_byte_seconds": 1} if fault == "silence" else {}) as house:
        house.brain.will(says("Let me look.", looks(1, "What?")), *faults[fault])
        answer = await house.chat(user(shown(CAT)), stream=True)
        assert answer.text == "Let me look."
        assert answer.error is not None
        if fault == "refused":
            assert answer.error["message"] == "context too long"


@pytest.mark.parametrize("fault", [Breaks(), Ends(), Hangs(), Fails("CUDA error")])
async def test_half_a_call_is_never_carried_out(fault: Any) -> None:
    async with live(text={"idle_seconds": 0.5} if isinstance(fault, Hangs) else {}) as house:
        house.brain.will(says("Hm.", Begins("analyzeImage", '{"ima', "c1"), fault))
        answer = await house.chat(user(shown(CAT)), stream=True)
        assert (answer.text, answer.calls) == ("Hm.", [])
        assert answer.error is not None
        assert house.eyes.asked == []


@pytest.mark.parametrize("fault", [Breaks(), Ends(), Hangs(), Fails("CUDA error"), Sends(b"data: {broken\n\n")])
async def test_after_the_finish_reason_an_answer_is_whole(monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    monkeypatch.setattr(router.relay, "AFTER_FINISH_SECONDS", 0.3)
    async with live() as house:
        house.brain.will(says("Hello.", Finishes("stop"), fault, done=False))
        answer = await house.chat(user("Hi."), stream=True)
        assert (answer.text, answer.finish, answer.error) == ("Hello.", "stop", None)


@pytest.mark.formats("chat")
@pytest.mark.parametrize("finish", [[Finishes("stop")], []], ids=["with a finish reason", "without one"])
async def test_a_connection_that_stays_open_after_the_end_is_not_waited_for(house: House, finish: list[Any]) -> None:
    house.brain.will(says("Hello.", *finish, Sends(b"data: [DONE]\n\n"), Hangs()))
    answer = await house.chat(user("Hi."), stream=True)
    assert (answer.text, answer.finish) == ("Hello.", "stop")
    await soon(house.brain.asked[0].gone.wait())


async def test_a_connection_that_stays_open_after_all_that_belongs_to_the_end_is_not_waited_for(house: House) -> None:
    house.brain.will(says("Hello.", Closes(), Hangs()))
    answer = await house.chat(user("Hi."), stream=True)
    assert (answer.text, answer.finish) == ("Hello.", "stop")
    await soon(house.brain.asked[0].gone.wait())


@pytest.mark.formats("chat")
async def test_a_brain_that_drips_byte_by_byte_is_understood(house: House) -> None:
    data = b"".join(
        [
            chunk("x", {"role": "assistant", "content": ""}),
            chunk("x", {"content": "Gr\u00fc\u00dfe \u2028 \U0001f408"}),
            chunk("x", {}, finish="stop"),
            b"data: [DONE]\r\n\r\n",
        ]
    )
    house.brain.will(bytes_of(data, size=1))
    assert (await house.chat(user("Hi."), stream=True)).text == "Gr\u00fc\u00dfe \u2028 \U0001f408"


async def test_a_broken_whole_answer_is_502(house: House) -> None:
    async def cut(asked: Asked, wire: Wire) -> None:
        await wire.head(200, {"content-type": "application/json", "content-length": "1000"})
        await wire.send(b'{"choices": [{"message": {"role": "assistant", "content": "Hel')
        wire.close()

    house.brain.will(cut, cut)
    got = await house.send({"messages": [user("Hi.")]})
    assert got.status == 502


# The end of the process


async def test_sigterm_lets_running_answers_finish(tmp_path: Path) -> None:
    async with Brain() as brain, Eyes() as eyes:
        tables = Options(server={"drain_seconds": 60}).tables(brain.url, eyes.url)
        async with service_process(tmp_path, tables) as service, client_of(service.port, brain, eyes) as house:
            told, seen = asyncio.Event(), asyncio.Event()
            brain.answers = lambda asked: (
                says(looks(1, "What?"))
                if "tools" in asked.json and len(asked.messages) == 1
                else says("Hello", Waits(told), " there.")
            )
            eyes.will(sees("A cat.", after=seen))
            async with (
                house.line(user("Hi."), stream=True) as one,
                house.line(user("Hi.")) as two,
                house.line(user(shown(CAT)), stream=True) as three,
            ):
                await one.until(b"Hello")
                await soon(eyes.came())
                await soon(brain.came(3))
                service.terminate()
                await becomes(lambda: refused(service.port))
                told.set()
                seen.set()
                assert read_stream((await one.rest()).body).text == "Hello there."
                assert b"Hello there." in (await two.rest()).body
                assert read_stream((await three.rest()).body).text == "Hello there."
            await service.ended()
            assert "Traceback" not in service.log.read_text()


async def test_sigterm_tells_those_it_cannot_wait_for(tmp_path: Path) -> None:
    async with Brain() as brain, Eyes() as eyes:
        tables = Options(server={"drain_seconds": 1}).tables(brain.url, eyes.url)
        async with service_process(tmp_path, tables) as service, client_of(service.port, brain, eyes) as house:
            brain.answers = lambda asked: (
                says("Let me look.", looks(1, "What?")) if "tools" in asked.json else says("Hello", Hangs())
            )
            eyes.answers = lambda asked: hangs
            async with (
                house.line(user("Hi."), stream=True) as streaming,
                house.line(user("Hi.")) as whole,
                house.line(user(shown(CAT)), stream=True) as looking,
            ):
                await streaming.until(b"Hello")
                await looking.until(b"Let me look.")
                await soon(eyes.came())
                await soon(brain.came(3))
                service.terminate()
                for line, said in ((streaming, "Hello"), (looking, "Let me look.")):
                    answer = read_stream((await line.rest()).body)
                    assert answer.text == said
                    assert answer.error is not None
                    assert answer.error["code"] == "server_shutdown"
                got = await whole.rest()
                assert (got.status, got.error["code"]) == (503, "server_shutdown")
            await service.ended()
            for asked in (*brain.asked, *eyes.asked):
                assert asked.gone.is_set() or asked.over.is_set()
            assert "Traceback" not in service.log.read_text()


@pytest.mark.formats("chat")
async def test_sigterm_leaves_no_process_of_several(tmp_path: Path) -> None:
    async with Brain() as brain, Eyes() as eyes:
        tables = Options(server={"drain_seconds": 1}).tables(brain.url, eyes.url)
        async with (
            service_process(tmp_path, tables, "--workers", "2") as service,
            client_of(service.port, brain, eyes) as house,
        ):
            brain.answers = lambda asked: says("Hello", Hangs())
            async with house.line(user("Hi."), stream=True) as line:
                await line.until(b"Hello")
                workers = children_of(service.process.pid)
                assert len(workers) >= 2
                service.terminate()
                await service.ended()
                await becomes(lambda: not any(map(alive, workers)))
                answer = read_stream((await line.rest()).body)
                assert answer.error is not None
                assert answer.error["code"] == "server_shutdown"


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@asynccontextmanager
async def client_of(port: int, brain: Brain, eyes: Eyes) -> AsyncIterator[House]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE, trust_env=False) as client:
        yield House(brain, eyes, port, client)


@pytest.mark.formats("chat")
async def test_a_client_that_closes_its_side_while_much_waits_for_it_has_hung_up(house: House) -> None:
    house.brain.will(much())
    async with house.line(user("Hi."), stream=True, receive_buffer=4096) as line:
        asked = await soon(house.brain.came())
        await settled(asked)
        line.close_writing()
        await soon(asked.gone.wait(), HANG_UP_SECONDS)
