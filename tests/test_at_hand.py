"""A store that takes no picture costs memory and time, not the look at a picture that is being sent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.disk.blob_files import BlobFiles
from cache.store import StoreError
from tests.brain import Asked, Script, looks, says
from tests.live import House, live, picture, shown, user

pytestmark = [pytest.mark.anyio, pytest.mark.live]


@pytest.fixture
def nowhere() -> Iterator[int]:
    """A port where nobody listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


def refuses(*arguments: object, **named: object) -> Any:
    raise StoreError("no space left on the disk")


def brain(asked: Asked) -> Script:
    if asked.messages[-1]["role"] == "tool":
        return says("So.")
    return says("Let me look.", looks(1, asked.messages[-1]["content"][-20:]))


async def told_of(house: House, question: str, **fields: Any) -> str:
    """What the brain is told about the one picture of this conversation."""
    got = await house.chat(user(question, shown(picture(1))), headers={"x-chiasm-conversation": "one"}, **fields)
    assert got.error is None
    return str(house.brain.asked[-1].messages[-1]["content"])


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("kind", ["disk", "memory", "redis"])
async def test_a_picture_that_no_store_takes_is_looked_at_all_the_same(
    kind: str, stream: bool, nowhere: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: dict[str, dict[str, Any]] = {
        "disk": {"kind": "disk", "path": str(tmp_path / "store")},
        "memory": {"kind": "memory", "max_gib": 1e-9},
        "redis": {"kind": "redis", "url": f"redis://127.0.0.1:{nowhere}"},
    }
    monkeypatch.setattr(BlobFiles, "add", refuses)
    async with live(store=tables[kind]) as house:
        house.brain.answers = brain
        for question in ("What is it?", "What else is it?"):
            assert "What look" in await told_of(house, question, stream=stream)
        assert len(house.eyes.looks) == 2
        assert all(look.pictures for look in house.eyes.looks)
        assert (await house.get("/healthz")).status == 200


async def test_a_picture_that_is_gone_is_put_again_by_the_request_that_brings_it_next(tmp_path: Path) -> None:
    async with live(store={"kind": "disk", "path": str(tmp_path / "store")}) as house:
        house.brain.answers = brain
        assert "What look" in await told_of(house, "What is it?")
        for file in (tmp_path / "store" / "blobs").glob("?/?/*"):
            if file.name != ".lock":
                file.unlink()
        assert "no longer available" in await told_of(house, "What else is it?")
        assert "What look" in await told_of(house, "And what else?")
