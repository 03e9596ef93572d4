"""anthropic-python: `messages.stream()`, `.create()` and `.count_tokens()`.

Jobs stand on standard input, answers on standard output.
A job is a line: `{"base_url", "stream", "messages", "tools", "results"}`, with `"count": true` for the number of tokens
only, and with `"beta": true` for the library's `beta.messages`.  While an answer holds calls, it is sent back as the
library gave it, with their results.  What came of it is a line too: `{"answers", "error"}`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import anthropic
from anthropic import Anthropic


def messages_of(client: Anthropic, job: dict[str, Any]) -> Any:
    return client.beta.messages if job.get("beta") else client.messages


def streamed(client: Anthropic, job: dict[str, Any], asked: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    seen: dict[str, Any] = {"text": "", "thinking": "", "starts": 0, "blocks": []}
    with messages_of(client, job).stream(**asked) as stream:
        for event in stream:
            if event.type == "text":
                seen["text"] += event.text
            elif event.type == "thinking":
                seen["thinking"] += event.thinking
            elif event.type == "message_start":
                seen["starts"] += 1
            elif event.type == "content_block_stop":
                seen["blocks"].append(event.content_block.type)
        return stream.get_final_message(), seen


def told(message: Any, seen: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": message.id,
        "model": message.model,
        "role": message.role,
        "blocks": [block.to_dict() for block in message.content],
        "finish": message.stop_reason,
        "usage": [message.usage.input_tokens, message.usage.output_tokens],
        "chiasm": (message.usage.model_extra or {}).get("chiasm"),
        "seen": seen,
    }


def answered(job: dict[str, Any]) -> dict[str, Any]:
    messages = job["messages"]
    answers: list[dict[str, Any]] = []
    error = None
    with Anthropic(base_url=job["base_url"], api_key="dummy", max_retries=0) as client:
        try:
            if job.get("count"):
                counted = client.messages.count_tokens(model="brain", messages=messages, tools=job["tools"])
                return {"answers": [counted.input_tokens], "error": None}
            while True:
                asked = {
                    "model": "brain",
                    "max_tokens": 4000,
                    "messages": messages,
                    "tools": job["tools"],
                    "thinking": {"type": "enabled", "budget_tokens": 2000},
                }
                if job["stream"]:
                    message, seen = streamed(client, job, asked)
                else:
                    message, seen = messages_of(client, job).create(**asked), {}
                answers.append(told(message, seen))
                calls = [block for block in message.content if block.type == "tool_use"]
                if not calls:
                    break
                messages.append({"role": "assistant", "content": message.content})
                results = [
                    {"type": "tool_result", "tool_use_id": call.id, "content": job["results"][call.name]}
                    for call in calls
                ]
                messages.append({"role": "user", "content": results})
        except anthropic.AnthropicError as problem:
            error = {"type": type(problem).__name__, "message": str(problem)}
    return {"answers": answers, "error": error}


for line in sys.stdin:
    print(json.dumps(answered(json.loads(line))), flush=True)
