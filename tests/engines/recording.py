"""What the recorders of formats with an outline of their own have in common: what is asked, and how it is kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.engines.asking import Json
from tests.engines.engines import ENGINES, ROOT
from tests.engines.record import MANNERS, Manner, NotAsNamed, brain_at, record
from tests.engines.servers import DidNotStart
from tools.call import ToolCall, ToolResult
from tools.quotation import quoted

QUESTIONS: Final[Mapping[str, str]] = {
    "look": "What is the code word?",
    "mixed": "What is the code word? Also, what is the weather in Oslo?",
}


def seen(call: ToolCall) -> ToolResult:
    """What each look at the picture says."""
    return ToolResult(call.id, quoted((1,), "K7RW"))


@dataclass(frozen=True, slots=True)
class Recorder:
    program: str
    """As one calls it."""
    path: str
    """Of the address, behind the base URL."""
    folder: str
    """Of the recordings, behind the engine's name."""
    letter: str
    """With which their names begin."""
    request: Callable[[str, Manner], Json]
    """What the brain gets from Chiasm when a client asks this."""
    follow_up: Callable[[Mapping[str, Any], bytes], Mapping[str, Any]]
    """What Chiasm asks next, given what the brain was asked and said.  Raises `NotAsNamed`."""
    engines: Sequence[str] = ("llamacpp", "vllm")

    def run(self, arguments: Sequence[str]) -> int:
        """The exit status."""
        if len(arguments) != 1 or arguments[0] not in self.engines:
            print(f"usage: python -m {self.program} {'|'.join(self.engines)}", file=sys.stderr)
            return 2
        engine = ENGINES[arguments[0]]
        folder = ROOT / "tests" / "transcripts" / f"{engine.name}-{self.folder}"
        folder.mkdir(exist_ok=True)
        missed = 0
        try:
            with brain_at(engine, self.path) as url:
                for question in QUESTIONS:
                    for manner in MANNERS:
                        missed += not self._recorded(url, question, manner, folder)
        except (DidNotStart, OSError, subprocess.SubprocessError) as error:
            print(f"{engine.name}: {error}", file=sys.stderr)
            return 3
        return 1 if missed else 0

    def _recorded(self, url: str, question: str, manner: Manner, folder: Path) -> bool:
        asked = self.request(question, manner)
        name = f"{self.letter}_{question}_{manner.name}.txt"
        try:
            turn = record(url, asked)
            if question == "look":
                after = record(url, self.follow_up(asked, turn.body))
                (folder / f"{self.letter}_{question}_follow_{manner.name}.txt").write_bytes(after.file)
        except NotAsNamed as error:
            print(f"{folder.name}/{name}: {error}", file=sys.stderr)
            return False
        (folder / name).write_bytes(turn.file)
        print(f"{folder.name}: {name}", flush=True)
        return True
