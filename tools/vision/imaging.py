"""A picture as it came, made into a picture that any vision model takes: upright, plain, bare and of a size it can use.

Order matters.  The pixels are turned upright first, because sizes and regions are given for the upright picture; a
region is cut from the pixels as they came, before anything is scaled, because cutting is how the brain gets at small
print; scaling comes last and happens once.  Nothing is scaled that the backend can take as it is.

Pictures that are already plain (8-bit RGB or grey PNG or JPEG, upright, opaque) are not decoded at all: their pixel
data passes through as it is and only what is not pixels is left behind.  That loses nothing, and it saves the half
second that decoding and encoding a large one takes.

Colour profiles are left behind too and the numbers kept: models are trained on pictures read that way, and a profile
is one more hostile input to parse.

Everything here is synchronous.  What decodes takes up to a gigabyte for the largest accepted picture and is for a
worker process: `tools.vision.sandboxed` has it done there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from cache.image import DEFAULT_LIMITS, BadImage, ImageInfo, ImageLimits, inspect, jpeg_segments, open_image, png_chunks
from tools.vision.backend import Region, VisionError

MAX_ASPECT = 200
"""Long side over short side.  Qwen's preprocessor refuses more (`smart_resize`); others do little with it."""

MAX_LOSSLESS_BYTES = 8 * 1024 * 1024
"""A PNG above this goes as JPEG: screenshots stay far below, and a photo does not need more to be looked at."""

LOSSY_FROM_PIXELS = 1_000_000
"""A JPEG that had to be changed goes out as JPEG from here on: as PNG it would be several times larger for nothing."""

JPEG_QUALITY = 95

ENLARGE_UP_TO = 1024
"""Pixels of a side: a tiny picture is enlarged so far at most, beyond that the missing side is filled up with white."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture ready to send, `width` x `height` pixels, and what was done to it that changes its meaning."""

    data: bytes
    media_type: str
    width: int
    height: int
    note: str = ""
    """For the reader of the answer, such as "first frame of an animation; scaled from 8000x6000 to 2352x1760"."""


@dataclass(frozen=True, slots=True)
class Upright:
    """Decoded pixels, mode L or RGB, opaque, turned upright; `left` and `top` say where a region was cut out."""

    pixels: Image.Image
    left: int
    top: int
    width: int
    """Of the whole picture, like `height`."""
    height: int
    notes: tuple[str, ...]


def prepare(
    data: bytes,
    region: Region | None,
    *,
    max_pixels: int,
    min_side: int,
    side_multiple: int = 1,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Prepared:
    """Make `data` fit for a backend that takes up to `max_pixels` and no side below `min_side`.

    Sides of a picture that has to be scaled become multiples of `side_multiple`, so that a preprocessor that insists on
    them has nothing left to scale.  Raises `VisionError` whatever the bytes are, and `MemoryError`, but nothing else.
    """
    wanted = {"max_pixels": max_pixels, "min_side": min_side, "side_multiple": side_multiple}
    passed = pass_on(data, region, limits=limits, **wanted)
    if passed is not None:
        return passed
    info = _inspected(data, limits)
    picture = _decoded(data, info, region, limits)
    try:
        return _encoded(picture, info, **wanted)
    except MemoryError:
        raise
    except Exception as error:
        raise VisionError("The picture could not be prepared for the vision model.", retryable=False) from error


def pass_on(
    data: bytes,
    region: Region | None,
    *,
    max_pixels: int,
    min_side: int,
    side_multiple: int = 1,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Prepared | None:
    """What `prepare` makes of a picture that need not be decoded for it; `None` for all others.  Raises as it does."""
    info = _inspected(data, limits)
    content, canvas = fit(
        info.width, info.height, max_pixels=max_pixels, min_side=min_side, side_multiple=side_multiple
    )
    if region not in (None, _WHOLE) or not content == canvas == (info.width, info.height):
        return None
    bare = _bare(data, info)
    if bare is None or len(bare) > MAX_LOSSLESS_BYTES:
        return None
    return Prepared(bare, info.media_type, info.width, info.height)


def upright(data: bytes, region: Region | None, *, limits: ImageLimits = DEFAULT_LIMITS) -> Upright:
    """Decode the first frame and cut out `region`.  Raises as `prepare` does."""
    return _decoded(data, _inspected(data, limits), region, limits)


_WHOLE = Region(0, 0, 1, 1)


def fit(
    width: int, height: int, *, max_pixels: int, min_side: int, side_multiple: int = 1
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size to which a picture is scaled, and the size of the canvas it then stands on; both as it is, if they can.

    The canvas is larger only for a picture that is too thin: filling up keeps its proportions, stretching would not.
    Raises `ValueError` where no size could do, because `min_side` squared is above `max_pixels`.
    """
    if min_side * min_side > max_pixels:
        raise ValueError(f"max_pixels {max_pixels} leaves no room for sides of {min_side}")
    shorter, longer = min(width, height), max(width, height)
    times = math.ceil(min_side / shorter)
    if times > 1 and longer * times <= max(ENLARGE_UP_TO, min_side):
        width, height = width * times, height * times
    content = width, height
    canvas = _canvas(width, height, min_side)
    scale = 1.0
    while canvas[0] * canvas[1] > max_pixels:
        # More than one step only where rounding up the canvas of a thin picture has brought it back over the limit.
        scale *= min(0.99, math.sqrt(max_pixels / (canvas[0] * canvas[1])))
        content = max(1, int(width * scale)), max(1, int(height * scale))
        canvas = _canvas(*content, min_side)
    if scale < 1:
        snapped = content[0] // side_multiple * side_multiple, content[1] // side_multiple * side_multiple
        if min(snapped) > 0 and _canvas(*snapped, min_side) == snapped:
            content = canvas = snapped
    return content, canvas


def _canvas(width: int, height: int, min_side: int) -> tuple[int, int]:
    return max(width, min_side, math.ceil(height / MAX_ASPECT)), max(height, min_side, math.ceil(width / MAX_ASPECT))


def _inspected(data: bytes, limits: ImageLimits) -> ImageInfo:
    # Pictures are inspected on arrival; once more costs little and holds even if a store gave back something else.
    try:
        return inspect(data, limits)
    except BadImage as error:
        raise VisionError(f"The picture cannot be used: {error.reason}.", retryable=False) from error


def _decoded(data: bytes, info: ImageInfo, region: Region | None, limits: ImageLimits) -> Upright:
    try:
        image: Image.Image = open_image(data, info.media_type)
        image.load()
        _check_decoded(image, limits)
        if info.orientation in _TURNS:
            image = image.transpose(_TURNS[info.orientation])
        notes: list[str] = []
        if info.animated:
            notes.append("first frame of an animation")
        width, height = image.size
        left = top = 0
        if region not in (None, _WHOLE):
            left, top, right, bottom = box(region, width, height)
            image = image.crop((left, top, right, bottom))
            notes.append(f"the part {left},{top},{right - left},{bottom - top} (x,y,w,h) of {width}x{height} pixels")
        return Upright(_plain(image), left, top, width, height, tuple(notes))
    except MemoryError:
        raise
    except Exception as error:
        # The header is sound, so it is the pixel data that is not; a decoder says so in many ways.
        raise VisionError("The picture is damaged: its pixels cannot be decoded.", retryable=False) from error


def _check_decoded(image: Image.Image, limits: ImageLimits) -> None:
    """HEIC may tell its decoder another size than it told us."""
    if image.width * image.height > limits.max_pixels:
        raise ValueError(image.size)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to what brings the pixels upright (EXIF 2.32, tag 0x0112; Pillow rotates counter-clockwise)."""


def box(region: Region, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of `region` in whole pixels, at least one each way."""
    left = min(round(region.left * width), width - 1)
    top = min(round(region.top * height), height - 1)
    right = min(max(round(region.right * width), left + 1), width)
    bottom = min(max(round(region.bottom * height), top + 1), height)
    return left, top, right, bottom


def _plain(image: Image.Image) -> Image.Image:
    """The same picture in mode L or RGB, opaque, eight bits, and with nothing attached."""
    if image.mode.startswith("I"):
        # 16-bit grey.  Pillow's own conversion cuts off everything above 255 instead of scaling
        # (32768 becomes 255 too), so it is scaled first: 65535 / 257 = 255.
        image = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    elif image.has_transparency_data:
        # On white and not just dropped: what lies under full transparency is often black, or was meant to be hidden.
        layer = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(layer, mask=layer)
    else:
        image = image.convert("L" if image.mode in {"1", "L"} else "RGB")
    # Pillow's writers take profiles, comments and transparency from here.
    image.info = {}
    return image


def _encoded(picture: Upright, info: ImageInfo, *, max_pixels: int, min_side: int, side_multiple: int) -> Prepared:
    image = picture.pixels
    notes = list(picture.notes)
    before = image.size
    content, canvas = fit(*before, max_pixels=max_pixels, min_side=min_side, side_multiple=side_multiple)
    if content[0] > before[0] or content[1] > before[1]:
        # By a whole number and without smoothing: an icon keeps its own pixels, nothing is invented.
        image = image.resize(content, Image.Resampling.NEAREST)
        notes.append(f"enlarged from {_size(before)} to {_size(content)}")
    elif content != before:
        # The gap lets very long pictures be halved before the filter; without it the filter's own tables would take
        # gigabytes for a side of millions of pixels.  At the usual factors it changes nothing.
        image = image.resize(content, Image.Resampling.LANCZOS, reducing_gap=3.0)
        notes.append(f"scaled from {_size(before)} to {_size(content)}")
    if canvas != content:
        # Content stays in the top left corner, so that positions in pixels stay true.
        filled = Image.new(image.mode, canvas, "white")
        filled.paste(image)
        image = filled
        notes.append(f"filled up with white to {_size(canvas)}")
    data, media_type = _written(image, lossy_source=info.media_type in _LOSSY)
    return Prepared(data, media_type, *image.size, note="; ".join(notes))


_LOSSY = frozenset({"image/jpeg", "image/heic"})


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _written(image: Image.Image, *, lossy_source: bool) -> tuple[bytes, str]:
    if not (lossy_source and image.width * image.height > LOSSY_FROM_PIXELS):
        buffer = BytesIO()
        # Level 3: as small as the default level 6 on screenshots and photos, in about half its time.
        image.save(buffer, "PNG", compress_level=3)
        if buffer.tell() <= MAX_LOSSLESS_BYTES:
            return buffer.getvalue(), "image/png"
    buffer = BytesIO()
    # Colour at full resolution: halving it blurs coloured text.
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue(), "image/jpeg"


def _bare(data: bytes, info: ImageInfo) -> bytes | None:
    """`data` without anything but pixels, or `None` where its pixels need work."""
    if info.orientation != 1 or info.animated:
        return None
    if info.media_type == "image/png":
        return _bare_png(data)
    if info.media_type == "image/jpeg":
        return _bare_jpeg(data)
    return None


_GREY, _RGB = 0, 2


def _bare_png(data: bytes) -> bytes | None:
    depth, colour = data[24], data[25]
    if depth != 8 or colour not in {_GREY, _RGB}:
        return None
    kept = [data[:8]]
    for kind, start, end in png_chunks(data):
        if kind == b"tRNS":
            return None
        if kind in {b"IHDR", b"IDAT", b"IEND"}:
            kept.append(data[start:end])
    return b"".join(kept)


_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_PIXEL_SEGMENTS = frozenset({_BASELINE, _EXTENDED, _PROGRESSIVE, 0xC4, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD})


def _bare_jpeg(data: bytes) -> bytes | None:
    kept = [data[:2]]
    for marker, start, end in jpeg_segments(data):
        if marker in _PIXEL_SEGMENTS:
            if marker in {_BASELINE, _EXTENDED, _PROGRESSIVE}:
                precision, components = data[start + 4], data[start + 9]
                # Four components are CMYK, whose meaning (inverted or not) depends on who reads it.
                if precision != 8 or components not in {1, 3}:
                    return None
            kept.append(data[start:end])
        elif 0xC0 <= marker <= 0xCF:
            # Lossless, hierarchical or arithmetic coding: few readers know them.
            return None
        elif marker == 0xE0 and data[start + 4 : start + 9] == b"JFIF\x00":
            # A JFIF header says that the colours are YCbCr; it may also hold a thumbnail, hence a fresh one.
            kept.append(_JFIF)
        elif marker == 0xEE and data[start + 4 : start + 9] == b"Adobe":
            # Likewise, and it may say RGB: needed as it is, in its fixed length only.
            if end - start != 16:
                return None
            kept.append(data[start:end])
    return b"".join(kept)
