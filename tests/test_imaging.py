"""`tools.vision.imaging` and `region`: known pictures in, known pixels out."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from cache.image import ImageLimits, jpeg_segments, png_chunks
from tools.vision.backend import Region, VisionError
from tools.vision.imaging import MAX_ASPECT, MAX_LOSSLESS_BYTES, Prepared, box, fit, prepare, upright
from tools.vision.region import parse_region

ROOT = Path(__file__).parent.parent

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def corners() -> Image.Image:
    """60 x 40; red top left, green top right, blue bottom left, white bottom right."""
    image = Image.new("RGB", (60, 40), WHITE)
    image.paste(RED, (0, 0, 30, 20))
    image.paste(GREEN, (30, 0, 60, 20))
    image.paste(BLUE, (0, 20, 30, 40))
    return image


def prepared(data: bytes, region: Region | None = None, *, max_pixels: int = 4_194_304, min_side: int = 1) -> Prepared:
    return prepare(data, region, max_pixels=max_pixels, min_side=min_side)


def pixels(result: Prepared) -> Image.Image:
    image = Image.open(io.BytesIO(result.data))
    image.load()
    assert image.size == (result.width, result.height)
    assert result.media_type == Image.MIME[image.format or ""]
    return image


def pixel(result: Prepared, x: int, y: int) -> object:
    return pixels(result).convert("RGB").getpixel((x, y))


def colours(result: Prepared) -> set[object]:
    return {colour for _, colour in pixels(result).getcolors(1 << 20) or []}


def near(found: object, wanted: tuple[int, int, int], tolerance: int = 12) -> bool:
    assert isinstance(found, tuple)
    return all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True))


def kinds(data: bytes) -> set[bytes]:
    return {kind for kind, _, _ in png_chunks(data)}


# How the stored picture must be turned back, as an EXIF writer would have turned it.
UNDO = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", UNDO)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_every_exif_orientation_comes_out_upright(form: str, orientation: int) -> None:
    turn = UNDO[orientation]
    stored = corners() if turn is None else corners().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = prepared(encoded(stored, form, exif=exif))
    assert (result.width, result.height) == (60, 40)
    for x, y, colour in ((5, 5, RED), (50, 5, GREEN), (5, 35, BLUE), (50, 35, WHITE)):
        assert near(pixel(result, x, y), colour)


@pytest.mark.parametrize("orientation", UNDO)
def test_a_region_is_one_of_the_upright_picture(orientation: int) -> None:
    turn = UNDO[orientation]
    stored = corners() if turn is None else corners().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = prepared(encoded(stored, exif=exif), parse_region("30,0,30,20", 60, 40))
    assert (result.width, result.height) == (30, 20)
    assert colours(result) == {GREEN}
    assert result.note == "the part 30,0,30,20 (x,y,w,h) of 60x40 pixels"


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (257, 1), (32768, 128), (32639, 127), (65535, 255), (1000, 4)])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(value: int, grey: int) -> None:
    image = Image.frombytes("I;16", (4, 4), struct.pack("<16H", *[value] * 16))
    assert pixels(prepared(encoded(image))).convert("L").getpixel((1, 1)) == grey


def raw_png(width: int, depth: int, colour: int, row: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    body = b"".join(chunk(*pair) for pair in extra) + chunk(b"IDAT", zlib.compress(b"\x00" + row))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def test_sixteen_bit_colour_is_scaled() -> None:
    data = raw_png(1, 16, 2, struct.pack(">3H", 32768, 65535, 0))
    assert pixel(prepared(data), 0, 0) == (128, 255, 0)


def test_sixteen_bit_colour_with_alpha_is_scaled_and_laid_on_white() -> None:
    data = raw_png(2, 16, 6, struct.pack(">8H", 32768, 65535, 0, 65535, 0, 0, 0, 0))
    result = prepared(data)
    assert pixel(result, 0, 0) == (128, 255, 0)
    assert pixel(result, 1, 0) == WHITE


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_grey_of_few_bits_is_spread_over_the_whole_range(depth: int) -> None:
    data = raw_png(2, depth, 0, bytes([((1 << depth) - 1) << (8 - depth)]))
    result = prepared(data)
    assert (pixel(result, 0, 0), pixel(result, 1, 0)) == (WHITE, (0, 0, 0))


def test_cmyk_comes_out_in_its_colours() -> None:
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    result = prepared(encoded(image, "JPEG"))
    assert near(pixel(result, 16, 16), RED)
    assert pixels(result).mode == "RGB"


def test_palette_comes_out_in_its_colours() -> None:
    result = prepared(encoded(corners().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)))
    assert pixel(result, 50, 5) == GREEN
    assert pixels(result).mode == "RGB"


def test_transparent_palette_entry_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.putdata([0, 1])
    result = prepared(encoded(image, transparency=1))
    assert (pixel(result, 0, 0), pixel(result, 1, 0)) == (RED, WHITE)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_colours_hidden_under_transparency_do_not_show(form: str) -> None:
    options = {} if form == "PNG" else {"lossless": True, "exact": True}
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 0), (255, 0, 0, 255), (255, 0, 0, 128)])
    result = prepared(encoded(image, form, **options))
    assert (pixel(result, 0, 0), pixel(result, 1, 0)) == (WHITE, RED)
    assert near(pixel(result, 2, 0), (255, 127, 127), 1)


def test_grey_with_alpha_is_laid_on_white() -> None:
    image = Image.new("LA", (2, 1))
    image.putdata([(0, 0), (0, 255)])
    result = prepared(encoded(image))
    assert (pixel(result, 0, 0), pixel(result, 1, 0)) == (WHITE, (0, 0, 0))


def test_a_transparent_colour_key_becomes_white() -> None:
    image = Image.new("RGB", (2, 1))
    image.putdata([RED, GREEN])
    result = prepared(encoded(image, transparency=RED))
    assert (pixel(result, 0, 0), pixel(result, 1, 0)) == (WHITE, GREEN)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_black_and_white_and_grey_stay_what_they_are(mode: str) -> None:
    result = prepared(encoded(Image.new(mode, (8, 8), 255)))
    assert pixel(result, 3, 3) == WHITE


def test_a_bitmap_and_a_gif_come_out_as_png() -> None:
    for form in ("BMP", "GIF"):
        result = prepared(encoded(corners(), form))
        assert result.media_type == "image/png"
        assert pixel(result, 5, 5) == RED


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_shown_and_said_so(form: str) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE))
    result = prepared(encoded(first, form, save_all=True, append_images=[second], duration=100))
    assert near(pixel(result, 8, 8), RED)
    assert result.note == "first frame of an animation"


def gps_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "SECRETMAKE"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    return exif


def png_text() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "SECRETTEXT")
    text.add_itxt("XML:com.adobe.xmp", "<x>SECRETXMP</x>")
    return text


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def with_thumbnail(jpeg: bytes) -> bytes:
    """The same JPEG with a 2 x 2 thumbnail in its JFIF header, as JFIF 1.02 allows."""
    assert jpeg[2:4] == b"\xff\xe0"
    (length,) = struct.unpack(">H", jpeg[4:6])
    header = b"JFIF\x00\x01\x02\x00\x00\x01\x00\x01\x02\x02" + b"SECRETTHUMB!"
    return jpeg[:4] + struct.pack(">H", len(header) + 2) + header + jpeg[4 + length :]


@pytest.mark.parametrize("region", [None, Region(0, 0, 0.5, 0.5)])
@pytest.mark.parametrize(
    "data",
    [
        encoded(corners(), "PNG", exif=gps_exif(), pnginfo=png_text(), icc_profile=srgb(), dpi=(72, 72)),
        encoded(corners(), "JPEG", exif=gps_exif(), comment=b"SECRETTEXT", icc_profile=srgb(), xmp=b"SECRETXMP"),
        encoded(corners(), "WEBP", exif=gps_exif(), icc_profile=srgb(), xmp=b"SECRETXMP"),
        encoded(corners(), "GIF", comment=b"SECRETTEXT"),
        encoded(corners(), "PNG") + b"SECRETTRAILER",
        encoded(corners(), "JPEG") + encoded(corners(), "JPEG", exif=gps_exif()),
        with_thumbnail(encoded(corners(), "JPEG")),
        encoded(corners().convert("L"), "PNG", pnginfo=png_text()),
        encoded(corners().convert("L"), "JPEG", comment=b"SECRETTEXT"),
    ],
    ids=[
        "png",
        "jpeg",
        "webp",
        "gif",
        "png with a trailer",
        "two jpegs in one",
        "jpeg with a thumbnail",
        "grey png",
        "grey jpeg",
    ],
)
def test_nothing_but_pixels_ever_leaves(data: bytes, region: Region | None) -> None:
    assert b"SECRET" in data or b"Exif" in data
    result = prepared(data, region)
    for trace in (b"SECRET", b"Exif", b"ICC", b"iCCP", b"http", b"xmp"):
        assert trace not in result.data
    if result.media_type == "image/png":
        assert kinds(result.data) == {b"IHDR", b"IDAT", b"IEND"}
    else:
        assert {marker for marker, _, _ in jpeg_segments(result.data)} <= {
            0xC0,
            0xC2,
            0xC4,
            0xD9,
            0xDA,
            0xDB,
            0xDD,
            0xE0,
        }
        assert result.data.endswith(b"\xff\xd9")
    grey = pixels(result).mode == "L"
    assert near(pixel(result, 5, 5), (76, 76, 76) if grey else RED)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_a_plain_jpeg_keeps_its_pixels_to_the_bit(options: dict[str, object]) -> None:
    image = Image.effect_noise((64, 48), 60).convert("RGB")
    data = encoded(image, "JPEG", exif=gps_exif(), **options)
    result = prepared(data)
    assert pixels(result).tobytes() == Image.open(io.BytesIO(data)).tobytes()
    assert result.media_type == "image/jpeg"
    assert result.note == ""


def test_a_jpeg_stored_as_rgb_keeps_its_colours() -> None:
    data = encoded(corners(), "JPEG", keep_rgb=True)
    assert near(pixel(prepared(data), 50, 5), GREEN)


@pytest.mark.parametrize("size", [(1920, 1080), (2560, 1440), (1366, 768), (32, 32)])
def test_a_screenshot_is_not_resampled(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "navy")
    image.putpixel((size[0] - 1, size[1] - 1), RED)
    result = prepared(encoded(image), min_side=32)
    assert pixels(result).tobytes() == image.tobytes()
    assert result.note == ""


def test_too_many_pixels_are_scaled_once_and_said_so() -> None:
    result = prepare(encoded(corners().resize((800, 600))), None, max_pixels=120_000, min_side=32, side_multiple=32)
    assert (result.width, result.height) == (384, 288)
    assert result.note == "scaled from 800x600 to 384x288"
    assert near(pixel(result, 10, 10), RED)


def test_a_region_of_a_large_picture_keeps_its_own_pixels() -> None:
    image = Image.new("RGB", (2000, 1500), "white")
    image.putpixel((1700, 1400), RED)
    result = prepared(encoded(image), parse_region("1690,1390,40,40", 2000, 1500), max_pixels=500_000)
    assert (result.width, result.height) == (40, 40)
    assert pixel(result, 10, 10) == RED
    assert pixel(result, 11, 10) == WHITE


def test_a_single_pixel_is_enlarged_to_what_the_backend_takes() -> None:
    result = prepared(encoded(Image.new("RGB", (1, 1), RED)), min_side=32)
    assert (result.width, result.height) == (32, 32)
    assert colours(result) == {RED}
    assert result.note == "enlarged from 1x1 to 32x32"


def test_an_icon_is_enlarged_without_new_colours() -> None:
    image = corners().resize((24, 16), Image.Resampling.NEAREST)
    result = prepared(encoded(image), min_side=32)
    assert (result.width, result.height) == (48, 32)
    assert colours(result) == {RED, GREEN, BLUE, WHITE}


@pytest.mark.parametrize("size", [(3000, 10), (10, 3000)])
def test_a_thin_picture_is_filled_up_and_keeps_its_proportions(size: tuple[int, int]) -> None:
    result = prepared(encoded(Image.new("RGB", size, RED)), min_side=32)
    assert (result.width, result.height) == ((3000, 32) if size[0] > size[1] else (32, 3000))
    assert max(result.width, result.height) <= MAX_ASPECT * min(result.width, result.height)
    assert pixel(result, 0, 0) == RED
    assert pixel(result, size[0] - 1, size[1] - 1) == RED
    assert pixel(result, result.width - 1, result.height - 1) == WHITE
    assert "filled up with white" in result.note


def test_a_line_of_millions_of_pixels_is_scaled_without_gigabytes() -> None:
    script = """
import io, resource
from PIL import Image
from tools.vision.imaging import prepare
buffer = io.BytesIO()
Image.new("L", (40_000_000, 1), 0).save(buffer, "PNG")
resource.setrlimit(resource.RLIMIT_AS, (900 * 2**20, 900 * 2**20))
result = prepare(buffer.getvalue(), None, max_pixels=1_000_000, min_side=32)
image = Image.open(io.BytesIO(result.data)).convert("RGB")
print(result.width * result.height <= 1_000_000, image.getpixel((0, 0)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True (0, 0, 0)\n", "")


def test_a_large_photo_goes_as_jpeg_and_a_large_screenshot_as_png() -> None:
    photo = encoded(Image.effect_noise((1600, 1200), 40).convert("RGB"), "JPEG")
    assert prepared(photo, Region(0, 0, 0.9, 0.9)).media_type == "image/jpeg"
    screen = encoded(corners().resize((3000, 2000), Image.Resampling.NEAREST))
    assert prepared(screen, Region(0, 0, 0.9, 0.9)).media_type == "image/png"


def test_a_png_that_hardly_compresses_goes_as_jpeg() -> None:
    noise = Image.merge("RGB", [Image.effect_noise((2000, 1600), 120) for _ in range(3)])
    data = encoded(noise, compress_level=1)
    assert len(data) > MAX_LOSSLESS_BYTES
    result = prepared(data)
    assert result.media_type == "image/jpeg"
    assert (result.width, result.height) == (2000, 1600)


def test_pixels_that_cannot_be_decoded_are_reported_in_words() -> None:
    data = raw_png(40, 16, 2, b"\x00" * 3)
    with pytest.raises(VisionError, match=r"^The picture is damaged: its pixels cannot be decoded\.$") as caught:
        prepared(data)
    assert not caught.value.retryable


def test_what_the_door_refuses_is_refused_here_too() -> None:
    with pytest.raises(VisionError, match=r"^The picture cannot be used: too large: 100 megapixels, limit 50\.$"):
        prepared(raw_png(100_000_000, 8, 0, b""))
    with pytest.raises(VisionError, match="not an image"):
        upright(b"hello", None)
    with pytest.raises(VisionError, match="megapixels"):
        prepare(encoded(corners()), None, max_pixels=10_000, min_side=1, limits=ImageLimits(max_pixels=100))


def test_upright_tells_where_its_pixels_stand_in_the_original() -> None:
    picture = upright(encoded(corners()), parse_region("50%,50%,50%,50%", 60, 40))
    assert (picture.left, picture.top, picture.width, picture.height) == (30, 20, 60, 40)
    assert picture.pixels.size == (30, 20)
    assert picture.pixels.mode == "RGB"


@settings(max_examples=300, deadline=None)
@given(
    width=st.integers(1, 100_000),
    height=st.integers(1, 100_000),
    max_pixels=st.integers(10_000, 10_000_000),
    side_multiple=st.sampled_from([1, 28, 32]),
)
def test_whatever_the_size_the_backend_gets_one_it_takes(
    width: int, height: int, max_pixels: int, side_multiple: int
) -> None:
    content, canvas = fit(width, height, max_pixels=max_pixels, min_side=32, side_multiple=side_multiple)
    assert canvas[0] * canvas[1] <= max_pixels
    assert min(canvas) >= 32
    assert max(canvas) <= MAX_ASPECT * min(canvas)
    assert content[0] <= canvas[0]
    assert content[1] <= canvas[1]
    assert min(content) >= 1
    usable = width * height <= max_pixels and min(width, height) >= 32
    if usable and max(width, height) <= MAX_ASPECT * min(width, height):
        assert content == canvas == (width, height)


def test_limits_that_no_picture_can_meet_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no room for sides of 32"):
        fit(10, 10, max_pixels=1023, min_side=32)
    assert fit(10, 10_000, max_pixels=1024, min_side=32) == ((1, 32), (32, 32))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10,20,30,40", (10, 20, 40, 60)),
        (" 10 , 20 , 30 , 40 ", (10, 20, 40, 60)),
        ("10 20 30 40", (10, 20, 40, 60)),
        ("[10, 20, 30, 40]", (10, 20, 40, 60)),
        ("(10;20;30;40)", (10, 20, 40, 60)),
        ("10px, 20px, 30px, 40px", (10, 20, 40, 60)),
        ("x=10, y=20, w=30, h=40", (10, 20, 40, 60)),
        ("X: 10 Y: 20 Width: 30 Height: 40", (10, 20, 40, 60)),
        ("h=40,w=30,y=20,x=10", (10, 20, 40, 60)),
        ("left=10, top=20, width=30, height=40", (10, 20, 40, 60)),
        ('{"x": 10, "y": "20", "w": 30, "h": 40}', (10, 20, 40, 60)),
        ("10%,10%,50%,50%", (20, 10, 120, 60)),
        ("0%, 0%, 100%, 100%", (0, 0, 200, 100)),
        ("50%,0,100,50%", (100, 0, 200, 50)),
        ("0.1,0.1,0.5,0.5", (20, 10, 120, 60)),
        ("0.0,0.0,1.0,1.0", (0, 0, 200, 100)),
        ("10.4,20.6,30,40", (10, 21, 40, 61)),
        ("150,50,100,100", (150, 50, 200, 100)),
        ("-10,-10,30,30", (0, 0, 20, 20)),
        ("0,0,999999999,999999999", (0, 0, 200, 100)),
        ("199,99,1,1", (199, 99, 200, 100)),
    ],
)
def test_a_region_is_understood_as_models_write_it(text: str, wanted: tuple[int, int, int, int]) -> None:
    assert box(parse_region(text, 200, 100), 200, 100) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not have four numbers"),
        ("10,20,30", "does not have four numbers"),
        ("10,20,30,40,50", "does not have four numbers"),
        ("the upper left", "is not understood"),
        ("10,20,nan,inf", "is not understood"),
        ("1" * 400 + ",0,1,1", "does not have four numbers"),
        ("x=1,y=2,w=3,w=4", "does not name x, y, w and h"),
        ("x=1,2,3,4", "does not name x, y, w and h"),
        ("a=1,b=2,c=3,d=4", "does not name x, y, w and h"),
        ("10,20,0,40", "is empty"),
        ("10,20,-5,40", "is empty"),
        ("500,0,10,10", "lies outside the picture"),
        ("-50,0,10,10", "lies outside the picture"),
    ],
)
def test_a_region_that_makes_no_sense_says_how_to_write_one(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_region(text, 200, 100)
    assert '"x,y,w,h"' in str(caught.value)
    assert "200x100" in str(caught.value)
    assert len(str(caught.value)) < 400


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet='0123456789.,-+%xywhp= []:"{}eE', max_size=40), width=st.integers(1, 70_000))
def test_any_text_is_a_region_inside_the_picture_or_a_value_error(text: str, width: int) -> None:
    try:
        region = parse_region(text, width, 100)
    except ValueError:
        return
    assert 0 <= region.left < region.right <= 1
    assert 0 <= region.top < region.bottom <= 1
    left, top, right, bottom = box(region, width, 100)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= 100


@given(
    width=st.integers(1, 70_000),
    height=st.integers(1, 70_000),
    x=st.integers(0, 69_999),
    y=st.integers(0, 69_999),
    w=st.integers(1, 70_000),
    h=st.integers(1, 70_000),
)
def test_a_region_in_pixels_comes_back_to_the_very_same_pixels(
    width: int, height: int, x: int, y: int, w: int, h: int
) -> None:
    x, y = x % width, y % height
    found = box(parse_region(f"{x},{y},{w},{h}", width, height), width, height)
    assert found == (x, y, min(x + w, width), min(y + h, height))


@pytest.mark.parametrize("text", ["x" + " " * 100_000 + "1", "1" + " " * 500, "a" * 100_000, ", " * 100_000])
def test_a_region_of_endless_blanks_is_refused_at_once(text: str) -> None:
    """The first once took minutes."""
    with pytest.raises(ValueError, match="is too long"):
        parse_region(text, 200, 100)
