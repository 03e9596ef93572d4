"""LangChain's ChatOpenAI: `stream()`, whose chunks are added up, and `invoke()`.

Jobs and answers as in openai_python.py.
"""

from __future__ import annotations

import json
import sys
from functools import reduce
from operator import add
from typing import Any

import openai
from langchain_core.messages import ToolMessage, convert_to_messages  # type: ignore[import-not-found]
from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]


def told(message: Any) -> dict[str, Any]:
    usage = message.usage_metadata
    about = message.response_metadata
    parsed = [[call["id"], call["name"], call["args"]] for call in message.tool_calls]
    chunks = getattr(message, "tool_call_chunks", None)  # the fragments added up; a whole message has none
    return {
        "id": message.id,
        "model": about.get("model_name"),
        "role": {"AIMessageChunk": "assistant", "ai": "assistant"}.get(message.type, message.type),
        "text": message.text,
        "reasoning": None,  # this integration leaves it out
        "calls": parsed if chunks is None else [[call["id"], call["name"], call["args"]] for call in chunks],
        "finish": about.get("finish_reason"),
        "usage": usage and [usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]],
        "chiasm": None,
        "seen": {"parsed": parsed},
    }


def answered(job: dict[str, Any]) -> dict[str, Any]:
    model: Any = ChatOpenAI(
        model="brain", base_url=job["base_url"], api_key="dummy", max_retries=0, stream_usage=job["include_usage"]
    )
    if job["tools"]:
        model = model.bind_tools(job["tools"])
    messages = convert_to_messages(job["messages"])
    answers: list[dict[str, Any]] = []
    error = None
    try:
        while True:
            message = reduce(add, model.stream(messages)) if job["stream"] else model.invoke(messages)
            answers.append(told(message))
            if not message.tool_calls:
                break
            messages.append(message)
            messages += [
                ToolMessage(job["results"][call["name"]], tool_call_id=call["id"]) for call in message.tool_calls
            ]
    except openai.OpenAIError as problem:
        error = {"type": type(problem).__name__, "message": str(problem)}
    return {"answers": answers, "error": error}


for line in sys.stdin:
    print(json.dumps(answered(json.loads(line))), flush=True)
