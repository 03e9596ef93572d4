"""Keeps these tests out of every run that has not asked for clients, and tells at the end which clients were tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.clients.library import Libraries
from tests.clients.roster import BY_NAME, CLIENTS, chosen
from tests.clients.stage import Stage, stage

collect_ignore_glob = [] if chosen() else ["test_*.py"]

_outcomes: Counter[tuple[str, str]] = Counter()
"""Tests by client and outcome, of this process."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "client(name): a test of this client; run by tests/clients/run.sh")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those of clients that are not of this run are left out; the few without a client are about the referees."""
    if not chosen():
        return
    wanted = {client.name for client in chosen()}
    others = []
    for item in list(items):
        marker = item.get_closest_marker("client")
        if marker is None or Path(__file__).parent not in item.path.parents:
            continue
        name = marker.args[0]
        item.user_properties.append(("client", name))
        if name not in wanted:
            items.remove(item)
            others.append(item)
    config.hook.pytest_deselected(items=others)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = dict(report.user_properties).get("client")
    if name is None or (report.when != "call" and report.passed):
        return
    if report.skipped and hasattr(report, "wasxfail"):
        _outcomes[str(name), "known"] += 1
    else:
        _outcomes[str(name), "passed" if report.passed else "failed"] += 1


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """A client that no test has passed with is a failure, however that came."""
    if any(not _outcomes[client.name, "passed"] for client in chosen()) and not session.config.option.collectonly:
        session.exitstatus = max(session.exitstatus, pytest.ExitCode.TESTS_FAILED)
    yield


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not chosen():
        return
    terminalreporter.section("clients")
    good = 0
    for client in chosen():
        passed, failed, known = (_outcomes[client.name, outcome] for outcome in ("passed", "failed", "known"))
        verdict = "FAILED" if failed else "ok" if passed else "NOT TESTED"
        good += verdict == "ok"
        counts = f"{passed:3} passed {failed:3} failed {known:3} known limits"
        terminalreporter.line(f"{client.name:24} {client.version:10} {counts}   {verdict}")
    terminalreporter.line(f"{good} of {len(chosen())} clients are served well")
    if others := [client.name for client in CLIENTS if client not in chosen()]:
        terminalreporter.line(f"not of this run: {', '.join(others)}")


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libraries]:
    running = Libraries(tmp_path_factory.mktemp("libraries"))
    yield running
    running.finish()


@pytest.fixture
def on_stage(
    request: pytest.FixtureRequest, tmp_path: Path, libraries: Libraries
) -> Callable[..., AbstractAsyncContextManager[Stage]]:
    """Opens the stage for the test's client; takes tables of the configuration."""
    client = BY_NAME[request.node.get_closest_marker("client").args[0]]
    if not client.stamp.exists():
        pytest.fail(f"{client.name} is not installed: see {client.log}")
    home = tmp_path / "home"
    home.mkdir()
    return partial(stage, home, libraries)
