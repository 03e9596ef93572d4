"""Records what an engine answers at `/v1/responses` when its model calls tools; `record.py` does the other format.

    .venv/bin/python -m tests.engines.record_responses llamacpp|vllm

A question about one picture, and one that makes the brain call our tool and the client's, each streamed, streamed with
thoughts, and whole.  Each answer to the first is followed by the request that Chiasm makes of it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cache.record import ImageRecord
from router.protocol.placeholders import placeholder
from tests.engines.asking import MAX_TOKENS, WEATHER, Json
from tests.engines.engines import ENGINES, ROOT
from tests.engines.record import MANNERS, Manner, NotAsNamed, brain_at, record
from tests.engines.servers import DidNotStart
from tests.responses_wire import WIRE, splice
from tools.analyze_image import NAME, definition
from tools.call import ToolCall, ToolResult
from tools.quotation import quoted

FOLDERS: Final[Mapping[str, str]] = {"llamacpp": "llamacpp-responses", "vllm": "vllm-responses"}
QUESTIONS: Final[Mapping[str, str]] = {
    "look": "What is the code word?",
    "mixed": "What is the code word? Also, what is the weather in Oslo?",
}


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
    done = splice([turn], request=client, stream=asked["stream"], run=_seen, unfinished=True)
    if len(done.asked) != 2:
        raise NotAsNamed(done.outcome)
    return {**done.asked[1], "tools": asked["tools"]}


def _seen(call: ToolCall) -> ToolResult:
    return ToolResult(call.id, quoted((1,), "K7RW"))


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in FOLDERS:
        print(f"usage: python -m tests.engines.record_responses {'|'.join(FOLDERS)}", file=sys.stderr)
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
    name = f"r_{question}_{manner.name}.txt"
    try:
        turn = record(url, asked)
        if question == "look":
            after = record(url, follow_up(asked, turn.body))
            (folder / f"r_{question}_follow_{manner.name}.txt").write_bytes(after.file)
    except NotAsNamed as error:
        print(f"{folder.name}/{name}: {error}", file=sys.stderr)
        return False
    (folder / name).write_bytes(turn.file)
    print(f"{folder.name}: {name}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
