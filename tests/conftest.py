"""What every test may use."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The service runs on asyncio (its HTTP transport does), so that is where it is tested."""
    return "asyncio"
