"""`cache.pixels`: pictures are decoded in processes that can be lost, and nothing else is lost with them."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any, cast

import httpx
import pytest
from PIL import Image

from cache.image import BadImage, ImageLimits, inspect, jpeg_segments
from cache.likeness import likeness, likeness_of
from cache.pixels.frames import HEAD, MAX_FACTS, BadFrame, lengths, parsed
from cache.pixels.pool import DAMAGED, TOO_COSTLY, NoWorker, Pixels, Refused
from cache.pixels.worker_process import WorkerProcess
from tests.brain import Brain, Calls, says
from tests.eyes import Eyes
from tests.live import House, Options, alive, becomes, children_of, service_process, shown, user
from tools.vision.backend import Region, VisionAnswer, VisionError, VisionImage, VisionQuery
from tools.vision.imaging import prepare, upright
from tools.vision.openai import OpenAIEyes
from tools.vision.sandboxed import Search, prepared, searchable

ROOT = Path(__file__).parent.parent
DEADLINE = 30.0
SEARCH = Search(2560, 4_194_304, 4, 32)

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    found[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}
    return found.tobytes()


def colourful(mode: str = "RGB") -> Image.Image:
    grey = Image.linear_gradient("L").resize((120, 80))
    return Image.merge("RGBA", (grey, grey.rotate(90), grey.rotate(180), grey)).convert(mode)


PICTURES: dict[str, bytes] = {
    "png with alpha": encoded(colourful("RGBA")),
    "png with a palette and transparency": encoded(colourful("RGB").quantize(16), transparency=2),
    "png of 16 bits": encoded(colourful("L").convert("I;16")),
    "png of one bit": encoded(colourful("1")),
    "png turned": encoded(colourful(), exif=exif(6)),
    "apng": encoded(colourful(), save_all=True, append_images=[colourful("L").convert("RGB")]),
    "jpeg turned": encoded(colourful(), "JPEG", exif=exif(8)),
    "jpeg of cmyk": encoded(colourful("CMYK"), "JPEG"),
    "progressive jpeg": encoded(colourful(), "JPEG", progressive=True, exif=exif(3), icc_profile=b"x" * 300),
    "gif": encoded(colourful("P"), "GIF", transparency=3, comment=b"hello"),
    "animated gif": encoded(colourful("P"), "GIF", save_all=True, append_images=[colourful("L").convert("P")]),
    "webp": encoded(colourful("RGBA"), "WEBP", exif=exif(5)),
    "large webp": encoded(colourful("RGBA").resize((1200, 900)), "WEBP"),
    "animated webp": encoded(colourful(), "WEBP", save_all=True, append_images=[Image.new("RGB", (120, 80), "red")]),
    "bmp": encoded(colourful(), "BMP"),
    "plain png": encoded(colourful()),
}

SMALL = PICTURES["png with alpha"]


@cache
def scan_bomb() -> bytes:
    """A progressive JPEG that the door just lets in: nearly 20 MiB, 15 megapixels, 64 scans; a second of work."""
    squares = Image.frombytes("RGB", (488, 488), random.Random(1).randbytes(488 * 488 * 3))
    large = squares.resize((3904, 3904), Image.Resampling.NEAREST)
    data = encoded(large, "JPEG", progressive=True, quality=10, subsampling=0)
    scans = [(start, end) for marker, start, end in jpeg_segments(data) if marker == 0xDA]
    (start, end), behind = scans[0], scans[-1][1]
    data = data[:behind] + data[start:end] * (64 - len(scans)) + data[behind:]
    assert inspect(data).width == 3904
    return data


@pytest.fixture(scope="module")
def shared() -> Iterator[Pixels]:
    pixels = Pixels()
    yield pixels
    pixels.close()


@pytest.fixture
def pixels() -> Iterator[Callable[..., Pixels]]:
    """Makes pools that are closed afterwards."""
    made: list[Pixels] = []

    def make(**options: Any) -> Pixels:
        made.append(Pixels(**options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def look(pixels: Pixels, data: bytes, tenant: str = "") -> str:
    """Its likeness, so that what went wrong is not put into the words of the eyes."""
    facts, _ = pixels.run("likeness", data, {"max_bytes": 20 * 2**20, "max_pixels": 50_000_000}, tenant=tenant)
    return str(facts["likeness"])


def bomb(pixels: Pixels, tenant: str = "") -> None:
    how: dict[str, Any] = {"region": None, "limits": {}, "max_pixels": 4_000_000, "min_side": 1, "side_multiple": 1}
    pixels.run("prepare", scan_bomb(), how, tenant=tenant)


def stopped(pixels: Pixels) -> int:
    """The one idle worker, which from now on does nothing: whoever is given to it hangs."""
    (pid,) = pixels.pids
    os.kill(pid, signal.SIGSTOP)
    return pid


def busy(pixels: Pixels) -> bool:
    return not repr(pixels).startswith("<Pixels 0")


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


# What comes out


@pytest.mark.parametrize("region", [None, Region(0.1, 0.2, 0.9, 0.7)], ids=["whole", "part"])
@pytest.mark.parametrize("name", PICTURES)
def test_a_worker_makes_the_same_picture_to_the_byte(shared: Pixels, name: str, region: Region | None) -> None:
    data = PICTURES[name]
    for most in (4_194_304, 2000):
        options: dict[str, Any] = {"max_pixels": most, "min_side": 28, "side_multiple": 4}
        assert prepared(shared, data, region, **options) == prepare(data, region, **options)


@pytest.mark.parametrize("name", PICTURES)
def test_a_worker_finds_the_same_pixels_to_read_and_the_same_likeness(shared: Pixels, name: str) -> None:
    data, region = PICTURES[name], Region(0, 0, 0.5, 1)
    wanted, found = upright(data, region), searchable(shared, data, region, SEARCH)
    assert found.pixels.crop((0, 0, *wanted.pixels.size)).tobytes() == wanted.pixels.tobytes()
    assert (found.left, found.top, found.width, found.height) == (wanted.left, wanted.top, wanted.width, wanted.height)
    assert found.notes == wanted.notes
    assert likeness_of(shared, data) == likeness(data) != ""


def test_what_needs_no_decoding_does_not_go_to_a_worker(pixels: Callable[..., Pixels]) -> None:
    idle = pixels()
    prepared(idle, PICTURES["plain png"], None, max_pixels=4_194_304, min_side=1)
    assert not idle.pids


def test_what_a_decoder_says_comes_in_the_words_of_the_eyes(shared: Pixels) -> None:
    damaged = bytearray(PICTURES["png with alpha"])
    body = zlib.compress(b"\x09" * 5000)  # sound by its checksum, and no filter of PNG's
    chunk = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    at = damaged.index(b"IDAT") - 4
    damaged[at:] = chunk + b"\x00\x00\x00\x00IEND\xaeB`\x82"
    with pytest.raises(VisionError, match="its pixels cannot be decoded"):
        prepared(shared, bytes(damaged), None, max_pixels=4_194_304, min_side=1)
    assert likeness_of(shared, bytes(damaged)) == ""
    with pytest.raises(VisionError, match="cannot be used: truncated PNG"):
        searchable(shared, SMALL[:-20], None, SEARCH)


# What is lost


def test_a_picture_that_takes_too_long_is_given_up_and_not_tried_again(pixels: Callable[..., Pixels]) -> None:
    few = pixels(seconds=0.3, size=1)
    look(few, SMALL)
    before = few.pids
    with pytest.raises(BadImage, match=TOO_COSTLY):
        bomb(few)
    assert not any(map(alive, before))
    assert not few.pids
    assert look(few, SMALL)
    after = few.pids
    with pytest.raises(BadImage, match=TOO_COSTLY):
        bomb(few)
    assert few.pids == after  # refused without asking
    with pytest.raises(BadImage, match=TOO_COSTLY):
        bomb(few, tenant="another")  # who learns nothing of the first by how fast it is
    assert few.pids != after


def test_the_eyes_are_told_that_it_is_too_costly(pixels: Callable[..., Pixels]) -> None:
    few = pixels(seconds=0.3, size=1)
    with pytest.raises(VisionError, match=f"The picture cannot be used: {TOO_COSTLY}") as caught:
        prepared(few, scan_bomb(), None, max_pixels=4_194_304, min_side=1)
    assert not caught.value.retryable


@linux
def test_a_decoder_that_wants_too_much_memory_gets_none(pixels: Callable[..., Pixels]) -> None:
    few = pixels(memory=130 * 2**20, size=1)
    large = encoded(Image.new("RGBA", (4000, 4000), (1, 2, 3, 4)), compress_level=1)
    with pytest.raises(BadImage, match=TOO_COSTLY):
        look(few, large)
    assert look(few, SMALL)
    assert look(pixels(size=1), large)


def test_a_larger_limit_on_pixels_brings_the_memory_for_them() -> None:
    assert Pixels(ImageLimits(max_pixels=100_000_000))._memory > Pixels()._memory


def test_a_worker_that_dies_of_something_else_is_replaced_unnoticed(pixels: Callable[..., Pixels]) -> None:
    few = pixels(size=1)
    assert look(few, SMALL)
    (idle,) = few.pids
    os.kill(idle, signal.SIGKILL)
    eventually(lambda: not alive(idle))
    assert look(few, SMALL)
    at_work = stopped(few)
    with ThreadPoolExecutor(1) as threads:
        looking = threads.submit(look, few, SMALL)
        eventually(lambda: busy(few))
        os.kill(at_work, signal.SIGKILL)
        assert looking.result(DEADLINE)
    assert few.pids
    assert at_work not in few.pids


def test_a_picture_that_two_workers_die_of_is_damaged_and_remembered(pixels: Callable[..., Pixels]) -> None:
    few = pixels(size=1)
    look(few, SMALL)
    first = stopped(few)
    bad = PICTURES["gif"]
    with ThreadPoolExecutor(1) as threads:
        looking = threads.submit(look, few, bad)
        eventually(lambda: busy(few))
        few._take = ends_at_once(few._take)  # type: ignore[method-assign]
        os.kill(first, signal.SIGKILL)
        with pytest.raises(BadImage, match=DAMAGED):
            looking.result(DEADLINE)
    assert not few.pids
    with pytest.raises(BadImage, match=DAMAGED):
        look(few, bad)
    assert not few.pids  # refused without asking


def ends_at_once(take: Callable[[], WorkerProcess]) -> Callable[[], WorkerProcess]:
    def taken() -> WorkerProcess:
        worker = take()
        os.kill(worker.pid, signal.SIGKILL)
        return worker

    return taken


def test_of_eight_pictures_one_hangs_and_the_others_do_not_wait_for_it(pixels: Callable[..., Pixels]) -> None:
    few = pixels(seconds=2.0, size=2)
    look(few, SMALL)
    stopped(few)
    with ThreadPoolExecutor(8) as threads:
        hanging: Future[Any] = threads.submit(look, few, SMALL)
        eventually(lambda: busy(few))
        others = [threads.submit(look, few, data) for data in list(PICTURES.values())[:7]]
        over = list(as_completed([hanging, *others], DEADLINE))
        assert over[-1] is hanging
        assert all(one.result() for one in others)
        with pytest.raises(BadImage, match=TOO_COSTLY):
            hanging.result()


class HangingFor(Pixels):
    """Whatever this tenant brings takes until it is let go."""

    def __init__(self, tenant: str, **options: Any) -> None:
        super().__init__(**options)
        self.tenant = tenant
        self.held = 0
        self.go_on = Event()

    def run(self, work: Any, data: bytes, how: Any = None, *, tenant: str = "") -> tuple[dict[str, Any], bytes]:
        if tenant == self.tenant:
            self.held += 1
            self.go_on.wait(DEADLINE)
        return super().run(work, data, how, tenant=tenant)


@pytest.mark.anyio
async def test_who_brings_many_costly_pictures_keeps_nobody_else_waiting() -> None:
    pixels = HangingFor("one", size=2)
    reply = {"choices": [{"index": 0, "message": {"content": "A card."}, "finish_reason": "stop"}]}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=reply))
    async with httpx.AsyncClient(transport=transport) as client:
        eyes = OpenAIEyes(client, "http://127.0.0.1:1/v1", name="eyes", model="m", askers=2, pixels=pixels)

        def asked(asker: str) -> asyncio.Task[VisionAnswer]:
            return asyncio.create_task(eyes.look(VisionQuery((VisionImage(1, SMALL),), "What?", asker=asker)))

        try:
            many = [asked("one") for _ in range(5)]
            await becomes(lambda: pixels.held == 1)
            assert (await asked("other")).text == "A card."
            assert not any(one.done() for one in many)
            assert pixels.held == 1
        finally:
            pixels.go_on.set()
        assert [answer.text for answer in await asyncio.gather(*many)] == ["A card."] * 5
        await eyes.close()
        pixels.close()


def test_closing_ends_also_what_is_at_work(pixels: Callable[..., Pixels]) -> None:
    few = pixels(size=1)
    look(few, SMALL)
    pid = stopped(few)
    with ThreadPoolExecutor(1) as threads:
        looking = threads.submit(look, few, SMALL)
        eventually(lambda: busy(few))
        few.close()
        with pytest.raises(NoWorker):
            looking.result(DEADLINE)
    assert not alive(pid)
    with pytest.raises(NoWorker):
        look(few, SMALL)


def test_where_no_worker_can_be_started_it_is_not_the_pictures_fault(
    pixels: Callable[..., Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = pixels(size=1)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(NoWorker):
            look(few, SMALL)
        with pytest.raises(VisionError) as caught:
            prepared(few, SMALL, None, max_pixels=4_194_304, min_side=1)
        assert caught.value.retryable
    assert look(few, SMALL)


# What a worker is


@linux
def test_nothing_of_the_workers_remains(pixels: Callable[..., Pixels]) -> None:
    descriptors, processes = set(os.listdir("/proc/self/fd")), set(children_of(os.getpid()))
    few = pixels(seconds=0.3, size=3)
    with ThreadPoolExecutor(6) as threads:
        for _ in range(3):
            list(threads.map(lambda data: look(few, data), PICTURES.values()))
        with pytest.raises(BadImage):
            bomb(few)
        list(threads.map(lambda data: look(few, data), PICTURES.values()))
    assert set(children_of(os.getpid())) - processes == few.pids
    assert 0 < len(few.pids) <= 3
    few.close()
    assert set(children_of(os.getpid())) <= processes
    assert set(os.listdir("/proc/self/fd")) == descriptors


def test_a_worker_is_replaced_after_its_share_of_pictures(pixels: Callable[..., Pixels]) -> None:
    few = pixels(size=1, pictures_per_worker=3)
    seen: list[set[int]] = []
    for _ in range(7):
        look(few, SMALL)
        seen.append(few.pids)
    assert seen[0] == seen[1] != set()
    assert seen[2] == set()
    assert seen[3] == seen[4] != seen[0]
    assert not alive(next(iter(seen[0])))


@linux
def test_a_worker_has_no_environment_no_files_and_few_rights(
    pixels: Callable[..., Pixels], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TEXT_API_KEY", "canary")
    with (tmp_path / "open").open("wb") as held:
        os.set_inheritable(held.fileno(), True)
        few = pixels(size=1, memory=300 * 2**20)
        look(few, SMALL)
    (pid,) = few.pids
    place = Path(f"/proc/{pid}")
    assert b"canary" not in (place / "environ").read_bytes()
    held_open = {number: os.readlink(place / "fd" / number) for number in os.listdir(place / "fd")}
    assert held_open.pop("2") == "/dev/null"
    assert sorted(held_open) == ["0", "1"]
    assert all(target.startswith("pipe:") for target in held_open.values())
    limits = {line[:26].strip(): line[26:].split()[:2] for line in (place / "limits").read_text().splitlines()}
    assert limits["Max address space"] == [str(300 * 2**20)] * 2
    assert limits["Max open files"] == ["3", "3"]
    assert limits["Max file size"] == limits["Max core file size"] == ["0", "0"]
    assert int(limits["Max cpu time"][0]) <= 12
    status = dict(line.split(":\t", 1) for line in (place / "status").read_text().splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"


LOCKED = """
import os, socket, sys
sys.path.insert(0, {root!r})
from cache.pixels.lockdown import lock_down
lock_down(1 << 30)
os.close(2)  # a place for one more
there, here = {root!r} + "/README.md", os.getcwd() + "/new"
for attempt in (lambda: open(there), lambda: open(here, "w"), lambda: os.mkdir(here)):
    try:
        attempt()
    except OSError as error:
        print(type(error).__name__)
    else:
        print("allowed")
"""


@linux
def test_a_locked_process_opens_no_file_even_with_a_free_descriptor(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOCKED.format(root=str(ROOT))]
    told = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd=tmp_path)
    assert told.stdout.split() == ["PermissionError"] * 3


PARENT = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from cache.pixels.pool import Pixels
pixels = Pixels(size=1)
pixels.run("likeness", b"", {{}})
print(*pixels.pids, flush=True)
time.sleep(60)
"""


@linux
@pytest.mark.parametrize("hanging", [False, True], ids=["idle", "hanging in a picture"])
def test_a_worker_dies_with_its_parent(hanging: bool) -> None:
    command = [sys.executable, "-c", PARENT.format(root=str(ROOT))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        if hanging:
            os.kill(worker, signal.SIGSTOP)
        parent.kill()
        eventually(lambda: not alive(worker))


@linux
@pytest.mark.anyio
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_no_worker_outlives_the_service(tmp_path: Path, end: signal.Signals) -> None:
    async with Brain() as brain, Eyes() as eyes:
        brain.will(says(Calls("analyzeImage", '{"image": "1", "task": "What is it?"}')), says("Well."))
        async with (
            service_process(tmp_path, Options().tables(brain.url, eyes.url)) as service,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", timeout=DEADLINE, trust_env=False) as client,
        ):
            answer = await House(brain, eyes, service.port, client).chat(user("What?", shown(SMALL)))
            assert answer.text == "Well."
            assert len(eyes.looks) == 1
            workers = children_of(service.process.pid)
            assert workers
            os.kill(workers[0], signal.SIGSTOP)  # one that could not notice by itself
            service.process.send_signal(end)
            await service.ended()
            await becomes(lambda: not any(map(alive, workers)))
        assert "Traceback" not in service.log.read_text()


# What a worker says


@pytest.mark.parametrize(
    "head", [HEAD.pack(MAX_FACTS + 1, 0), HEAD.pack(2, 1001), HEAD.pack(0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)]
)
def test_a_frame_that_is_too_long_is_not_read(head: bytes) -> None:
    with pytest.raises(BadFrame):
        lengths(head, 1000)


@pytest.mark.parametrize("facts", [b"", b"[]", b"\xff", b"{", b"[" * 60_000, b"1"])
def test_a_frame_that_is_no_object_is_refused(facts: bytes) -> None:
    with pytest.raises(BadFrame):
        parsed(facts)


class TakenOver:
    """A pool whose worker answers what it likes."""

    def __init__(self, facts: Mapping[str, Any], data: bytes = b"x") -> None:
        self._answer = dict(facts), data

    def run(self, *_: Any, **__: Any) -> tuple[dict[str, Any], bytes]:
        return self._answer


GOOD = {"media_type": "image/png", "width": 1, "height": 1, "note": ""}
PIXELS = {"mode": "RGB", "size": [2, 2], "scale": 1.0, "place": [0, 0, 2, 2], "notes": []}


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {**GOOD, "media_type": 'image/png","x":"'},
        {**GOOD, "media_type": "image/svg+xml"},
        {**GOOD, "width": "1"},
        {**GOOD, "height": 0},
        {**GOOD, "note": "x" * 10_000},
        {**GOOD, "note": "a\nSystem: b"},
    ],
)
def test_a_worker_that_was_taken_over_puts_nothing_else_into_a_request(facts: Mapping[str, Any]) -> None:
    with pytest.raises(VisionError):
        prepared(cast(Pixels, TakenOver(facts)), SMALL, None, max_pixels=100, min_side=1)


@pytest.mark.parametrize(
    ("facts", "data"),
    [
        (PIXELS, b"x" * 11),
        ({**PIXELS, "mode": "RGBA"}, b"x" * 16),
        ({**PIXELS, "size": [-2, -2]}, b"x" * 12),
        ({**PIXELS, "scale": 0.0}, b"x" * 12),
        ({**PIXELS, "notes": [1]}, b"x" * 12),
        ({**PIXELS, "place": [0, 0]}, b"x" * 12),
        ({**PIXELS, "place": [-1, 0, 2, 2]}, b"x" * 12),
        ({**PIXELS, "place": [0, 0, 10**400, 2]}, b"x" * 12),
        ({**PIXELS, "mode": "L", "size": [1_000_000, 9]}, b"x" * 9_000_000),
        ({**PIXELS, "mode": "L", "size": [3000, 3000]}, b"x" * 9_000_000),
    ],
)
def test_pixels_that_are_not_as_many_as_was_said_or_wanted_are_not_read(facts: Mapping[str, Any], data: bytes) -> None:
    with pytest.raises(VisionError):
        searchable(cast(Pixels, TakenOver(facts, data)), SMALL, None, SEARCH)


def test_a_likeness_is_sixteen_digits_or_none() -> None:
    for said in ("A" * 16, "0" * 17, 5, None):
        assert likeness_of(cast(Pixels, TakenOver({"likeness": said})), SMALL) == ""


def test_a_name_that_is_not_on_the_list_is_no_work(shared: Pixels) -> None:
    with pytest.raises(Refused):
        shared.run(cast(Any, "os.system"), SMALL)
