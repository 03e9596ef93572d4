"""Raw bytes of several turns in, the client's bytes out, in Responses: no sockets, no clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import orjson

from router.protocol.events import (
    Action,
    CallTools,
    Complete,
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
from router.protocol.responses.format import Responses
from router.protocol.wire_format import Envelope
from tools.call import ToolCall, ToolResult, VisionUsage

WIRE: Final = Responses()
REQUEST: Final[Mapping[str, Any]] = {
    "model": "brain",
    "instructions": "Be brief.",
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "[Image #1] What?"}]}],
}


@dataclass(slots=True)
class Spliced:
    client: bytes = b""
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    """What the brain was asked, turn by turn, as it goes out."""
    calls: list[tuple[ToolCall, ...]] = field(default_factory=list)
    kept: Keep | None = None
    outcome: Complete | Fail | None = None


def whole(data: bytes) -> Iterable[bytes]:
    return (data,)


def byte_by_byte(data: bytes) -> Iterable[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def looked(call: ToolCall) -> ToolResult:
    return ToolResult(call.id, f"seen by {call.id}", VisionUsage(1, 100, 10))


def splice(
    turns: Sequence[bytes],
    *,
    cut: Callable[[bytes], Iterable[bytes]] = whole,
    request: Mapping[str, Any] = REQUEST,
    own: Sequence[str] = ("analyzeImage",),
    stream: bool = True,
    run: Callable[[ToolCall], ToolResult] = looked,
    unfinished: bool = False,
) -> Spliced:
    """`unfinished`: whether the answer may go on behind the last of `turns`."""
    numbers = count(1)

    def mint() -> str:
        return f"call_{next(numbers):04}"

    asked = WIRE.parse(orjson.dumps({**request, "stream": stream}))
    answering = WIRE.answering(asked, Envelope("resp_ours", 1_700_000_000, "brain"), mint_id=mint, reasoning_fields=())
    outline = WIRE.fit(WIRE.outlined(asked), PROFILES["auto"])
    exchange = Exchange(
        dialect=WIRE.dialect(PROFILES["auto"]),
        request=outline,
        own=OwnTools(own, WIRE.tool_names(asked)),
        mint_id=mint,
        max_turns=8,
    )
    done = Spliced()
    waiting = iter(turns)
    actions: list[Action] = exchange.start()
    while True:
        last: Action | None = None
        for action in actions:
            assert last is None, f"{action!r} after an action that waits or ends"
            match action:
                case SendPart(part):
                    done.client += answering.writer.write(part)
                case Keep():
                    done.kept = action
                case _:
                    last = action
        match last:
            case OpenUpstream(following):
                done.asked.append(orjson.loads(orjson.dumps(WIRE.as_sent(following))))
                if (turn := next(waiting, None)) is None:
                    assert unfinished, "one more turn was asked for"
                    return done
                reader = answering.reader("application/json" if turn.startswith(b"{") else "text/event-stream")
                actions = []
                ended = False
                for piece in cut(turn):
                    for told in reader.feed(piece):
                        if not ended:
                            actions += exchange.handle(told)
                            ended = exchange.state.name != "STREAMING"
                for told in () if ended else reader.close():
                    if not ended:
                        actions += exchange.handle(told)
                        ended = exchange.state.name != "STREAMING"
                if not ended:
                    actions += exchange.handle(UpstreamEnded(reader.clean))
            case CallTools(calls):
                done.calls.append(calls)
                actions = exchange.handle(ToolsCompleted(tuple(map(run, calls))))
            case Complete(reason, usage):
                done.outcome = last
                done.client += answering.writer.complete(reason, usage)
                break
            case Fail(error):
                done.outcome = last
                done.client += answering.writer.fail(error)
                break
            case _:
                raise AssertionError(last)
    assert next(waiting, None) is None, "a turn was never asked for"
    return done
