"""openai-python: `chat.completions.stream()` and `.create()`.  Jobs on standard input, answers on standard output.

A job is a line: `{"base_url", "stream", "include_usage", "messages", "tools", "results"}`; while an answer holds calls,
it is sent back as the library gave it, with their results.  What came of it is a line too: `{"answers", "error"}`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import openai
from openai import OpenAI, omit


def streamed(client: OpenAI, asked: dict[str, Any], include_usage: bool) -> tuple[Any, dict[str, Any]]:
    seen: dict[str, Any] = {"text_done": [], "arguments_done": [], "ids": [], "roles": [], "finishes": []}
    options: Any = {"include_usage": True} if include_usage else omit
    with client.chat.completions.stream(**asked, stream_options=options) as stream:
        for event in stream:
            if event.type == "content.done":
                seen["text_done"].append(event.content)
            elif event.type == "tool_calls.function.arguments.done":
                seen["arguments_done"].append([event.index, event.name, event.arguments])
            elif event.type == "chunk":
                seen["ids"].append(event.chunk.id)
                for choice in event.chunk.choices:
                    if choice.delta.role:
                        seen["roles"].append(choice.delta.role)
                    if choice.finish_reason:
                        seen["finishes"].append(choice.finish_reason)
        return stream.get_final_completion(), seen


def told(completion: Any, seen: dict[str, Any]) -> dict[str, Any]:
    (choice,) = completion.choices
    message, usage = choice.message, completion.usage
    return {
        "id": completion.id,
        "model": completion.model,
        "role": message.role,
        "text": message.content or "",
        "reasoning": (message.model_extra or {}).get("reasoning_content", ""),
        "calls": [[call.id, call.function.name, call.function.arguments] for call in message.tool_calls or ()],
        "finish": choice.finish_reason,
        "usage": usage and [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens],
        "chiasm": usage and (usage.model_extra or {}).get("chiasm"),
        "seen": seen,
    }


def answered(job: dict[str, Any]) -> dict[str, Any]:
    messages = job["messages"]
    answers: list[dict[str, Any]] = []
    error = None
    with OpenAI(base_url=job["base_url"], api_key="dummy", max_retries=0) as client:
        try:
            while True:
                asked = {"model": "brain", "messages": messages, "tools": job["tools"] or omit}
                if job["stream"]:
                    completion, seen = streamed(client, asked, job["include_usage"])
                else:
                    completion, seen = client.chat.completions.create(**asked), {}
                answers.append(told(completion, seen))
                if not answers[-1]["calls"]:
                    break
                messages.append(completion.choices[0].message.to_dict())
                for id_, name, _ in answers[-1]["calls"]:
                    messages.append({"role": "tool", "tool_call_id": id_, "content": job["results"][name]})
        except openai.OpenAIError as problem:
            error = {"type": type(problem).__name__, "message": str(problem)}
    return {"answers": answers, "error": error}


for line in sys.stdin:
    print(json.dumps(answered(json.loads(line))), flush=True)
