"""Records what an engine answers at `/v1/messages` when its model calls tools, as `record.py` does for Chat.

    .venv/bin/python -m tests.engines.record_messages llamacpp|vllm

A question about one picture, and one that makes the brain call our tool and the client's, each streamed, streamed with
thoughts, and whole.  Each answer to the first is followed by the request that Chiasm makes of it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

import orjson

from cache.record import ImageRecord
from router.protocol.placeholders import placeholder
from tests.engines.asking import MAX_TOKENS, WEATHER, Json
from tests.engines.record import Manner, NotAsNamed
from tests.engines.recording import QUESTIONS, Recorder, seen
from tests.messages_brain import ends, start, words
from tests.messages_splice import WIRE, splice
from tools.analyze_image import NAME, definition

_THE_END: Final = start() + words(0, "Seen.") + ends()
_THE_END_WHOLE: Final = orjson.dumps({"type": "message", "content": [], "stop_reason": "end_turn"})


def request(question: str, manner: Manner) -> Json:
    """What the brain gets from Chiasm when a client asks this."""
    row = ImageRecord(1, "", "image/png", 256, 128)
    content = [{"type": "text", "text": text} for text in (placeholder(row, NAME), QUESTIONS[question])]
    weather = WEATHER["function"]
    client = [{"name": weather["name"], "input_schema": weather["parameters"]}] if question == "mixed" else []
    return {
        "model": "brain",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": manner.stream,
        "tools": [*client, WIRE.tool(definition())],
        "chat_template_kwargs": {"enable_thinking": manner.thinking},
    }


def follow_up(asked: Mapping[str, Any], turn: bytes) -> Mapping[str, Any]:
    """What Chiasm asks next."""
    try:
        last = _THE_END if asked["stream"] else _THE_END_WHOLE
        return splice([turn, last], request=asked, stream=asked["stream"], run=seen, max_turns=8).requests[1]
    except AssertionError as error:
        raise NotAsNamed(error) from None


RECORDER: Final = Recorder("tests.engines.record_messages", WIRE.path, "messages", "m", request, follow_up)

if __name__ == "__main__":
    sys.exit(RECORDER.run(sys.argv[1:]))
