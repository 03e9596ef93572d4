"""Keys stay ours, wherever a server repeats them, and pages of other hosts may not ask."""

from __future__ import annotations

import logging

import pytest

from tests.brain import Fails, Script, refuses, says, whole
from tests.live import live, user

pytestmark = pytest.mark.anyio

KEY = 'sk-our-"upstream"-key-0123456789abcdef'


@pytest.mark.parametrize(
    "script",
    [
        refuses(400, f"bad request by Bearer {KEY}"),
        refuses(400, "x" * 1990 + KEY),
        refuses(400, "bad", code=f"key={KEY}"),
        refuses(500, f"we saw {KEY}"),
        says(Fails(f"we saw {KEY}")),
        says("Hello", Fails(f"we saw {KEY}")),
        whole({"error": {"message": f"we saw {KEY}"}}),
        whole({"detail": {"key": KEY}}, status=403),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_key_that_a_server_repeats_goes_nowhere(
    script: Script, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with live(text={"api_key": KEY.replace(" ", "")}) as house:
        house.brain.answers = lambda asked: script
        got = await house.send({"messages": [user("Hi.")], "stream": stream})
        for part in ("upstream", "0123456789abcdef"):
            assert f"-{part}" not in got.body.decode(), got.body
            assert f"-{part}" not in caplog.text


async def test_a_code_cannot_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with live() as house:
        house.brain.will(refuses(400, "bad", code="x\n2026-01-01 ERROR forged"))
        await house.send({"messages": [user("Hi.")]})
    assert "forged" not in caplog.text


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://evil.example", 403),
        ("null", 403),
        ("https://127.0.0.1.evil.example", 403),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:8080", 200),
        ("http://[::1]:8080", 200),
    ],
)
async def test_without_keys_only_pages_of_this_machine_may_ask(origin: str, status: int) -> None:
    async with live() as house:
        house.brain.answers = lambda asked: says("Hello.")
        got = await house.send({"messages": [user("Hi.")]}, headers={"origin": origin})
        assert got.status == status


async def test_with_keys_the_key_decides() -> None:
    async with live(server={"api_keys": ["k"]}) as house:
        house.brain.answers = lambda asked: says("Hello.")
        headers = {"origin": "http://elsewhere.example", "authorization": "Bearer k"}
        got = await house.send({"messages": [user("Hi.")]}, headers=headers)
        assert got.status == 200
