"""Chiasm as a process between the two servers that `tests.engines.servers` has started, and clients of it.

Keeps these tests out of every run that has no engines, so that nothing has to be skipped.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.engines.asking import Ask, sdk, streamed, whole
from tests.engines.engines import BRAIN_VARIABLE, ENGINE_VARIABLE, ENGINES, EYES_VARIABLE, Engine
from tests.engines.servers import free_port, logs, running

_VARIABLES = {ENGINE_VARIABLE, BRAIN_VARIABLE, EYES_VARIABLE}

collect_ignore_glob = [] if os.environ.keys() >= _VARIABLES else ["test_*.py"]

NAME = "the-model"
"""What clients call the brain where the configuration gives it a name."""

Serve = Callable[..., AbstractContextManager[str]]
Grade = Callable[..., None]


def pytest_configure(config: pytest.Config) -> None:
    # By itself a SIGTERM ends pytest without a word to the fixtures, and the services that they started stay behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line("markers", "engines: a real engine on both sides; run by `make test-engines`")


@pytest.fixture(scope="session")
def engine() -> Engine:
    return ENGINES[os.environ[ENGINE_VARIABLE]]


@pytest.fixture(scope="session")
def brain_url() -> str:
    return os.environ[BRAIN_VARIABLE]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[str]:
    """Base URL of Chiasm, told nothing but the two addresses, and the models' ids where the engine lists none."""
    flags = ["--text", os.environ[BRAIN_VARIABLE], "--vision", os.environ[EYES_VARIABLE]]
    if not engine.lists_models:
        flags += ["--text-model", engine.ids["brain"], "--vision-model", engine.ids["eyes"]]
    with _chiasm(tmp_path_factory.mktemp("service"), flags, logs(engine.name) / "chiasm.log") as url:
        yield url


@pytest.fixture
def serve(tmp_path: Path, engine: Engine) -> Serve:
    """Chiasm with a configuration file; options of `[[text]]` are the arguments, and clients say `NAME`."""

    @contextmanager
    def serve(**text: str) -> Iterator[str]:
        brain = {"name": NAME, "base_url": os.environ[BRAIN_VARIABLE], "model": engine.ids["brain"], **text}
        eyes = {"base_url": os.environ[EYES_VARIABLE], "model": engine.ids["eyes"]}
        file = tmp_path / "config.toml"
        file.write_text(f"[[text]]\n{_toml(brain)}\n[[vision]]\n{_toml(eyes)}\n")
        with _chiasm(tmp_path, ["--config", str(file)], logs(engine.name) / "chiasm-configured.log") as url:
            yield url

    return serve


@pytest.fixture(params=["streamed", "whole"])
def kind(request: pytest.FixtureRequest) -> Callable[..., Ask]:
    """Most tests run streamed and whole."""
    return streamed if request.param == "streamed" else whole


@pytest.fixture
def ask(kind: Callable[..., Ask], service: str, engine: Engine) -> Iterator[Ask]:
    """Ask Chiasm."""
    with sdk(service) as client:
        yield kind(client, engine.ids["brain"])


@pytest.fixture
def ask_alone(kind: Callable[..., Ask], brain_url: str, engine: Engine) -> Iterator[Ask]:
    """Ask the engine itself, in the same way."""
    with sdk(brain_url) as client:
        yield kind(client, engine.ids["brain"])


@pytest.fixture(scope="session")
def count(engine: Engine) -> int:
    """Pictures for each question."""
    return engine.pictures


@pytest.fixture
def grade(request: pytest.FixtureRequest, engine: Engine) -> Grade:
    """At most one wrong answer, whatever the engine: measured were none.  The figures are kept beside the logs."""

    def grade(wrong: list[str], *, of: int) -> None:
        with (logs(engine.name) / "figures.txt").open("a") as figures:
            print(f"{of - len(wrong):2d} of {of} right  {request.node.name}", file=figures)
        assert len(wrong) <= 1, f"{len(wrong)} of {of} wrong:\n" + "\n".join(wrong)

    return grade


@contextmanager
def _chiasm(home: Path, flags: list[str], log: Path) -> Iterator[str]:
    port = free_port()
    # Its own home and working folder, so that no configuration file of this machine takes part.
    env = {name: value for name, value in os.environ.items() if not name.startswith("CHIASM_")}
    env |= {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "CHIASM_STORE__PATH": str(home / "store")}
    command = [str(Path(sys.executable).with_name("chiasm")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with running([*command, *flags], ready_url=f"http://127.0.0.1:{port}/readyz", log=log, cwd=home, env=env):
        yield f"http://127.0.0.1:{port}/v1"


def _toml(table: Mapping[str, str]) -> str:
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
