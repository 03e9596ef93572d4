"""OpenAI Responses.

After the types of openai-python, by which every event and every answer read here is checked, and OpenAI's own streams:
events are numbered from 0, items and parts are added, filled and done one after the other, and the last event repeats
all that was said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, get_args

import orjson
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from router.protocol.profiles import Profile
from tests.speakers.answer import Answer, Call, check_error
from tests.speakers.pieces import Begins, Calls, Continues, Fails, Finishes, Opens, Saying, Spoken, Thinks
from tests.speakers.speaker import check_chiasm, events_of, is_count, joined, sse

_EVENTS: Final[Mapping[str, Any]] = {
    get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(get_args(ResponseStreamEvent)[0])
}
_RESPONSE: Final = TypeAdapter(Response)

_CODES: Final = {429: "rate_limit_exceeded", 400: "invalid_prompt"}
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Responses:
    name = "responses"
    path = "/v1/responses"
    beats: Final[Mapping[str, Sequence[bytes]]] = {
        "comment": [b": keep-alive\n\n"],
        "chunk": [b"event: response.in_progress\n"],
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
        _RESPONSE.validate_python(raw)
        answer = Answer()
        for item in raw["output"]:
            _take(answer, item)
        _close(answer, raw)
        return answer

    def error(self, body: Any, status: int) -> dict[str, Any]:
        assert body.keys() == {"error"}, body
        return check_error(body["error"])

    def mark(self, piece: str | Thinks) -> bytes:
        return b'"delta":' + orjson.dumps(piece if isinstance(piece, str) else piece.text)

    # The brain's side

    def understood(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return _understood(body)

    def thoughts(self, profile: Profile) -> Collection[str]:
        return ("reasoning_content",)

    def voice(self, saying: Saying, request: Mapping[str, Any]) -> _Voice:
        return _Voice(saying, request)

    def refusal(self, words: str, status: int, code: str | None) -> dict[str, Any]:
        return {"error": {"message": words, "type": "error", "param": None, "code": code}}


# A client's request


def _request(chat: Mapping[str, Any]) -> dict[str, Any]:
    native = {name: value for name, value in chat.items() if name not in _OF_CHAT}
    for name in ("n", "response_format", "functions"):
        assert name not in chat, f"{name} is not of this format"
    messages = list(chat["messages"])
    if messages and isinstance(messages[0], dict) and messages[0].get("role") == "system":
        native["instructions"] = _text_of(messages.pop(0)["content"])
    native["input"] = [item for message in messages for item in _items(message)]
    if "max_tokens" in chat:
        native["max_output_tokens"] = chat["max_tokens"]
    if "tools" in chat:
        native["tools"] = [_tool(tool) for tool in chat["tools"]]
    if "tool_choice" in chat:
        choice = chat["tool_choice"]
        named = isinstance(choice, dict)
        native["tool_choice"] = {"type": "function", "name": choice["function"]["name"]} if named else choice
    return native


_OF_CHAT = ("messages", "max_tokens", "tools", "tool_choice", "stream_options")


def _tool(tool: Any) -> Any:
    if not isinstance(tool, dict):
        return tool
    rest = {name: value for name, value in tool.items() if name not in ("type", "function")}
    return {"type": "function", **tool["function"], **rest}


def _items(message: Any) -> Iterator[Any]:
    if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "tool"):
        yield message
        return
    content = message.get("content")
    match message["role"]:
        case "tool":
            output = [_part(part) for part in content] if isinstance(content, list) else content
            yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": output}
        case "user":
            parts = [_part(part) for part in content] if isinstance(content, list) else content
            rest = {name: value for name, value in message.items() if name not in ("role", "content")}
            yield {"type": "message", "role": "user", "content": parts, **rest}
        case _:
            if thoughts := message.get("reasoning_content"):
                yield _reasoning("rs_client", thoughts)
            if content or not message.get("tool_calls"):
                words = _text_of(content or "")
                part = {"type": "output_text", "text": words, "annotations": []}
                yield {"type": "message", "role": "assistant", "status": "completed", "content": [part]}
            for call in message.get("tool_calls") or ():
                function = call["function"]
                yield {
                    "type": "function_call",
                    "call_id": call["id"],
                    "name": function["name"],
                    "arguments": function["arguments"],
                }


def _text_of(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _reasoning(id_: str, thoughts: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": thoughts}]
    return {"type": "reasoning", "id": id_, "summary": [], "content": content}


def _part(part: Any) -> Any:
    match part:
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            rest = {name: value for name, value in part.items() if name not in ("type", "image_url")}
            return {"type": "input_image", "detail": "auto", "image_url": url, **rest}
        case {"type": "text"}:
            return {**part, "type": "input_text"}
    return part


# What a brain is asked


def _understood(body: Mapping[str, Any]) -> dict[str, Any]:
    assert "messages" not in body, "the history stands in `input`"
    chat = {name: value for name, value in body.items() if name not in _OF_RESPONSES}
    messages: list[dict[str, Any]] = []
    if body.get("instructions") is not None:
        messages.append({"role": "system", "content": body["instructions"]})
    said: list[Mapping[str, Any]] = []
    items = body["input"]
    for item in [{"role": "user", "content": items}] if isinstance(items, str) else items:
        kind = item.get("type", "message")
        if kind in ("reasoning", "function_call") or (kind == "message" and item["role"] == "assistant"):
            said.append(item)
            continue
        if said:
            messages.append(_said(said))
            said = []
        messages.append(_heard(item, kind))
    if said:
        messages.append(_said(said))
    chat["messages"] = messages
    if "max_output_tokens" in body:
        chat["max_tokens"] = body["max_output_tokens"]
    if "tools" in body:
        chat["tools"] = [_function(tool) for tool in body["tools"]]
    match body.get("tool_choice"):
        case {"type": "function", "name": name}:
            chat["tool_choice"] = {"type": "function", "function": {"name": name}}
        case str(choice):
            chat["tool_choice"] = choice
    return chat


_OF_RESPONSES = ("instructions", "input", "max_output_tokens", "tools", "tool_choice")


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool["type"] != "function":
        return dict(tool)
    assert "function" not in tool, "a tool of another format"
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _said(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    words: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for item in items:
        match item:
            case {"type": "reasoning", "content": list(content)}:
                assert not calls, "no thoughts behind a call"
                thoughts += [part["text"] for part in content]
            case {"type": "function_call", "call_id": str(id_), "name": str(name), "arguments": str(arguments)}:
                function = {"name": name, "arguments": arguments}
                calls.append({"id": id_, "type": "function", "function": function})
            case {"role": "assistant", "content": str(text)}:
                words.append(text)
            case {"role": "assistant", "content": list(content)}:
                assert not calls, "no words behind a call"
                assert all(part["type"] in ("output_text", "refusal") for part in content), content
                words += [part["text"] for part in content]
            case _:
                raise AssertionError(item)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(words) or (None if calls else "")}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _heard(item: Mapping[str, Any], kind: str) -> dict[str, Any]:
    if kind == "function_call_output":
        output = item["output"]
        content = output if isinstance(output, str) else [_chat_part(part) for part in output]
        return {"role": "tool", "tool_call_id": item["call_id"], "content": content}
    assert kind == "message", item
    content = item["content"]
    parts = content if isinstance(content, str) else [_chat_part(part) for part in content]
    return {**{name: value for name, value in item.items() if name != "type"}, "content": parts}


def _chat_part(part: Mapping[str, Any]) -> dict[str, Any]:
    match part:
        case {"type": "input_text"}:
            return {**part, "type": "text"}
        case {"type": "input_image", "image_url": str(url)}:
            rest = {name: value for name, value in part.items() if name not in ("type", "image_url", "detail")}
            return {"type": "image_url", "image_url": {"url": url}, **rest}
    assert part.get("type") not in ("text", "image", "image_url"), f"of another format: {part}"
    return dict(part)


# An answer, read


def _take(answer: Answer, item: Mapping[str, Any]) -> None:
    """One item of the output, as it is when it is done."""
    match item:
        case {"type": "message", "role": "assistant", "id": str(), "content": list(content)}:
            for part in content:
                assert part["type"] == "output_text", part
                answer.text += part["text"]  # as `output_text` of OpenAI's libraries does
            answer.came("text")
        case {"type": "reasoning", "id": str()}:
            for part in item.get("content") or ():
                assert part["type"] == "reasoning_text", part
                answer.reasoning = joined(answer.reasoning, part["text"])
            answer.came("reasoning")
        case {"type": "function_call", "call_id": str(id_), "name": str(name), "arguments": str(arguments)}:
            assert id_ not in [call.id for call in answer.calls], "ids are unique"
            answer.came(f"call {len(answer.calls)}")
            answer.calls.append(Call(id_, name, arguments))
        case _:
            raise AssertionError(item)


def _close(answer: Answer, response: Mapping[str, Any]) -> None:
    """What the whole response says besides its output."""
    assert response["object"] == "response"
    answer.id, answer.created, answer.model = response["id"], response["created_at"], response["model"]
    match response["status"]:
        case "completed":
            assert response.get("incomplete_details") is None
            answer.finish = "tool_calls" if answer.calls else "stop"
        case "incomplete":
            reason = response["incomplete_details"]["reason"]
            answer.finish = next(name for name, known in _INCOMPLETE.items() if known == reason)
        case status:
            raise AssertionError(status)
    assert response.get("error") is None
    if (usage := response.get("usage")) is not None:
        prompt, completion = usage["input_tokens"], usage["output_tokens"]
        assert is_count(prompt), usage
        assert is_count(completion), usage
        assert usage["total_tokens"] == prompt + completion, usage
        answer.usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            **check_chiasm(usage),
        }


def _with_a_known_code(event: dict[str, Any]) -> dict[str, Any]:
    """OpenAI lists the codes that its own servers have; clients read any other as a string."""
    if event["type"] != "response.failed":
        return event
    error = event["response"]["error"]
    assert error.keys() == {"code", "message"}, error
    assert isinstance(error["code"], str), error
    return {**event, "response": {**event["response"], "error": {**error, "code": "server_error"}}}


class _StreamReader:
    def __init__(self) -> None:
        self._answer = Answer()
        self._events = 0
        self._first: dict[str, Any] = {}
        self._output: list[dict[str, Any]] = []
        """The items that are done."""
        self._item: dict[str, Any] | None = None
        self._part: dict[str, Any] | None = None
        self._parts = 0
        self._said = ""
        """In this part, or as arguments of this call."""
        self._said_all = False
        self._ended = False

    def read(self, event: dict[str, Any]) -> None:
        assert not self._ended, f"nothing follows the end: {event}"
        _EVENTS[event["type"]].model_validate(_with_a_known_code(event))
        assert event["sequence_number"] == self._events, "events are counted from 0"
        self._events += 1
        kind = event["type"]
        if kind == "error":
            self._ended = True
            error = {name: event.get(name) for name in ("message", "param", "code")}
            self._answer.error = check_error({**error, "type": event.get("error_type", "upstream_error")})
            return
        assert (self._events == 1) == (kind == "response.created"), f"one response.created, first of all: {event}"
        getattr(self, "_" + kind.removeprefix("response.").replace(".", "_"))(event)

    def end(self) -> Answer:
        assert self._ended, "the stream ends with what became of the response"
        return self._answer

    def _created(self, event: dict[str, Any]) -> None:
        self._first = event["response"]
        self._begun(self._first)

    def _in_progress(self, event: dict[str, Any]) -> None:
        self._begun(event["response"])

    def _begun(self, response: Mapping[str, Any]) -> None:
        self._same(response)
        assert response["status"] == "in_progress", response
        assert response["output"] == [], "nothing is said yet"

    def _same(self, response: Mapping[str, Any]) -> None:
        for name in ("id", "created_at", "model"):
            assert response[name] == self._first[name], f"one {name}"

    def _output_item_added(self, event: dict[str, Any]) -> None:
        assert self._item is None, "one item after the other"
        assert event["output_index"] == len(self._output), "items are counted from 0 without gaps"
        self._item = item = event["item"]
        assert item["id"] not in [other["id"] for other in self._output], "ids are unique"
        assert not item.get("content"), item
        assert not item.get("arguments"), item
        self._parts, self._said, self._said_all = 0, "", False

    def _of_item(self, event: Mapping[str, Any], *kinds: str) -> dict[str, Any]:
        assert self._item is not None, event
        assert (event["output_index"], event["item_id"]) == (len(self._output), self._item["id"]), event
        assert self._item["type"] in kinds, event
        return self._item

    def _content_part_added(self, event: dict[str, Any]) -> None:
        self._of_item(event, "message", "reasoning")
        assert self._part is None, "one part after the other"
        assert event["content_index"] == self._parts, event
        self._part = event["part"]
        assert self._part["text"] == "", event
        self._said, self._said_all = "", False

    def _content_part_done(self, event: dict[str, Any]) -> None:
        self._of_part(event, "message", "reasoning")
        assert self._said_all, "a text is done before its part"
        assert event["part"]["text"] == self._said
        self._parts += 1
        self._part = None

    def _of_part(self, event: Mapping[str, Any], *kinds: str) -> None:
        item = self._of_item(event, *kinds)
        assert event["content_index"] == self._parts, event
        if item["type"] == "message":
            assert self._part is not None, "a part is added before it is filled"

    def _delta(self, event: Mapping[str, Any]) -> str:
        assert not self._said_all, "it is done"
        self._said += event["delta"]
        return str(event["delta"])

    def _all(self, said: str) -> None:
        assert not self._said_all, "done once"
        assert said == self._said, "what is done is what was said"
        self._said_all = True

    def _output_text_delta(self, event: dict[str, Any]) -> None:
        self._of_part(event, "message")
        delta = self._delta(event)
        self._answer.text += delta
        self._answer.came("text")

    def _output_text_done(self, event: dict[str, Any]) -> None:
        self._of_part(event, "message")
        self._all(event["text"])

    def _reasoning_text_delta(self, event: dict[str, Any]) -> None:
        self._of_part(event, "reasoning")
        first = not self._said
        delta = self._delta(event)
        self._answer.reasoning = joined(self._answer.reasoning, delta) if first else self._answer.reasoning + delta
        self._answer.came("reasoning")

    def _reasoning_text_done(self, event: dict[str, Any]) -> None:
        self._of_part(event, "reasoning")
        self._all(event["text"])

    def _function_call_arguments_delta(self, event: dict[str, Any]) -> None:
        self._of_item(event, "function_call")
        self._delta(event)
        self._answer.came(f"call {len(self._answer.calls)}")

    def _function_call_arguments_done(self, event: dict[str, Any]) -> None:
        item = self._of_item(event, "function_call")
        self._all(event["arguments"])
        assert event.get("name", item["name"]) == item["name"]

    def _output_item_done(self, event: dict[str, Any]) -> None:
        item = event["item"]
        self._of_item({**event, "item_id": item["id"]}, item["type"])
        assert self._part is None, "its parts are done before it"
        assert self._said_all or not self._said, "what it says is done before it"
        answered = Answer()
        _take(answered, item)
        if item["type"] == "function_call":
            assert self._item is not None
            assert (item["call_id"], item["name"]) == (self._item["call_id"], self._item["name"])
            assert item["arguments"] == self._said
            assert item["call_id"] not in [call.id for call in self._answer.calls], "ids are unique"
            self._answer.calls += answered.calls
        elif item["type"] == "message":
            assert answered.text == self._answer.text[len(self._answer.text) - len(answered.text) :]
        assert item.get("status", "completed") in ("completed", "incomplete"), item
        self._output.append(item)
        self._item = None

    def _completed(self, event: dict[str, Any]) -> None:
        self._over(event["response"])

    _incomplete = _completed

    def _over(self, response: dict[str, Any]) -> None:
        self._ended = True
        self._same(response)
        assert self._item is None, "all items are done"
        assert response["output"] == self._output, "the last event repeats what was said"
        _close(self._answer, response)

    def _failed(self, event: dict[str, Any]) -> None:
        response = event["response"]
        self._ended = True
        self._same(response)
        assert response["status"] == "failed", response
        error = response["error"]
        self._answer.created = response["created_at"]
        self._answer.id, self._answer.model = response["id"], response["model"]
        told = {"param": None, "type": "upstream_error", **error}
        self._answer.error = check_error({name: told[name] for name in ("message", "type", "param", "code")})


# A stream, written


class _Voice:
    """As OpenAI and vLLM write it."""

    def __init__(self, saying: Saying, request: Mapping[str, Any]) -> None:
        self._saying = saying
        self._request = request
        self._number = -1
        self._begun = self._finished = False
        self._output: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._said = ""

    def says(self, piece: Spoken) -> Iterator[bytes]:
        if isinstance(piece, Fails):
            code = _CODES.get(piece.code, "server_error")
            yield self._event("error", message=piece.words, code=code, param=None)
            return
        if not self._begun:
            self._begun = True
            for kind in ("response.created", "response.in_progress"):
                yield self._event(kind, response=self._response("in_progress"))
        match piece:
            case Opens():
                pass
            case str():
                if self._kind() != "message":
                    yield from self._add({"type": "message", "role": "assistant", "content": []}, "msg")
                    yield self._part("response.content_part.added", "")
                self._said += piece
                yield self._event("response.output_text.delta", **self._at(), delta=piece, logprobs=[])
            case Thinks(text):
                if self._kind() != "reasoning":
                    yield from self._add({"type": "reasoning", "summary": [], "content": []}, "rs")
                    yield self._part("response.content_part.added", "")
                self._said += text
                yield self._event("response.reasoning_text.delta", **self._at(), delta=text)
            case Calls(name, arguments):
                yield from self._call(self._saying.ids[piece], name)
                middle = len(arguments) // 2
                for half in (arguments[:middle], arguments[middle:]):
                    yield self._arguments(half)
                yield from self._done()
            case Begins(name, arguments, id_):
                yield from self._call(id_, name)
                yield self._arguments(arguments)
            case Continues(arguments):
                yield self._arguments(arguments)
            case Finishes(reason):
                self._finished = True
                yield from self._finish(reason)

    def closes(self) -> Iterator[bytes]:
        if not self._begun:
            yield from self.says(Opens())
        if not self._finished:
            yield from self._finish(self._saying.reason)

    def whole(self) -> dict[str, Any]:
        saying = self._saying
        if saying.thoughts:
            self._output.append(_reasoning(f"rs_{saying.number:08}_0", saying.thoughts))
        if saying.words or not saying.ids:
            self._output.append({**self._message(saying.words), "id": f"msg_{saying.number:08}_1"})
        for index, (call, id_) in enumerate(saying.ids.items(), 2):
            said = {"call_id": id_, "name": call.name, "arguments": call.arguments, "status": "completed"}
            self._output.append({"type": "function_call", "id": f"fc_{saying.number:08}_{index}", **said})
        return self._ended(saying.reason)

    def _response(self, status: str, **more: Any) -> dict[str, Any]:
        return {
            "id": f"resp_{self._saying.number:08}",
            "object": "response",
            "created_at": 1_790_000_000,
            "model": "brain-7b",
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": self._request.get("instructions"),
            "metadata": {},
            "output": list(self._output),
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": self._request.get("tool_choice", "auto"),
            "tools": self._request.get("tools", []),
            "top_p": 1.0,
            "usage": None,
            **more,
        }

    def _ended(self, reason: str) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if reason in _INCOMPLETE:
            more["incomplete_details"] = {"reason": _INCOMPLETE[reason]}
        if self._saying.usage is not None:
            prompt, completion = self._saying.usage
            more["usage"] = {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": completion,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt + completion,
            }
        return self._response("incomplete" if reason in _INCOMPLETE else "completed", **more)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return sse(kind, orjson.dumps({"type": kind, "sequence_number": self._number, **fields}))

    def _kind(self) -> str:
        return self._open["type"] if self._open else ""

    def _at(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self._output), "content_index": 0}

    def _part(self, kind: str, words: str) -> bytes:
        name = "output_text" if self._kind() == "message" else "reasoning_text"
        rest: dict[str, Any] = {"annotations": [], "logprobs": []} if name == "output_text" else {}
        return self._event(kind, **self._at(), part={"type": name, "text": words, **rest})

    def _add(self, item: dict[str, Any], prefix: str) -> Iterator[bytes]:
        yield from self._done()
        number = f"{self._saying.number:08}_{len(self._output)}"
        self._open = {"id": f"{prefix}_{number}", "status": "in_progress", **item}
        yield self._event("response.output_item.added", output_index=len(self._output), item=self._open)

    def _call(self, id_: str, name: str) -> Iterator[bytes]:
        yield from self._add({"type": "function_call", "call_id": id_, "name": name, "arguments": ""}, "fc")

    def _arguments(self, text: str) -> bytes:
        self._said += text
        at = {name: value for name, value in self._at().items() if name != "content_index"}
        return self._event("response.function_call_arguments.delta", **at, delta=text)

    def _done(self) -> Iterator[bytes]:
        item, said = self._open, self._said
        if item is None:
            return
        at = self._at()
        match item["type"]:
            case "function_call":
                del at["content_index"]
                kind = "response.function_call_arguments.done"
                yield self._event(kind, **at, arguments=said, name=item["name"])
                item = {**item, "arguments": said}
            case "message":
                yield self._event("response.output_text.done", **at, text=said, logprobs=[])
                yield self._part("response.content_part.done", said)
                item = {**item, **self._message(said)}
            case _:
                yield self._event("response.reasoning_text.done", **at, text=said)
                yield self._part("response.content_part.done", said)
                item = {**item, **_reasoning(item["id"], said)}
        item["status"] = "completed"
        yield self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open, self._said = None, ""

    def _message(self, words: str) -> dict[str, Any]:
        part = {"type": "output_text", "text": words, "annotations": []}
        return {"type": "message", "role": "assistant", "status": "completed", "content": [part]}

    def _finish(self, reason: str) -> Iterator[bytes]:
        yield from self._done()
        response = self._ended(reason)
        yield self._event(f"response.{response['status']}", response=response)
