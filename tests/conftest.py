"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

import router.http_client
from tests.speakers import SPEAKERS, speak
from tests.speakers.speaker import Speaker

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


@pytest.fixture
def brief_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle connections to servers are closed at once, for tests that wait until nothing is left of an answer."""
    monkeypatch.setattr(router.http_client, "_KEEPALIVE_SECONDS", 0.05)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for the `speaker` is run in every wire format, or in those that its marker names."""
    if "speaker" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("formats")
        metafunc.parametrize("speaker", marker.args if marker else [*SPEAKERS], indirect=True)


@pytest.fixture
def speaker(request: pytest.FixtureRequest) -> Iterator[Speaker]:
    """In whose words the test's clients ask and its brains answer."""
    yield speak(request.param)
    speak("chat")
