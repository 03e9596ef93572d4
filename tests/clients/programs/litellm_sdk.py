"""LiteLLM's `completion()`, streamed (put together by its `stream_chunk_builder`) and whole.

Jobs and answers as in openai_python.py.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import litellm  # type: ignore[import-not-found]


def told(completion: Any, chunks: list[Any]) -> dict[str, Any]:
    (choice,) = completion.choices
    message, usage = choice.message, getattr(completion, "usage", None)
    choices = [one for chunk in chunks for one in chunk.choices]
    return {
        "id": completion.id,
        "model": completion.model,
        "role": message.role,
        "text": message.content or "",
        "reasoning": getattr(message, "reasoning_content", None) or "",
        "calls": [[call.id, call.function.name, call.function.arguments] for call in message.tool_calls or ()],
        "finish": choice.finish_reason,
        "usage": usage and [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens],
        "chiasm": None,
        "seen": {
            "ids": [chunk.id for chunk in chunks],
            "finishes": [one.finish_reason for one in choices if one.finish_reason],
        },
    }


def answered(job: dict[str, Any]) -> dict[str, Any]:
    messages = job["messages"]
    answers: list[dict[str, Any]] = []
    error = None
    try:
        while True:
            asked = {
                "model": "openai/brain",
                "api_base": job["base_url"],
                "api_key": "dummy",
                "num_retries": 0,
                "max_retries": 0,
                "messages": messages,
                **({"tools": job["tools"]} if job["tools"] else {}),
            }
            chunks: list[Any] = []
            if job["stream"]:
                options = {"stream_options": {"include_usage": True}} if job["include_usage"] else {}
                chunks = list(litellm.completion(**asked, stream=True, **options))
                completion = litellm.stream_chunk_builder(chunks, messages=messages)
            else:
                completion = litellm.completion(**asked)
            answers.append(told(completion, chunks))
            if not answers[-1]["calls"]:
                break
            messages.append(completion.choices[0].message.model_dump(exclude_none=True))
            for id_, name, _ in answers[-1]["calls"]:
                messages.append({"role": "tool", "tool_call_id": id_, "content": job["results"][name]})
    except Exception as problem:
        if not type(problem).__module__.startswith("litellm"):
            raise
        error = {"type": type(problem).__name__, "message": str(problem)}
    return {"answers": answers, "error": error}


for line in sys.stdin:
    print(json.dumps(answered(json.loads(line))), flush=True)
