"""Records what an engine answers at `/v1/responses` when its model calls tools; `record.py` does the other format.

    .venv/bin/python -m tests.engines.record_responses llamacpp|vllm

A question about one picture, and one that makes the brain call our tool and the client's, each streamed, streamed with
thoughts, and whole.  Each answer to the first is followed by the request that Chiasm makes of it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from cache.record import ImageRecord
from router.protocol.placeholders import placeholder
from tests.engines.asking import MAX_TOKENS, WEATHER, Json
from tests.engines.record import Manner, NotAsNamed
from tests.engines.recording import QUESTIONS, Recorder, seen
from tests.responses_wire import WIRE, splice
from tools.analyze_image import NAME, definition


def request(question: str, manner: Manner) -> Json:
    """What the brain gets from Chiasm when a client asks this."""
    row = ImageRecord(1, "", "image/png", 256, 128)
    content = [{"type": "input_text", "text": text} for text in (placeholder(row, NAME), QUESTIONS[question])]
    client = [{"type": "function", **WEATHER["function"]}] if question == "mixed" else []
    return {
        "model": "brain",
        "input": [{"type": "message", "role": "user", "content": content}],
        "max_output_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": manner.stream,
        "tools": [*client, WIRE.tool(definition())],
        "chat_template_kwargs": {"enable_thinking": manner.thinking},
    }


def follow_up(asked: Mapping[str, Any], turn: bytes) -> Json:
    """What Chiasm asks next."""
    client = {**asked, "tools": []}
    done = splice([turn], request=client, stream=asked["stream"], run=seen, unfinished=True)
    if len(done.asked) != 2:
        raise NotAsNamed(done.outcome)
    return {**done.asked[1], "tools": asked["tools"]}


RECORDER: Final = Recorder("tests.engines.record_responses", WIRE.path, "responses", "r", request, follow_up)

if __name__ == "__main__":
    sys.exit(RECORDER.run(sys.argv[1:]))
