"""Takes the pictures of the admin page that the documentation shows.

.venv/bin/python -m tests.admin_screenshots        # into docs/images
"""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

from PIL import Image

from tests.admin_scene import scene
from tests.browser import PHONE, browser
from tests.live import live

FOLDER = Path(__file__).parent.parent / "docs" / "images"
DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}


SEEN = """Promise.all([...document.images]
    .filter((one) => one.getBoundingClientRect().top < innerHeight)
    .map((one) => one.decode()))"""
"""Until the pictures in the window are there; the others are not even asked for."""


async def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    async with live(images={"max_loaded": 4, "keep_loaded": 2}) as house, browser() as chromium:
        await scene(house)
        agent, _ = (one["id"] for one in (await house.get("/admin/api/conversations")).json["data"])
        there = f"/admin/conversations/{agent}"
        await house.send(None, path=f"/admin/api/conversations/{agent}/images/1/pin")
        tall = {**DESK, "viewport": {"width": 1280, "height": 1500}}
        for name, path, profile in (
            ("conversations", "/admin", {**DESK, "viewport": {"width": 1280, "height": 520}}),
            ("images", there, {**DESK, "viewport": {"width": 1280, "height": 1120}}),
            ("image", f"{there}/images/1", {**DESK, "viewport": {"width": 1280, "height": 960}}),
            ("prompt", f"{there}/prompt?show=changed", tall),
            ("prompt-dark", f"{there}/prompt?show=changed", {**tall, "color_scheme": "dark"}),
            ("phone", there, {**PHONE, "device_scale_factor": 1.5}),
        ):
            async with chromium.visits(house.port, **profile) as visit:
                await visit.open(path)
                await visit.page.evaluate("scrollTo(0, 0)")
                await visit.page.locator(".live.on").wait_for()
                await visit.page.evaluate(SEEN)
                keep(name, await visit.page.screenshot(animations="disabled"))


def keep(name: str, png: bytes) -> None:
    with Image.open(io.BytesIO(png)) as shot:
        # A page has few colours; the usual way of counting them would lose a small green light.
        few = shot.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    path = FOLDER / f"admin-{name}.png"
    few.save(path, "PNG", optimize=True)
    print(f"{path.name}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    asyncio.run(main())
