"""The stand-in brain: rules that speak Chat Completions where a model would, on loopback, in no time.

It is no model, and says so.  What it can do is what the path through Chiasm needs: it thinks aloud, says a sentence,
calls the tool for each `[Image #N]` of the newest message (one call for all of them when it is asked to compare), and
answers with what the tool said.  It sees no pictures and refuses a request that holds one, as text models do.

It knows the wire and nothing else; all it goes by stands in the request.  Two things are less than a real server's:
tokens are estimated from the number of characters, and limits on the length of an answer are not looked at.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

NAME = "stand-in"

PACE_SECONDS = 0.012
"""Between two pieces of a stream: about as fast as a small model on a good GPU, so that streaming can be seen."""

_TOOL = "analyzeImage"
_SEEN = re.compile(r"\[Image #(\d{1,6})\]")
_UNREADABLE = re.compile(r"\[Image #(\d{1,6}): ([^\]]{1,200})\]")
_STANDING = re.compile(r"\[Image #\d{1,6}(?:: [^\]]*)?\](?: \([^()\n]*\))?")
"""What stands in an image's place: its number, and perhaps words about it in brackets."""
_COMPARING = re.compile(r"\b(compar\w*|differ\w*|same)\b", re.IGNORECASE)
_MARKED = re.compile(r"^>[> ]*", re.MULTILINE)
_PLACED_LINE = re.compile(r"^[> ]*\d+,(\d+),\d+,(\d+): (.+)$", re.MULTILINE)
_TROUBLE = re.compile(
    r"\b(error|errors|fail\w*|fatal|exception|denied|refused|cannot|can't|could not|not enough|not found|no such|"
    r"invalid|timeout|timed out|warning|panic|traceback)\b",
    re.IGNORECASE,
)
_ABOUT_TROUBLE = re.compile(r"\b(wrong|error\w*|problem\w*|fail\w*|broke\w*|fix\w*|crash\w*)\b", re.IGNORECASE)
_WORD = re.compile(r"\w{4,}")
_ABOUT_NOTHING = frozenset(
    [
        "what",
        "does",
        "this",
        "that",
        "these",
        "those",
        "there",
        "here",
        "have",
        "with",
        "which",
        "image",
        "picture",
        "text",
        "word",
    ]
)
_MOST_OF_A_QUESTION = 300
"""Characters of the user's words that are quoted or asked about."""

_INTRODUCTION = "I am the stand-in brain: simple rules in the place of a text model."


# What it tells whoever started it


@dataclass(frozen=True, slots=True)
class Asked:
    """A request has come, `body` to the byte.

    `request_id`, here and below: its `x-request-id`.  Turns of one answer have it in common.
    """

    request_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Thought:
    request_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Said:
    request_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Called:
    request_id: str
    name: str
    arguments: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Finished:
    """`reason`: the finish reason, "refused", or "gone" where nobody waited for the end."""

    request_id: str
    reason: str


Doing: TypeAlias = Asked | Thought | Said | Called | Finished


# Rules


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion."""

    reasoning: str
    content: str
    calls: tuple[tuple[str, Mapping[str, str]], ...] = ()
    """Function name and arguments."""

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if self.calls else "stop"


class Refused(Exception):
    """A request that a text model of this kind would refuse."""

    def __init__(self, message: str, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.status = status


def reply(request: Mapping[str, Any]) -> Reply:
    """What it says to the messages of `request`.  Raises `Refused`."""
    _check(request)
    messages = request["messages"]
    newest = _newest(messages)
    tools = _offered(request)
    results = _results(messages, newest)
    text = "\n".join(_text(message) for message in newest if id(message) not in {id(result) for result in results})
    wanted = list(dict.fromkeys(_SEEN.findall(text)))
    question = _question(messages)
    broken = [f"[Image #{number}] cannot be looked at: {why}." for number, why in _UNREADABLE.findall(text)]
    tool = _tool_for_looking(text, tools)
    if wanted and tool:
        return _look(wanted, tool, question, broken)
    if results:
        return _quote([_text(result) for result in results], question)
    return _plain(text, wanted, broken, messages)


def _look(wanted: Sequence[str], tool: str, question: str, broken: Sequence[str]) -> Reply:
    which = ", ".join(f"[Image #{number}]" for number in wanted)
    together = len(wanted) > 1 and bool(_COMPARING.search(question))
    asked = [", ".join(wanted)] if together else wanted
    task = question or "Describe the image, with all text in it."
    return Reply(
        reasoning=f"This is about {which}. I cannot see {'it' if len(wanted) == 1 else 'them'}, so I ask for a look.",
        content=" ".join([*broken, f"I will have a look at {which}."]),
        calls=tuple((tool, {"image": image, "task": task}) for image in asked),
    )


def _quote(results: Sequence[str], question: str) -> Reply:
    parts = [_INTRODUCTION + " I do not understand a picture, I only repeat what the tool answered."]
    read = [_rows(result) for result in results]
    if fitting := [row for rows in read for row in rows if _fits(row, question)]:
        parts.append("This fits the question:\n\n" + _quoted(fitting))
    for result, rows in zip(results, read, strict=True):
        if rows:
            parts.append("All that was read:\n\n" + _quoted(rows))
        else:
            parts.append("The tool answered:\n\n" + _quoted(_MARKED.sub("", result).splitlines()))
    return Reply(
        reasoning=f"The answer to my {'call' if len(results) == 1 else 'calls'} is here. I will quote it.",
        content="\n\n".join(parts),
    )


def _plain(text: str, wanted: Sequence[str], broken: Sequence[str], messages: Sequence[Any]) -> Reply:
    parts = [_INTRODUCTION, *broken]
    if wanted:
        # No tool, so what stands beside the picture's number is all there is: perhaps somebody described it.
        parts.append("I was given no tool to look with; this is what I was told:\n\n" + _quoted(text.splitlines()))
        return Reply("There is a picture, and nothing to look at it with.", "\n\n".join(parts))
    known = dict.fromkeys(number for message in messages for number in _SEEN.findall(_text(message)))
    words = " ".join(text.split())
    if words and not broken:
        parts.append(f'You wrote "{_short(words)}", and to that I have no answer: I only know what to do with images.')
    if known:
        parts.append(f"To have one looked at again, name it: {', '.join(f'[Image #{number}]' for number in known)}.")
    elif not broken:
        parts.append("Send one, and I will have it looked at.")
    return Reply("There is no picture in the newest message.", " ".join(parts))


def _fits(row: str, question: str) -> bool:
    """It tells of trouble where the question is about trouble, or they have a word in common."""
    if _ABOUT_TROUBLE.search(question) and _TROUBLE.search(row):
        return True
    asked = {word.lower() for word in _WORD.findall(question)} - _ABOUT_NOTHING
    return not asked.isdisjoint(word.lower() for word in _WORD.findall(row))


def lines_read(result: str) -> list[str]:
    """The words of the lines that a tool result gives as `x,y,w,h: words`, quoted or not."""
    return [words for _, _, words in _PLACED_LINE.findall(result)]


def _rows(result: str) -> list[str]:
    """The same, with what stands side by side in one row: its middle is within the height of the line before it."""
    rows: list[str] = []
    top = bottom = 0.0
    for y, height, words in _PLACED_LINE.findall(result):
        if rows and top < int(y) + int(height) / 2 < bottom:
            rows[-1] += f" | {words}"
        else:
            rows.append(words)
        top, bottom = int(y), int(y) + int(height)
    return rows


def _quoted(lines: Sequence[str]) -> str:
    return "\n".join(f"> {line}".rstrip() for line in lines)


def _short(words: str) -> str:
    return words if len(words) <= _MOST_OF_A_QUESTION else words[: _MOST_OF_A_QUESTION - 1] + "…"


# What stands in a request


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except ValueError:
        raise Refused("the body is not JSON") from None
    if not isinstance(request, dict):
        raise Refused("the body must be a JSON object")
    return request


def _check(request: Mapping[str, Any]) -> None:
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages) or not messages:
        raise Refused("messages must be a list of objects", "messages")
    if request.get("model") not in (NAME, None, ""):
        raise Refused(f"the model {request['model']!r} does not exist; there is {NAME!r}", "model", 404)
    for index, message in enumerate(messages):
        for part in message.get("content") or () if isinstance(message.get("content"), list) else ():
            if not isinstance(part, dict) or part.get("type") != "text":
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                raise Refused(f"{NAME} is a text model: messages[{index}] holds a part of type {kind!r}", "messages")
    if (request.get("n") or 1) != 1:
        raise Refused("only one answer at a time: n must be 1", "n")
    if request.get("tool_choice") not in (None, "auto", "none"):
        raise Refused("rules cannot be made to call a tool: tool_choice must be 'auto' or 'none'", "tool_choice")
    if (request.get("response_format") or {"type": "text"}).get("type") != "text":
        raise Refused("rules cannot follow a format: response_format must be 'text'", "response_format")


def _newest(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What came after the last thing that it said itself."""
    newest: list[Mapping[str, Any]] = []
    for message in reversed(messages):
        if message.get("role") == "assistant":
            break
        if message.get("role") in ("user", "tool"):
            newest.insert(0, message)
    return newest


def _results(messages: Sequence[Mapping[str, Any]], newest: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The answers to its own looks, known by the arguments: its tool may be offered under any name."""
    own = {
        call.get("id")
        for message in messages
        for call in message.get("tool_calls") or ()
        if '"image"' in str((call.get("function") or {}).get("arguments"))
    }
    return [message for message in newest if message.get("role") == "tool" and message.get("tool_call_id") in own]


def _offered(request: Mapping[str, Any]) -> set[str]:
    if request.get("tool_choice") == "none":
        return set()
    return {str((tool.get("function") or {}).get("name")) for tool in request.get("tools") or ()}


def _tool_for_looking(text: str, tools: set[str]) -> str | None:
    """The tool that the words in a picture's place name, else the one of the usual name; only if it is offered."""
    named = re.findall(r"\w+", " ".join(_STANDING.findall(text)))
    return next((name for name in (*named, _TOOL) if name in tools), None)


def _question(messages: Sequence[Mapping[str, Any]]) -> str:
    """The user's last words, without what stands in the places of pictures."""
    said = next((_text(message) for message in reversed(messages) if message.get("role") == "user"), "")
    return _short(" ".join(_STANDING.sub(" ", said).split()))


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content)
    return str(content or "")


# The wire


class StandIn:
    """The server.  `watch` is called with what it is doing, at the time and from its event loop."""

    def __init__(self, watch: Callable[[Doing], None] = lambda doing: None, *, pace: float = PACE_SECONDS) -> None:
        self._watch = watch
        self._pace = pace
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/chat/completions", self._chat_completions, methods=["POST"]),
                Route("/{path:path}", self._nothing_here, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            ]
        )

    async def _models(self, _: Request) -> Response:
        row = {"id": NAME, "object": "model", "created": 0, "owned_by": "a rule-based stand-in, not a model"}
        return JSONResponse({"object": "list", "data": [row]})

    async def _nothing_here(self, request: Request) -> Response:
        return _error(Refused(f"there is nothing at {request.url.path[:200]!r}", status=404))

    async def _chat_completions(self, http: Request) -> Response:
        body = await http.body()
        request_id = http.headers.get("x-request-id", "")
        self._watch(Asked(request_id, body))
        try:
            request = _parsed(body)
            answer = reply(request)
        except Refused as refused:
            self._watch(Finished(request_id, "refused"))
            return _error(refused)
        envelope = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": NAME}
        usage = _usage(len(body), answer)
        if not request.get("stream"):
            self._tell(request_id, answer)
            return JSONResponse(_whole(answer, envelope, usage))
        wants_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        return EventSourceResponse(self._stream(request_id, answer, envelope, usage if wants_usage else None), sep="\n")

    def _tell(self, request_id: str, answer: Reply) -> None:
        self._watch(Thought(request_id, answer.reasoning))
        self._watch(Said(request_id, answer.content.strip()))
        for name, arguments in answer.calls:
            self._watch(Called(request_id, name, arguments))
        self._watch(Finished(request_id, answer.finish_reason))

    async def _stream(
        self, request_id: str, answer: Reply, envelope: Mapping[str, Any], usage: Mapping[str, int] | None
    ) -> AsyncIterator[dict[str, str]]:
        def chunk(choices: list[Any], **more: Any) -> dict[str, str]:
            return {
                "data": json.dumps(
                    {**envelope, "object": "chat.completion.chunk", "choices": choices, **more}, ensure_ascii=False
                )
            }

        def delta(delta: Mapping[str, Any], finish_reason: str | None = None) -> dict[str, str]:
            return chunk([{"index": 0, "delta": delta, "finish_reason": finish_reason}])

        end = "gone"
        try:
            yield delta({"role": "assistant", "content": ""})
            self._watch(Thought(request_id, answer.reasoning))
            for piece in _pieces(answer.reasoning):
                yield delta({"reasoning_content": piece})
                await asyncio.sleep(self._pace)
            self._watch(Said(request_id, answer.content.strip()))
            for piece in _pieces(answer.content):
                yield delta({"content": piece})
                await asyncio.sleep(self._pace)
            for index, (name, arguments) in enumerate(answer.calls):
                self._watch(Called(request_id, name, arguments))
                for call in _fragments(index, name, arguments):
                    yield delta({"tool_calls": [call]})
                    await asyncio.sleep(self._pace)
            end = answer.finish_reason
        finally:
            self._watch(Finished(request_id, end))
        yield delta({}, answer.finish_reason)
        if usage is not None:
            yield chunk([], usage=usage)
        yield {"data": "[DONE]"}


def _whole(answer: Reply, envelope: Mapping[str, Any], usage: Mapping[str, int]) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.content,
        "reasoning_content": answer.reasoning,
    }
    if answer.calls:
        message["tool_calls"] = [
            {"id": _call_id(), "type": "function", "function": {"name": name, "arguments": _arguments(arguments)}}
            for name, arguments in answer.calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    return {**envelope, "object": "chat.completion", "choices": [choice], "usage": usage}


def _fragments(index: int, name: str, arguments: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """One call as servers stream it: id and name first, then the text of the arguments in pieces."""
    yield {"index": index, "id": _call_id(), "type": "function", "function": {"name": name, "arguments": ""}}
    for piece in _pieces(_arguments(arguments)):
        yield {"index": index, "function": {"arguments": piece}}


def _pieces(text: str) -> Iterator[str]:
    """Words with the space before them, as tokens have it."""
    yield from re.findall(r"\s*\S{1,12}|\s+$", text)


def _arguments(arguments: Mapping[str, str]) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _usage(asked: int, answer: Reply) -> dict[str, int]:
    said = (
        len(answer.reasoning) + len(answer.content) + sum(len(_arguments(arguments)) for _, arguments in answer.calls)
    )
    prompt, completion = math.ceil(asked / 4), math.ceil(said / 4)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _error(refused: Refused) -> Response:
    error = {"message": str(refused), "type": "invalid_request_error", "param": refused.param, "code": None}
    return JSONResponse({"error": error}, status_code=refused.status)
