"""HEIC: looked at by its boxes, decoded only in workers, and never sent on as it is."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any

import httpx
import pillow_heif
import pybase64
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cache.image import BadImage, ImageInfo, ImageLimits, inspect
from cache.likeness import likeness_of
from cache.memory import MemoryStore
from cache.pixels.pool import Pixels
from router.config import Settings
from router.intake.readable import ReadableBlobs
from tests.brain import Brain, Calls, says
from tests.eyes import Eyes, sees
from tests.live import DEADLINE, House, Options, data_url, live, running, shown, user
from tools.vision.backend import Region, VisionError
from tools.vision.sandboxed import Search, prepared, searchable

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)

SEARCH = Search(2560, 4_194_304, 4, 32)


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    found[0x010F] = "CANARY"
    found[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}
    return found.tobytes()


def encoded(image: Image.Image, orientation: int = 1, **options: Any) -> bytes:
    """As phones write it: turned by the boxes and, once more, by EXIF that must not be applied again."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=90, exif=exif(orientation), **options)
    return buffer.getvalue()


@cache
def corners(orientation: int = 1) -> bytes:
    """240 x 160 as stored; red top left, green top right, blue bottom left, white bottom right."""
    image = Image.new("RGB", (240, 160), WHITE)
    image.paste(RED, (0, 0, 120, 80))
    image.paste(GREEN, (120, 0, 240, 80))
    image.paste(BLUE, (0, 80, 120, 160))
    return encoded(image, orientation)


def claiming(data: bytes, width: int, height: int) -> bytes:
    """The same, with another size in its boxes than in its coded frame."""
    lying = bytearray(data)
    at = lying.index(b"ispe") + 8
    lying[at : at + 8] = struct.pack(">II", width, height)
    if (at := lying.find(b"clap")) > 0:
        lying[at : at + 4] = b"free"
    return bytes(lying)


def reason(data: bytes, limits: ImageLimits | None = None) -> str:
    with pytest.raises(BadImage) as caught:
        inspect(data, limits or ImageLimits())
    return caught.value.reason


@pytest.fixture(scope="module")
def pixels() -> Iterator[Pixels]:
    made = Pixels()
    yield made
    made.close()


# At the door


@pytest.mark.parametrize("orientation", range(1, 9))
def test_its_size_is_that_of_the_upright_picture(orientation: int) -> None:
    size = (160, 240) if orientation >= 5 else (240, 160)
    assert inspect(corners(orientation)) == ImageInfo("image/heic", *size)


def test_what_needs_filling_up_to_be_coded_is_as_large_as_it_was() -> None:
    assert inspect(encoded(Image.new("RGB", (61, 43), "red"))) == ImageInfo("image/heic", 61, 43)


def test_a_picture_in_tiles_is_one_picture(pixels: Pixels) -> None:
    data = encoded(Image.linear_gradient("L").resize((300, 200)).convert("RGB"), 6, tile_size=64)
    assert b"grid" in data
    assert inspect(data) == ImageInfo("image/heic", 200, 300)
    ready = prepared(pixels, data, None, max_pixels=4_194_304, min_side=1)
    assert (ready.width, ready.height) == (200, 300)


def test_without_a_decoder_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert reason(corners()) == "unsupported format HEIC (install pillow-heif to have it read)"


def test_the_size_that_it_claims_has_limits() -> None:
    assert reason(claiming(corners(), 20_000, 20_000)) == "too large: 400 megapixels, limit 50"
    assert reason(claiming(corners(), 0, 5)) == "damaged HEIC"


def test_what_is_not_whole_is_called_truncated() -> None:
    data = corners()
    for end in (12, 30, 100, len(data) // 2, len(data) - 1):
        assert reason(data[:end]) == "truncated HEIC"
    assert inspect(data + b"what follows is ignored" * 100)


def test_another_coding_in_the_same_boxes_is_named() -> None:
    assert reason(corners().replace(b"hvc1", b"av01")) == "unsupported format AVIF"
    assert reason(corners().replace(b"hvc1", b"xxxx")) == "unsupported format HEIC of an unknown coding"
    assert reason(corners().replace(b"ftypheic", b"ftyphevc")) == "unsupported format HEIC sequence"


def test_boxes_without_end_are_given_up() -> None:
    head = corners()[:28]
    for boxes in (b"\x00\x00\x00\x08free" * 200_000, b"\x00\x00\x00\x00meta", b"\x00\x00\x00\x07meta", b"\x00" * 999):
        assert reason(head + boxes) in {"damaged HEIC", "truncated HEIC"}


def box(kind: bytes, held: bytes) -> bytes:
    return struct.pack(">I4s", len(held) + 8, kind) + held


def full_box(kind: bytes, version: int, held: bytes) -> bytes:
    return box(kind, bytes([version, 0, 0, 0]) + held)


def boxes_only(*, associations: bytes, locations: bytes) -> bytes:
    """A file without a picture in it: `associations` as `ipma` holds them, `locations` as `iloc` of version 2."""
    item = full_box(b"infe", 2, struct.pack(">HH4s", 1, 0, b"hvc1") + b"\x00")
    size = full_box(b"ispe", 0, struct.pack(">II", 64, 64))
    meta = [
        full_box(b"pitm", 0, struct.pack(">H", 1)),
        full_box(b"iinf", 0, struct.pack(">H", 1) + item),
        box(b"iprp", box(b"ipco", size) + full_box(b"ipma", 0, associations)),
        full_box(b"iloc", 2, b"\x00\x00" + locations),
    ]
    return box(b"ftyp", b"heic" + bytes(4) + b"mif1heic") + full_box(b"meta", 0, b"".join(meta))


_THIS_ONE = struct.pack(">HBB", 1, 1, 1)
_NONE = struct.pack(">I", 0)


@pytest.mark.parametrize("entry", [struct.pack(">HB", 2, 0), struct.pack(">HB", 2, 255) + b"\x01" * 255])
def test_entries_without_end_are_given_up(entry: bytes) -> None:
    """Whatever a box repeats: 20 MiB of it would take seconds, in the service itself."""
    few, many = (struct.pack(">I", count + 1) + _THIS_ONE + entry * count for count in (50, 2**20 // len(entry)))
    assert inspect(boxes_only(associations=few, locations=_NONE)).width == 64
    assert reason(boxes_only(associations=many, locations=_NONE)) == "damaged HEIC"


def test_items_without_end_are_given_up() -> None:
    location = struct.pack(">IHHH", 1, 0, 0, 0)
    few, many = (struct.pack(">I", count) + location * count for count in (50, 100_000))
    good = struct.pack(">I", 1) + _THIS_ONE
    assert inspect(boxes_only(associations=good, locations=few)).width == 64
    assert reason(boxes_only(associations=good, locations=many)) == "damaged HEIC"


@settings(max_examples=300)
@given(flips=st.lists(st.tuples(st.integers(0, 460), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_boxes_raise_nothing_else(flips: list[tuple[int, int]]) -> None:
    data = bytearray(corners(6))
    for at, value in flips:
        data[at] = value
    with suppress(BadImage):
        inspect(bytes(data))


# For the eyes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_eyes_get_it_upright_as_png_or_jpeg_and_bare(pixels: Pixels, orientation: int) -> None:
    data = corners(orientation)
    assert b"CANARY" in data
    ready = prepared(pixels, data, None, max_pixels=4_194_304, min_side=28)
    assert ready.media_type == "image/png"
    assert b"CANARY" not in ready.data
    assert b"Exif" not in ready.data
    image = Image.open(io.BytesIO(ready.data))
    assert not image.getexif()
    assert image.size == ((160, 240) if orientation >= 5 else (240, 160))
    undone = {
        1: (RED, GREEN, BLUE, WHITE),
        2: (GREEN, RED, WHITE, BLUE),
        3: (WHITE, BLUE, GREEN, RED),
        4: (BLUE, WHITE, RED, GREEN),
        5: (RED, BLUE, GREEN, WHITE),
        6: (BLUE, RED, WHITE, GREEN),
        7: (WHITE, GREEN, BLUE, RED),
        8: (GREEN, WHITE, RED, BLUE),
    }[orientation]
    width, height = image.size
    for (x, y), wanted in zip(((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)), undone, strict=True):
        found: Any = image.convert("RGB").getpixel((int(x * width), int(y * height)))
        assert all(abs(a - b) < 30 for a, b in zip(found, wanted, strict=True)), (x, y, found, wanted)


def test_a_part_of_it_is_cut_and_a_photo_goes_as_jpeg(pixels: Pixels) -> None:
    part = prepared(pixels, corners(6), Region(0, 0, 1, 0.5), max_pixels=4_194_304, min_side=28)
    assert (part.width, part.height) == (160, 120)
    photo = encoded(Image.linear_gradient("L").resize((1300, 900)).convert("RGB"))
    assert prepared(pixels, photo, None, max_pixels=4_194_304, min_side=28).media_type == "image/jpeg"


def test_transparent_parts_are_white(pixels: Pixels) -> None:
    image = Image.new("RGBA", (80, 60), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 40, 60))
    ready = prepared(pixels, encoded(image), None, max_pixels=4_194_304, min_side=1)
    found: Any = Image.open(io.BytesIO(ready.data)).convert("RGB").getpixel((70, 30))
    assert min(found) > 240


def test_text_recognition_and_likeness_take_it_too(pixels: Pixels) -> None:
    assert searchable(pixels, corners(6), None, SEARCH).pixels.size == (160, 240)
    assert likeness_of(pixels, corners()) != ""


def test_a_frame_that_is_larger_than_it_says_is_refused() -> None:
    large = claiming(encoded(Image.new("RGB", (1500, 1500), "red")), 8, 8)
    assert inspect(large).width == 8
    limits = ImageLimits(max_pixels=100_000)
    pixels = Pixels(limits, size=1)
    try:
        with pytest.raises(VisionError):
            prepared(pixels, large, None, max_pixels=4_194_304, min_side=1, limits=limits)
    finally:
        pixels.close()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited there")
def test_a_frame_that_takes_too_much_memory_costs_a_worker_at_most(pixels: Pixels) -> None:
    large = encoded(Image.new("RGB", (2500, 2500), "red"))
    assert prepared(pixels, large, None, max_pixels=4_194_304, min_side=1)
    small = Pixels(size=1, memory=110 * 2**20)
    try:
        with pytest.raises(VisionError):
            prepared(small, large, None, max_pixels=4_194_304, min_side=1)
        assert prepared(small, corners(), None, max_pixels=4_194_304, min_side=1)
    finally:
        small.close()


@settings(max_examples=60, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_whatever_is_damaged_the_worker_answers_or_is_replaced(pixels: Pixels, flips: list[tuple[int, int]]) -> None:
    data = bytearray(corners(6))
    for at, value in flips:
        data[at % len(data)] = value
    with suppress(VisionError):
        assert prepared(pixels, bytes(data), None, max_pixels=4_194_304, min_side=1).media_type == "image/png"


# For the brain


@asynccontextmanager
async def native() -> AsyncIterator[House]:
    async with Brain() as brain:
        tables = Options(text={"images": "native"}).tables(brain.url, "")
        del tables["vision"]
        brain.may_see_pictures = True
        async with (
            running(Settings.model_validate(tables)) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE, trust_env=False) as client,
        ):
            yield House(brain, Eyes(), port, client)


def sent(data: bytes) -> dict[str, Any]:
    return shown(data_url(data, "image/heic"))


@pytest.mark.anyio
async def test_a_brain_with_eyes_gets_a_picture_that_it_can_read_and_the_same_each_time() -> None:
    async with native() as house:
        house.brain.will(says("Corners."), says("Yes."))
        await house.chat(user("What?", sent(corners(6))))
        await house.chat(user("What?", sent(corners(6))), {"role": "assistant", "content": "Corners."}, user("Sure?"))
    first, second = house.brain.asked
    assert second.messages[0] == first.messages[0]
    url = first.messages[0]["content"][-1]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")
    assert Image.open(io.BytesIO(pybase64.b64decode(url.partition(",")[2]))).size == (160, 240)
    assert b"heic" not in first.body
    assert b"heic" not in second.body


@pytest.mark.anyio
async def test_a_brain_without_eyes_has_others_look_at_it() -> None:
    async with live() as house:
        house.eyes.answers = lambda asked: sees("Four corners.")
        look = Calls("analyzeImage", '{"image": "1", "task": "What is it?"}')
        house.brain.will(says(look), says("Four corners."))
        answer = await house.chat(user("What?", sent(corners())))
    assert answer.text == "Four corners."
    (picture,) = house.eyes.looks[0].pictures
    assert picture.startswith(b"\x89PNG")
    assert "240x160" in str(house.brain.asked[0].messages)


@pytest.mark.anyio
async def test_without_a_decoder_the_placeholder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    async with live() as house:
        house.brain.will(says("Pity."))
        await house.chat(user("What?", sent(corners())))
    assert "unsupported format HEIC (install pillow-heif" in str(house.brain.asked[0].messages)


@pytest.mark.anyio
async def test_what_was_converted_is_forgotten_with_the_image(pixels: Pixels) -> None:
    blobs = ReadableBlobs(MemoryStore(max_bytes=10**7), pixels)
    digest = await blobs.put("t", corners())
    first = await blobs.converted("t", digest, corners())
    assert first is not None
    assert await blobs.converted("t", digest, b"gone") == first  # remembered
    assert await blobs.converted("u", digest, b"gone") is None  # not for others
    await blobs.delete("t", digest)
    assert await blobs.converted("t", digest, b"gone") is None
