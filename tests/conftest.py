"""What every test may use."""

from __future__ import annotations

import os

import pytest
from hypothesis import Phase, settings

settings.register_profile(
    "mutants",
    max_examples=25,
    phases=(Phase.explicit, Phase.generate),
    derandomize=True,
    database=None,
    deadline=None,
)
"""For `tests/mutants`: the same few examples every time, none made smaller, because only that one fails counts."""

if "HYPOTHESIS_PROFILE" in os.environ:
    settings.load_profile(os.environ["HYPOTHESIS_PROFILE"])


@pytest.fixture
def anyio_backend() -> str:
    """The service runs on asyncio (its HTTP transport does), so that is where it is tested."""
    return "asyncio"
