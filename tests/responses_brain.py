"""Turns of a brain that speaks Responses, as servers write them, and scripts for `tests.brain.Brain` that say them.

house.brain.will(answers(Turn().thinks("I look.").calls("analyzeImage")), answers(Turn(2).says("A cat.")))
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from tests.brain import Asked, Script, Wire, bytes_of, refuses, whole

LOOK: Final = '{"image":"1","task":"What is it?"}'


def event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **fields}) + b"\n\n"


class Turn:
    """A turn as OpenAI and vLLM say it: everything numbered, everything said three times."""

    def __init__(self, number: int = 1) -> None:
        self._number = number
        self._events = b""
        self._sequence = 0
        self._output: list[dict[str, Any]] = []
        self._say("response.created", response=self._response("in_progress"))
        self._say("response.in_progress", response=self._response("in_progress"))

    def _response(self, status: str, **fields: Any) -> dict[str, Any]:
        return {
            "id": f"resp_up{self._number}",
            "object": "response",
            "created_at": 1_790_000_000 + self._number,
            "status": status,
            "model": "served-model",
            "instructions": "what the server got",
            "tools": [{"type": "function", "name": "analyzeImage", "parameters": {}}],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "temperature": 0.5,
            "top_p": 1.0,
            "metadata": {},
            "output": list(self._output),
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **fields,
        }

    def _say(self, kind: str, **fields: Any) -> None:
        self._events += event(kind, sequence_number=self._sequence, **fields)
        self._sequence += 1

    def _item(self, item: dict[str, Any]) -> dict[str, Any]:
        self._say("response.output_item.added", output_index=len(self._output), item=item)
        return {"output_index": len(self._output), "item_id": item["id"]}

    def _done(self, item: dict[str, Any]) -> Turn:
        self._say("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        return self

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._number}{len(self._output)}"

    def thinks(self, text: str, **rest: Any) -> Turn:
        item = {"id": self._id("rs"), "type": "reasoning", "summary": []}
        at = self._item(item)
        for piece in _pieces(text):
            self._say("response.reasoning_text.delta", **at, content_index=0, delta=piece)
        self._say("response.reasoning_text.done", **at, content_index=0, text=text)
        return self._done({**item, "content": [{"type": "reasoning_text", "text": text}], **rest})

    def sums_up(self, *texts: str, **rest: Any) -> Turn:
        """Thoughts as OpenAI gives them: a summary in parts, and a signature."""
        item = {"id": self._id("rs"), "type": "reasoning", "summary": []}
        at = self._item(item)
        for index, text in enumerate(texts):
            part = {"type": "summary_text", "text": ""}
            self._say("response.reasoning_summary_part.added", **at, summary_index=index, part=part)
            for piece in _pieces(text):
                self._say("response.reasoning_summary_text.delta", **at, summary_index=index, delta=piece)
            self._say("response.reasoning_summary_text.done", **at, summary_index=index, text=text)
            part = {"type": "summary_text", "text": text}
            self._say("response.reasoning_summary_part.done", **at, summary_index=index, part=part)
        return self._done({**item, "summary": [{"type": "summary_text", "text": text} for text in texts], **rest})

    def says(self, text: str) -> Turn:
        item = {"id": self._id("msg"), "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        at = self._item(item)
        part = {"type": "output_text", "text": "", "annotations": []}
        self._say("response.content_part.added", **at, content_index=0, part=part)
        for piece in _pieces(text):
            self._say("response.output_text.delta", **at, content_index=0, delta=piece, logprobs=[])
        self._say("response.output_text.done", **at, content_index=0, text=text, logprobs=[])
        part = {"type": "output_text", "text": text, "annotations": []}
        self._say("response.content_part.done", **at, content_index=0, part=part)
        return self._done({**item, "status": "completed", "content": [part]})

    def calls(self, name: str, arguments: str = LOOK, call_id: str = "") -> Turn:
        item = {
            "id": self._id("fc"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": call_id or self._id("call"),
            "name": name,
            "arguments": "",
        }
        at = self._item(item)
        for piece in _pieces(arguments):
            self._say("response.function_call_arguments.delta", **at, delta=piece)
        self._say("response.function_call_arguments.done", **at, arguments=arguments, name=name)
        return self._done({**item, "status": "completed", "arguments": arguments})

    def custom(self, name: str, text: str) -> Turn:
        item = {
            "id": self._id("ctc"),
            "type": "custom_tool_call",
            "call_id": self._id("call"),
            "name": name,
            "input": "",
        }
        at = self._item(item)
        for piece in _pieces(text):
            self._say("response.custom_tool_call_input.delta", **at, delta=piece)
        self._say("response.custom_tool_call_input.done", **at, input=text)
        return self._done({**item, "input": text})

    def searches(self) -> Turn:
        """Something that the server carries out itself."""
        item = {"id": self._id("ws"), "type": "web_search_call", "status": "in_progress"}
        at = self._item(item)
        for step in ("in_progress", "searching", "completed"):
            self._say(f"response.web_search_call.{step}", **at)
        return self._done({**item, "status": "completed", "action": {"type": "search", "query": "cats"}})

    def is_whole(self, *, read: int = 10, said: int = 5, status: str = "completed", **fields: Any) -> bytes:
        usage = {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": said,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": read + said,
        }
        return self._events + event(
            f"response.{status}",
            sequence_number=self._sequence,
            response=self._response(status, usage=usage, **fields),
        )

    def in_one_piece(self, **fields: Any) -> bytes:
        """The same for a client that does not stream."""
        response = orjson.loads(self.is_whole(**fields).rstrip().rpartition(b"data: ")[2])["response"]
        return orjson.dumps(response)

    def breaks_off(self) -> bytes:
        return self._events

    def fails(self, code: str, words: str) -> bytes:
        self._say("response.failed", response=self._response("failed", error={"code": code, "message": words}))
        return self._events


def _pieces(text: str) -> list[str]:
    return [text[at : at + 4] for at in range(0, len(text), 4)]


# Scripts


def answers(turn: Turn, **fields: Any) -> Script:
    """A good turn, streamed if asked for so."""

    async def script(asked: Asked, wire: Wire) -> None:
        streamed = bool(asked.json.get("stream"))
        await (bytes_of(turn.is_whole(**fields)) if streamed else whole(orjson.loads(turn.in_one_piece(**fields))))(
            asked, wire
        )

    return script


class Keeping:
    """A server that keeps its responses, and refuses to go on from one whose calls nobody has answered, as OpenAI's
    does.  Its scripts are `answers`."""

    def __init__(self) -> None:
        self._open: dict[str, set[str]] = {}
        """By id of a response, its calls."""

    def answers(self, turn: Turn) -> Script:
        async def script(asked: Asked, wire: Wire) -> None:
            request = asked.json
            previous = request.get("previous_response_id")
            if previous is not None and previous not in self._open:
                words = f"Previous response with id '{previous}' not found."
                await refuses(400, words, code="previous_response_not_found")(asked, wire)
                return
            items = request["input"] if isinstance(request["input"], list) else []
            answered = {item["call_id"] for item in items if item.get("type") == "function_call_output"}
            said = {item["call_id"] for item in items if item.get("type") == "function_call"}
            waiting = (self._open.get(previous, set()) | said) - answered
            if waiting:
                await refuses(400, f"No tool output found for function call {waiting.pop()}.")(asked, wire)
                return
            unknown = answered - said - self._open.get(previous, set())
            assert not unknown, f"results of calls that were never made: {unknown}"
            response = orjson.loads(turn.in_one_piece())
            calls = [item for item in response["output"] if item["type"] == "function_call"]
            self._open[response["id"]] = {item["call_id"] for item in calls}
            await answers(turn)(asked, wire)

        return script
