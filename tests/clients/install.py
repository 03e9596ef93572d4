"""Installs clients, each into a folder of its own under `.clients/`, from PyPI and npm by their ordinary programs.

    python -m tests.clients.install [NAME...]

What is there already, from the same pins and for the same Python, is left as it is.  Packages are named by version and
hash; none of their install scripts runs.  One that fails does not keep the others from being installed; the exit code
tells.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.clients.roster import BY_NAME, CLIENTS, HOME, NODE, NODE_BINARY, NPM, Client

SECONDS: Final = 900
"""For one client: the largest is 350 MB, which takes 15 s on a fast line."""

AT_ONCE: Final = 2


def main(names: Sequence[str]) -> int:
    """Exit code: 0 all there, 1 some failed, 2 a name that is not on the roster."""
    if unknown := [name for name in names if name not in BY_NAME]:
        print(f"unknown client {unknown[0]!r}; there are: {', '.join(BY_NAME)}", file=sys.stderr)
        return 2
    clients = [BY_NAME[name] for name in names] or list(CLIENTS)
    if any(client.kind == "node" for client in clients):
        clients.append(NODE)
    HOME.mkdir(exist_ok=True)
    # All of them even when one fails, so that one run tells all that is wrong; node is there before its clients.
    failed = 0
    for kind in ("python", "node"):
        with ThreadPoolExecutor(AT_ONCE) as lanes:
            there = lanes.map(installed, [client for client in clients if client.kind == kind])
            failed += list(there).count(False)
    return 1 if failed else 0


def installed(client: Client) -> bool:
    """Whether the client is there now."""
    source = [sys.version.encode(), *(pin.read_bytes() for pin in client.pins)]
    digest = hashlib.sha256(b"\0".join(source)).hexdigest()
    if client.stamp.exists() and client.stamp.read_text() == digest:
        print(f"{client.name} {client.version}: is there", flush=True)
        return True
    print(f"{client.name} {client.version}: installing …", flush=True)
    begun = time.monotonic()
    shutil.rmtree(client.folder, ignore_errors=True)
    client.folder.mkdir()
    with client.log.open("wb") as log:
        for command in _commands(client):
            try:
                code = subprocess.run(
                    command, cwd=client.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=SECONDS
                ).returncode
            except (OSError, subprocess.TimeoutExpired) as error:
                log.write(f"{error}\n".encode())
                code = 1
            if code:
                words = client.log.read_text(errors="replace").strip().splitlines()[-12:]
                print(f"{client.name} {client.version}: FAILED, see {client.log}", *words, sep="\n  ", flush=True)
                return False
    client.stamp.write_text(digest)
    print(f"{client.name} {client.version}: installed in {time.monotonic() - begun:.0f} s", flush=True)
    return True


def _commands(client: Client) -> list[list[str]]:
    polite = ["nice"] if shutil.which("nice") else []
    if client.kind == "python":
        # This environment's pip does it, and leaves compiling to the imports: half of the work is not done then.
        pip = [sys.executable, "-m", "pip", "--python", str(client.folder / "bin" / "python")]
        options = ["--disable-pip-version-check", "--no-input", "--quiet", "--no-compile", "--require-hashes"]
        return [
            [sys.executable, "-m", "venv", "--without-pip", str(client.folder)],
            [*polite, *pip, "install", *options, "-r", str(client.pins[0])],
        ]
    for pin in client.pins:
        shutil.copy(pin, client.folder)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    return [[*polite, str(NODE_BINARY), str(NPM), "ci", *quiet]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
