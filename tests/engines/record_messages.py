"""Records what an engine answers at `/v1/messages` when its model calls tools, as `record.py` does for Chat.

    .venv/bin/python -m tests.engines.record_messages llamacpp|vllm

A question about one picture, and one that makes the brain call our tool and the client's, each streamed, streamed with
thoughts, and whole.  Each answer to the first is followed by the request that Chiasm makes of it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from cache.record import ImageRecord
from router.protocol.placeholders import placeholder
from tests.engines.asking import MAX_TOKENS, WEATHER, Json
from tests.engines.engines import ENGINES, ROOT
from tests.engines.record import MANNERS, Manner, NotAsNamed, brain_at, record
from tests.engines.servers import DidNotStart
from tests.messages_brain import ends, start, words
from tests.messages_splice import WIRE, splice
from tools.analyze_image import NAME, definition
from tools.call import ToolCall, ToolResult
from tools.quotation import quoted

FOLDERS: Final[Mapping[str, str]] = {"llamacpp": "llamacpp-messages", "vllm": "vllm-messages"}
QUESTIONS: Final[Mapping[str, str]] = {
    "look": "What is the code word?",
    "mixed": "What is the code word? Also, what is the weather in Oslo?",
}
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
        return splice([turn, last], request=asked, stream=asked["stream"], run=_seen, max_turns=8).requests[1]
    except AssertionError as error:
        raise NotAsNamed(error) from None


def _seen(call: ToolCall) -> ToolResult:
    return ToolResult(call.id, quoted((1,), "K7RW"))


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in FOLDERS:
        print(f"usage: python -m tests.engines.record_messages {'|'.join(FOLDERS)}", file=sys.stderr)
        return 2
    engine = ENGINES[arguments[0]]
    folder = ROOT / "tests" / "transcripts" / FOLDERS[engine.name]
    folder.mkdir(exist_ok=True)
    missed = 0
    try:
        with brain_at(engine, WIRE.path) as url:
            for question in QUESTIONS:
                for manner in MANNERS:
                    missed += not _recorded(url, question, manner, folder)
    except (DidNotStart, OSError, subprocess.SubprocessError) as error:
        print(f"{engine.name}: {error}", file=sys.stderr)
        return 3
    return 1 if missed else 0


def _recorded(url: str, question: str, manner: Manner, folder: Path) -> bool:
    asked = request(question, manner)
    name = f"m_{question}_{manner.name}.txt"
    try:
        turn = record(url, asked)
        if question == "look":
            after = record(url, follow_up(asked, turn.body))
            (folder / f"m_{question}_follow_{manner.name}.txt").write_bytes(after.file)
    except NotAsNamed as error:
        print(f"{folder.name}/{name}: {error}", file=sys.stderr)
        return False
    (folder / name).write_bytes(turn.file)
    print(f"{folder.name}: {name}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
