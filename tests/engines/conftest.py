"""Keeps these tests out of every run that has no engines, so that nothing has to be skipped."""

from __future__ import annotations

import os

import pytest

from tests.engines.servers import BRAIN_VARIABLE, EYES_VARIABLE

collect_ignore_glob = [] if BRAIN_VARIABLE in os.environ and EYES_VARIABLE in os.environ else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "engines: a real llama-server on both sides; run by `make test-engines`")
