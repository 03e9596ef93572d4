"""Near-equal screenshots are near, different pages are not, and no bytes are too odd to be asked about."""

from __future__ import annotations

import random
from io import BytesIO
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from cache.forgetting import NEAR
from cache.image import ImageLimits
from cache.likeness import likeness

LIGHT, DARK = ((255, 255, 255), (30, 30, 30)), ((24, 24, 28), (220, 220, 220))


def page(seed: int, *, clock: str = "10:41", caret: bool = False, dark: bool = False, scroll: int = 0) -> Image.Image:
    """A screen with a bar, paragraphs and pictures; always the same for the same arguments."""
    chance = random.Random(seed)
    paper, ink = DARK if dark else LIGHT
    screen = Image.new("RGB", (1280, 720), paper)
    draw = ImageDraw.Draw(screen)
    draw.rectangle((0, 40, chance.choice([0, 180, 260]), 720), fill=(40, 40, 46) if dark else (235, 236, 240))
    top = 60 - scroll
    while top < 690:
        left = chance.randint(280, 340)
        if chance.random() < 0.75:
            for _ in range(chance.randint(1, 6)):
                draw.text((left, top), "".join(chance.choices("abcdefg hijk", k=chance.randint(20, 110))), fill=ink)
                top += 18
        else:
            height, colour = chance.randint(40, 160), tuple(chance.randint(0, 255) for _ in range(3))
            draw.rectangle((left, top, left + chance.randint(100, 700), top + height), fill=colour)
            top += height
        top += chance.randint(10, 40)
    draw.rectangle((0, 0, 1280, 40), fill=(60, 60, 70))
    draw.text((1200, 12), clock, fill="white")
    if caret:
        draw.rectangle((400, 300, 401, 316), fill=ink)
    return screen


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def distance(one: str, other: str) -> int:
    assert len(one) == len(other) == 16
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_moved_caret_and_a_later_clock_are_near(dark: bool, form: str) -> None:
    for seed in range(3):
        before = likeness(encoded(page(seed, dark=dark), form))
        after = likeness(encoded(page(seed, dark=dark, clock="10:42", caret=True), form))
        assert distance(before, after) <= NEAR


@pytest.mark.parametrize("dark", [False, True])
def test_different_pages_are_not_near(dark: bool) -> None:
    hashes = [likeness(encoded(page(seed, dark=dark))) for seed in range(15)]
    assert min(distance(one, other) for one, other in combinations(hashes, 2)) > NEAR


def test_a_page_that_was_scrolled_by_a_third_is_not_near() -> None:
    for seed in range(6):
        assert distance(likeness(encoded(page(seed))), likeness(encoded(page(seed, scroll=240)))) > NEAR


def test_the_same_page_at_half_its_size_is_near() -> None:
    screen = page(3)
    assert distance(likeness(encoded(screen)), likeness(encoded(screen.resize((640, 360))))) <= NEAR


def test_the_first_bit_is_the_upper_left_pair_and_plain_squares_set_none() -> None:
    squares = Image.new("L", (9, 8), 200)
    squares.putpixel((0, 0), 100)
    assert likeness(encoded(squares)) == "8000000000000000"
    squares.putpixel((8, 7), 255)
    assert likeness(encoded(squares)) == "8000000000000001"
    assert likeness(encoded(Image.new("L", (9, 8), 200))) == "0" * 16


def test_what_is_dark_is_read_inverted() -> None:
    squares = Image.new("L", (9, 8), 55)
    squares.putpixel((0, 0), 155)
    assert likeness(encoded(squares)) == "8000000000000000"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_pixels_reads_alike(mode: str) -> None:
    black_and_white = Image.new("L", (90, 80), 255)
    black_and_white.paste(0, (0, 0, 30, 80))
    image = black_and_white.convert("RGB").convert(mode) if mode != "I;16" else Image.new("I;16", (90, 80), 60_000)
    if mode == "I;16":
        image.paste(Image.new("I;16", (30, 80), 1_000))
    assert likeness(encoded(image)) == "20" * 8


def test_what_is_transparent_counts_as_white() -> None:
    drawn = Image.new("RGBA", (90, 80), (0, 0, 0, 0))
    drawn.paste((0, 0, 0, 255), (0, 0, 30, 80))
    assert likeness(encoded(drawn)) == likeness(
        encoded(Image.alpha_composite(Image.new("RGBA", (90, 80), "white"), drawn))
    )
    assert likeness(encoded(drawn)) == "20" * 8


def test_a_cmyk_jpeg_and_an_animation_have_a_likeness_too() -> None:
    screen = page(1)
    other = page(2)
    assert len(likeness(encoded(screen.convert("CMYK"), "JPEG"))) == 16
    moving = encoded(screen, "GIF", save_all=True, append_images=[other])
    assert distance(likeness(moving), likeness(encoded(screen, "GIF"))) <= NEAR


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_a_picture_may_be_smaller_than_the_squares_or_very_thin(size: tuple[int, int]) -> None:
    assert likeness(encoded(Image.new("RGB", size, "red"))) == "0" * 16


def test_what_is_no_image_or_damaged_has_none() -> None:
    whole = encoded(page(1))
    broken_pixels = encoded(Image.effect_noise((200, 200), 50), "WEBP", lossless=True)
    broken_pixels = broken_pixels[:60] + bytes(len(broken_pixels) - 60)
    for data in (b"", b"hello", whole[:-20], whole[:5000] + whole[5001:], b"<svg/>", broken_pixels):
        assert likeness(data) == ""


def test_a_picture_beyond_the_limits_is_never_decoded() -> None:
    big = encoded(Image.new("1", (1200, 1000)))
    assert likeness(big, ImageLimits(max_pixels=1_000_000)) == ""
    assert likeness(big, ImageLimits(max_bytes=len(big) - 1)) == ""
    assert likeness(big) == "0" * 16


@given(st.binary(max_size=200), st.integers(0, 3000))
@settings(max_examples=40, deadline=None)
def test_nothing_is_raised_whatever_the_bytes_are(noise: bytes, at: int) -> None:
    small = encoded(page(1).resize((64, 36)), "JPEG")
    for data in (noise, small[:at] + noise + small[at + len(noise) :]):
        assert len(likeness(data)) in (0, 16)
