"""What a file says it is, and whether it may come in: the door where hostile pictures stop.

`inspect` looks at structure only and never at pixels.  Three things are settled before any decoder runs:

1. **It is whole.**  Each format is walked by its own length fields to the point behind which nothing is needed: the
   checked IEND of a PNG, the EOI of a JPEG, the end of a GIF's first frame, the length that a WEBP or BMP states.
   What follows that point is ignored, because screenshot tools and phones append things there.
2. **It is not a bomb.**  The size that a header declares costs nothing to write down and everything to decode:
   20,000 x 20,000 pixels fit into 510 kB of PNG.  A JPEG is decoded once per scan, and 506 scans in 219 kB took
   13.6 s of CPU, so scans count as well.  The walk itself is bounded in steps, since a file of nothing but empty
   blocks is a bomb for the walker.
3. **The decoder agrees.**  Last, Pillow reads the header; what it refuses or sees larger than we did stays out.

Formats: PNG, JPEG, WEBP, GIF and plain BMP; HEIC where its decoder is installed.  Left out on purpose: TIFF and
everything else with a history of decoder faults that no chat client sends; compressed BMP, whose decoder is a Python
loop; AVIF, where the coded frame may be far larger than the size in the header, so that no limit checked here bounds
the decoding.  The same is true of HEIC, which phones send: nothing but our own walk runs here, and its decoder only in
workers (`cache.pixels`), whose memory and time are bounded.

Pillow's plugin classes are called directly instead of `Image.open`: that makes the list above the only formats there
are, and leaves out `Image.open`'s own size warning, which would come after our check and only be noise.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from struct import unpack_from

from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cache import heif

MEBIBYTE = 1024 * 1024

MAX_SCANS = 64
"""Scans of one JPEG.  Encoders write 1 to about 10; decoding time grows with each."""

MAX_SCANNED_PIXELS = 1_000_000_000
"""Pixels times scans of one JPEG: about 10 s of decoding at worst, by the measurement above."""

MAX_BLOCKS = 100_000
"""Chunks, segments or extensions in one file: a 20 MiB PNG in 8 KiB chunks has 2,560, and this many take 0.1 s."""

MAX_PARTS = 64
"""Colour profiles of a PNG, pieces of EXIF of a JPEG: what Pillow unpacks or puts together while it reads the header.
Encoders write one of the former, and one of the latter for each 64 KiB."""

MAX_SUB_BLOCKS = 500_000
"""Data blocks of one GIF up to the end of its first frame.  A full 20 MiB in blocks of 255 bytes has 82,000."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large a picture may be: as a file, in bytes, and once decoded, in pixels."""

    max_bytes: int = 20 * MEBIBYTE
    max_pixels: int = 50_000_000
    """Three bytes each, and a few copies while turning and cutting: 50 million stay below 1 GB."""


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What a file holds.  Width and height in pixels as a viewer sees them, that is after `orientation`."""

    media_type: str
    width: int
    height: int
    animated: bool = False
    """More than one frame; only the first is ever shown to anyone."""
    orientation: int = 1
    """The EXIF value, 1 to 8: how the stored pixels have to be turned to stand upright."""


class BadImage(Exception):
    """Not a picture that can be used.  `reason` is a few plain words, fit for a placeholder."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def inspect(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> ImageInfo:
    """Say what `data` holds without decoding it.  Raises `BadImage`, and nothing else, whatever the bytes are."""
    if not data:
        raise BadImage("empty")
    if len(data) > limits.max_bytes:
        raise _too_large(len(data) / MEBIBYTE, limits.max_bytes / MEBIBYTE, "MiB")
    form = _recognise(data)
    walked = form.walk(data)
    _check_pixels(walked.width, walked.height, walked.scans, limits)
    if form is _HEIC:
        return ImageInfo(form.media_type, walked.width, walked.height)
    try:
        image = open_image(data, form.media_type)
        width, height = image.size
        orientation = _orientation(image, walked.exif)
    except Exception as error:
        # A plugin lets through whatever its parsing stumbles over: OSError, ValueError, struct.error, MemoryError ...
        raise BadImage(f"damaged {form.name}") from error
    _check_pixels(width, height, walked.scans, limits)
    if orientation >= 5:
        width, height = height, width
    return ImageInfo(form.media_type, width, height, walked.animated, orientation)


def open_image(data: bytes, media_type: str) -> ImageFile.ImageFile:
    """Open, not yet decode, a file that `inspect` has let in.  Raises whatever Pillow raises."""
    return _FORMS[media_type].decoder(BytesIO(data))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end (exclusive) of each chunk of a PNG up to IEND, checksums checked.  Raises `BadImage`."""
    view = memoryview(data)
    position = 8
    for _ in range(MAX_BLOCKS):
        if position + 12 > len(data):
            raise BadImage("truncated PNG")
        length, kind = unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise BadImage("truncated PNG")
        (checksum,) = unpack_from(">I", data, end - 4)
        if zlib.crc32(view[position + 4 : end - 4]) != checksum:
            raise BadImage("damaged PNG")
        yield kind, position, end
        if kind == b"IEND":
            return
        position = end
    raise BadImage("damaged PNG")


# A marker is FF and a byte that is neither 00 (an FF of the data) nor FF (filling).  Inside a scan the restart
# markers D0 to D7 belong to the data too.  One FF, not FF+: on a long run of FF the latter takes quadratic time.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_JPEG_SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_SOI, _EOI, _SOS, _EXIF = 0xD8, 0xD9, 0xDA, 0xE1
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_WITH_LENGTH = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xF0), 0xFE} - {0xC8})


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end (exclusive) of each segment of a JPEG up to EOI, scans with their data.  Raises `BadImage`.

    Bytes between segments are skipped the way libjpeg skips them, so that both see the same segments.
    """
    position = 2
    for _ in range(MAX_BLOCKS):
        found = _JPEG_MARKER.search(data, position)
        if found is None:
            raise BadImage("truncated JPEG")
        start, position = found.span()
        marker = data[position - 1]
        if marker == _EOI:
            yield marker, start, position
            return
        if marker in _WITHOUT_LENGTH:
            continue
        if marker not in _WITH_LENGTH:
            raise BadImage("damaged JPEG")
        if position + 2 > len(data):
            raise BadImage("truncated JPEG")
        (length,) = unpack_from(">H", data, position)
        if length < 2:
            raise BadImage("damaged JPEG")
        end = position + length
        if end > len(data):
            raise BadImage("truncated JPEG")
        if marker == _SOS:
            behind = _JPEG_SCAN_END.search(data, end)
            if behind is None:
                raise BadImage("truncated JPEG")
            end = behind.start()
        yield marker, start, end
        position = end
    raise BadImage("damaged JPEG")


@dataclass(frozen=True, slots=True)
class _Walked:
    width: int
    height: int
    animated: bool = False
    scans: int = 1
    exif: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Form:
    name: str
    media_type: str
    walk: Callable[[bytes], _Walked]
    decoder: Callable[[BytesIO], ImageFile.ImageFile]


def _walk_png(data: bytes) -> _Walked:
    width = height = 0
    pixels = animated = False
    exif = b""
    profiles = 0
    for kind, start, end in png_chunks(data):
        if (start == 8) != (kind == b"IHDR") or (kind == b"IHDR" and end - start != 25):
            raise BadImage("damaged PNG")
        if kind == b"IHDR":
            width, height = unpack_from(">II", data, start + 8)
        elif kind == b"IDAT":
            pixels = True
        elif kind == b"acTL" and end - start == 20:
            animated = unpack_from(">I", data, start + 8)[0] > 1
        elif kind == b"eXIf":
            exif = data[start + 8 : end - 4]
        elif kind == b"iCCP":
            profiles += 1
            if profiles > MAX_PARTS:
                raise BadImage("damaged PNG")
    if not pixels:
        raise BadImage("damaged PNG")
    # Pillow's PNG reader would decode all pixels to look for an eXIf chunk behind them: it is handed ours instead.
    return _Walked(width, height, animated, exif=exif)


def _walk_jpeg(data: bytes) -> _Walked:
    size: tuple[int, int] | None = None
    scans = pieces = 0
    for marker, start, end in jpeg_segments(data):
        if marker in _START_OF_FRAME:
            if size is not None or end - start < 9:
                raise BadImage("damaged JPEG")
            height, width = unpack_from(">HH", data, start + 5)
            size = width, height
        elif marker == _EXIF and data.startswith(b"Exif\x00\x00", start + 4):
            pieces += 1
            if pieces > MAX_PARTS:
                raise BadImage("damaged JPEG")
        elif marker == _SOS:
            scans += 1
            if scans > MAX_SCANS:
                raise BadImage(f"JPEG with more than {MAX_SCANS} scans")
    if size is None or scans == 0:
        raise BadImage("damaged JPEG")
    return _Walked(*size, scans=scans)


def _walk_gif(data: bytes) -> _Walked:
    if len(data) < 13:
        raise BadImage("truncated GIF")
    width, height, flags = unpack_from("<HHB", data, 6)
    position = 13 + _colour_table(flags)
    whole = False
    left = MAX_SUB_BLOCKS
    for _ in range(MAX_BLOCKS):
        introducer = data[position : position + 1]
        if introducer == b"," and whole:
            return _Walked(width, height, animated=True)
        if introducer == b",":
            if position + 11 > len(data):
                raise BadImage("truncated GIF")
            x, y, w, h, flags = unpack_from("<HHHHB", data, position + 1)
            # Decoders let a first frame that hangs over the canvas enlarge it.
            width, height = max(width, x + w), max(height, y + h)
            position, left = _behind_sub_blocks(data, position + 11 + _colour_table(flags), left)
            whole = True
        elif introducer == b"!" and not whole:
            position, left = _behind_sub_blocks(data, position + 2, left)
        elif introducer == b"!":
            try:
                position, left = _behind_sub_blocks(data, position + 2, left)
            except BadImage:
                break
        elif introducer == b"\x00":
            position += 1
        else:
            break
    if not whole:
        raise BadImage("truncated GIF" if position >= len(data) else "damaged GIF")
    return _Walked(width, height)


def _colour_table(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _behind_sub_blocks(data: bytes, position: int, left: int) -> tuple[int, int]:
    """The position behind the chain of data blocks that starts at `position`, and how many more may follow."""
    size = len(data)
    while left > 0:
        if position >= size:
            raise BadImage("truncated GIF")
        length = data[position]
        position += 1 + length
        if length == 0:
            return position, left
        left -= 1
    raise BadImage("damaged GIF")


def _walk_webp(data: bytes) -> _Walked:
    if len(data) < 20:
        raise BadImage("truncated WEBP")
    (riff,) = unpack_from("<I", data, 4)
    if riff + 8 > len(data):
        raise BadImage("truncated WEBP")
    sizes: list[tuple[int, int]] = []
    pictures = frames = 0
    position = 12
    for _ in range(MAX_BLOCKS):
        if position + 8 > riff + 8:
            break
        kind, length = unpack_from("<4sI", data, position)
        start = position + 8
        position = start + length + (length & 1)
        if start + length > riff + 8:
            raise BadImage("truncated WEBP")
        if kind == b"VP8X" and length >= 10:
            sizes.append((1 + _uint24(data, start + 4), 1 + _uint24(data, start + 7)))
        elif kind == b"VP8 " and length >= 10:
            w, h = unpack_from("<HH", data, start + 6)
            sizes.append((w & 0x3FFF, h & 0x3FFF))
            pictures += 1
        elif kind == b"VP8L" and length >= 5:
            (packed,) = unpack_from("<I", data, start + 1)
            sizes.append((1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)))
            pictures += 1
        elif kind == b"ANMF" and length >= 16:
            frames += 1
    else:
        raise BadImage("damaged WEBP")
    if not sizes or pictures + frames == 0:
        raise BadImage("damaged WEBP")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return _Walked(width, height, animated=frames > 1)


def _uint24(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 3], "little")


_BMP_PLAIN = frozenset({0, 3, 6})  # uncompressed; with colour masks; with colour and alpha masks


def _walk_bmp(data: bytes) -> _Walked:
    if len(data) < 26:
        raise BadImage("truncated BMP")
    pixels_at, header = unpack_from("<II", data, 10)
    if header == 12:
        width, height, _, bits = unpack_from("<HHHH", data, 18)
        compression = 0
    elif len(data) < 34:
        raise BadImage("truncated BMP")
    else:
        width, height, _, bits, compression = unpack_from("<iiHHI", data, 18)
    if width <= 0 or bits not in {1, 2, 4, 8, 16, 24, 32}:
        raise BadImage("damaged BMP")
    if compression not in _BMP_PLAIN:
        raise BadImage("unsupported format compressed BMP")
    row = (width * bits + 31) // 32 * 4
    if pixels_at + row * abs(height) > len(data):
        raise BadImage("truncated BMP")
    return _Walked(width, abs(height))


def _walk_heic(data: bytes) -> _Walked:
    if not heif.is_installed():
        raise BadImage(heif.NOT_INSTALLED)
    try:
        return _Walked(*heif.upright_size(data))
    except heif.BadBoxes as bad:
        raise BadImage(bad.words) from bad


_PNG = _Form("PNG", "image/png", _walk_png, PngImageFile)
_JPEG = _Form("JPEG", "image/jpeg", _walk_jpeg, JpegImageFile)
_GIF = _Form("GIF", "image/gif", _walk_gif, GifImageFile)
_WEBP = _Form("WEBP", "image/webp", _walk_webp, WebPImageFile)
_BMP = _Form("BMP", "image/bmp", _walk_bmp, BmpImageFile)
_HEIC = _Form("HEIC", heif.MEDIA_TYPE, _walk_heic, lambda file: heif.open_heic(file.getvalue()))
_FORMS = {form.media_type: form for form in (_PNG, _JPEG, _GIF, _WEBP, _BMP, _HEIC)}

_UNSUPPORTED = (
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"\x00\x00\x01\x00", "icon (ICO)"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\x1aE\xdf\xa3", "video"),
    (b"qoif", "QOI"),
)
_BRANDS = (
    (frozenset({b"avif", b"avis"}), "AVIF"),
    (frozenset({b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"}), "HEIC sequence"),
)


def _recognise(data: bytes) -> _Form:
    """The accepted format that `data` claims to be; else a `BadImage` that says what it is, for a person to act on."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _PNG
    if data.startswith(b"\xff\xd8\xff"):
        return _JPEG
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _GIF
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _WEBP
    # "BM" alone also begins prose: the size of the header that follows tells them apart.
    if data.startswith(b"BM") and (len(data) < 18 or data[14:18] in _BMP_HEADERS):
        return _BMP
    for signature, name in _UNSUPPORTED:
        if data.startswith(signature):
            raise BadImage(f"unsupported format {name}")
    if data[4:8] == b"ftyp" and data[8:12] in heif.BRANDS:
        return _HEIC
    if data[4:8] == b"ftyp" and len(data) >= 12:
        name = next((name for brands, name in _BRANDS if data[8:12] in brands), "video")
        raise BadImage(f"unsupported format {name}")
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"<") and b"<svg" in head:
        raise BadImage("unsupported format SVG")
    if head.startswith((b"<!doctype html", b"<html")):
        raise BadImage("not an image but an HTML page")
    raise BadImage("not an image")


_BMP_HEADERS = frozenset(size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124))


def _check_pixels(width: int, height: int, scans: int, limits: ImageLimits) -> None:
    pixels = width * height
    if pixels == 0:
        raise BadImage("has no pixels")
    if pixels > limits.max_pixels:
        raise _too_large(pixels / 1e6, limits.max_pixels / 1e6, "megapixels")
    if pixels * scans > MAX_SCANNED_PIXELS:
        raise BadImage(f"JPEG with {scans} scans of {_shown(pixels / 1e6)} megapixels")


def _too_large(number: float, limit: float, unit: str) -> BadImage:
    """As few digits as still show that `number` is the larger of the two."""
    digits = 3
    while digits < 9 and _shown(number, digits) == _shown(limit, digits):
        digits += 1
    return BadImage(f"too large: {_shown(number, digits)} {unit}, limit {_shown(limit, digits)}")


def _shown(number: float, digits: int = 3) -> str:
    return f"{number:.{max(digits, len(str(int(number))))}g}"


def _orientation(image: ImageFile.ImageFile, exif: bytes | None) -> int:
    """How the picture is turned by `exif`, or, without, by what Pillow finds in the file; 1 where that says nothing."""
    try:
        if exif is None:
            found = image.getexif()
        else:
            found = Image.Exif()
            found.load(exif)
        value = found.get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Broken EXIF beside sound pixels is common and harmless: the picture stays as it is stored.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
