"""What a client sees when brain, eyes or store fail: every fault in every phase, as a table that is run.

A fault of the *brain* has the status of an error as long as nothing was sent, and is one event afterwards, never a
clean end.  It is asked once more at most, and only while the turn has said nothing.  A fault of the *eyes* is words for
the brain, and the answer goes on.  A fault of the *store* costs a look or an image, and the answer goes on.  Whatever
it was, the next request is answered as if nothing had been, and nothing of it is left in the process.

Each row of a table is a fault, each column a phase; `cells` makes tests of them.  What another test shows already is
named there instead of being done twice, and what cannot be is there with the reason.  `make test` runs some cells, so
that each fault and each phase is met, and a sample of them in each of the other wire formats; `CHIASM_FAULTS=1`
(`make test-faults`) runs all of them in all.  What comes of clients and services that go stands in
`tests/test_leaving.py`.
"""

from __future__ import annotations

import ast
import asyncio
import errno
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeAlias, assert_never

import aiohttp
import httpx
import orjson
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

import router.http_client
import router.relay
import tools.vision.openai
from cache.disk import record_cache
from cache.disk.record_cache import RecordCache
from router.config import Settings
from tests.brain import Asked, Brain, Hangs, HungUp, LoopbackServer, Script, Wire, looks, says, whole
from tests.eyes import Eyes, sees
from tests.live import (
    DEADLINE,
    Footprint,
    Got,
    House,
    Options,
    assistant,
    becomes,
    live,
    picture,
    running,
    shown,
    soon,
    user,
)
from tests.speakers import CHAT
from tests.speakers.messages import UNTOLD
from tests.speakers.pieces import Begins, Continues, Fails, Finishes, Opens, Saying
from tests.speakers.speaker import Speaker, Voice

pytestmark = [pytest.mark.anyio, pytest.mark.live]

SILENCE: Final = 0.5
"""Seconds that a server may be silent where it is to be given up."""

CAT: Final = picture(1)


# What comes of a fault


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is whole, as if nothing had been."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An error: a status while nothing was sent, else an event behind what was said."""

    status: int
    code: str
    words: str = ""
    """In its message."""
    asked: tuple[int, int] = (1, 1)
    """How often the brain is asked for this turn, where that is the first one and where it is a follow-up."""
    retry_after: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """The brain is told this in the look's place and the answer goes on."""

    words: str
    asked: int = 1
    """How often the eyes are."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """These tests show it."""

    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Impossible:
    why: str


def elsewhere(*tests: str) -> Elsewhere:
    return Elsewhere(tests)


Outcome: TypeAlias = Answered | Failed | Told | Elsewhere | Impossible

FINE: Final = Answered()


# Names, so that they can fail


class Names(AbstractResolver):
    """Knows the servers by the names that their base URLs have here."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host not in self.ports:
            raise OSError(socket.EAI_NONAME, "Name or service not known")
        return [ResolveResult(hostname=host, host="127.0.0.1", port=self.ports[host], family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(aiohttp, "TCPConnector", partial(aiohttp.TCPConnector, resolver=names, use_dns_cache=False))
    return names


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that make sense with real servers, and here only take time."""
    monkeypatch.setattr(router.http_client, "_KEEPALIVE_SECONDS", 0.05)
    monkeypatch.setattr(router.relay, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(router.relay, "AFTER_FINISH_SECONDS", SILENCE)
    monkeypatch.setattr(tools.vision.openai, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(record_cache, "LOCK_SECONDS", 0.05)


# How a server fails

Fault: TypeAlias = Callable[["Moment"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Moment:
    """Where an answer stands when its server fails."""

    asked: Asked
    wire: Wire
    streamed: bool
    begun: bool
    """Whether its headers are out."""
    rest: Sequence[bytes]
    """What would have come."""


async def hangs(at: Moment) -> None:
    await at.wire.until_hung_up()


async def resets(at: Moment) -> None:
    at.wire.reset()
    raise HungUp


async def closes(at: Moment) -> None:
    at.wire.close()
    raise HungUp


async def ends(at: Moment) -> None:
    """As far as HTTP goes, all is well."""
    await at.wire.end()


async def talks_garbage(at: Moment) -> None:
    if not at.begun:
        await at.wire.raw(b"\x16\x03\x01\x02 this is no HTTP\r\n\r\n")
        await at.wire.until_hung_up()
    if at.streamed:
        await at.wire.send(b"data: {broken\n\n")
        await at.wire.until_hung_up()
    await at.wire.send(b"}{ broken")
    await at.wire.end()


async def breaks_the_framing(at: Moment) -> None:
    await at.wire.raw(b"zzz\r\nno chunk\r\n")
    await at.wire.until_hung_up()


async def never_ends_an_event(at: Moment) -> None:
    await at.wire.send(b"data: " + b"x" * 9_000_000)
    await at.wire.until_hung_up()


async def breaks_a_character(at: Moment) -> None:
    """The first of the two bytes of an umlaut, and then the end."""
    if not at.begun:
        await opens(at, note="\xc3")
        await goes_on(at)
        return
    broken = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"Gr\xc3'
    await at.wire.send(broken if at.streamed else b"\xc3")
    await at.wire.end()


async def trickles(at: Moment) -> None:
    """Byte by byte, never silent for long."""
    if not at.begun:
        body = b"".join(at.rest)
        kind = "text/event-stream" if at.streamed else "application/json"
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        for byte in head.encode() + body:
            await at.wire.raw(bytes([byte]))
            await asyncio.sleep(0)
        return
    for byte in b"".join(at.rest):
        await at.wire.send(bytes([byte]))
        await asyncio.sleep(0)
    await at.wire.end()


async def sends_an_error(at: Moment) -> None:
    if not at.begun:
        await opens(at)
    if at.streamed:
        for data in voice_of(at.asked.speaker).says(Fails("CUDA error")):
            await at.wire.send(data)
    else:
        said = {"error": {"message": "CUDA error", "type": "error", "param": None, "code": 500}}
        speaker = at.asked.speaker
        await at.wire.send(
            orjson.dumps(said if speaker is CHAT else speaker.refusal("CUDA error", 500, "server_error"))
        )
    await at.wire.end()


def refuses(status: int, retry_after: str = "") -> Fault:
    async def fault(at: Moment) -> None:
        headers = {"retry-after": retry_after} if retry_after else {}
        said = at.asked.speaker.refusal("no room for this", status, None)
        await whole(said, status=status, headers=headers)(at.asked, at.wire)

    return fault


def says_it_is(kind: str, body: bytes | None = None) -> Fault:
    """Another content type, and the body that goes with it unless it is the right one."""

    async def fault(at: Moment) -> None:
        await at.wire.head(200, {"content-type": kind})
        await at.wire.send(b"".join(at.rest) if body is None else body)
        await at.wire.end()

    return fault


async def opens(at: Moment, *, note: str = "") -> None:
    kind = "text/event-stream" if at.streamed else "application/json"
    await at.wire.head(200, {"content-type": kind, **({"x-note": note} if note else {})})


async def goes_on(at: Moment) -> None:
    for data in at.rest:
        await at.wire.send(data)
    await at.wire.end()


# The brain: faults x phases

REFUSED: Final = Failed(502, "upstream_unreachable")
UNREACHED: Final = Failed(502, "upstream_reset|upstream_unreachable", asked=(2, 2))
RESET: Final = Failed(502, "upstream_reset")
RESET_TWICE: Final = Failed(502, "upstream_reset", asked=(2, 2))
SILENT: Final = Failed(504, "upstream_timeout", "said nothing")
CUT: Final = Failed(502, "upstream_truncated")
GARBLED: Final = Failed(502, "upstream_error")
NO_HEADERS: Final = Impossible("it shows once there are headers")
IN_HEADERS: Final = Impossible("it stands in the headers")
NOT_THERE: Final = Impossible("whoever has begun to answer is there")


@dataclass(frozen=True, slots=True)
class BrainRow:
    """An outcome for each phase: of a stream, and of an answer in one piece."""

    fault: Fault | None
    """`None`: by the one who is not there, or has no name."""
    before_headers: Outcome
    before_the_first_event: Outcome
    in_the_text: Outcome
    in_a_call: Outcome
    after_the_finish_reason: Outcome
    whole_before_headers: Outcome
    whole_before_the_body: Outcome
    whole_in_the_body: Outcome


PHASES: Final = tuple(field.name for field in fields(BrainRow))[1:]


def row(fault: Fault | None, *outcomes: Outcome) -> BrainRow:
    return BrainRow(fault, *outcomes)


BRAIN: Final[dict[str, BrainRow]] = {
    "refused": row(None, REFUSED, *[NOT_THERE] * 4, REFUSED, *[NOT_THERE] * 2),
    "no such name": row(None, REFUSED, *[NOT_THERE] * 4, REFUSED, *[NOT_THERE] * 2),
    "hangs": row(hangs, SILENT, SILENT, SILENT, SILENT, FINE, SILENT, SILENT, SILENT),
    "resets": row(resets, UNREACHED, RESET_TWICE, RESET, RESET, FINE, UNREACHED, RESET_TWICE, RESET_TWICE),
    "closes": row(closes, UNREACHED, RESET_TWICE, RESET, RESET, FINE, UNREACHED, RESET_TWICE, RESET_TWICE),
    "ends": row(ends, NO_HEADERS, CUT, CUT, CUT, FINE, NO_HEADERS, GARBLED, GARBLED),
    "garbage": row(talks_garbage, UNREACHED, GARBLED, GARBLED, GARBLED, FINE, UNREACHED, GARBLED, GARBLED),
    "bad framing": row(
        breaks_the_framing, NO_HEADERS, RESET_TWICE, RESET, RESET, FINE, NO_HEADERS, RESET_TWICE, RESET_TWICE
    ),
    "an event without end": row(
        never_ends_an_event,
        NO_HEADERS,
        GARBLED,
        GARBLED,
        GARBLED,
        FINE,
        *[Impossible("a body in one piece has no events; tests/test_upstream_limits.py has one without end")] * 3,
    ),
    "half a character": row(breaks_a_character, FINE, CUT, CUT, CUT, FINE, FINE, GARBLED, GARBLED),
    "trickles": row(trickles, *[FINE] * 8),
    "400": row(
        refuses(400),
        Failed(400, "error", "no room for this"),
        *[IN_HEADERS] * 4,
        Failed(400, "error", "no room for this"),
        *[IN_HEADERS] * 2,
    ),
    "429": row(
        refuses(429),
        Failed(429, "error", "no room for this"),
        *[IN_HEADERS] * 4,
        Failed(429, "error", "no room for this"),
        *[IN_HEADERS] * 2,
    ),
    "429, soon again": row(
        refuses(429, "0"),
        Failed(429, "error", "no room for this", asked=(1, 2), retry_after="0"),
        *[IN_HEADERS] * 4,
        Failed(429, "error", "no room for this", asked=(1, 2), retry_after="0"),
        *[IN_HEADERS] * 2,
    ),
    "429, much later": row(
        refuses(429, "3600"),
        Failed(429, "error", "no room for this", retry_after="3600"),
        *[IN_HEADERS] * 4,
        Failed(429, "error", "no room for this", retry_after="3600"),
        *[IN_HEADERS] * 2,
    ),
    "500": row(
        refuses(500),
        Failed(502, "upstream_error", "no room for this"),
        *[IN_HEADERS] * 4,
        Failed(502, "upstream_error", "no room for this"),
        *[IN_HEADERS] * 2,
    ),
    "says an error": row(
        sends_an_error,
        *[Failed(502, "500|server_error", "CUDA error")] * 4,
        FINE,
        *[Failed(502, "500|server_error", "CUDA error")] * 2,
        GARBLED,
    ),
    "a web page": row(
        says_it_is("text/html", b"<html>nginx</html>"), CUT, *[IN_HEADERS] * 4, GARBLED, *[IN_HEADERS] * 2
    ),
    "the right words under a wrong name": row(
        says_it_is("text/plain"), FINE, *[IN_HEADERS] * 4, FINE, *[IN_HEADERS] * 2
    ),
}


# The eyes: faults x phases x whom they look for

DROPPED: Final = Told("The connection to the vision model failed", asked=2)
NOT_REACHED: Final = Told("The connection to the vision model failed", asked=0)
LATE: Final = Told(f"The vision model did not answer within {SILENCE} s.")
NOT_JSON: Final = Told("The vision model's answer is not JSON")
SAID: Final = Told("The vision model sent no answer: CUDA error")
FULL: Final = "The vision server answered HTTP {}: no room for this"


@dataclass(frozen=True, slots=True)
class EyesRow:
    """An outcome for each phase of an answer, which is always in one piece."""

    fault: Fault | None
    before_headers: Outcome
    before_the_body: Outcome
    in_the_body: Outcome


LOOK_PHASES: Final = tuple(field.name for field in fields(EyesRow))[1:]

PLACES: Final = {0: "a description before the first turn", 1: "a look of the first turn", 2: "a look of a follow-up"}

EYES: Final[dict[str, EyesRow]] = {
    "refused": EyesRow(None, NOT_REACHED, NOT_THERE, NOT_THERE),
    "no such name": EyesRow(None, NOT_REACHED, NOT_THERE, NOT_THERE),
    "hangs": EyesRow(hangs, LATE, LATE, LATE),
    "resets": EyesRow(resets, DROPPED, DROPPED, DROPPED),
    "closes": EyesRow(closes, DROPPED, DROPPED, DROPPED),
    "ends": EyesRow(ends, NO_HEADERS, NOT_JSON, NOT_JSON),
    "garbage": EyesRow(talks_garbage, DROPPED, NOT_JSON, NOT_JSON),
    "bad framing": EyesRow(breaks_the_framing, NO_HEADERS, DROPPED, DROPPED),
    "half a character": EyesRow(breaks_a_character, FINE, NOT_JSON, NOT_JSON),
    "trickles": EyesRow(trickles, FINE, FINE, FINE),
    "429": EyesRow(refuses(429), Told(FULL.format(429), asked=2), IN_HEADERS, IN_HEADERS),
    "429, soon again": EyesRow(refuses(429, "0"), Told(FULL.format(429), asked=2), IN_HEADERS, IN_HEADERS),
    "429, much later": EyesRow(refuses(429, "3600"), Told(FULL.format(429)), IN_HEADERS, IN_HEADERS),
    "500": EyesRow(refuses(500), Told(FULL.format(500), asked=2), IN_HEADERS, IN_HEADERS),
    "says an error": EyesRow(sends_an_error, SAID, SAID, NOT_JSON),
    "a web page": EyesRow(
        says_it_is("text/html", b"<html>nginx</html>"), Told("is not JSON but text/html"), IN_HEADERS, IN_HEADERS
    ),
    "the right words under a wrong name": EyesRow(says_it_is("text/plain"), FINE, IN_HEADERS, IN_HEADERS),
}


# The store: faults x moments

Trouble: TypeAlias = Callable[[Path], AbstractContextManager[None]]
"""Inside it the store in this folder is in trouble."""


@contextmanager
def failing_writes(folder: Path, blobs: int, records: int) -> Iterator[None]:
    """The system's error for files, and SQLite's."""

    def write(descriptor: int, data: bytes) -> int:
        raise OSError(blobs, os.strerror(blobs))

    def put(*arguments: object, **options: object) -> None:
        error = sqlite3.OperationalError("it cannot be written")
        error.sqlite_errorcode = records
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write)
        patch.setattr(RecordCache, "set", put)
        yield


LOCKER: Final = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another process is writing and does not come to an end."""
    command = [sys.executable, "-c", LOCKER, str(folder / "records" / "cache.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield
        process.communicate()


SPOILER: Final = """
import pathlib, sqlite3, sys
spoilt = lambda data: data[:-1] + bytes([data[-1] ^ 1])
for path in pathlib.Path(sys.argv[1], "blobs").rglob("*"):
    if path.is_file() and path.name != ".lock":
        path.write_bytes(spoilt(path.read_bytes()))
with sqlite3.connect(pathlib.Path(sys.argv[1], "records", "cache.db")) as database:
    for row, value in database.execute("SELECT rowid, value FROM Cache").fetchall():
        database.execute("UPDATE Cache SET value = ? WHERE rowid = ?", (spoilt(value), row))
"""


@contextmanager
def corrupted(folder: Path) -> Iterator[None]:
    """Every entry has another last byte.  From outside: SQLite keeps files open that were opened twice in a process."""
    subprocess.run([sys.executable, "-c", SPOILER, str(folder)], check=True)
    yield


@contextmanager
def deleted(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder)
    yield


@dataclass(frozen=True, slots=True)
class StoreRow:
    """What the brain is told of its looks, where the trouble begins at this moment; it lasts to the end of the next
    request."""

    trouble: Trouble | None
    before_the_image: Outcome
    before_the_look: Outcome
    before_the_answer_of_the_eyes: Outcome
    before_the_next_request: Outcome


MOMENTS: Final = tuple(field.name for field in fields(StoreRow))[1:]

REDIS: Final = elsewhere(
    "test_memory_processes.py::test_trouble_with_the_store_is_nothing_that_a_client_sees",
    "test_redis_store.py::test_an_answer_is_the_same_when_redis_dies_in_the_middle_of_a_conversation",
)
GONE: Final = Told("no longer available", asked=0)

STORE: Final[dict[str, StoreRow]] = {
    "disk full": StoreRow(
        partial(failing_writes, blobs=errno.ENOSPC, records=sqlite3.SQLITE_FULL), FINE, FINE, FINE, FINE
    ),
    "read-only": StoreRow(
        partial(failing_writes, blobs=errno.EROFS, records=sqlite3.SQLITE_READONLY), FINE, FINE, FINE, FINE
    ),
    "locked": StoreRow(locked, FINE, FINE, FINE, FINE),
    "every entry corrupt": StoreRow(corrupted, FINE, GONE, FINE, FINE),
    "folder deleted": StoreRow(deleted, FINE, GONE, FINE, FINE),
    "Redis gone": StoreRow(None, *[REDIS] * 4),
    "Redis frozen": StoreRow(None, *[REDIS] * 4),
    "Redis slow": StoreRow(None, *[REDIS] * 4),
    "Redis full": StoreRow(None, *[REDIS] * 4),
    "Redis emptied": StoreRow(None, *[REDIS] * 4),
    "Redis has no such name": StoreRow(
        None, *[elsewhere("test_redis_store.py::test_a_server_whose_name_nobody_knows_is_a_store_error")] * 4
    ),
    "Redis lists without end": StoreRow(
        None, *[elsewhere("test_redis_store.py::test_a_server_that_lists_without_end_is_not_listened_to_for_ever")] * 4
    ),
    "Redis is not there when the process starts": StoreRow(
        None, *[elsewhere("test_start.py::test_without_redis_it_starts_with_one_line_of_warning_and_answers")] * 4
    ),
    "Redis talks garbage": StoreRow(
        None, *[elsewhere("test_redis_store.py::test_garbage_is_never_anything_but_a_store_error_or_nothing")] * 4
    ),
}


# The cells of all tables


@dataclass(frozen=True, slots=True)
class Cell:
    part: str
    fault: str
    phase: str
    turn: int
    """Of the brain, or whose look it is; a description comes before the first."""
    streamed: bool
    outcome: Outcome

    def __str__(self) -> str:
        place = {"brain": f"turn {self.turn}", "eyes": PLACES[self.turn], "store": ""}[self.part]
        how = "streamed" if self.streamed else "whole"
        return "-".join(filter(None, (self.part, self.fault, self.phase, place, how))).replace("_", " ")


def cells() -> Iterator[Cell]:
    for name, brain in BRAIN.items():
        for turn in (1, 2):
            for phase in PHASES:
                yield Cell("brain", name, phase, turn, not phase.startswith("whole_"), getattr(brain, phase))
    for name, eyes in EYES.items():
        for turn in PLACES:
            for phase in LOOK_PHASES:
                for streamed in (True, False):
                    yield Cell("eyes", name, phase, turn, streamed, getattr(eyes, phase))
    for name, store in STORE.items():
        for phase in MOMENTS:
            for streamed in (True, False):
                yield Cell("store", name, phase, 0, streamed, getattr(store, phase))


def some_of(cells: Sequence[Cell]) -> list[Cell]:
    """Of each fault one, of another phase than that of the fault before, and what it takes to meet each phase."""
    by_fault: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        by_fault.setdefault((cell.part, cell.fault), []).append(cell)
    some = [of_fault[number * 3 % len(of_fault)] for number, of_fault in enumerate(by_fault.values())]
    met = {phase_of(cell) for cell in some}
    for cell in reversed(cells):
        if phase_of(cell) not in met:
            met.add(phase_of(cell))
            some.append(cell)
    return some


def phase_of(cell: Cell) -> tuple[str, str, int]:
    return cell.part, cell.phase, cell.turn


CELLS: Final = list(cells())
POSSIBLE: Final = [cell for cell in CELLS if not isinstance(cell.outcome, Elsewhere | Impossible)]
ALL: Final = bool(os.environ.get("CHIASM_FAULTS"))
RUN: Final = POSSIBLE if ALL else some_of(POSSIBLE)

IN_OTHER_FORMATS: Final = [
    cell
    for part in ("brain", "eyes", "store")
    for cell in [cell for cell in RUN if cell.part == part][:: 1 if ALL else 4]
]


@pytest.mark.usefixtures("hasty")
@pytest.mark.formats("chat")
@pytest.mark.parametrize("cell", RUN, ids=str)
async def test_a_fault_is_what_the_table_says_and_leaves_nothing_behind(
    cell: Cell, names: Names, tmp_path: Path, speaker: Speaker
) -> None:
    await fails(cell, names, tmp_path)


async def fails(cell: Cell, names: Names, tmp_path: Path) -> None:
    match cell.part:
        case "brain":
            await brain_fails(cell, names)
        case "eyes":
            await eyes_fail(cell, names)
        case _:
            await store_fails(cell, tmp_path)


async def test_what_a_fault_would_leave_behind_is_noticed(tmp_path: Path) -> None:
    forgotten: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
        (lambda: asyncio.ensure_future(asyncio.sleep(60)), asyncio.Task.cancel),
        (socket.socket, socket.socket.close),
        ((tmp_path / "forgotten").open, lambda file: file.close()),
    ]
    (tmp_path / "forgotten").touch()
    for forget, let_go in forgotten:
        before = Footprint.now()
        thing = forget()
        with pytest.raises(AssertionError, match="still not so"):
            await before.returns(within=0.05)
        let_go(thing)
        await before.returns()


@pytest.mark.usefixtures("hasty")
@pytest.mark.formats("messages", "responses")
@pytest.mark.parametrize("cell", IN_OTHER_FORMATS, ids=str)
async def test_a_fault_is_the_same_in_other_formats(cell: Cell, names: Names, tmp_path: Path, speaker: Speaker) -> None:
    await fails(cell, names, tmp_path)


def test_every_cell_has_one_name_and_those_shown_elsewhere_are_shown_there() -> None:
    assert len(set(map(str, CELLS))) == len(CELLS)
    for cell in CELLS:
        match cell.outcome:
            case Elsewhere(tests):
                for test in tests:
                    file, _, function = test.partition("::")
                    assert function in functions_in(file), test
            case Impossible(why):
                assert why
            case Answered() | Failed() | Told():
                assert cell in POSSIBLE
            case _:
                assert_never(cell.outcome)


def test_the_short_form_meets_each_fault_and_each_phase() -> None:
    some = some_of(POSSIBLE)
    assert {(cell.part, cell.fault) for cell in some} == {(cell.part, cell.fault) for cell in POSSIBLE}
    assert {phase_of(cell) for cell in some} == {phase_of(cell) for cell in POSSIBLE}


@cache
def functions_in(file: str) -> set[str]:
    tree = ast.parse((Path(__file__).parent / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


# A brain that fails

WAIT_FOR_WORDS: Final = {"in_the_text", "in_a_call", "after_the_finish_reason"}
"""Phases that begin when the client has what was said before."""

ENVELOPE: Final = {"id": "x", "object": "chat.completion", "created": 1_790_000_000, "model": "brain-7b"}


def completion(words: str) -> bytes:
    message = {"role": "assistant", "content": words}
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return orjson.dumps({**ENVELOPE, "choices": [choice], "usage": usage})


def voice_of(speaker: Speaker) -> Voice:
    return speaker.voice(Saying(1, ("Hello",), {}, "stop", (10, 1), True), {})


def pieces(speaker: Speaker, phase: str, streamed: bool) -> tuple[list[bytes], list[bytes]]:
    """A good answer: what of it comes before the fault, and what does not."""
    body = orjson.dumps(voice_of(speaker).whole())
    if not streamed:
        return ([body[:40]], [body[40:]]) if phase in ("whole_in_the_body", "in_the_body") else ([], [body])
    voice = voice_of(speaker)
    words = [*voice.says(Opens()), *voice.says("Hello")]
    arguments = orjson.dumps({"image": "1", "task": "And what else?"}).decode()
    match phase:
        case "before_headers" | "before_the_first_event":
            return [], [*words, *voice.closes()]
        case "in_the_text":
            return words, [*voice.closes()]
        case "in_a_call":
            begun = [*words, *voice.says(Begins("analyzeImage", arguments[:5], "c9"))]
            ended = [*voice.says(Continues(arguments[5:])), *voice.says(Finishes("tool_calls"))]
            return begun, [*ended, *voice.closes()]
        case "after_the_finish_reason":
            return [*words, *voice.says(Finishes("stop"))], [*voice.closes()]
        case _:
            raise AssertionError(phase)


def failing(server: LoopbackServer, fault: Fault, phase: str, *, streamed: bool, heard: asyncio.Event) -> Script:
    async def script(asked: Asked, wire: Wire) -> None:
        before, rest = pieces(asked.speaker, phase, streamed)
        begun = phase not in ("before_headers", "whole_before_headers")
        at = Moment(asked, wire, streamed, begun, rest)
        if begun:
            await opens(at)
        for data in before:
            await wire.send(data)
        if phase in WAIT_FOR_WORDS:
            await heard.wait()
            await asyncio.sleep(0.02)  # what came with the words is read, too: a reset would take it away
        await fault(at)

    return script


def leaving(server: LoopbackServer, script: Script, names: Names) -> Script:
    """It says this, and is not there any more."""

    async def last(asked: Asked, wire: Wire) -> None:
        names.ports.clear()
        await server.stop_listening()
        await script(asked, wire)
        no_connections(server)

    return last


def no_connections(server: LoopbackServer) -> None:
    for connection in list(server.open_connections):
        connection.closed_by_script = True
        connection.transport.close()


@asynccontextmanager
async def named_house(cell: Cell, names: Names) -> AsyncIterator[House]:
    """Between servers that have names, where the fault is one of names."""
    by_name: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    if cell.fault == "no such name":
        by_name = {"base_url": "http://server.test:80/v1"}
    if cell.fault == "hangs" and cell.part == "brain":
        limits = {"first_byte_seconds": SILENCE, "idle_seconds": SILENCE}
    if cell.fault == "hangs" and cell.part == "eyes":
        limits = {"timeout_seconds": SILENCE}
    text = {**by_name, **limits} if cell.part == "brain" else {}
    vision = {**by_name, **limits} if cell.part == "eyes" else {}
    async with live(text=text, vision=vision) as house:
        names.ports["server.test"] = house.brain.port if cell.part == "brain" else house.eyes.port
        yield house


async def settled(house: House) -> Footprint:
    """What is there while nothing happens."""
    await becomes(lambda: not house.brain.open_connections and not house.eyes.open_connections)
    return Footprint.now()


def looks_so_far(asked: Asked) -> int:
    return sum(message["role"] == "tool" for message in asked.messages)


async def brain_fails(cell: Cell, names: Names) -> None:
    fault, outcome = BRAIN[cell.fault].fault, cell.outcome
    heard = asyncio.Event()
    times = 10
    """How often it still fails."""

    async with named_house(cell, names) as house:
        port = house.brain.port

        def answers(asked: Asked) -> Script:
            nonlocal times
            if asked.messages[-1]["content"] == "Hi.":
                return says("Hello.")
            turn = looks_so_far(asked) + 1
            if turn == cell.turn and times:
                times -= 1
                if fault is not None:
                    return failing(house.brain, fault, cell.phase, streamed=cell.streamed, heard=heard)
            if turn < cell.turn:
                script = says("Let me look.", looks(1, "What is it?"))
                return leaving(house.brain, script, names) if fault is None and times else script
            return says("A cat.")

        house.brain.answers = answers
        house.eyes.answers = lambda asked: sees("A cat.")
        assert (await house.chat(user("Hi."), stream=True)).text == "Hello."
        before = await settled(house)

        if fault is None and cell.turn == 1:
            names.ports.clear()
            await house.brain.stop_listening()
            no_connections(house.brain)
        check_brain(await asks(house, cell, heard), cell)
        came = sum(asked.messages[-1]["content"] != "Hi." for asked in house.brain.asked)
        if isinstance(outcome, Failed) and fault is not None:
            assert came == cell.turn - 1 + outcome.asked[cell.turn - 1]
            if outcome.asked[cell.turn - 1] == 2:
                times = 1
                got = await asks(house, cell, heard)
                assert said_by(got, streamed=cell.streamed) == ("Let me look.\n\n" if cell.turn == 2 else "") + "A cat."
        times = 0
        if fault is None:
            names.ports["server.test"] = port
            await house.brain.__aenter__()
        assert (await house.chat(user("Hi."), stream=cell.streamed)).text == "Hello."
        assert (await house.chat(user(shown(CAT)), stream=cell.streamed)).finish == "stop"
        await before.returns()


async def asks(house: House, cell: Cell, heard: asyncio.Event) -> Got:
    async with house.line(user("What is it?", shown(CAT)), stream=cell.streamed) as line:
        if cell.phase in WAIT_FOR_WORDS:
            await line.until(b'Hello"')
            heard.set()
        return await line.rest()


def said_by(got: Got, *, streamed: bool) -> str:
    assert got.status == 200, got.body
    answer = House.read(got, {"stream": streamed})
    assert (answer.finish, answer.error, answer.calls) == ("stop", None, [])
    return answer.text


def check_brain(got: Got, cell: Cell) -> None:
    before = ["Let me look."] if cell.turn == 2 else []
    words = ["Hello"] if cell.phase in WAIT_FOR_WORDS else []
    match cell.outcome:
        case Answered():
            after = ["A cat."] if cell.phase == "in_a_call" else []
            assert said_by(got, streamed=cell.streamed) == "\n\n".join([*before, *(words or ["Hello"]), *after])
        case Failed(status, code, message, _, retry_after):
            if cell.streamed and (before or words):
                assert got.status == 200
                answer = got.speaker.read_stream(got.body)
                assert (answer.text, answer.calls) == ("\n\n".join([*before, *words]), [])
                assert answer.error is not None
                error = answer.error
            else:
                assert got.status == status, got.body
                assert got.headers.get("retry-after", "") == retry_after
                error = got.error
            assert error["code"] is UNTOLD or re.fullmatch(code, str(error["code"])), error
            assert message in error["message"]
        case _:
            raise AssertionError(cell)


# Eyes that fail


async def eyes_fail(cell: Cell, names: Names) -> None:
    fault = EYES[cell.fault].fault
    questions = count(1)
    fails = True

    async with named_house(cell, names) as house:
        port = house.eyes.port

        def brain(asked: Asked) -> Script:
            if asked.messages[-1]["content"] == "Hi.":
                return says("Hello.")
            if looks_so_far(asked) < cell.turn:  # each a question of its own, or the answer is remembered
                return says("Let me look.", looks(1, f"What is it? {next(questions)}"))
            return says("So.")

        def eyes(asked: Asked) -> Script:
            if not fails or (cell.turn == 2 and len(house.eyes.asked) == 1):
                seen = whole(completion("A cat."))
                return leaving(house.eyes, seen, names) if fails and fault is None else seen
            assert fault is not None
            return failing(house.eyes, fault, cell.phase, streamed=False, heard=asyncio.Event())

        house.brain.answers, house.eyes.answers = brain, eyes
        fields: dict[str, Any] = {"stream": cell.streamed, **({"tool_choice": "none"} if cell.turn == 0 else {})}
        await house.chat(user("Hi."), stream=True)
        before = await settled(house)

        if fault is None and cell.turn < 2:
            names.ports.clear()
            await house.eyes.stop_listening()
        asking = asyncio.ensure_future(house.chat(user("What is it?", shown(CAT)), **fields))
        if fault is not None:
            await soon(house.eyes.came(max(cell.turn, 1)))
        assert (await house.chat(user("Hi."), stream=cell.streamed)).text == "Hello."
        answer = await soon(asking)
        assert answer.text == "\n\n".join([*["Let me look."] * cell.turn, "So."])
        assert (answer.finish, answer.error, answer.calls) == ("stop", None, [])
        (last,) = [
            asked.messages
            for asked in house.brain.asked
            if str(asked.body).count("What is it?") and looks_so_far(asked) == cell.turn
        ]
        check_eyes(str((last[0] if cell.turn == 0 else last[-1])["content"]), len(house.eyes.asked), cell)

        fails = False
        if fault is None:
            names.ports["server.test"] = port
            await house.eyes.__aenter__()
        await house.chat(user("Once more.", shown(CAT)), **fields)
        last = house.brain.asked[-1].messages
        assert "A cat." in str(last[0] if cell.turn == 0 else last[-1])
        await before.returns()


def check_eyes(told: str, asked: int, cell: Cell) -> None:
    match cell.outcome:
        case Answered():
            assert ("Hello" in told, "failed" in told) == (True, False), told
        case Told(words, times):
            if cell.turn == 0:
                assert "could not be looked at" in told
            else:
                assert "analyzeImage failed" in told
                assert words in told, told
            assert asked == times + (cell.turn == 2)
        case _:
            raise AssertionError(cell)


# A store that fails


async def store_fails(cell: Cell, folder: Path) -> None:
    trouble = STORE[cell.fault].trouble
    assert trouble is not None
    folder = folder / "store"
    questions = count(1)
    with ExitStack() as now:

        def begins(moment: str) -> None:
            if moment == cell.phase:
                now.enter_context(trouble(folder))

        async with live(store={"kind": "disk", "path": str(folder)}) as house:

            def brain(asked: Asked) -> Script:
                if asked.messages[-1]["content"] == "Hi.":
                    return says("Hello.")
                if asked.messages[-1]["role"] == "tool":
                    return says("So.")
                return says("Let me look.", looks(1, f"What is it? {next(questions)}"))

            async def first(asked: Asked, wire: Wire) -> None:
                begins("before_the_look")
                await brain(asked)(asked, wire)

            async def first_look(asked: Asked, wire: Wire) -> None:
                begins("before_the_answer_of_the_eyes")
                await sees("A cat.")(asked, wire)

            async def talk(*messages: Any) -> str:
                """What the brain was told of the look."""
                answer = await house.chat(*messages, stream=cell.streamed, headers={"x-chiasm-conversation": "one"})
                assert (answer.text, answer.finish, answer.error) == ("Let me look.\n\nSo.", "stop", None)
                return str(house.brain.asked[-1].messages[-1]["content"])

            house.brain.answers = brain
            house.eyes.answers = lambda asked: sees("A cat.")
            await house.chat(user("Warm.", shown(picture(2))), headers={"x-chiasm-conversation": "another"})
            before = await settled(house)

            history = [user("What is it?", shown(CAT))]
            begins("before_the_image")
            house.brain.will(first)
            if cell.phase == "before_the_answer_of_the_eyes":
                house.eyes.will(first_look)
            told = [await talk(*history)]
            begins("before_the_next_request")
            history += [assistant("Let me look.\n\nSo."), user("And now?")]
            told.append(await talk(*history))
            assert (await house.chat(user("Hi."), stream=cell.streamed)).text == "Hello."
            check_store(told, cell)

            now.close()
            history += [assistant("Let me look.\n\nSo."), user("And now?")]
            assert "A cat." in await talk(*history)
            assert (await house.get("/readyz")).status == 200
            await before.returns()


def check_store(told: list[str], cell: Cell) -> None:
    match cell.outcome:
        case Answered():
            assert all("A cat." in words for words in told), told
        case Told(words):
            assert any(words in one for one in told), told
        case _:
            raise AssertionError(cell)


# One that fails or is slow keeps nobody else waiting


LIMITS: Final[dict[str, Elsewhere]] = {
    "looks that wait: words": elsewhere(
        "test_fairness.py::test_too_many_looks_are_told_to_the_brain_as_busy_and_the_answer_goes_on"
    ),
    "descriptions that wait: 503 with Retry-After": elsewhere(
        "test_fairness.py::test_too_many_captions_are_a_503_that_says_when_to_come_back"
    ),
    "calls of one turn: words": elsewhere(
        "test_fairness.py::test_of_many_calls_in_one_turn_some_run_at_once_and_those_beyond_the_limit_are_told_so"
    ),
    "fetches of images kept for other tenants": elsewhere(
        "test_sources.py::test_one_keys_images_that_never_come_keep_no_other_key_waiting",
        "test_sources.py::test_who_asks_for_many_leaves_the_next_turn_to_another",
    ),
    "places kept for other tenants": elsewhere(
        "test_fairness.py::test_a_place_is_free_for_another_however_many_looks_one_has_under_way"
    ),
    "bodies in memory: 503": elsewhere(
        "test_connection.py::test_bodies_beyond_what_fits_are_a_503_and_those_before_it_are_answered"
    ),
    "bodies in memory of one tenant": elsewhere("test_connection.py::test_one_tenants_bodies_do_not_keep_another_out"),
    "connections: 503": elsewhere(
        "test_connection.py::test_one_connection_too_many_is_told_so_and_the_process_stays_alive"
    ),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_is_shown_where_it_is_said_to_be(limit: str) -> None:
    for test in LIMITS[limit].tests:
        file, _, function = test.partition("::")
        assert function in functions_in(file), test


async def test_eyes_that_take_their_time_keep_nobody_waiting_who_shows_nothing() -> None:
    async with live(vision={"max_concurrency": 2}) as house:
        seen = asyncio.Event()

        def brain(asked: Asked) -> Script:
            if asked.messages[-1]["content"] == "Hi.":
                return says("Hello.")
            return says("So.") if looks_so_far(asked) else says(looks(1, "What is it?"))

        house.brain.answers = brain
        house.eyes.answers = lambda asked: sees("A cat.", after=seen)
        slow = [asyncio.ensure_future(house.chat(user(f"{n}", shown(picture(n))), stream=n % 2 == 0)) for n in range(8)]
        await soon(house.eyes.came(2))
        await soon(house.brain.came(8))
        quick = await soon(asyncio.gather(*(house.chat(user("Hi."), stream=n % 2 == 0) for n in range(20))))
        assert {answer.text for answer in quick} == {"Hello."}
        assert not any(one.done() for one in slow)
        assert len(house.eyes.asked) == 2
        seen.set()
        assert {answer.text for answer in await soon(asyncio.gather(*slow))} == {"So."}


async def test_a_brain_that_hangs_or_is_down_keeps_nobody_waiting_who_asks_another() -> None:
    async with Brain() as sick, Brain() as well, Eyes() as eyes:
        tables = Options().tables(sick.url, eyes.url)
        tables["text"].append({"name": "well", "base_url": well.url})
        limits = httpx.Limits(max_keepalive_connections=0)
        async with (
            running(Settings.model_validate(tables)) as port,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE, limits=limits, trust_env=False
            ) as client,
        ):
            house = House(well, eyes, port, client)
            sick.answers = lambda asked: says(Hangs())
            well.answers = lambda asked: says("Hello.")
            async with AsyncExitStack() as waiting:
                for number in range(20):
                    line = house.line(user("Hi."), model="brain", stream=number % 2 == 0)
                    await waiting.enter_async_context(line)
                await soon(sick.came(20))
                assert (await house.chat(user("Hi."), model="well", stream=True)).text == "Hello."
            await sick.stop_listening()
            no_connections(sick)
            got = [await house.send({"model": "brain", "messages": [user("Hi.")]}) for _ in range(4)]
            assert (got[0].status, got[0].error["code"]) == (502, "upstream_unreachable")
            # From then on nobody tries to reach it for a while, and clients are told how long.
            assert (got[-1].status, got[-1].error["code"]) == (503, "upstream_unavailable")
            assert 1 <= int(got[-1].headers["retry-after"]) <= 5
            assert (await house.chat(user("Hi."), model="well", stream=True)).text == "Hello."
