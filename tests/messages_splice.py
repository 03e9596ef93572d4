"""Raw bytes of several turns in, the client's raw bytes out, in Messages; without sockets or clocks.

`splice` is what the service does with an exchange, minus the waiting.  `read_stream` reads what a client gets, and
refuses everything that the canonical stream must not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import orjson

from router.protocol.dialect import Reader
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
from router.protocol.messages.format import AnthropicMessages
from router.protocol.own_tools import OwnTools
from router.protocol.profiles import PROFILES
from router.protocol.wire_format import Envelope
from tests.pure_splice import Cut, whole
from tools.call import ToolCall, ToolResult, VisionUsage

WIRE: Final = AnthropicMessages()
FALLBACK: Final = Envelope(id="msg_ours", created=1, model="brain")
REQUEST: Final[Mapping[str, Any]] = {
    "model": "brain",
    "max_tokens": 4096,
    "messages": [{"role": "user", "content": "[Image #1] What?"}],
}


@dataclass(slots=True)
class Spliced:
    client: bytes = b""
    requests: list[Mapping[str, Any]] = field(default_factory=list)
    """What the brain was asked, turn by turn, as it goes out."""
    calls: list[tuple[ToolCall, ...]] = field(default_factory=list)
    kept: Keep | None = None
    outcome: Complete | Fail | None = None


def looked(call: ToolCall) -> ToolResult:
    return ToolResult(call.id, f"seen by {call.id}", VisionUsage(1, 100, 10))


def splice(
    turns: Sequence[bytes],
    *,
    cut: Cut = whole,
    own: Sequence[str] = ("analyzeImage",),
    run: Callable[[ToolCall], ToolResult] = looked,
    request: Mapping[str, Any] = REQUEST,
    max_turns: int = 8,
    stream: bool = True,
    late_thoughts: bool = True,
    heartbeats: bool = False,
) -> Spliced:
    """`heartbeats`: one before each part.  Raises AssertionError where the exchange does not end with the last turn."""
    numbers = count(1)

    def mint() -> str:
        return f"toolu_{next(numbers):04}"

    request = {**request, "stream": stream}
    answering = WIRE.answering(request, FALLBACK, mint_id=mint, reasoning_fields=())
    exchange = Exchange(
        dialect=WIRE.dialect(PROFILES["vllm"]),
        request=WIRE.outlined(dict(request)),
        own=OwnTools(own),
        mint_id=mint,
        max_turns=max_turns,
        late_thoughts=late_thoughts,
    )
    done = Spliced()
    answers: list[bytes] = []
    waiting = iter(turns)

    def tell(event: Event | None) -> bool:
        goes_on = True
        for action in exchange.start() if event is None else exchange.handle(event):
            match action:
                case SendPart(part):
                    answers.append(answering.writer.write(part))
                case OpenUpstream(asked):
                    done.requests.append(WIRE.as_sent(asked))
                    goes_on = False
                case CallTools(calls):
                    done.calls.append(calls)
                    goes_on = False
                case Keep():
                    done.kept = action
                case Complete(reason, usage):
                    done.outcome, goes_on = action, False
                    answers.append(answering.writer.complete(reason, usage))
                case Fail(error):
                    done.outcome, goes_on = action, False
                    answers.append(answering.writer.fail(error))
        return goes_on

    tell(None)
    while done.outcome is None:
        body = next(waiting, None)
        assert body is not None, f"the exchange wants one more turn than the script has: {exchange!r}"
        reader = answering.reader("application/json" if body.lstrip().startswith(b"{") else "text/event-stream")
        looks = len(done.calls)
        for event in _events(reader, cut(body)):
            if heartbeats:
                answers.append(answering.writer.heartbeat())
            if not tell(event):
                break
        if len(done.calls) > looks:
            tell(ToolsCompleted(tuple(map(run, done.calls[-1]))))
    assert next(waiting, None) is None, f"the exchange ended before the script did: {done.outcome!r}"
    done.client = b"".join(answers)
    return done


def _events(reader: Reader, pieces: Iterable[bytes]) -> Iterator[Event]:
    for piece in pieces:
        yield from reader.feed(piece)
    yield from reader.close()
    yield UpstreamEnded(reader.clean)


# What the client reads


@dataclass(slots=True)
class Answer:
    """`blocks` as the SDKs put them together."""

    id: str = ""
    model: str = ""
    blocks: list[dict[str, Any]] = field(default_factory=list)
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    pings: int = 0
    events: list[str] = field(default_factory=list)


_FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


def read_stream(client: bytes) -> Answer:
    """Raises AssertionError for anything but the canonical form."""
    answer = Answer()
    opened: int | None = None
    json_text = ""
    over = False
    for kind, event in events_of(client):
        assert not over, "something after the end"
        answer.events.append(kind)
        assert (kind == "message_start") == (answer.events[0] == kind and len(answer.events) == 1) or kind == "error"
        match kind:
            case "message_start":
                message = event["message"]
                assert (message["type"], message["role"], message["content"]) == ("message", "assistant", [])
                assert message["stop_reason"] is None
                assert message["usage"].keys() >= {"input_tokens", "output_tokens"}
                answer.id, answer.model, answer.usage = message["id"], message["model"], message["usage"]
            case "content_block_start":
                assert opened is None, "two blocks are open"
                assert event["index"] == len(answer.blocks), "a gap in the numbers of blocks"
                opened, json_text = event["index"], ""
                answer.blocks.append(dict(event["content_block"]))
            case "content_block_delta":
                assert event["index"] == opened, "a delta of a block that is not open"
                json_text = _grow(answer.blocks[-1], event["delta"], json_text)
            case "content_block_stop":
                assert event["index"] == opened
                opened = None
                if json_text:
                    answer.blocks[-1]["input"] = orjson.loads(json_text)
            case "message_delta":
                assert opened is None
                assert answer.blocks, "an answer without a block"
                assert event["delta"].keys() >= {"stop_reason", "stop_sequence"}
                answer.stop_reason, answer.stop_sequence = (
                    event["delta"]["stop_reason"],
                    event["delta"]["stop_sequence"],
                )
                answer.usage = answer.usage | event["usage"]
            case "message_stop":
                assert answer.events[-2] == "message_delta"
                over = True
            case "ping":
                answer.pings += 1
            case "error":
                assert event["error"].keys() == {"type", "message"}
                answer.error, over = event["error"], True
            case _:
                raise AssertionError(f"a strange event {kind!r}")
    assert over, "the stream just ceased"
    return answer


def events_of(client: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    assert client.endswith(b"\n\n")
    for raw in client[:-2].split(b"\n\n"):
        if raw.startswith(b": "):
            continue
        name, _, data = raw.partition(b"\ndata: ")
        event = orjson.loads(data)
        assert name == b"event: " + event["type"].encode(), raw
        yield event["type"], event


def _grow(block: dict[str, Any], delta: Mapping[str, Any], json_text: str) -> str:
    match delta["type"]:
        case "text_delta":
            assert block["type"] == "text"
            block["text"] += delta["text"]
        case "thinking_delta":
            assert block["type"] == "thinking"
            assert not block["signature"], "a thought goes on behind its signature"
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            assert block["type"] == "thinking"
            block["signature"] = delta["signature"]
        case "citations_delta":
            block.setdefault("citations", []).append(delta["citation"])
        case "input_json_delta":
            assert block["type"] == "tool_use"
            assert block["input"] == {}
            return json_text + str(delta["partial_json"])
        case kind:
            raise AssertionError(f"a strange delta {kind!r}")
    return json_text
