"""What it costs to have pictures decoded in a worker process instead of a thread: the same work both ways, in turn.

    .venv/bin/python -m benchmarks.pixels [ROUNDS]

The picture is a screenshot of 1280 x 800 pixels with an alpha channel, which has to be decoded and encoded again.  (One
without goes to the eyes as it is, and to no worker.)
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter

from PIL import Image, ImageDraw

from cache.pixels.pool import Pixels
from tools.vision.imaging import prepare
from tools.vision.sandboxed import prepared

_MAX_PIXELS, _MIN_SIDE = 4096 * 32 * 32, 32


def screenshot() -> bytes:
    """Lines of text, some boxes, and a photo."""
    draw = random.Random(7)
    image = Image.new("RGBA", (1280, 800), (250, 250, 252, 255))
    pen = ImageDraw.Draw(image)
    for line in range(50):
        words = " ".join("".join(draw.choices("abcdefghijklmnop{}()=_", k=draw.randint(2, 9))) for _ in range(18))
        pen.text((20, 10 + 15 * line), words, fill=(30, 30, 40, 255))
    image.paste(Image.effect_noise((400, 300), 30).convert("RGBA"), (840, 40))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def main(rounds: int) -> None:
    data, pixels = screenshot(), Pixels()
    ways: dict[str, Callable[[], object]] = {
        "thread": lambda: prepare(data, None, max_pixels=_MAX_PIXELS, min_side=_MIN_SIDE),
        "worker": lambda: prepared(pixels, data, None, max_pixels=_MAX_PIXELS, min_side=_MIN_SIDE),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with ThreadPoolExecutor(1) as threads:
        begun = perf_counter()
        first = threads.submit(ways["worker"]).result()
        cold = perf_counter() - begun
        assert first == ways["thread"]()
        for _ in range(rounds):
            for name, way in ways.items():
                begun = perf_counter()
                threads.submit(way).result()
                taken[name].append(perf_counter() - begun)
    pixels.close()
    thread, worker = median(taken["thread"]), median(taken["worker"])
    more = median(b - a for a, b in zip(taken["thread"], taken["worker"], strict=True))
    print(
        f"{len(data) // 1024} KiB, {rounds} rounds, medians: thread {thread * 1e3:.1f} ms, worker {worker * 1e3:.1f} ms"
    )
    print(f"worker / thread: {worker / thread:.3f}; a worker adds {more * 1e3:.1f} ms")
    print(f"the first picture, with the start of a worker: {cold * 1e3:.0f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
