"""openai-python: `responses.stream()` and `.create()`.  Jobs on standard input, answers on standard output.

A job is a line: `{"base_url", "stream", "input", "tools", "results"}`; while an answer holds calls, its items are sent
back as the library gave them, with the calls' results.  What came of it is a line too: `{"answers", "error"}`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import openai
from openai import OpenAI, omit


def streamed(client: OpenAI, asked: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    seen: dict[str, Any] = {"text": "", "text_done": "", "arguments_done": [], "reasoning": "", "numbers": []}
    with client.responses.stream(**asked) as stream:
        for event in stream:
            seen["numbers"].append(event.sequence_number)
            if event.type == "response.output_text.delta":
                seen["text"] += event.delta
            elif event.type == "response.output_text.done":
                seen["text_done"] += event.text
            elif event.type == "response.reasoning_text.delta":
                seen["reasoning"] += event.delta
            elif event.type == "response.function_call_arguments.done":
                seen["arguments_done"].append(event.arguments)
            elif event.type == "response.failed":
                return event.response, seen  # which the library takes for none
        return stream.get_final_response(), seen


def told(response: Any, seen: dict[str, Any]) -> dict[str, Any]:
    calls = [item for item in response.output if item.type == "function_call"]
    thoughts = [item for item in response.output if item.type == "reasoning"]
    usage = response.usage
    return {
        "id": response.id,
        "model": response.model,
        "text": response.output_text,
        "reasoning": "".join(part.text for item in thoughts for part in item.content or ()),
        "calls": [[call.call_id, call.name, call.arguments] for call in calls],
        "finish": response.status,
        "error": response.error and response.error.message,
        "usage": usage and [usage.input_tokens, usage.output_tokens, usage.total_tokens],
        "chiasm": usage and (usage.model_extra or {}).get("chiasm"),
        "seen": seen,
    }


def answered(job: dict[str, Any]) -> dict[str, Any]:
    items = job["input"]
    answers: list[dict[str, Any]] = []
    error = None
    with OpenAI(base_url=job["base_url"], api_key="dummy", max_retries=0) as client:
        try:
            while True:
                asked = {"model": "brain", "input": items, "tools": job["tools"] or omit, "store": False}
                response, seen = streamed(client, asked) if job["stream"] else (client.responses.create(**asked), {})
                answers.append(told(response, seen))
                if not answers[-1]["calls"]:
                    break
                items += [item.to_dict() for item in response.output]
                for id_, name, _ in answers[-1]["calls"]:
                    items.append({"type": "function_call_output", "call_id": id_, "output": job["results"][name]})
        except openai.OpenAIError as problem:
            error = {"type": type(problem).__name__, "message": str(problem)}
    return {"answers": answers, "error": error}


for line in sys.stdin:
    print(json.dumps(answered(json.loads(line))), flush=True)
