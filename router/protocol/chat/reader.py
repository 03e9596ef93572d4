"""Reads what servers of Chat Completions send: `chat.completion.chunk` streams and whole `chat.completion` objects.

Servers agree on the outline and differ in everything else: where reasoning stands, whether ids and names are
repeated, null or missing, whether parallel calls are numbered, which chunk carries the finish reason and the
usage, and how a failure looks.  The readers here take all of it and say the same parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from router.protocol.chat.alike import Alike
from router.protocol.parts import ErrorFrame, Finish, Head, Opaque, Part, Reasoning, Text, ToolArgs, ToolStart, Usage
from router.protocol.profiles import BROKEN_FINISHES, FINISH_REASONS
from router.protocol.reasoning_details import FIELD as DETAILS
from router.protocol.reasoning_details import fragments
from router.protocol.server_json import is_json, parsed
from router.protocol.sse import EventTooLarge, SSEDecoder
from router.protocol.turn import is_object

MOST_COMPLETION_BYTES = 64 * 2**20
"""Of an answer that is not streamed.  Ten million tokens, or a hundred thousand with the probabilities of twenty others
each, and what is parsed of it takes several times as much memory."""

_KNOWN_DELTA = frozenset({"role", "content", "reasoning", "reasoning_content", "tool_calls"})
_KNOWN_CALL = frozenset({"index", "id", "type", "function"})
_NO_WORDS = "the text model's server reported an error and gave no words for it"
_KEPT_ENVELOPE = ("system_fingerprint", "service_tier", "provider")


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

    @property
    def none(self) -> bool:
        return not self._calls

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
        self._alike = Alike()

    def feed(self, data: bytes) -> Sequence[Part]:
        between = self._decoder.between_events and not self.clean
        parts, rest = self._alike.read(data) if between else ([], data)
        if not rest and parts:
            return parts
        try:
            events = self._decoder.feed(rest)
        except EventTooLarge as error:
            return [*parts, ErrorFrame(f"the text model's server sent garbage: {error}")]
        for event in events:
            self._event(event.data, parts)
        alone = between and rest is data and self._decoder.between_events and len(events) == len(parts) == 1
        if alone and isinstance(parts[0], Text | Reasoning):
            self._alike.learn(data, _read_apart)
        return parts

    def close(self) -> Sequence[Part]:
        parts: list[Part] = []
        for event in self._decoder.close():
            if event.data.startswith(b"{") and not event.data.startswith(b'{"error"') and not is_json(event.data):
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
            chunk = parsed(data)
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


def _read_apart(data: bytes) -> Sequence[Part]:
    """What this says to a reader that knows nothing but the beginning; nothing where it has to do with calls."""
    reader = ChunkReader(str)
    reader.first = {"choices": None}
    parts = reader.feed(data)
    return parts if reader._calls.none else ()


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
            raw = parsed(self._body.strip())  # DeepSeek sends blank lines while the request is queued
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
