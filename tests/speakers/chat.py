"""Chat Completions: the words in which tests speak are its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from router.protocol.profiles import Profile
from tests.speakers.answer import Answer, Call, check_error
from tests.speakers.pieces import Begins, Calls, Continues, Fails, Finishes, Opens, Saying, Spoken, Thinks


class Chat:
    name = "chat"
    path = "/v1/chat/completions"
    beats: Final[Mapping[str, Sequence[bytes]]] = {"comment": [b": keep-alive\n\n"], "chunk": [b'"delta":{},']}

    def request(self, chat: Mapping[str, Any]) -> dict[str, Any]:
        return dict(chat)

    def read_stream(self, stream: bytes, *, include_usage: bool = False) -> Answer:
        return read_stream(stream, include_usage=include_usage)

    def read_whole(self, body: bytes) -> Answer:
        return read_whole(body)

    def error(self, body: Any, status: int) -> dict[str, Any]:
        assert body.keys() == {"error"}, body
        return check_error(body["error"])

    def mark(self, piece: str | Thinks) -> bytes:
        name, words = ("content", piece) if isinstance(piece, str) else ("reasoning_content", piece.text)
        return b'"%b":%b' % (name.encode(), orjson.dumps(words))

    def understood(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return dict(body)

    def thoughts(self, profile: Profile) -> Collection[str]:
        return profile.history_reasoning

    def voice(self, saying: Saying, request: Mapping[str, Any]) -> _Voice:
        return _Voice(saying, includes_usage=bool((request.get("stream_options") or {}).get("include_usage")))

    def refusal(self, words: str, status: int, code: str | None) -> dict[str, Any]:
        return {"error": {"message": words, "type": "error", "param": None, "code": code}}


# The client's side


def read_whole(body: bytes) -> Answer:
    """A `chat.completion` as an `Answer`, so that both ways of asking can be compared."""
    raw = orjson.loads(body)
    assert raw["object"] == "chat.completion"
    choice = raw["choices"][0]
    message = choice["message"]
    assert message["role"] == "assistant"
    calls = [
        Call(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls", ())
    ]
    assert calls or "tool_calls" not in message, "an empty list of calls"
    return Answer(
        id=raw["id"],
        created=raw["created"],
        model=raw["model"],
        text=message["content"] or "",
        reasoning=message.get("reasoning_content", ""),
        calls=calls,
        finish=choice["finish_reason"],
        usage=raw.get("usage"),
    )


def read_stream(stream: bytes, *, include_usage: bool = False) -> Answer:
    """Reads a whole answer.  Raises AssertionError where it is not canonical (see `router.protocol.chat.writer`)."""
    events = stream.split(b"\n\n")
    assert events.pop() == b"", "the stream ends in the middle of an event"
    events = [event for event in events if not event.startswith(b":")]
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events), events
    assert events.count(b"data: [DONE]") == 1, "one [DONE]"
    assert events.pop() == b"data: [DONE]", "[DONE] is last"
    chunks = [orjson.loads(event.removeprefix(b"data: ")) for event in events]
    answer = Answer()
    if chunks and "error" in chunks[-1]:
        answer.error = chunks.pop()["error"]
        check_error(answer.error)
        if not chunks:
            return answer
    elif include_usage and chunks and chunks[-1]["choices"] == []:
        answer.usage = chunks.pop()["usage"]
    first = chunks[0]
    answer.id, answer.created, answer.model = first["id"], first["created"], first["model"]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}, "the role stands in the first chunk"
    for number, chunk in enumerate(chunks):
        assert (chunk["id"], chunk["created"], chunk["model"]) == (answer.id, answer.created, answer.model)
        assert chunk["object"] == "chat.completion.chunk"
        (choice,) = chunk["choices"]
        if choice["index"] != 0:
            answer.others.append(choice)
            continue
        assert answer.finish is None, "nothing follows the finish reason"
        delta = choice["delta"]
        assert "role" not in delta or number == 0, "one role"
        answer.finish = choice["finish_reason"]
        if answer.finish is not None:
            assert delta == {"content": ""}, "the finish chunk says no more"
            assert "usage" not in chunk or not include_usage, "usage comes in a chunk of its own when asked for"
            answer.usage = chunk.get("usage", answer.usage)
        else:
            assert "usage" not in chunk, "no usage before the finish"
            _say(answer, delta)
    assert (answer.finish is None) == (answer.error is not None), "a good answer has a finish reason, a bad one none"
    return answer


def _say(answer: Answer, delta: Mapping[str, Any]) -> None:
    assert sum(key in delta for key in ("content", "reasoning_content", "tool_calls")) <= 1, "one thing in a chunk"
    kind = ""
    if text := delta.get("content"):
        kind = "text"
        answer.text += text
    elif reasoning := delta.get("reasoning_content"):
        kind = "reasoning"
        answer.reasoning += reasoning
    elif calls := delta.get("tool_calls"):
        (call,) = calls
        if "id" in call:
            assert call["index"] == len(answer.calls), "calls are counted from 0 in order of appearance"
            assert call.keys() == {"index", "id", "type", "function"}
            assert call["type"] == "function"
            assert call["id"] not in [other.id for other in answer.calls], "ids are unique"
            assert call["function"] == {"name": call["function"]["name"], "arguments": ""}
            answer.calls.append(Call(call["id"], call["function"]["name"]))
        else:
            assert call["index"] == len(answer.calls) - 1, "one call after the other"
            assert call.keys() == {"index", "function"}
            assert call["function"].keys() == {"arguments"}
            answer.calls[-1].arguments += call["function"]["arguments"]
        kind = f"call {call['index']}"
    if kind:
        answer.came(kind)


# The brain's side


class _Voice:
    def __init__(self, saying: Saying, *, includes_usage: bool) -> None:
        self._saying = saying
        self._includes_usage = includes_usage
        self._id = f"chatcmpl-{saying.number:08}"
        self._slot = 0
        self._finished = False

    def says(self, piece: Spoken) -> Iterator[bytes]:
        match piece:
            case Opens():
                yield chunk(self._id, {"role": "assistant", "content": ""})
            case str():
                yield chunk(self._id, {"content": piece})
            case Thinks(text):
                yield chunk(self._id, {"reasoning_content": text})
            case Calls(name, arguments):
                middle = len(arguments) // 2
                yield self._call(name, arguments[:middle], self._saying.ids[piece])
                rest = {"index": self._slot, "function": {"arguments": arguments[middle:]}}
                yield chunk(self._id, {"tool_calls": [rest]})
                self._slot += 1
            case Begins(name, arguments, id_):
                yield self._call(name, arguments, id_)
            case Continues(arguments):
                more = {"index": self._slot, "function": {"arguments": arguments}}
                yield chunk(self._id, {"tool_calls": [more]})
            case Finishes(reason):
                self._finished = True
                yield chunk(self._id, {}, finish=reason)
            case Fails(words, code):
                yield event({"error": {"message": words, "type": "error", "param": None, "code": code}})

    def closes(self) -> Iterator[bytes]:
        if not self._finished:
            yield chunk(self._id, {}, finish=self._saying.reason)
        if self._saying.usage and self._includes_usage:
            yield event({**_envelope(self._id), "choices": [], "usage": self._usage()})
        if self._saying.done:
            yield b"data: [DONE]\n\n"

    def whole(self) -> dict[str, Any]:
        saying = self._saying
        said = [
            {"id": id_, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call, id_ in saying.ids.items()
        ]
        message = {"role": "assistant", "content": saying.words or None}
        if saying.thoughts:
            message["reasoning_content"] = saying.thoughts
        return {
            **_envelope(self._id),
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {**message, "tool_calls": said}, "finish_reason": saying.reason}],
            **({"usage": self._usage()} if saying.usage else {}),
        }

    def _usage(self) -> dict[str, int]:
        assert self._saying.usage is not None
        prompt, completion = self._saying.usage
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _call(self, name: str, arguments: str, id_: str) -> bytes:
        function = {"name": name, "arguments": arguments}
        return chunk(
            self._id, {"tool_calls": [{"index": self._slot, "id": id_, "type": "function", "function": function}]}
        )


def _envelope(id_: str) -> dict[str, Any]:
    return {"id": id_, "object": "chat.completion.chunk", "created": 1_790_000_000, "model": "brain-7b"}


def chunk(id_: str, delta: Mapping[str, Any], *, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event({**_envelope(id_), "choices": [choice]})


def event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
