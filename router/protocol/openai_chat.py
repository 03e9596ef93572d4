"""OpenAI Chat Completions: `chat.completion.chunk` streams and whole `chat.completion` objects.

Servers agree on the outline and differ in everything else: where reasoning stands, whether ids and names are
repeated, null or missing, whether parallel calls are numbered, which chunk carries the finish reason and the
usage, and how a failure looks.  The readers here take all of it and say the same parts; the writers say it again
in one canonical form, which every client we know can read:

*   one `id`, `created`, `model`; the role in the first chunk only;
*   text and reasoning in chunks of their own; tool calls one after the other, counted from 0, with `id`, `type`
    and `name` in the first fragment only;
*   one chunk with the finish reason and the delta `{"content":""}` (claude-code-router drops a chunk whose delta is
    empty); usage in a last chunk with `choices: []` when the client asked for that, else with the finish reason;
*   `[DONE]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, assert_never

import orjson

from router.errors import ChiasmError, UpstreamError
from router.protocol.mended import mended
from router.protocol.parts import (
    ErrorFrame,
    Finish,
    Head,
    Opaque,
    Part,
    Reasoning,
    Text,
    ToolArgs,
    ToolStart,
    Usage,
)
from router.protocol.pictures import result_messages
from router.protocol.profiles import BROKEN_FINISHES, FINISH_REASONS, Profile
from router.protocol.reasoning_details import FIELD as DETAILS
from router.protocol.reasoning_details import fragments
from router.protocol.refusals import refused_in_messages
from router.protocol.sse import EventTooLarge, SSEDecoder, comment, data_event
from router.protocol.turn import Turn, count_of, is_object
from tools.call import ToolResult
from tools.definition import ToolDefinition

DONE = b"data: [DONE]\n\n"

MOST_COMPLETION_BYTES = 64 * 2**20
"""Of an answer that is not streamed.  Ten million tokens, or a hundred thousand with the probabilities of twenty others
each, and what is parsed of it takes several times as much memory."""

LEAST_TOKENS = 16
"""A follow-up with a smaller budget could not say a sentence; the answer then ends with `length`."""

_LIMITS = ("max_tokens", "max_completion_tokens")

_KNOWN_DELTA = frozenset({"role", "content", "reasoning", "reasoning_content", "tool_calls"})
_KNOWN_CALL = frozenset({"index", "id", "type", "function"})
_NO_WORDS = "the text model's server reported an error and gave no words for it"
_KEPT_ENVELOPE = ("system_fingerprint", "service_tier", "provider")


# Reading


@dataclass(slots=True)
class _Call:
    slot: int
    id: str
    """As the server gave it; empty until it has."""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    """The arguments so far, also those that came before the name."""

    def is_over(self) -> bool:
        # The cheap question first: to parse at every fragment would cost the square of their number.
        return bool(self.pieces) and self.pieces[-1].rstrip().endswith("}") and is_object("".join(self.pieces))


class _Calls:
    """Which fragment belongs to which call.

    A server that numbers parallel calls and gives id and name once needs none of this.  The others:

    *   id and name stand in every fragment (llama-cpp-python): a known id is its call;
    *   all calls have the index 0, or none, and ids of their own (Gemini, Grok, Ollama up to 0.20): a new id with a
        name is a new call;
    *   the same without ids or even names: what begins an object after a complete one is a new call;
    *   another id in each fragment (Poolside, mlx-openai-server): a new id without a name is no new call;
    *   one id for several calls: a new index with a name is a new call, and gets an id of ours;
    *   another index in each fragment, with neither id nor name (Nebius, Cerebras): it continues the last call;
    *   the id comes late or never, the name after the first arguments.
    """

    def __init__(self, mint_id: Callable[[], str]) -> None:
        self._mint_id = mint_id
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}
        self._by_index: dict[int, _Call] = {}

    def fragment(self, raw: Mapping[str, Any]) -> Iterable[Part]:
        function = raw.get("function")
        function = function if isinstance(function, Mapping) else {}
        arguments = function.get("arguments")
        if isinstance(arguments, Mapping | list):  # Ollama's own API and some gateways send the object itself
            arguments = orjson.dumps(arguments).decode()
        arguments = _text(arguments)
        id_, name = _text(raw.get("id")), _text(function.get("name"))
        index = raw.get("index") if isinstance(raw.get("index"), int) else None
        here = self._here(index)
        if here is not None and here.name and arguments.startswith("{") and id_ not in self._by_id and here.is_over():
            call, name = self._new(index, id_), name or here.name
        else:
            call = self._known(here, id_, index, name) or self._new(index, id_)
        if arguments:
            call.pieces.append(arguments)
        if name and not call.name:
            call.name = name
            id_ = call.id if self._by_id.get(call.id) is call else self._mint_id()
            yield ToolStart(call.slot, id_, name, _extra(raw) if not raw.keys() <= _KNOWN_CALL else {})
            if call.pieces:
                yield ToolArgs(call.slot, "".join(call.pieces))
        elif arguments and call.name:
            yield ToolArgs(call.slot, arguments)

    def _here(self, index: int | None) -> _Call | None:
        """The call that stands at this index; where calls are not numbered, the last one."""
        if index is not None:
            return self._by_index.get(index)
        return self._calls[-1] if self._calls else None

    def _known(self, here: _Call | None, id_: str, index: int | None, name: str) -> _Call | None:
        if not id_:
            return self._known_without_id(here, index, name)
        if here is not None and here.id == id_:
            return here
        known = self._by_id.get(id_)
        if known is not None:
            return None if name and index is not None and here is None else known
        if here is None:
            return None
        if not here.id and (index is not None or not (name and here.name)):
            here.id = id_
            self._by_id[id_] = here
            return here
        return here if here.name and not name else None

    def _known_without_id(self, here: _Call | None, index: int | None, name: str) -> _Call | None:
        if here is not None:
            return None if index is None and name and here.name else here
        last = self._here(None)
        if last is None or index is None or name or not last.name or last.is_over():
            return None
        self._by_index[index] = last
        return last

    def _new(self, index: int | None, id_: str) -> _Call:
        call = _Call(len(self._calls), id_)
        self._calls.append(call)
        if id_:
            self._by_id.setdefault(id_, call)
        if index is not None:
            self._by_index[index] = call
        return call


class ChunkReader:
    """Reads a stream of `chat.completion.chunk` events."""

    def __init__(self, mint_id: Callable[[], str]) -> None:
        self.clean = False
        self.first: Mapping[str, Any] = {}
        self._decoder = SSEDecoder()
        self._calls = _Calls(mint_id)

    def feed(self, data: bytes) -> Sequence[Part]:
        try:
            events = self._decoder.feed(data)
        except EventTooLarge as error:
            return [ErrorFrame(f"the text model's server sent garbage: {error}")]
        parts: list[Part] = []
        for event in events:
            self._event(event.data, parts)
        return parts

    def close(self) -> Sequence[Part]:
        parts: list[Part] = []
        for event in self._decoder.close():
            if event.data.startswith(b"{") and not event.data.startswith(b'{"error"') and not _is_json(event.data):
                break  # an event cut in half: the missing end says enough
            self._event(event.data, parts)
        return parts

    def _event(self, data: bytes, parts: list[Part]) -> None:
        if self.clean:
            return
        if data == b"[DONE]":
            self.clean = True
            return
        try:
            chunk = _parsed(data)
        except ValueError:
            if data.strip() == b"[DONE]":
                self.clean = True
            elif data.lstrip().startswith(b'{"error"'):  # `transformers serve` writes raw line ends into it
                parts.append(ErrorFrame(_words(data)))
            elif data.lstrip().startswith(b"{"):
                parts.append(ErrorFrame("the text model's server sent an event that is not JSON"))
            # anything else is a keep-alive in the wrong clothes (`data: : OPENROUTER PROCESSING`)
            return
        if not isinstance(chunk, dict):
            return
        if chunk.get("error"):
            parts.append(_error_frame(chunk["error"]))
            return
        if not self.first:
            self.first = chunk or {"choices": None}
            parts.append(_head(chunk))
        choices = chunk.get("choices")
        if isinstance(choices, list):
            for choice in choices:
                if isinstance(choice, dict):
                    self._choice(choice, parts)
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            parts.append(Usage(usage))

    def _choice(self, choice: dict[str, Any], parts: list[Part]) -> None:
        if choice.get("index") not in (0, None):
            parts.append(Opaque(choice=choice))
            return
        delta = choice.get("delta")
        if isinstance(delta, dict):
            logprobs = choice.get("logprobs")
            reasoning = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
            content = _text(delta.get("content"))
            if reasoning:
                parts.append(Reasoning(reasoning, None if content else logprobs))
            if content:
                parts.append(Text(content, logprobs))
            for raw in _tool_calls(delta):
                parts.extend(self._calls.fragment(raw))
            if not delta.keys() <= _KNOWN_DELTA:
                rest = {key: value for key, value in delta.items() if key not in _KNOWN_DELTA and value is not None}
                if "tool_calls" in delta:
                    rest.pop("function_call", None)  # llama-cpp-python says every call in both ways
                if rest:
                    parts.append(Opaque(delta=rest))
        parts.extend(_finish(choice))


class CompletionReader:
    """Reads one whole `chat.completion` object, as the answer to a request that did not ask for a stream."""

    def __init__(self, mint_id: Callable[[], str]) -> None:
        self.clean = False
        self.raw: dict[str, Any] = {}
        """The object itself, for the fields that we do not understand."""
        self.first: Mapping[str, Any] = {}
        self._body = bytearray()
        self._calls = _Calls(mint_id)

    def feed(self, data: bytes) -> Sequence[Part]:
        if len(self._body) + len(data) > MOST_COMPLETION_BYTES:
            self._body.clear()
            return [ErrorFrame(f"the text model's server answered more than {MOST_COMPLETION_BYTES // 2**20} MiB")]
        self._body += data
        return ()

    def close(self) -> Sequence[Part]:
        try:
            raw = _parsed(self._body.strip())  # DeepSeek sends blank lines while the request is queued
        except ValueError:
            return [ErrorFrame("the text model's server answered something that is not JSON")]
        if not isinstance(raw, dict):
            return [ErrorFrame("the text model's server answered something that is not a completion")]
        if raw.get("error"):
            return [_error_frame(raw["error"])]
        choices = raw.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        message = first.get("message") if isinstance(first, dict) else None
        if not isinstance(first, dict) or not isinstance(message, dict):
            return [ErrorFrame("the text model's server answered without a choice")]
        self.raw = self.first = raw
        self.clean = True
        parts: list[Part] = [_head(raw)]
        if reasoning := _text(message.get("reasoning_content")) or _text(message.get("reasoning")):
            parts.append(Reasoning(reasoning))
        if content := _text(message.get("content")):
            parts.append(Text(content))
        for index, call in enumerate(_tool_calls(message)):
            parts.extend(self._calls.fragment({**call, "index": index}))
        if details := fragments(message):
            parts.append(Opaque({DETAILS: details}))
        parts.extend(_finish(first))
        if isinstance(raw.get("usage"), dict):
            parts.append(Usage(raw["usage"]))
        return parts


def _head(chunk: Mapping[str, Any]) -> Head:
    created = chunk.get("created")
    return Head(
        id=_text(chunk.get("id")),
        created=created if isinstance(created, int) else 0,
        extra={key: chunk[key] for key in _KEPT_ENVELOPE if chunk.get(key)},
    )


def _tool_calls(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls of a delta or a message; TGI sends one bare object."""
    calls = said.get("tool_calls")
    if not calls:
        return []
    return [call for call in (calls if isinstance(calls, list) else [calls]) if isinstance(call, dict)]


def _finish(choice: Mapping[str, Any]) -> Iterable[Part]:
    reason = choice.get("finish_reason")
    if not isinstance(reason, str) or not reason:
        return
    if reason in BROKEN_FINISHES:
        words = _NO_WORDS if reason == "error" else f"the text model's server broke its answer off ({reason})"
        yield ErrorFrame(words)
    else:
        yield Finish(FINISH_REASONS.get(reason, reason))


def _extra(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if key not in _KNOWN_CALL and value is not None}


def _error_frame(error: object) -> ErrorFrame:
    if isinstance(error, Mapping):
        code = error.get("code")
        return ErrorFrame(
            _text(error.get("message")) or _words(orjson.dumps(error)), code if isinstance(code, int) else None
        )
    return ErrorFrame(_text(error) or _NO_WORDS)


def _text(value: object) -> str:
    """Strings as they are; lists of text parts (Mistral's content) joined; anything else is nothing."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, Mapping))
    return ""


def _words(data: bytes) -> str:
    """At most a line's worth of a server's own words."""
    return data.decode("utf-8", "replace")[:500]


def _parsed(data: bytes | bytearray) -> Any:
    """JSON as servers write it.  Raises ValueError.

    Python's own writer lets NaN and Infinity through (log-probabilities of tokens that cannot be), JavaScript's a half
    of a surrogate pair, and some servers cut a character in two.  One bad token, or a number that is beyond all others,
    is no reason to lose an answer.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            lenient = json.loads(
                data.decode("utf-8", "replace"),
                parse_constant=lambda _: None,
                parse_float=lambda text: number if isfinite(number := float(text)) else None,
                parse_int=lambda text: int(text) if len(text) < 20 else None,
            )
        except RecursionError:
            raise error from None
        text = json.dumps(lenient, ensure_ascii=False)
        return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _is_json(data: bytes) -> bool:
    try:
        _parsed(data)
    except ValueError:
        return False
    return True


# Writing


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every chunk of the answer says of itself."""

    id: str
    created: int
    model: str
    """The name the client asked for, not the server's."""


class ChunkWriter:
    """Writes the client's stream.  Hot: one call per chunk, so the constant bytes are made once."""

    def __init__(
        self, *, fallback: Envelope, include_usage: bool, reasoning_fields: Sequence[str] = ("reasoning_content",)
    ) -> None:
        self._fallback = fallback
        self._include_usage = include_usage
        self._reasoning_fields = [orjson.dumps(name) for name in reasoning_fields]
        self._before = b""
        """A chunk up to its first choice; empty until the stream is open."""

    def write(self, part: Part) -> bytes:
        match part:
            case Text(text, logprobs):
                return self._delta(b'"content":' + orjson.dumps(text), logprobs)
            case Reasoning(text, logprobs):
                value = orjson.dumps(text)
                return self._delta(b",".join([name + b":" + value for name in self._reasoning_fields]), logprobs)
            case ToolStart(slot, id_, name, extra):
                function = {"name": name, "arguments": ""}
                call = {"index": slot, "id": id_, "type": "function", "function": function, **extra}
                return self._delta(b'"tool_calls":' + orjson.dumps([call]))
            case ToolArgs(slot, text):
                return self._delta(b'"tool_calls":' + orjson.dumps([{"index": slot, "function": {"arguments": text}}]))
            case Head():
                return self._open(part)
            case Opaque(delta, choice):
                if choice is not None:
                    return self._opening() + data_event(self._before + orjson.dumps(choice) + b"]}")
                return self._delta(orjson.dumps(delta)[1:-1])
            case Finish() | Usage() | ErrorFrame():
                return b""
            case _:
                assert_never(part)

    def heartbeat(self) -> bytes:
        return comment("keep-alive")

    def empty_chunk(self) -> bytes:
        """A heartbeat for clients whose clocks only count chunks."""
        return self._delta(b"")

    def complete(self, reason: str, usage: Mapping[str, Any] | None) -> bytes:
        opening = self._opening()
        finish = b'{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":' + orjson.dumps(reason) + b"}]"
        if usage is None:
            return opening + data_event(self._before + finish + b"}") + DONE
        tail = b',"usage":' + orjson.dumps(usage) + b"}"
        if self._include_usage:
            return opening + data_event(self._before + finish + b"}") + data_event(self._before + b"]" + tail) + DONE
        return opening + data_event(self._before + finish + tail) + DONE

    def fail(self, error: ChiasmError) -> bytes:
        return data_event(orjson.dumps(error_body(error))) + DONE

    def _delta(self, members: bytes, logprobs: Any = None) -> bytes:
        told = b"null" if logprobs is None else orjson.dumps(logprobs)
        return b"".join(
            (
                self._opening(),
                b"data: ",
                self._before,
                b'{"index":0,"delta":{',
                members,
                b'},"logprobs":',
                told,
                b',"finish_reason":null}]}\n\n',
            )
        )

    def _opening(self) -> bytes:
        return b"" if self._before else self._open(Head())

    def _open(self, head: Head) -> bytes:
        """The first chunk: the role, and the envelope that all later ones repeat."""
        if self._before:  # heartbeats opened the stream already
            return b""
        envelope = {
            "id": head.id or self._fallback.id,
            "object": "chat.completion.chunk",
            "created": head.created or self._fallback.created,
            "model": self._fallback.model,
            **head.extra,
        }
        self._before = orjson.dumps(envelope)[:-1] + b',"choices":['
        return self._delta(b'"role":"assistant","content":""')


class CompletionWriter:
    """Collects the parts of all turns and writes one `chat.completion` at the end."""

    def __init__(
        self,
        *,
        fallback: Envelope,
        last_raw: Callable[[], Mapping[str, Any]],
        reasoning_fields: Sequence[str] = ("reasoning_content",),
    ) -> None:
        self._fallback = fallback
        self._last_raw = last_raw
        """The server's own object of the last turn: what we do not understand in it rides along."""
        self._reasoning_fields = reasoning_fields
        self._head = Head()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._details: list[Any] = []

    def write(self, part: Part) -> bytes:
        match part:
            case Text(text):
                self._text.append(text)
            case Reasoning(text):
                self._reasoning.append(text)
            case ToolStart(_, id_, name, extra):
                function = {"name": name, "arguments": ""}
                self._calls.append({"id": id_, "type": "function", "function": function, **extra})
            case ToolArgs(slot, text):
                self._calls[slot]["function"]["arguments"] += text
            case Head():
                self._head = part
            case Opaque(delta):
                self._details += fragments(delta)
            case Finish() | Usage() | ErrorFrame():
                pass
            case _:
                assert_never(part)
        return b""

    def heartbeat(self) -> bytes:
        return b""

    def complete(self, reason: str, usage: Mapping[str, Any] | None) -> bytes:
        raw = dict(self._last_raw())
        choices = [dict(choice) for choice in raw.get("choices") or [{}] if isinstance(choice, dict)]
        message = dict(choices[0].get("message") or {})
        text, reasoning = "".join(self._text), "".join(self._reasoning)
        if "tool_calls" in message:
            message.pop("function_call", None)  # llama-cpp-python says every call in both ways
        for name in ("reasoning", "reasoning_content", DETAILS, "tool_calls"):
            message.pop(name, None)
        message |= {"role": "assistant", "content": text or (None if self._calls else "")}
        if reasoning:
            message |= dict.fromkeys(self._reasoning_fields, reasoning)
        if self._details:
            message[DETAILS] = self._details
        if self._calls:
            message["tool_calls"] = self._calls
        choices[0] |= {"index": 0, "message": message, "finish_reason": reason}
        choices[0].setdefault("logprobs", None)
        raw |= {
            "id": self._head.id or self._fallback.id,
            "object": "chat.completion",
            "created": self._head.created or self._fallback.created,
            "model": self._fallback.model,
            "choices": choices,
        }
        raw.pop("usage", None)
        if usage is not None:
            raw["usage"] = usage
        return orjson.dumps(raw)

    def fail(self, error: ChiasmError) -> bytes:
        return orjson.dumps(error_body(error))


def error_body(error: ChiasmError) -> dict[str, Any]:
    """The error envelope: `{"error": {"message", "type", "param", "code"}}`."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": getattr(error, "param", None),
            "code": error.code,
        }
    }


# Asking again


@dataclass(frozen=True, slots=True)
class OpenAIChat:
    """The dialect itself: how a conversation goes on, and how turns add up."""

    profile: Profile

    def assistant_message(self, turn: Turn) -> dict[str, Any]:
        """What the brain said, to the letter: its template renders it to the tokens it generated, so its prefix cache
        still fits (argument text and its key order included)."""
        content = turn.content
        message: dict[str, Any] = {"role": "assistant", "content": content or (None if turn.calls else "")}
        reasoning = turn.reasoning
        if reasoning or (self.profile.empty_reasoning and turn.calls):
            message |= dict.fromkeys(self.profile.history_reasoning, reasoning)
        if turn.detail_pieces:
            message[DETAILS] = turn.details
        if turn.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": mended(call.arguments)},
                    **call.extra,
                }
                for call in turn.calls.values()
            ]
        return message

    def follow_up(self, request: Mapping[str, Any], turn: Turn, results: Sequence[ToolResult]) -> dict[str, Any] | None:
        said = [self.assistant_message(turn), *result_messages(results)]
        following = {**request, "messages": [*request["messages"], *said]}
        used = turn.completion_tokens()
        for limit in _LIMITS:
            if isinstance(request.get(limit), int):
                following[limit] = request[limit] - used
                if following[limit] < LEAST_TOKENS:
                    return None
        return following

    def added(self, first: Mapping[str, Any], last: Mapping[str, Any]) -> list[dict[str, Any]]:
        return list(last["messages"][len(first["messages"]) :])

    def yielding(self, error: UpstreamError) -> OpenAIChat | None:
        refused = refused_in_messages(error.message, self.profile.history_reasoning)
        return replace(self, profile=self.profile.without_thoughts_in(refused)) if refused else None

    def whole(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        if not request.get("stream"):
            return None
        return {key: value for key, value in request.items() if key not in ("stream", "stream_options")}

    def spent(self, request: Mapping[str, Any], turn: Turn) -> bool:
        limits = [request.get(name) for name in _LIMITS]
        return any(isinstance(limit, int) and turn.completion_tokens() >= limit for limit in limits)

    def usage(self, turns: Sequence[Turn], vision: Mapping[str, int]) -> dict[str, Any] | None:
        """`prompt_tokens` of the last turn, because clients use it as a context meter; `completion_tokens` and
        reasoning tokens of all; what was billed beyond that under `chiasm`, integers only."""
        counted = [turn for turn in turns if turn.usage is not None]  # a stream may end before its usage
        told = [turn.usage.values for turn in counted if turn.usage is not None]
        if not told:
            return None
        prompt, completion = counted[-1].prompt_tokens(), sum(turn.completion_tokens() for turn in counted)
        usage: dict[str, Any] = {**told[-1], "prompt_tokens": prompt, "completion_tokens": completion}
        usage["total_tokens"] = prompt + completion
        reasoning = [
            details["reasoning_tokens"]
            for values in told
            if isinstance(details := values.get("completion_tokens_details"), Mapping)
            and count_of(details, "reasoning_tokens")
        ]
        if reasoning:
            last = usage.get("completion_tokens_details")
            usage["completion_tokens_details"] = {
                **(last if isinstance(last, Mapping) else {}),
                "reasoning_tokens": sum(reasoning),
            }
        usage["chiasm"] = {**vision, "billed_prompt_tokens": sum(turn.prompt_tokens() for turn in turns)}
        return usage


def tool_object(tool: ToolDefinition) -> dict[str, Any]:
    """A tool as it stands in `tools`."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
