"""Records what an engine answers when its model calls tools: what curl printed, to the byte, into tests/transcripts.

    .venv/bin/python -m tests.engines.record llamacpp|transformers|vllm

Questions about two pictures, which the brain of tests/models answers with two calls of our tool in one turn, and one
that makes it call our tool and the client's.  Each is asked streamed, streamed with thoughts, and whole; and
each answer is followed by the request that Chiasm makes of it (the turn said, the results added), so that the second
turn of an exchange is a recording too.  A turn without the calls that its file is named after is not written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from cache.record import ImageRecord
from router.protocol.chat.dialect import OpenAIChat
from router.protocol.chat.format import tool_object
from router.protocol.chat.reader import ChunkReader, CompletionReader
from router.protocol.dialect import Reader
from router.protocol.events import Action, CallTools, Keep, OpenUpstream, ToolsCompleted, UpstreamEnded
from router.protocol.exchange import Exchange
from router.protocol.ledger import KeptTurn, weave
from router.protocol.own_tools import OwnTools
from router.protocol.placeholders import placeholder
from router.protocol.profiles import PROFILES
from tests.engines.asking import MAX_TOKENS, WEATHER, Json, called, text, user
from tests.engines.engines import ENGINES, MODELS, ROOT, Engine
from tests.engines.servers import DidNotStart, free_port, logs, running
from tools.analyze_image import NAME, definition
from tools.arguments import as_text, image_numbers, parse_arguments
from tools.call import ToolCall, ToolResult
from tools.quotation import quoted

FOLDERS: Final[Mapping[str, str]] = {
    "llamacpp": "llamacpp-brain",
    "transformers": "hf-brain-xml",
    "vllm": "vllm-brain",
}
_CLIENTS_TOOL: Final[str] = WEATHER["function"]["name"]
_WORDS: Final = ("K7RW", "PX2", "ZEBRA")
"""What the eyes are made to say of the pictures, by number."""


@dataclass(frozen=True, slots=True)
class Question:
    name: str
    images: int
    words: str
    tools: tuple[Json, ...]
    calls: tuple[str, ...]
    """What the brain calls, in any order."""
    pictures_first: bool = False


@dataclass(frozen=True, slots=True)
class Manner:
    name: str
    stream: bool
    thinking: bool


QUESTIONS: Final = (
    Question("two_looks", 2, "What is the code word?", (), (NAME, NAME)),
    # Far enough from what the model was trained on that it loses its way, and on vLLM stops inside its last call.
    Question("pictures_first", 2, "What is the code word?", (), (NAME, NAME), pictures_first=True),
    Question(
        "mixed",
        1,
        "What is the code word? Also, what is the weather in Oslo?",
        (WEATHER,),
        (NAME, _CLIENTS_TOOL),
        pictures_first=True,
    ),
)
MANNERS: Final = (Manner("stream", True, False), Manner("stream_think", True, True), Manner("nonstream", False, False))


class NotAsNamed(Exception):
    """The answer is not what its file would be named after."""


def request(question: Question, manner: Manner) -> Json:
    """What the brain gets from Chiasm when a client asks this."""
    rows = [ImageRecord(number, "", "image/png", 256, 128) for number in range(1, question.images + 1)]
    pictures, words = [text(placeholder(row, NAME)) for row in rows], [text(question.words)]
    content = [*pictures, *words] if question.pictures_first else [*words, *pictures]
    asked: Json = {
        "model": "brain",
        "messages": [user(*content)],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": manner.stream,
        "tools": [*question.tools, tool_object(definition())],
        "chat_template_kwargs": {"enable_thinking": manner.thinking},
    }
    return asked | ({"stream_options": {"include_usage": True}} if manner.stream else {})


def follow_up(question: Question, asked: Mapping[str, Any], body: bytes, *, engine: Engine) -> Mapping[str, Any]:
    """What Chiasm asks next; of a mixed turn, when the client has come back with its result."""
    numbers = count(1)

    def mint() -> str:
        return f"call_{next(numbers)}"

    reader: Reader = ChunkReader(mint) if asked["stream"] else CompletionReader(mint)
    exchange = Exchange(
        dialect=OpenAIChat(PROFILES[engine.profile or "auto"]),
        request=asked,
        own=OwnTools([NAME], [tool["function"]["name"] for tool in question.tools]),
        mint_id=mint,
        max_turns=8,  # as configured where nothing is: on the last one the brain would be told so
    )
    exchange.start()
    actions: list[Action] = []
    for part in (*reader.feed(body), *reader.close()):
        actions += exchange.handle(part)
    actions += exchange.handle(UpstreamEnded(reader.clean))
    for action in actions:
        match action:
            case CallTools(calls) if [call.name for call in calls] == list(question.calls):
                (opened,) = exchange.handle(ToolsCompleted(tuple(map(_seen, calls))))
                assert isinstance(opened, OpenUpstream)
                return opened.request
            case Keep(visible=visible, said=said, calls=calls):
                wire = said[-1]["tool_calls"]
                if sorted(call["function"]["name"] for call in wire) != sorted(question.calls):
                    raise NotAsNamed(wire)
                results = [{"role": "tool", "tool_call_id": call.id, "content": _seen(call).text} for call in calls]
                (id_,) = [call["id"] for call in visible["tool_calls"]]
                history = [*asked["messages"], called((id_, _CLIENTS_TOOL, "{}")), _weather(id_)]
                kept = KeptTurn(said, results)
                return {**asked, "messages": weave(history, {len(asked["messages"]): kept}, {})}
            case _:
                pass
    raise NotAsNamed(actions)


def _seen(call: ToolCall) -> ToolResult:
    # As the tool reads them: servers break arguments.
    numbers = image_numbers(as_text(parse_arguments(call.arguments).get("image")))
    return ToolResult(call.id, quoted(numbers, "\n".join(_WORDS[number - 1] for number in numbers)))


def _weather(call_id: str) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": "12 degrees, rain"}


# Recording


@dataclass(frozen=True, slots=True)
class Recorded:
    file: bytes
    body: bytes


def record(url: str, asked: Mapping[str, Any]) -> Recorded:
    """Raises `NotAsNamed` where the answer is an error, or a folder of this machine stands in it."""
    written = json.dumps(asked, ensure_ascii=False)
    command = ["curl", "-sN", "-i", "--noproxy", "*", "-H", "content-type: application/json", "--data-binary", "@-"]
    command += ["-w", "\n# total %{time_total}s ttfb %{time_starttransfer}s http %{http_code}\n", url]
    printed = subprocess.run(command, input=written.encode(), stdout=subprocess.PIPE, check=True, timeout=300).stdout
    if named := [folder for folder in (str(ROOT), str(Path.home()), MODELS) if folder.encode() in printed]:
        raise NotAsNamed(f"it would hold {named}")
    head, body = printed[: printed.rindex(b"\n# total ")].split(b"\r\n\r\n", 1)
    if head.split()[1] != b"200":
        raise NotAsNamed(f"the answer is {printed!r}")
    notes = f"# POST {url}   body: {written}\n# ---- raw response (curl -sN -i), then time\n"
    return Recorded(notes.encode() + printed, body)


@contextmanager
def brain_at(engine: Engine, path: str) -> Iterator[str]:
    """An engine with the brain on it; gives the address of `path` behind its base URL."""
    port = free_port()
    # Inside the models' folder, because `transformers serve` names the model by its path in every chunk.
    command = [argument.removeprefix(f"{MODELS}/") for argument in engine.command("brain", port)]
    with running(
        command,
        ready_url=f"http://127.0.0.1:{port}/health",
        log=logs(engine.name) / "recorded.log",
        cwd=ROOT / MODELS,
        env={**os.environ, **engine.environment},
        start_seconds=engine.start_seconds,
    ):
        yield f"http://127.0.0.1:{port}/v1{path}"


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in ENGINES:
        print(f"usage: python -m tests.engines.record {'|'.join(ENGINES)}", file=sys.stderr)
        return 2
    engine = ENGINES[arguments[0]]
    folder = ROOT / "tests" / "transcripts" / FOLDERS[engine.name]
    missed = 0
    try:
        with brain_at(engine, "/chat/completions") as url:
            for question in QUESTIONS:
                for manner in MANNERS:
                    missed += not _both_turns(engine, url, question, manner, folder)
    except (DidNotStart, OSError, subprocess.SubprocessError) as error:
        print(f"{engine.name}: {error}", file=sys.stderr)
        return 3
    return 1 if missed else 0


def _both_turns(engine: Engine, url: str, question: Question, manner: Manner, folder: Path) -> bool:
    asked = request(question, manner)
    first, second = (folder / f"b_{question.name}_{part}{manner.name}.txt" for part in ("", "follow_"))
    try:
        turn = record(url, asked)
        after = record(url, follow_up(question, asked, turn.body, engine=engine))
    except NotAsNamed as error:
        print(f"{folder.name}/{first.name}: {error}", file=sys.stderr)
        return False
    first.write_bytes(turn.file)
    second.write_bytes(after.file)
    print(f"{folder.name}: {first.name}, {second.name}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
