"""`cache.image`: what comes in, what stays out, and in which words."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cache.image import (
    MAX_SCANS,
    BadImage,
    ImageInfo,
    ImageLimits,
    inspect,
    jpeg_segments,
    png_chunks,
)
from tools.vision.backend import VisionError
from tools.vision.imaging import prepare, upright


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 20, mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", (width, height))
    image.putdata([(x * 6 % 256, y * 12 % 256, (x + y) % 256) for y in range(height) for x in range(width)])
    return image.convert(mode)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def declared_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is `width` x `height`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


SAMPLES: dict[str, bytes] = {
    "png": encoded(gradient(), "PNG"),
    "jpeg": encoded(gradient(), "JPEG"),
    "progressive jpeg": encoded(gradient(), "JPEG", progressive=True),
    "gif": encoded(gradient(), "GIF"),
    "animated gif": encoded(gradient(), "GIF", save_all=True, append_images=[gradient(mode="L"), gradient()]),
    "webp": encoded(gradient(), "WEBP"),
    "lossless webp": encoded(gradient(), "WEBP", lossless=True),
    "animated webp": encoded(gradient(), "WEBP", save_all=True, append_images=[Image.new("RGB", (40, 20), "red")]),
    "bmp": encoded(gradient(), "BMP"),
    "apng": encoded(gradient(), "PNG", save_all=True, append_images=[Image.new("RGB", (40, 20), "red")]),
}
MEDIA_TYPES = {"apng": "image/png", "bmp": "image/bmp"}


def media_type(name: str) -> str:
    return MEDIA_TYPES.get(name, f"image/{name.rsplit(maxsplit=1)[-1]}")


def reason(data: bytes, limits: ImageLimits | None = None) -> str:
    with pytest.raises(BadImage) as caught:
        inspect(data, limits or ImageLimits())
    return caught.value.reason


@pytest.mark.parametrize("name", SAMPLES)
def test_every_accepted_format_tells_its_size_and_whether_it_moves(name: str) -> None:
    animated = name in {"animated gif", "animated webp", "apng"}
    assert inspect(SAMPLES[name]) == ImageInfo(media_type(name), 40, 20, animated=animated)


@pytest.mark.parametrize("name", SAMPLES)
def test_bytes_behind_the_end_do_no_harm(name: str) -> None:
    assert inspect(SAMPLES[name] + b"\x00\xffwritten by a screenshot tool" * 3) == inspect(SAMPLES[name])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_a_single_pixel_is_a_picture(mode: str) -> None:
    assert inspect(encoded(Image.new(mode, (1, 1)), "PNG")) == ImageInfo("image/png", 1, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_size_is_that_of_the_upright_picture(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    info = inspect(encoded(gradient(), form, exif=exif))
    assert info.orientation == orientation
    assert (info.width, info.height) == ((40, 20) if orientation < 5 else (20, 40))


def test_exif_behind_the_pixels_of_a_png_is_found_without_decoding_them() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    # The pixels are junk: whoever decodes them fails.
    junk = declared_png(40, 20)
    data = junk[:-12] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\x00\x00")) + junk[-12:]
    assert inspect(data) == ImageInfo("image/png", 20, 40, orientation=6)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_a_senseless_orientation_is_none(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert inspect(encoded(gradient(), "JPEG", exif=exif)) == ImageInfo("image/jpeg", 40, 20)


def test_broken_exif_beside_sound_pixels_is_ignored() -> None:
    assert inspect(encoded(gradient(), "JPEG", exif=b"Exif\x00\x00not tiff at all")).orientation == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (b"BM is how this text begins, and it is not a bitmap", "not an image"),
        (b"\x00" * 100, "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported format SVG"),
        (b"\xef\xbb\xbf <?xml version='1.0'?>\n<!-- x -->\n<SVG>", "unsupported format SVG"),
        (b"<!DOCTYPE html><html>not found</html>", "not an image but an HTML page"),
        (b"%PDF-1.7 ...", "unsupported format PDF"),
        (b"\x00\x00\x00\x20ftyphevc\x00\x00\x00\x00", "unsupported format HEIC sequence"),
        (b"\x00\x00\x00\x20ftypisom\x00\x00\x00\x00", "unsupported format video"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "not an image"),
        (encoded(gradient(), "TIFF"), "unsupported format TIFF"),
        (encoded(gradient(), "AVIF"), "unsupported format AVIF"),
        (encoded(gradient(), "ICO"), "unsupported format icon (ICO)"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, words: str) -> None:
    assert reason(data) == words


@pytest.mark.parametrize("name", SAMPLES)
def test_half_a_picture_is_called_truncated(name: str) -> None:
    kind = media_type(name).removeprefix("image/").upper()
    # Half of an animation holds its first frame, and that is all that is ever used.
    data = SAMPLES[name] if "animated" not in name else SAMPLES[name.removeprefix("animated ")]
    assert reason(data[: len(data) // 2]) == f"truncated {kind}"


def test_an_animation_cut_off_behind_its_first_frame_still_shows_that() -> None:
    data = SAMPLES["animated gif"]
    assert inspect(data[:-1]).animated
    first = SAMPLES["gif"]
    assert inspect(first[:-1]) == ImageInfo("image/gif", 40, 20)


def test_a_flipped_bit_in_a_png_is_noticed_by_its_checksum() -> None:
    data = bytearray(SAMPLES["png"])
    data[data.index(b"IDAT") + 10] ^= 1
    assert reason(bytes(data)) == "damaged PNG"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (declared_png(20_000, 20_000), "too large: 400 megapixels, limit 50"),
        (declared_png(7072, 7072), "too large: 50.01 megapixels, limit 50"),
        (declared_png(2**31 - 1, 2**31 - 1), "too large: 4611686014132 megapixels, limit 50"),
        (declared_png(0, 5), "has no pixels"),
    ],
)
def test_a_size_that_costs_nothing_to_write_down_is_refused(data: bytes, words: str) -> None:
    assert reason(data) == words


def test_a_huge_gif_canvas_around_a_small_frame_is_refused() -> None:
    data = bytearray(SAMPLES["gif"])
    data[6:10] = struct.pack("<HH", 65535, 65535)
    assert reason(bytes(data)) == "too large: 4295 megapixels, limit 50"


def test_a_gif_frame_that_hangs_over_its_canvas_counts() -> None:
    data = bytearray(SAMPLES["gif"])
    frame = data.index(b",", 13 + 3 * 256 if data[10] & 0x80 else 13)
    data[frame + 5 : frame + 9] = struct.pack("<HH", 65535, 65535)
    assert reason(bytes(data)) == "too large: 4295 megapixels, limit 50"


def test_a_huge_webp_canvas_is_refused_before_it_is_allocated() -> None:
    data = bytearray(SAMPLES["animated webp"])
    at = data.index(b"VP8X") + 8
    data[at + 4 : at + 10] = (16382).to_bytes(3, "little") * 2
    assert reason(bytes(data)) == "too large: 268 megapixels, limit 50"


def test_a_huge_bmp_needs_huge_bytes() -> None:
    data = bytearray(SAMPLES["bmp"])
    data[18:26] = struct.pack("<ii", 60_000, -60_000)
    assert reason(bytes(data)) == "truncated BMP"


def test_compressed_bmp_stays_out() -> None:
    data = bytearray(encoded(gradient(mode="P"), "BMP"))
    data[30:34] = struct.pack("<I", 1)
    assert reason(bytes(data)) == "unsupported format compressed BMP"


def test_limits_are_the_callers() -> None:
    assert reason(SAMPLES["png"], ImageLimits(max_pixels=799)) == "too large: 0.0008 megapixels, limit 0.000799"
    assert inspect(SAMPLES["png"], ImageLimits(max_pixels=800)).width == 40
    size = len(SAMPLES["png"])
    assert reason(SAMPLES["png"], ImageLimits(max_bytes=size - 1)).startswith("too large: ")
    assert inspect(SAMPLES["png"], ImageLimits(max_bytes=size)).width == 40


def test_above_pillows_own_limit_there_is_no_warning() -> None:
    # 100 megapixels; a warning would be an error here.
    assert inspect(declared_png(10_000, 10_000), ImageLimits(max_pixels=200_000_000)).width == 10_000


def with_scans(data: bytes, scans: int) -> bytes:
    """A progressive JPEG with its last scan repeated until it has `scans`."""
    segments = list(jpeg_segments(data))
    present = [(start, end) for marker, start, end in segments if marker == 0xDA]
    start, end = present[-1]
    return data[:end] + data[start:end] * (scans - len(present)) + data[end:]


def test_scans_of_a_jpeg_are_counted() -> None:
    data = SAMPLES["progressive jpeg"]
    assert inspect(with_scans(data, MAX_SCANS)).width == 40
    assert reason(with_scans(data, MAX_SCANS + 1)) == "JPEG with more than 64 scans"


def test_many_scans_of_many_pixels_are_too_much_together() -> None:
    data = bytearray(with_scans(SAMPLES["progressive jpeg"], 50))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 5000, 5000)
    assert reason(bytes(data)) == "JPEG with 50 scans of 25 megapixels"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff" + b"\xff" * 5_000_000,
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 1_000_000,
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00" + b"!\xff" + b"\x01\x00" * 3_000_000,
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00" + b"!\xff\x00" * 2_000_000,
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00" + b"\x00" * 5_000_000,
        b"RIFF" + struct.pack("<I", 4_000_004) + b"WEBP" + b"ABCD\x00\x00\x00\x00" * 500_000,
        b"\x89PNG\r\n\x1a\n" + SAMPLES["png"][8:33] + chunk(b"teXt", b"") * 300_000,
    ],
    ids=["fill bytes", "segments", "sub-blocks", "extensions", "padding", "riff chunks", "png chunks"],
)
def test_a_file_of_nothing_but_empty_blocks_is_given_up(data: bytes) -> None:
    assert reason(data).startswith(("damaged", "truncated"))


def test_a_png_made_of_text_bombs_is_refused_or_read_but_not_unpacked_without_end() -> None:
    bomb = chunk(b"zTXt", b"x\x00\x00" + zlib.compress(b"\x00" * 50_000_000, 9))
    data = SAMPLES["png"][:33] + bomb + SAMPLES["png"][33:]
    assert reason(data) == "damaged PNG"


def test_profiles_that_unpack_to_a_thousand_times_their_size_are_not_unpacked_without_end() -> None:
    """Pillow unpacks each, a mebibyte of nothing from a kilobyte: 20 MiB of them took 40 s, in the service itself."""
    bomb = chunk(b"iCCP", b"x\x00\x00" + zlib.compress(b"\x00" * 1_000_000, 9))
    head, rest = SAMPLES["png"][:33], SAMPLES["png"][33:]
    assert inspect(head + bomb + rest).width == 40
    assert reason(head + bomb * 1000 + rest) == "damaged PNG"


def test_exif_in_pieces_without_end_is_given_up() -> None:
    """Pillow puts the pieces together one by one, which takes time with the square of their number."""
    piece = b"\xff\xe1" + struct.pack(">H", 208) + b"Exif\x00\x00" + b"x" * 200
    head, rest = SAMPLES["jpeg"][:2], SAMPLES["jpeg"][2:]
    assert inspect(head + piece * 3 + rest).width == 40
    assert reason(head + piece * 1000 + rest) == "damaged JPEG"


def test_chunks_and_segments_cover_the_file_in_order() -> None:
    kinds = [kind for kind, _, _ in png_chunks(SAMPLES["png"])]
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    end = 2
    for _, start, stop in jpeg_segments(SAMPLES["progressive jpeg"]):
        assert start == end
        end = stop
    assert end == len(SAMPLES["progressive jpeg"])


def use(data: bytes) -> str:
    """What becomes of a file all the way to the eyes: "refused" at the door, "undecodable" or "fine"."""
    try:
        inspect(data)
    except BadImage:
        return "refused"
    try:
        upright(data, None)
        prepare(data, None, max_pixels=1_000_000, min_side=1)
    except VisionError:
        return "undecodable"
    return "fine"


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_cut_anywhere_is_refused_or_decodes(name: str) -> None:
    data = SAMPLES[name]
    outcomes = {use(data[:cut]) for cut in range(len(data))}
    assert "undecodable" not in outcomes
    assert "refused" in outcomes


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(SAMPLES)),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=6),
    cut=st.one_of(st.none(), st.integers(0, 10_000)),
)
def test_a_damaged_file_never_raises_anything_else(name: str, flips: list[tuple[int, int]], cut: int | None) -> None:
    data = bytearray(SAMPLES[name])
    for position, mask in flips:
        data[position % len(data)] ^= mask
    assert use(bytes(data[:cut])) in {"refused", "undecodable", "fine"}


@settings(max_examples=200, deadline=None)
@given(
    head=st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF....WEBP", b"BM", b"\x00\x00\x00\x18ftyp"]
    ),
    tail=st.binary(max_size=300),
)
def test_noise_behind_any_signature_is_refused_in_words(head: bytes, tail: bytes) -> None:
    try:
        info = inspect(head + tail)
    except BadImage as error:
        words = error.reason
    else:
        words = f"{info.width}x{info.height}"
    assert words
    assert words.isprintable()
    assert not words.startswith("0x")
