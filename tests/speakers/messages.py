"""Anthropic Messages.

After the documentation of the streaming format and the reader of Anthropic's own SDK, which appends each block that
starts and addresses deltas by index: blocks are counted from 0 without gaps, one after the other, and whatever comes
before `message_start` raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from router.protocol.profiles import Profile
from tests.speakers.answer import Answer, Call, check_error
from tests.speakers.pieces import Begins, Calls, Continues, Fails, Finishes, Opens, Saying, Spoken, Thinks
from tests.speakers.speaker import check_chiasm, events_of, is_count, joined, sse

REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
FINISHES: Final = {stop: finish for finish, stop in REASONS.items()} | {"stop_sequence": "stop"}

TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
MOST_TOKENS: Final = 4096
"""The format asks for a limit in every request."""


class Messages:
    name = "messages"
    path = "/v1/messages"
    beats: Final[Mapping[str, Sequence[bytes]]] = {
        "comment": [sse("ping", b'{"type":"ping"}'), b": keep-alive\n\n"],
        "chunk": [sse("ping", b'{"type":"ping"}')],
    }

    # The client's side

    def request(self, chat: Mapping[str, Any]) -> dict[str, Any]:
        return _request(chat)

    def read_stream(self, stream: bytes, *, include_usage: bool = False) -> Answer:
        reader = _StreamReader()
        for name, data in events_of(stream):
            event = orjson.loads(data)
            assert event["type"] == name, "an event has one name"
            reader.read(event)
        return reader.end()

    def read_whole(self, body: bytes) -> Answer:
        raw = orjson.loads(body)
        assert (raw["type"], raw["role"]) == ("message", "assistant"), raw
        answer = Answer(id=raw["id"], model=raw["model"], usage=_usage(raw["usage"]))
        for block in raw["content"]:
            match block:
                case {"type": "text", "text": str(text)}:
                    answer.text += text  # SDKs put the texts together as they are
                    answer.came("text")
                case {"type": "thinking", "thinking": str(thoughts), "signature": str()}:
                    answer.reasoning = joined(answer.reasoning, thoughts)
                    answer.came("reasoning")
                case {"type": "tool_use", "id": str(id_), "name": str(name), "input": dict(arguments)}:
                    assert id_ not in [call.id for call in answer.calls], "ids are unique"
                    answer.came(f"call {len(answer.calls)}")
                    answer.calls.append(Call(id_, name, orjson.dumps(arguments).decode()))
                case _:
                    raise AssertionError(block)
        answer.finish = FINISHES[raw["stop_reason"]]
        assert "stop_sequence" in raw
        return answer

    def error(self, body: Any, status: int) -> dict[str, Any]:
        type_ = body["error"]["type"]
        known = TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
        assert type_ == known, f"{type_} with the status {status}"
        return _error(body)

    def mark(self, piece: str | Thinks) -> bytes:
        name, words = ("text", piece) if isinstance(piece, str) else ("thinking", piece.text)
        return b'{"type":"%b_delta","%b":%b}' % (name.encode(), name.encode(), orjson.dumps(words))

    # The brain's side

    def understood(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return _understood(body)

    def thoughts(self, profile: Profile) -> Collection[str]:
        return ("reasoning_content",)

    def voice(self, saying: Saying, request: Mapping[str, Any]) -> _Voice:
        return _Voice(saying)

    def refusal(self, words: str, status: int, code: str | None) -> dict[str, Any]:
        return {"type": "error", "error": {"type": TYPES.get(status, "api_error"), "message": words}}


def _error(body: Any) -> dict[str, Any]:
    """Of a body or an event.  The format knows a type and a message; where the house says more, it says all."""
    assert body["type"] == "error", body
    error = body["error"]
    assert error.keys() == {"type", "message"}, error
    assert error["type"] in {*TYPES.values(), "api_error"}, error
    return check_error({"message": error["message"], "type": UNTOLD, "param": UNTOLD, "code": UNTOLD})


class _Untold:
    """What the format has no words for: as good as whatever is expected."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "untold"


UNTOLD: Final = _Untold()


def _usage(usage: Any) -> dict[str, Any]:
    prompt, completion = usage["input_tokens"], usage["output_tokens"]
    assert is_count(prompt), usage
    assert is_count(completion), usage
    for name in ("cache_read_input_tokens", "cache_creation_input_tokens"):
        if usage.get(name) is not None:
            assert is_count(usage[name]), usage
            prompt += usage[name]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        **check_chiasm(usage),
    }


# A client's request


def _request(chat: Mapping[str, Any]) -> dict[str, Any]:
    native = {name: value for name, value in chat.items() if name not in _OF_CHAT}
    for name in ("n", "response_format", "functions"):
        assert name not in chat, f"{name} is not of this format"
    messages = list(chat["messages"])
    if messages and isinstance(messages[0], dict) and messages[0].get("role") == "system":
        native["system"] = messages.pop(0)["content"]
    native["messages"] = _messages(messages)
    native["max_tokens"] = chat.get("max_tokens", MOST_TOKENS)
    if "stop" in chat:
        native["stop_sequences"] = chat["stop"] if isinstance(chat["stop"], list) else [chat["stop"]]
    if "tools" in chat:
        native["tools"] = [_tool(tool) for tool in chat["tools"]]
    if "tool_choice" in chat:
        native["tool_choice"] = _choice(chat["tool_choice"])
    return native


_OF_CHAT = ("messages", "max_tokens", "stop", "tools", "tool_choice", "stream_options")


def _tool(tool: Any) -> Any:
    if not isinstance(tool, dict):
        return tool
    function = dict(tool["function"])
    rest = {name: value for name, value in tool.items() if name not in ("type", "function")}
    schema = {"input_schema": function.pop("parameters")} if "parameters" in function else {}
    return {**function, **schema, **rest}


def _choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return {"type": {"required": "any"}.get(choice, choice)}
    return {"type": "tool", "name": choice["function"]["name"]}


def _messages(messages: Sequence[Any]) -> list[Any]:
    """Results stand in a message of the user, together with what he says behind them."""
    native: list[Any] = []
    open_results = False
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "tool"):
            native.append(message)
            open_results = False
            continue
        match message["role"]:
            case "tool":
                content = _parts(message["content"])
                result = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": content}
                if not open_results:
                    native.append({"role": "user", "content": []})
                native[-1]["content"].append(result)
                open_results = True
            case "user" if open_results:
                content = _parts(message["content"])
                native[-1]["content"] += [{"type": "text", "text": content}] if isinstance(content, str) else content
                open_results = False
            case "user":
                native.append({**message, "content": _parts(message["content"])})
            case _:
                native.append(_assistant(message))
                open_results = False
    return native


def _assistant(message: Mapping[str, Any]) -> dict[str, Any]:
    rest = {
        name: value for name, value in message.items() if name not in ("content", "reasoning_content", "tool_calls")
    }
    thoughts, calls, content = (message.get(name) for name in ("reasoning_content", "tool_calls", "content"))
    if not thoughts and not calls:
        return {**rest, "content": _parts(content)}
    blocks: list[Any] = []
    if thoughts:
        blocks.append({"type": "thinking", "thinking": thoughts, "signature": signature(thoughts)})
    words = _parts(content)
    blocks += [{"type": "text", "text": words}] if isinstance(words, str) and words else words or []
    for call in calls or ():
        function = call["function"]
        arguments = orjson.loads(function["arguments"])
        blocks.append({"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments})
    return {**rest, "content": blocks}


def _parts(content: Any) -> Any:
    return [_part(part) for part in content] if isinstance(content, list) else content


def _part(part: Any) -> Any:
    match part:
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            rest = {name: value for name, value in part.items() if name not in ("type", "image_url")}
            if url.startswith("data:"):
                head, _, data = url.partition(",")
                media_type = head.removeprefix("data:").partition(";")[0]
                source = {"type": "base64", "media_type": media_type, "data": data}
            else:
                source = {"type": "url", "url": url}
            return {"type": "image", "source": source, **rest}
    return part


# What a brain is asked


def signature(thoughts: str) -> str:
    """With which a brain knows its thoughts again; without it, it would not take them back."""
    return "sig_" + hashlib.sha256(thoughts.encode()).hexdigest()[:24]


def _understood(body: Mapping[str, Any]) -> dict[str, Any]:
    chat = {name: value for name, value in body.items() if name not in ("system", "messages", "tools", "tool_choice")}
    messages: list[dict[str, Any]] = []
    if "system" in body:
        messages.append({"role": "system", "content": body["system"]})
    for message in body["messages"]:
        assert message["role"] in ("user", "assistant", "system"), message
        content = message["content"]
        if isinstance(content, str):
            messages.append({"role": message["role"], "content": content})
        elif message["role"] == "assistant":
            messages.append(_said(content))
        else:
            messages += _heard(message["role"], content)
    chat["messages"] = messages
    if "tools" in body:
        chat["tools"] = [_function(tool) for tool in body["tools"]]
    match body.get("tool_choice"):
        case {"type": "tool", "name": name}:
            chat["tool_choice"] = {"type": "function", "function": {"name": name}}
        case {"type": kind}:
            chat["tool_choice"] = {"any": "required"}.get(kind, kind)
    return chat


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    assert {"name", "input_schema"} <= tool.keys(), tool
    assert "function" not in tool, "a tool of another format"
    rest = {name: value for name, value in tool.items() if name != "input_schema"}
    return {"type": "function", "function": {**rest, "parameters": tool["input_schema"]}}


def _said(content: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Thoughts come first and calls last, as a server said them."""
    words: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in content:
        match block:
            case {"type": "text", "text": str(text)}:
                assert not calls, "no words behind a call"
                words.append(text)
            case {"type": "thinking", "thinking": str(text)}:
                assert block.get("signature") == signature(text), "a thought comes back with its own signature"
                thoughts.append(text)
            case {"type": "tool_use", "id": str(id_), "name": str(name), "input": dict(arguments)}:
                function = {"name": name, "arguments": orjson.dumps(arguments).decode()}
                calls.append({"id": id_, "type": "function", "function": function})
            case _:
                raise AssertionError(block)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(words) or (None if calls else "")}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _heard(role: str, content: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Results first: the format has them at the beginning of the message."""
    behind = [block for block in content if block.get("type") != "tool_result"]
    results = content[: len(content) - len(behind)]
    assert all(block.get("type") == "tool_result" for block in results), "results stand before what else is said"
    for block in results:
        assert block.keys() <= {"type", "tool_use_id", "content", "is_error", "cache_control"}, block
        result = block.get("content", "")
        told = result if isinstance(result, str) else [_chat_part(part) for part in result]
        yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": told}
    if behind or not results:
        yield {"role": role, "content": [_chat_part(part) for part in behind]}


def _chat_part(part: Mapping[str, Any]) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str()}:
            return dict(part)
        case {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}:
            rest = {name: value for name, value in part.items() if name not in ("type", "source")}
            return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}, **rest}
        case {"type": "image", "source": {"type": "url", "url": url}}:
            return {"type": "image_url", "image_url": {"url": url}}
    assert part.get("type") not in ("image_url", "input_text", "input_image"), f"of another format: {part}"
    return dict(part)


# A stream, read


class _StreamReader:
    def __init__(self) -> None:
        self._answer = Answer()
        self._begun = self._stopped = self._delta = False
        self._usage: dict[str, Any] = {}
        self._blocks = 0
        self._open: dict[str, Any] | None = None
        self._signed = self._said = False
        """Of the block that is open: whether its signature has come, and whether any words have."""

    def read(self, event: dict[str, Any]) -> None:
        assert not self._stopped, f"nothing follows the end: {event}"
        kind = event["type"]
        if kind == "ping":
            assert event == {"type": "ping"}
            return
        if kind == "error":
            self._stopped = True
            self._answer.error = _error(event)
            return
        assert self._begun == (kind != "message_start"), f"one message_start, before all else: {event}"
        getattr(self, f"_{kind}")(event)

    def end(self) -> Answer:
        assert self._stopped, "the stream ends with message_stop, or with an error"
        if self._answer.error is None:
            assert self._blocks, "an answer of nothing has an empty block of text"
        return self._answer

    def _message_start(self, event: dict[str, Any]) -> None:
        self._begun = True
        message = event["message"]
        assert message.keys() >= {"id", "type", "role", "content", "model", "stop_reason", "stop_sequence", "usage"}
        assert (message["type"], message["role"], message["content"]) == ("message", "assistant", [])
        assert (message["stop_reason"], message["stop_sequence"]) == (None, None)
        self._usage = dict(message["usage"])
        assert {"input_tokens", "output_tokens"} <= self._usage.keys()
        self._answer.id, self._answer.model = message["id"], message["model"]

    def _content_block_start(self, event: dict[str, Any]) -> None:
        assert self._open is None, "one block after the other"
        assert not self._delta, "no block behind message_delta"
        assert event["index"] == self._blocks, "blocks are counted from 0 without gaps"
        self._blocks += 1
        self._open = block = event["content_block"]
        self._signed = self._said = False
        answer = self._answer
        match block["type"]:
            case "text":
                assert block["text"] == "", block
            case "thinking":
                assert block["thinking"] == "", block
            case "tool_use":
                assert block == {"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}}
                assert block["id"] not in [call.id for call in answer.calls], "ids are unique"
                answer.came(f"call {len(answer.calls)}")
                answer.calls.append(Call(block["id"], block["name"]))
            case _:
                raise AssertionError(block)

    def _content_block_delta(self, event: dict[str, Any]) -> None:
        assert self._open is not None
        assert event["index"] == self._blocks - 1, "a delta is of the block that is open"
        assert not self._signed, "a signature ends its thought"
        match self._open["type"], event["delta"]:
            case "text", {"type": "text_delta", "text": str(text)}:
                self._answer.text += text
                if text:
                    self._answer.came("text")
            case "thinking", {"type": "thinking_delta", "thinking": str(text)}:
                self._answer.reasoning = self._more(self._answer.reasoning, text)
                if text:
                    self._answer.came("reasoning")
            case "thinking", {"type": "signature_delta", "signature": str()}:
                self._signed = True
            case "tool_use", {"type": "input_json_delta", "partial_json": str(text)}:
                self._answer.calls[-1].arguments += text
            case other:
                raise AssertionError(other)

    def _more(self, words: str, text: str) -> str:
        begun, self._said = self._said, self._said or bool(text)
        return words + text if begun else joined(words, text)

    def _content_block_stop(self, event: dict[str, Any]) -> None:
        assert self._open is not None
        assert event["index"] == self._blocks - 1, "the block that is open is stopped"
        if self._open["type"] == "thinking":
            assert self._signed, "a thought is signed"
        if self._open["type"] == "tool_use":
            assert isinstance(orjson.loads(self._answer.calls[-1].arguments or "{}"), dict)
        self._open = None

    def _message_delta(self, event: dict[str, Any]) -> None:
        assert self._open is None, "all blocks are over"
        assert not self._delta, "one message_delta"
        self._delta = True
        assert event["delta"].keys() == {"stop_reason", "stop_sequence"}, event
        self._answer.finish = FINISHES[event["delta"]["stop_reason"]]
        self._usage |= event["usage"]
        self._answer.usage = _usage(self._usage)

    def _message_stop(self, event: dict[str, Any]) -> None:
        assert self._delta, "message_delta comes before message_stop"
        assert event == {"type": "message_stop"}
        self._stopped = True


# A stream, written


class _Voice:
    """As vLLM and llama.cpp write it: one block at a time."""

    def __init__(self, saying: Saying) -> None:
        self._saying = saying
        self._id = f"msg_{saying.number:08}"
        self._begun = self._finished = False
        self._blocks = 0
        self._open = ""
        self._thought = ""

    def says(self, piece: Spoken) -> Iterator[bytes]:
        if isinstance(piece, Fails):
            yield _event("error", error={"type": TYPES.get(piece.code, "api_error"), "message": piece.words})
            return
        if not self._begun:
            self._begun = True
            prompt = (self._saying.usage or (0, 0))[0]
            usage = {"input_tokens": prompt, "output_tokens": 0}
            yield _event(
                "message_start", message={**self._envelope(), "content": [], "stop_reason": None, "usage": usage}
            )
        match piece:
            case Opens():
                pass
            case str():
                yield from self._in_block({"type": "text", "text": ""})
                yield self._delta(type="text_delta", text=piece)
            case Thinks(text):
                yield from self._in_block({"type": "thinking", "thinking": "", "signature": ""})
                self._thought += text
                yield self._delta(type="thinking_delta", thinking=text)
            case Calls(name, arguments):
                yield from self._call(self._saying.ids[piece], name)
                middle = len(arguments) // 2
                for half in (arguments[:middle], arguments[middle:]):
                    yield self._delta(type="input_json_delta", partial_json=half)
                yield from self._stop()
            case Begins(name, arguments, id_):
                yield from self._call(id_, name)
                yield self._delta(type="input_json_delta", partial_json=arguments)
            case Continues(arguments):
                yield self._delta(type="input_json_delta", partial_json=arguments)
            case Finishes(reason):
                self._finished = True
                yield from self._finish(reason)

    def closes(self) -> Iterator[bytes]:
        if not self._begun:
            yield from self.says(Opens())
        if not self._finished:
            yield from self._finish(self._saying.reason)
        if self._saying.done:
            yield _event("message_stop")

    def whole(self) -> dict[str, Any]:
        saying = self._saying
        content: list[dict[str, Any]] = []
        if saying.thoughts:
            content.append({"type": "thinking", "thinking": saying.thoughts, "signature": signature(saying.thoughts)})
        if saying.words or not saying.ids:
            content.append({"type": "text", "text": saying.words})
        for call, id_ in saying.ids.items():
            content.append({"type": "tool_use", "id": id_, "name": call.name, "input": _input(call.arguments)})
        prompt, completion = saying.usage or (0, 0)
        return {
            **self._envelope(),
            "content": content,
            "stop_reason": REASONS[saying.reason],
            "usage": {"input_tokens": prompt, "output_tokens": completion},
        }

    def _envelope(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": "brain-7b",
            "stop_sequence": None,
        }

    def _delta(self, **delta: str) -> bytes:
        return _event("content_block_delta", index=self._blocks - 1, delta=delta)

    def _in_block(self, block: dict[str, Any]) -> Iterator[bytes]:
        if self._open != block["type"]:
            yield from self._stop()
            self._open = block["type"]
            self._blocks += 1
            yield _event("content_block_start", index=self._blocks - 1, content_block=block)

    def _call(self, id_: str, name: str) -> Iterator[bytes]:
        yield from self._stop()
        yield from self._in_block({"type": "tool_use", "id": id_, "name": name, "input": {}})

    def _stop(self) -> Iterator[bytes]:
        if self._open == "thinking":
            yield self._delta(type="signature_delta", signature=signature(self._thought))
            self._thought = ""
        if self._open:
            self._open = ""
            yield _event("content_block_stop", index=self._blocks - 1)

    def _finish(self, reason: str) -> Iterator[bytes]:
        yield from self._stop()
        usage = {} if self._saying.usage is None else {"usage": {"output_tokens": self._saying.usage[1]}}
        yield _event("message_delta", delta={"stop_reason": REASONS[reason], "stop_sequence": None}, **usage)


def _input(arguments: str) -> Any:
    """What is no JSON stays text, as a careless server leaves it."""
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments


def _event(kind: str, **fields: Any) -> bytes:
    return sse(kind, orjson.dumps({"type": kind, **fields}))
