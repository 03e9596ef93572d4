"""Raw bytes of several turns in, the client's raw bytes out, without sockets or clocks.

`splice` is what the service does with an exchange, minus the waiting: bytes → reader → exchange → writer → bytes, with
tool results from a script.  `read_stream` (`tests.speakers.chat`) reads what a client gets, and refuses everything that
the canonical stream must not hold: that is the one place where its rules stand as code of the tests.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from router.protocol.chat.dialect import OpenAIChat
from router.protocol.chat.reader import ChunkReader, CompletionReader
from router.protocol.chat.writer import ChunkWriter, CompletionWriter
from router.protocol.dialect import Reader, Writer
from router.protocol.events import (
    CallTools,
    Complete,
    Event,
    Fail,
    Keep,
    OpenUpstream,
    SendPart,
    ToolsCompleted,
    UpstreamEnded,
)
from router.protocol.exchange import Exchange
from router.protocol.own_tools import OwnTools
from router.protocol.profiles import PROFILES
from router.protocol.wire_format import Envelope
from tests.playbook import REQUEST, counted_ids, owning
from tests.speakers.answer import Answer as Answer
from tests.speakers.answer import Call as Call
from tests.speakers.chat import read_stream as read_stream
from tools.call import ToolCall, ToolResult, VisionUsage

Cut = Callable[[bytes], Iterable[bytes]]

FALLBACK: Final = Envelope(id="chatcmpl-ours", created=1700000000, model="brain")


def whole(data: bytes) -> Iterable[bytes]:
    return (data,)


def byte_by_byte(data: bytes) -> Iterable[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


def at(*places: int) -> Cut:
    """Cut before these bytes; places outside the data count from its beginning again."""

    def cut(data: bytes) -> Iterable[bytes]:
        inside = sorted({place % (len(data) + 1) for place in places})
        return (data[start:end] for start, end in zip([0, *inside], [*inside, len(data)], strict=True))

    return cut


def somewhere(seed: int, pieces: int = 12) -> Cut:
    def cut(data: bytes) -> Iterable[bytes]:
        places = random.Random(f"{seed} {len(data)}")
        return at(*(places.randrange(len(data) + 1) for _ in range(pieces)))(data)

    return cut


@dataclass(slots=True)
class Spliced:
    client: bytes = b""
    """All that the client got."""
    requests: list[Mapping[str, Any]] = field(default_factory=list)
    """What the brain was asked, turn by turn."""
    calls: list[tuple[ToolCall, ...]] = field(default_factory=list)
    """What our tools were asked, turn by turn."""
    deferred: Keep | None = None
    """What was kept of a mixed turn."""
    kept: Keep | None = None
    """What was kept of this answer at all."""
    outcome: Complete | Fail | None = None


def minting() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"call_{next(numbers):04}"


def looked(call: ToolCall) -> ToolResult:
    return ToolResult(call.id, f"seen by {call.id}", VisionUsage(1, 100, 10))


def splice(
    turns: Sequence[bytes],
    *,
    cut: Cut = whole,
    own: OwnTools | None = None,
    run: Callable[[ToolCall], ToolResult] = looked,
    max_turns: int = 8,
    request: Mapping[str, Any] = REQUEST,
    engine: str = "vllm",
    include_usage: bool = False,
    stream: bool = True,
    late_thoughts: bool = True,
) -> Spliced:
    """`stream`: whether the client does.  Raises AssertionError where the exchange does not end with the last of
    `turns`."""
    exchange = Exchange(
        dialect=OpenAIChat(PROFILES[engine]),
        request=request,
        own=own or owning("analyzeImage"),
        mint_id=counted_ids(),
        max_turns=max_turns,
        late_thoughts=late_thoughts,
    )
    mint = minting()
    wholes: list[CompletionReader] = []
    writer: Writer = (
        ChunkWriter(fallback=FALLBACK, include_usage=include_usage)
        if stream
        else CompletionWriter(fallback=FALLBACK, last_raw=lambda: wholes[-1].raw)
    )
    done = Spliced()
    waiting = iter(turns)
    answers: list[bytes] = []

    def tell(event: Event | None) -> bool:
        """Whether the current turn still goes on."""
        goes_on = True
        for action in exchange.start() if event is None else exchange.handle(event):
            assert goes_on, f"{action!r} after an action that waits or ends"
            match action:
                case SendPart(part):
                    answers.append(writer.write(part))
                case OpenUpstream(asked):
                    done.requests.append(asked)
                    goes_on = False
                case CallTools(calls):
                    done.calls.append(calls)
                    goes_on = False
                case Keep(calls=pending):
                    done.kept = action
                    done.deferred = action if pending else None
                case Complete(reason, usage):
                    done.outcome, goes_on = action, False
                    answers.append(writer.complete(reason, usage))
                case Fail(error):
                    done.outcome, goes_on = action, False
                    answers.append(writer.fail(error))
        return goes_on

    tell(None)
    while done.outcome is None:
        body = next(waiting, None)
        assert body is not None, f"the exchange wants one more turn than the script has: {exchange!r}"
        if not stream or _is_whole(body):
            wholes.append(CompletionReader(mint))
            reader: Reader = wholes[-1]
        else:
            reader = ChunkReader(mint)
        events = _events(reader, cut(body))
        looks = len(done.calls)
        while tell(next(events)):
            pass
        if len(done.calls) > looks:
            tell(ToolsCompleted(tuple(map(run, done.calls[-1]))))
    assert next(waiting, None) is None, f"the exchange ended before the script did: {done.outcome!r}"
    done.client = b"".join(answers)
    return done


def _is_whole(body: bytes) -> bool:
    """What a server's content type says: one JSON object, as the answer to a turn that was asked again unstreamed."""
    return body.lstrip().startswith(b"{")


def _events(reader: Reader, pieces: Iterable[bytes]) -> Iterator[Event]:
    for piece in pieces:
        yield from reader.feed(piece)
    yield from reader.close()
    yield UpstreamEnded(reader.clean)
