"""`tools.vision.ocr`: real words from drawn pictures, and what happens around the recognition."""

from __future__ import annotations

import asyncio
import io
import re
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from tools.call import VisionUsage
from tools.vision import ocr
from tools.vision.backend import Region, VisionError, VisionImage, VisionQuery
from tools.vision.ocr import LONGEST_SIDE, MOST_PIXELS, OcrEyes

pytestmark = pytest.mark.anyio


def drawn(*words: tuple[int, int, str], size: tuple[int, int] = (640, 240), form: str = "PNG", **options: Any) -> bytes:
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    for x, y, text in words:
        pen.text((x, y), text, fill="black", font=ImageFont.load_default(28))
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def query(*pictures: bytes, region: Region | None = None) -> VisionQuery:
    return VisionQuery(
        tuple(VisionImage(n + 1, data, region) for n, data in enumerate(pictures)), "What colour is the cat?"
    )


@asynccontextmanager
async def eyes(engine: Any = None, **options: Any) -> AsyncIterator[OcrEyes]:
    made = OcrEyes(**options)
    if engine is not None:
        made._engine = engine
    yield made
    await made.close()


def places(text: str) -> list[tuple[str, list[int]]]:
    """What was read, and where: x, y, w, h."""
    return [
        (match[2], [int(number) for number in match[1].split(",")])
        for match in re.finditer(r"^(\d+,\d+,\d+,\d+): (.*)$", text, re.MULTILINE)
    ]


@dataclass
class Engine:
    """Stands in for RapidOCR: finds what it is told, as four corners each."""

    lines: Sequence[tuple[str, float, tuple[int, int, int, int]]] = ()
    shown: tuple[int, int] = (0, 0)

    def __call__(self, pixels: Image.Image) -> SimpleNamespace:
        self.shown = pixels.size
        if not self.lines:
            return SimpleNamespace(boxes=None, txts=None, scores=None)
        boxes = [[(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for _, _, (x, y, w, h) in self.lines]
        return SimpleNamespace(boxes=boxes, txts=[t for t, _, _ in self.lines], scores=[s for _, s, _ in self.lines])


@pytest.mark.ocr
async def test_real_words_are_read_with_their_place_and_without_any_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("text recognition went to the network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refused)
    data = drawn((20, 20, "Invoice 4711"), (400, 22, "Total 99.50"), (20, 150, "Thank you"))
    async with eyes() as looking:
        assert await looking.ready() is None
        found = await looking.look(query(data))
    assert found.usage == VisionUsage(calls=1)
    assert found.text.startswith("It reads: Invoice 4711 Total 99.50 Thank you\n")
    assert "text recognition (OCR) alone" in found.text
    assert "[Image #1], 640x240 pixels: 3 lines of text" in found.text
    read = places(found.text)
    assert [text for text, _ in read] == ["Invoice 4711", "Total 99.50", "Thank you"]
    for (_, (x, y, w, h)), (left, top) in zip(read, [(20, 20), (400, 22), (20, 150)], strict=True):
        assert abs(x - left) < 12
        assert abs(y - top) < 16
        assert 100 < w < 260
        assert 15 < h < 60


@pytest.mark.ocr
async def test_real_words_of_a_region_of_a_turned_picture_keep_their_place_in_the_whole(
    capfd: pytest.CaptureFixture[str],
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.open(io.BytesIO(drawn((20, 20, "SECRET"), (330, 150, "PUBLIC"))))
    buffer = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95, exif=exif)
    async with eyes() as looking:
        found = await looking.look(query(buffer.getvalue(), region=Region(0.5, 0.5, 1, 1)))
        empty = await looking.look(query(drawn(), drawn(size=(1, 1))))
    ((text, (x, y, _, _)),) = places(found.text)
    assert text == "PUBLIC"
    assert abs(x - 330) < 12
    assert abs(y - 150) < 16
    assert "the part 320,120,320,120" in found.text
    assert empty.text.count("no text found.") == 2
    # Its own log lines about models and empty pictures stay away.
    assert capfd.readouterr() == ("", "")


async def test_every_picture_has_a_section_of_its_own() -> None:
    async with eyes(Engine([("hello", 0.99, (1, 2, 30, 10))])) as looking:
        found = await looking.look(query(drawn(size=(50, 40)), drawn(size=(60, 40))))
    assert found.text.split("\n\n")[1:] == [
        f"[Image #{n}], {w}x40 pixels: 1 line of text, each as x,y,w,h in pixels of the original and what it says.\n"
        "1,2,30,10: hello"
        for n, w in ((1, 50), (2, 60))
    ]
    assert found.usage == VisionUsage(calls=1)


async def test_a_picture_without_text_says_so_in_words() -> None:
    async with eyes(Engine()) as looking:
        found = await looking.look(query(drawn(size=(50, 40))))
    assert found.text.endswith("[Image #1], 50x40 pixels: no text found.")


async def test_lines_come_in_reading_order_whatever_order_they_were_found_in() -> None:
    lines = [
        ("below", 0.99, (10, 100, 50, 20)),
        ("right", 0.99, (200, 12, 50, 20)),
        ("left", 0.99, (10, 18, 50, 20)),
        ("middle", 0.99, (100, 15, 50, 20)),
        ("tall", 0.99, (10, 40, 50, 50)),
    ]
    async with eyes(Engine(lines)) as looking:
        found = await looking.look(query(drawn()))
    assert [text for text, _ in places(found.text)] == ["left", "middle", "right", "tall", "below"]


async def test_what_was_hardly_legible_is_marked() -> None:
    async with eyes(Engine([("sure", 0.97, (0, 0, 9, 9)), ("unsure", 0.61, (0, 50, 9, 9))])) as looking:
        found = await looking.look(query(drawn()))
    assert "0,0,9,9: sure\n0,50,9,9: unsure (uncertain, 61%)" in found.text


async def test_special_tokens_in_a_picture_do_not_reach_the_brain() -> None:
    async with eyes(Engine([("<|im_end|>", 0.97, (0, 0, 9, 9))])) as looking:
        assert "<|im_end|>" not in (await looking.look(query(drawn()))).text


async def test_a_picture_too_large_for_recognition_says_that_it_was_scaled() -> None:
    async with eyes(Engine()) as looking:
        found = await looking.look(query(drawn(size=(LONGEST_SIDE + 1, 20))))
        assert "ask for a region" in found.text
        assert "ask for a region" not in (await looking.look(query(drawn(size=(LONGEST_SIDE, 20))))).text


@pytest.mark.parametrize("size", [(1, 1), (900, 3), (3, 900), (40_000, 1), (1, 40_000), (5000, 4000)])
async def test_the_engine_never_gets_a_shape_that_it_would_blow_up(size: tuple[int, int]) -> None:
    engine = Engine()
    async with eyes(engine) as looking:
        await looking.look(query(drawn(size=size)))
    width, height = engine.shown
    assert min(width, height) >= 32
    assert max(width, height) <= LONGEST_SIDE
    assert width * height <= 1.01 * MOST_PIXELS
    assert max(width, height) <= 4 * min(width, height)


async def test_positions_are_those_of_the_original_also_when_it_was_scaled() -> None:
    async with eyes(Engine([("x", 0.99, (100, 50, 200, 20))])) as looking:
        found = await looking.look(query(drawn(size=(2 * LONGEST_SIDE, 400))))
    assert places(found.text) == [("x", [200, 100, 400, 40])]


async def test_a_region_is_what_the_engine_gets() -> None:
    engine = Engine([("x", 0.99, (1, 2, 3, 4))])
    async with eyes(engine) as looking:
        found = await looking.look(query(drawn(size=(100, 80)), region=Region(0.5, 0.25, 1, 0.75)))
    assert engine.shown == (50, 40)
    assert places(found.text) == [("x", [51, 22, 3, 4])]


async def test_a_picture_that_cannot_be_used_is_named() -> None:
    async with eyes(Engine()) as looking:
        with pytest.raises(VisionError, match=r"^\[Image #2\]: The picture cannot be used: truncated PNG\.$"):
            await looking.look(query(drawn(), drawn()[:60]))


async def test_a_failing_engine_is_a_vision_error() -> None:
    def broken(_: object) -> None:
        raise RuntimeError("/somewhere/private")

    async with eyes(broken) as looking:
        with pytest.raises(VisionError, match=r"^Text recognition failed \(RuntimeError\)\.$"):
            await looking.look(query(drawn()))


async def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "find_spec", lambda name: None)
    async with eyes() as looking:
        words = await looking.ready()
        with pytest.raises(VisionError, match=r"pip install 'chiasm\[ocr\]'"):
            await looking.look(query(drawn()))
    assert words == "text recognition is not installed: pip install 'chiasm[ocr]'"


async def test_without_its_models_it_does_not_go_looking_for_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ocr, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    async with eyes() as looking:
        assert await looking.ready() == "text recognition lacks its models: reinstall rapidocr"
        with pytest.raises(VisionError, match="lacks its models"):
            await looking.look(query(drawn()))


class Gate:
    """An engine that stays in its first picture until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()
        self.pictures = 0

    def __call__(self, _: object) -> SimpleNamespace:
        self.pictures += 1
        self.entered.set()
        assert self.released.wait(20)
        return SimpleNamespace(boxes=None, txts=None, scores=None)


async def test_a_cancelled_look_lets_go_at_once_and_starts_no_further_picture() -> None:
    gate = Gate()
    async with eyes(gate) as looking:
        look = asyncio.create_task(looking.look(query(drawn(), drawn(), drawn())))
        assert await asyncio.to_thread(gate.entered.wait, 20)
        look.cancel()
        with pytest.raises(asyncio.CancelledError):
            await look
        after = asyncio.create_task(looking.look(query(drawn())))
        gate.released.set()
        assert "no text found" in (await asyncio.wait_for(after, 20)).text
    assert gate.pictures == 2


async def test_a_look_that_takes_too_long_ends_in_words() -> None:
    gate = Gate()
    async with eyes(gate, timeout_seconds=0.2) as looking:
        with pytest.raises(VisionError, match=r"^Text recognition did not finish within 0\.2 s\.$") as caught:
            await looking.look(query(drawn()))
        gate.released.set()
    assert caught.value.retryable


async def test_only_one_picture_is_in_work_at_a_time() -> None:
    running = most = 0

    def slow(_: object) -> SimpleNamespace:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threading.Event().wait(0.02)
        running -= 1
        return SimpleNamespace(boxes=None, txts=None, scores=None)

    async with eyes(slow) as looking:
        await asyncio.gather(*(looking.look(query(drawn())) for _ in range(6)))
    assert most == 1
