"""The book: every command in it is run, or stands in the list below with the reason why not; links lead somewhere;
options and tables that it names exist; what is made from the source is what the source says now."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import typer

from router.cli import app
from router.config.reference import reference
from router.config.settings import TABLES
from tests.brain import Asked, Brain, Script, says
from tests.eyes import Eyes
from tests.live import (
    DEADLINE,
    Options,
    ServiceProcess,
    body_of,
    data_url,
    picture,
    service_process,
    shown,
    soon,
    user,
)

pytestmark = [pytest.mark.anyio, pytest.mark.live]

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md"))
    if page.name != "CHANGELOG.md" and "decisions" not in page.parts
)

BENCH = r"\S*chiasm bench|\S*python3? (-m )?benchmarks"

NOT_RUN = {
    r"vllm serve |CUDA_VISIBLE_DEVICES=": "needs a GPU and weights; tests/test_recipes.py counts and compares",
    r"llama-server |python -m sglang": "needs weights; tests/engines runs llama-server and vLLM with tiny ones",
    r"docker |kubectl ": "needs a container engine or a cluster; tests/test_deploy.py checks the files",
    r"make (demo|test|bench|soak|check|test-)": "installs, or runs for minutes; the tests run what it calls",
    r"(npm|claude|llm|pi|opencode|codex|ccr|qwen|cline|aider)( |$)": "another program; tests/clients drives real ones",
    r"\S*chiasm doctor": "judges models, and these are scripted; tests/test_doctor*.py run it",
    r"\S*chiasm demo": "reads pictures for seconds; tests/test_demo.py runs it",
    BENCH: "runs for minutes",
    r"\S*python -m tests\.": "servers of the test suite, which run until they are ended",
    r"\S*pip install ": "needs the network",
    r"(?s:.*)…": "not whole: who reads it fills in the rest",
}
"""By how a command begins, why it is not run here."""


def fences(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """Line and text of each fenced block in one of these languages."""
    lines = page.read_text().splitlines()
    start, language = 0, None
    for number, line in enumerate(lines, 1):
        if found := re.match(r"\s*```(\w*)", line):
            if language is None:
                start, language = number, found[1]
            else:
                if language in languages:
                    yield start, "\n".join(lines[start : number - 1])
                language = None
    assert language is None, f"{page} has a fence that does not end"


def commands(text: str) -> Iterator[str]:
    """A command may go on over lines: behind a backslash, or inside quotes."""
    command = ""
    for line in text.splitlines():
        command = f"{command}\n{line}" if command else line
        if command.endswith("\\"):
            continue
        try:
            words = shlex.split(command, comments=True)
        except ValueError:
            continue
        if words:
            yield command.strip()
        command = ""
    assert not command, f"a command without an end: {command!r}"


COMMANDS = {
    page: [command for _, text in fences(page, "sh", "console", "bash", "shell") for command in commands(text)]
    for page in PAGES
}


def why_not(command: str) -> str | None:
    return next((reason for start, reason in NOT_RUN.items() if re.match(start, command)), None)


@dataclass(slots=True)
class Neighbourhood:
    """What the book takes for granted: a brain on 8000, eyes on 8001, Chiasm on 8090, a conversation with pictures."""

    brain: Brain
    eyes: Eyes
    service: ServiceProcess
    folder: Path
    conversation: str

    def here(self, command: str) -> str:
        """With the ports and names of this test."""
        for port, mine in ((8000, self.brain.port), (8001, self.eyes.port), (8090, self.service.port)):
            command = command.replace(f"127.0.0.1:{port}", f"127.0.0.1:{mine}")
        command = command.replace("CONVERSATION --forget 3", "CONVERSATION --forget 2")  # 3 is deleted above it
        command = command.replace("CONVERSATION", self.conversation).replace(
            "config.example.toml", str(ROOT / "config.example.toml")
        )
        if re.search(r"chiasm (images|print-config)", command) and "--url" not in command:
            command = re.sub(
                r"(chiasm (?:images|print-config))", rf"\1 --url http://127.0.0.1:{self.service.port}", command
            )
        return command

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "CHIASM_ADMIN_KEY": "admin-key",
            "CHIASM_SERVER__ADMIN_KEY": "admin-key",
            "ID": self.conversation,
            "OPENROUTER_API_KEY": "k",
        }


def answers(asked: Asked) -> Script:
    return says("It says hello.")


@asynccontextmanager
async def neighbourhood(folder: Path) -> AsyncIterator[Neighbourhood]:
    # As in a clone after `make demo`: what commands name lies where they look for it.
    for name in ("router/demo", "docs", "benchmarks"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(ROOT / name)
    (folder / "config.example.toml").symlink_to(ROOT / "config.example.toml")
    for where in ("bin", ".venv/bin"):
        (folder / where).mkdir(parents=True)
        (folder / where / "chiasm").symlink_to(Path(sys.executable).with_name("chiasm"))
    async with Brain() as brain, Eyes() as eyes:
        brain.answers = answers
        tables = Options(server={"admin_key": "admin-key"}).tables(brain.url, eyes.url)
        (folder / "home").mkdir()
        async with service_process(folder / "home", tables) as service:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{service.port}", timeout=DEADLINE, trust_env=False
            ) as client:
                body = body_of([user("Hi.", *(shown(data_url(picture(seed))) for seed in (1, 2, 3)))], {})
                (await client.post("/v1/chat/completions", json=body)).raise_for_status()
                listed = await client.get("/admin/api/conversations", headers={"x-api-key": "admin-key"})
                conversation = listed.raise_for_status().json()["data"][0]["id"]
            (folder / "config.toml").write_text(
                f'[[text]]\nbase_url = "{brain.url}"\n[[vision]]\nkind = "ocr"\n[store]\nkind = "memory"\n'
            )
            yield Neighbourhood(brain, eyes, service, folder, conversation)


@pytest.mark.parametrize(
    "page",
    [page for page, every in COMMANDS.items() if any(why_not(command) is None for command in every)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
async def test_every_command_that_can_be_run_works(page: Path, tmp_path: Path) -> None:
    async with neighbourhood(tmp_path) as here:
        # One shell for the page, as for one who reads it: variables are kept, and the first failure is one.
        script = ["set -eux", 'curl() { command curl --fail-with-body --silent --show-error --max-time 30 "$@"; }']
        for command in COMMANDS[page]:
            if why_not(command) is not None:
                continue
            if re.match(r"\S*chiasm serve", command):
                await starts(here.here(command), here)
            else:
                script.append(here.here(command))
        process = await asyncio.create_subprocess_exec(
            shutil.which("bash") or "sh",
            "-c",
            "\n".join(script),
            cwd=here.folder,
            env=here.environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 10 * DEADLINE)
        assert process.returncode == 0, output.decode()[-4000:]


async def starts(command: str, here: Neighbourhood) -> None:
    """Started, asked for its greeting, and ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "router.cli",
        *shlex.split(command, comments=True)[1:],
        *("--port", "0"),
        cwd=here.folder,
        env={**here.environment(), "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert (await soon(process.stdout.readline())).startswith(b"Chiasm listens on ")
    finally:
        process.terminate()
        await soon(process.communicate())


def test_every_reason_for_not_running_a_command_is_needed() -> None:
    every = [command for found in COMMANDS.values() for command in found]
    unneeded = [start for start in NOT_RUN if not any(re.match(start, command) for command in every)]
    assert unneeded in ([], [BENCH]), "BENCH may stand there before the book has it"


def test_commands_are_found_and_most_of_ours_are_run() -> None:
    """That the reader of fences sees something at all."""
    ours = [c for found in COMMANDS.values() for c in found if re.match(r"\S*chiasm |curl ", c)]
    assert len(ours) > 20
    assert sum(why_not(command) is None for command in ours) > len(ours) / 2
    assert list(commands("a 'b\nc' \\\n  d\n# e\n\nf # g")) == ["a 'b\nc' \\\n  d", "f # g"]


# Options


def parameters(command: str) -> set[str]:
    root = typer.main.get_command(app)
    found = getattr(root, "commands", {})[command]
    return {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help",
        "-h",
    }


CALL = re.compile(r"^(?:\S*/)?chiasm ([a-z][a-z-]*)((?: [^`\n|;]*)?)", re.MULTILINE)


def test_commands_and_flags_that_the_book_names_exist() -> None:
    known = set(getattr(typer.main.get_command(app), "commands", {}))
    named = 0
    for page in PAGES:
        code = [text for _, text in fences(page, "sh", "console")] + re.findall(r"`([^`\n]+)`", page.read_text())
        for text in code:
            for call in CALL.finditer(text.replace("\\\n", " ")):
                command, rest = call[1], call[2].split(" #")[0]
                assert command in known, f"{page.name}: chiasm {command}"
                for flag in re.findall(r"(?:^|\s)(--?[a-z][a-z-]*)", rest):
                    named += 1
                    assert flag in parameters(command), f"{page.name}: chiasm {command} {flag}"
    assert named > 20


def test_options_that_the_book_sets_exist() -> None:
    """`name = value` in code, and whole files in TOML."""
    options = {option for model in TABLES.values() for option in model.model_fields}
    found = 0
    for page in PAGES:
        for setting in re.findall(r"`([a-z_]+) = [^`]*`", page.read_text()):
            found += 1
            assert setting in options, f"{page.name}: {setting}"
        for line, text in fences(page, "toml"):
            for table, value in tomllib.loads(text).items():
                for entry in value if isinstance(value, list) else [value]:
                    if table in TABLES:
                        unknown = set(entry) - set(TABLES[table].model_fields)
                        assert not unknown, f"{page.name}:{line} [{table}] {unknown}"
    assert found > 20


def test_the_configuration_page_is_what_the_settings_say() -> None:
    made = reference((ROOT / "config.example.toml").read_text())
    assert (ROOT / "docs" / "configuration.md").read_text() == made, (
        "run: .venv/bin/python -m router.config.reference > docs/configuration.md"
    )
    for table, model in TABLES.items():
        for option in model.model_fields:
            assert f"| `{option}` |" in made, (table, option)


# Links


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        if not re.match(r"[a-z]+:", target):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {target}"


def test_the_book_names_every_page() -> None:
    named = {(ROOT / "docs" / target.partition("#")[0]).resolve() for target in links(ROOT / "docs" / "README.md")}
    pages = {page for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"}
    assert pages <= named, pages - named


# Words


SAID = (
    "nothing is configured",
    "has no option",
    "not valid TOML",
    "can be reached from other machines, but api_keys is empty",
    "cannot listen on",
    "MiB beside its pictures; shorten its text",
    "cannot be reached or closed the connection",
    "or base_url is wrong (`chiasm doctor` tells)",
    "left alone for some seconds",
    "there is no model",
    "this Chiasm is shutting down; send the request again",
    "its log has more under the x-request-id of this answer",
    "do not guess",
)
"""What people meet, and the book explains or the words themselves mend."""


@pytest.mark.parametrize("words", SAID)
def test_words_that_people_meet_are_said_like_this(words: str) -> None:
    # As they are spelt in the source, where a long sentence goes on over lines.
    sources = " ".join(path.read_text() for room in ("router", "tools") for path in (ROOT / room).rglob("*.py"))
    said = re.sub(r'"\s+f?"', "", sources)
    assert words in said
