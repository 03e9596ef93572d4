"""Libraries under test, each in a process of its own that stays from job to job: what takes seconds is their import.

A program (`programs/`) reads jobs, a line of JSON each, and writes a line for each.  What else the library prints, on
either of its outputs, is kept apart for the reader of a failed test.  A process that ends of itself fails the test that
finds it so, and one that cannot end, or does not end well, when there are no more jobs fails too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import orjson

from tests.clients.environment import environment
from tests.clients.roster import BY_NAME, NODE_BINARY, PROGRAMS

JOB_SECONDS: Final = 90.0
"""The slowest library takes six to be imported; the rest is for a machine that is busy with other things."""

LIBRARIES: Final = {
    "openai-python": "openai_python.py",
    "openai-node": "openai_node.mjs",
    "ai-sdk": "ai_sdk.mjs",
    "langchain": "langchain_chat.py",
    "litellm": "litellm_sdk.py",
}
"""Their programs for Chat Completions, by the client's name."""

_PROGRAMS: Final = {
    **LIBRARIES,
    "anthropic-python": "anthropic_python.py",
    "anthropic-node": "anthropic_node.mjs",
    "openai-python/responses": "openai_responses.py",
}
"""All of them; where a client has a second one, its name goes on behind a stroke."""

_ANSWER: Final = b'{"answers":'


class Library:
    """Runs from its making to `finish`; when `ask` has raised, it has ended."""

    def __init__(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path) -> None:
        self.ended = False
        """Known to be."""
        self._log = log
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                cwd=cwd,
                env=env,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._jobs, self._lines = self._process.stdin, self._process.stdout

    async def ask(self, job: Any) -> Any:
        """What the library understood.  Raises AssertionError where it ended instead."""
        try:
            async with asyncio.timeout(JOB_SECONDS):
                answer = await asyncio.to_thread(self._answer, orjson.dumps(job) + b"\n")
        except BaseException:
            self._end()  # a thread cannot be cancelled, but it ends with what it reads from
            raise
        return orjson.loads(answer)

    def finish(self) -> None:
        """No more jobs.  Raises AssertionError where the process has not ended well."""
        if self.ended:
            return
        self._jobs.close()
        code = None
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(JOB_SECONDS)
        self._end()
        assert code == 0, f"{self._log.stem} ended with exit code {code}:\n{self._log.read_text(errors='replace')}"

    def _answer(self, job: bytes) -> bytes:
        said = []
        try:
            self._jobs.write(job)
            self._jobs.flush()
            for line in self._lines:
                if line.startswith(_ANSWER):
                    return line
                said.append(line)
        except BrokenPipeError:
            pass
        output = b"".join([*said, self._log.read_bytes()]).decode(errors="replace")
        raise AssertionError(f"{self._log.stem} ended:\n{output}")

    def _end(self) -> None:
        """The process and whatever it has started."""
        self.ended = True
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._lines.close()
        with suppress(BrokenPipeError):  # of a job that was written in part
            self._jobs.close()


class Libraries:
    """Started when first asked for."""

    def __init__(self, home: Path) -> None:
        """`home`: for them, and for their logs."""
        self._home = home
        self._running: dict[str, Library] = {}

    def of(self, name: str) -> Library:
        """`name`: of one of `_PROGRAMS`."""
        library = self._running.get(name)
        if library is None or library.ended:
            library = self._running[name] = self._started(name)
        return library

    def finish(self) -> None:
        """All of them, also when one has not ended well: see `Library.finish`."""
        with ExitStack() as stack:
            for library in self._running.values():
                stack.callback(library.finish)

    def _started(self, name: str) -> Library:
        program, folder = PROGRAMS / _PROGRAMS[name], BY_NAME[name.partition("/")[0]].folder
        log = self._home / f"{name.replace('/', '-')}.log"
        if program.suffix == ".py":
            env = environment(self._home, LITELLM_LOCAL_MODEL_COST_MAP="True", LANGSMITH_TRACING="false")
            return Library([str(folder / "bin" / "python"), "-P", str(program)], cwd=self._home, env=env, log=log)
        # A program given as text finds its packages from the working folder.
        command = [str(NODE_BINARY), "--input-type=module", "--eval", program.read_text()]
        env = environment(self._home, AI_SDK_LOG_WARNINGS="false")
        return Library(command, cwd=folder, env=env, log=log)
