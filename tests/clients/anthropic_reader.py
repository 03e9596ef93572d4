"""What a client of the Messages API reads, as strictly as the API is written.

claude-code-router passes this stream on, or turns another of ours into it.  Where it stumbles over that one, it writes
text into a tool's block, blocks with the index -1, deltas after a block's end or a usage of nothing: whatever a strict
reader refuses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

_DELTA_OF_BLOCK = {
    "text": {"text_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
}


@dataclass(slots=True)
class Block:
    type: str
    text: str = ""
    """Of text and thinking; the JSON of a tool's input."""
    id: str = ""
    name: str = ""
    signature: str = ""


@dataclass(slots=True)
class Reply:
    model: str = ""
    blocks: list[Block] = field(default_factory=list)
    stop_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    error: Any = None

    @classmethod
    def of_message(cls, message: dict[str, Any]) -> Reply:
        """Of an answer that came in one piece."""
        assert (message["type"], message["role"]) == ("message", "assistant")
        blocks = [
            Block(
                block["type"],
                block.get("text") or block.get("thinking") or orjson.dumps(block.get("input")).decode(),
                block.get("id", ""),
                block.get("name", ""),
                block.get("signature", ""),
            )
            for block in message["content"]
        ]
        return cls(message["model"], blocks, message["stop_reason"], message["usage"])

    def text_of(self, kind: str) -> list[str]:
        return [block.text for block in self.blocks if block.type == kind]

    @property
    def calls(self) -> list[tuple[str, str, Any]]:
        return [(block.id, block.name, orjson.loads(block.text)) for block in self.blocks if block.type == "tool_use"]

    @property
    def as_message(self) -> dict[str, Any]:
        """As Claude Code sends it back."""
        content: list[dict[str, Any]] = []
        for block in self.blocks:
            if block.type == "text":
                content.append({"type": "text", "text": block.text})
            elif block.type == "thinking" and block.signature:
                content.append({"type": "thinking", "thinking": block.text, "signature": block.signature})
            elif block.type == "tool_use":
                input_ = orjson.loads(block.text)
                content.append({"type": "tool_use", "id": block.id, "name": block.name, "input": input_})
        return {"role": "assistant", "content": content}


def read_messages_stream(stream: bytes) -> Reply:
    """Raises AssertionError where the stream is not what the Messages API says."""
    reply = Reply()
    open_block: Block | None = None
    state = "before"
    for raw in stream.replace(b"\r\n", b"\n").split(b"\n\n"):
        fields = dict(line.split(b": ", 1) for line in raw.split(b"\n") if line and not line.startswith(b":"))
        if b"data" not in fields:
            continue
        event = orjson.loads(fields[b"data"])
        kind = event.get("type")
        assert fields.get(b"event", b"").decode() == kind, raw
        if kind == "ping":
            continue
        if kind == "error":
            reply.error = event.get("error", event)
            continue
        match state, kind:
            case "before", "message_start":
                message = event["message"]
                assert (message["type"], message["role"], message["content"]) == ("message", "assistant", [])
                reply.model = message["model"]
                reply.usage |= message["usage"]
                state = "inside"
            case "inside", "content_block_start":
                assert open_block is None, f"a block begins inside another: {raw!r}"
                assert event["index"] == len(reply.blocks), f"blocks are counted from 0: {raw!r}"
                start = event["content_block"]
                open_block = Block(start["type"], "", start.get("id", ""), start.get("name", ""))
                reply.blocks.append(open_block)
            case "inside", "content_block_delta":
                assert open_block is not None, f"a delta outside of blocks: {raw!r}"
                assert event["index"] == len(reply.blocks) - 1, f"a delta of another block: {raw!r}"
                delta = event["delta"]
                assert delta["type"] in _DELTA_OF_BLOCK[open_block.type], f"{delta} in a block of {open_block.type}"
                open_block.text += delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
                open_block.signature += delta.get("signature") or ""
            case "inside", "content_block_stop":
                assert open_block is not None, f"the end of no block: {raw!r}"
                assert event["index"] == len(reply.blocks) - 1, f"the end of another block: {raw!r}"
                open_block = None
            case "inside", "message_delta":
                assert open_block is None, f"the message ends inside a block: {raw!r}"
                assert reply.stop_reason is None, "one stop_reason"
                reply.stop_reason = event["delta"]["stop_reason"]
                reply.usage |= event.get("usage") or {}
            case "inside", "message_stop":
                state = "after"
            case _:
                raise AssertionError(f"{kind} {state} the message")
    assert state == "after" or reply.error is not None, "the stream ends in the middle of the message"
    return reply
