"""Eyes that can only read: RapidOCR on the CPU, with the models that come inside its wheel.

They need no server, no GPU and no network, and say in every answer what they are: text and where it stands, nothing
about objects, colours or people.  Positions are written as `x,y,w,h` in pixels of the original, the form in which a
region is asked for, so that the brain can look closer at what it found.

The models are handed over by path.  Left to itself RapidOCR would compare checksums and download what it misses; with
a path it only opens the file.

Pictures are decoded by workers of `cache.pixels`; what comes here is pixels.  Recognition runs in threads of its own,
since onnxruntime computes without the interpreter lock.  A thread cannot be stopped from outside: a cancelled look
frees its waiter at once, but the picture in work is finished, and the next look waits for that.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from threading import Lock
from typing import Any

from cache.image import DEFAULT_LIMITS, ImageLimits
from cache.pixels.pool import Pixels
from tools.call import VisionUsage
from tools.places import LineTooLong
from tools.vision.backend import VisionAnswer, VisionBusy, VisionError, VisionImage, VisionQuery
from tools.vision.sandboxed import Search, searchable
from tools.vision.special_tokens import neutralise
from tools.vision.turns import places_for

LONGEST_SIDE = 2560
MOST_PIXELS = 4_194_304
"""What is searched for text; more is scaled down.  At these sizes recognition takes up to 1 GB.  A 4K screenshot at
full size took 20 s and 1.6 GB on two cores; scaled, type of 16 pixels was still read, and small print has regions."""

WIDEST_RATIO = 4
"""Long side over short side; thinner pictures are filled up with white.  RapidOCR enlarges a picture until its short
side has 736 pixels, however long the other one becomes: 900 x 3 pixels took 80 s and 3 GB."""

SHORTEST_SIDE = 32
"""Pixels; the least that detection computes with."""

THREADS_PER_LOOK = 2
"""Of onnxruntime.  By default it takes every core, and leaves none to the streams that run beside it."""

DOUBTFUL_BELOW = 0.85
"""Confidence under which it is shown; clean screen text stays above 0.95."""

_INSTALL = "text recognition is not installed: pip install 'chiasm[ocr]'"
_PREAMBLE = (
    "This comes from text recognition (OCR) alone: it tells text and its position, nothing about objects, colours or "
    "people, and it has not read the task."
)


_BEGINNING = 120
"""Characters of what was read that tell one picture from another."""


@dataclass(frozen=True, slots=True)
class _Section:
    beginning: str
    text: str


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    confidence: float
    left: float
    top: float
    right: float
    bottom: float


class OcrEyes:
    """A `VisionBackend` that recognises text on this machine.  The engine is loaded once, by the first look."""

    def __init__(
        self,
        *,
        name: str = "ocr",
        max_concurrency: int = 1,
        timeout_seconds: float = 120.0,
        limits: ImageLimits = DEFAULT_LIMITS,
        askers: int = 1,
        pixels: Pixels | None = None,
    ) -> None:
        """`pixels`: who decodes pictures; else workers of its own, which end with it."""
        self.name = name
        self._pixels = pixels or Pixels(limits)
        self._own_pixels = pixels is None
        self._places = places_for(max_concurrency, askers)
        self._timeout = timeout_seconds
        self._limits = limits
        self._threads = ThreadPoolExecutor(max_concurrency, thread_name_prefix=f"eyes-{name}")
        self._loading = Lock()
        self._engine: Any = None
        self._identity: str | None = None

    def __repr__(self) -> str:
        return f"<OcrEyes {self.name!r}, {'loaded' if self._engine is not None else 'not loaded'}>"

    async def look(self, query: VisionQuery) -> VisionAnswer:
        """All text in the pictures of `query`, one section each.  Raises `VisionError` only."""
        try:
            async with asyncio.timeout(self._timeout), self._places.of(query.asker):
                # One job per picture, so that a cancelled look has at most one of them still in work.
                sections = [await self._read(image, query.asker) for image in query.images]
        except VisionError:
            raise
        except LineTooLong:
            raise VisionBusy from None
        except TimeoutError as error:
            raise VisionError(f"Text recognition did not finish within {self._timeout:g} s.", retryable=True) from error
        except Exception as error:
            raise VisionError(f"Text recognition failed ({type(error).__name__}).", retryable=False) from error
        # What an answer about one picture begins with becomes the picture's description.
        beginning = [sections[0].beginning] if len(sections) == 1 else []
        text = "\n\n".join([*beginning, _PREAMBLE, *(section.text for section in sections)])
        return VisionAnswer(text, VisionUsage(calls=1))

    async def identity(self) -> str:
        """The recogniser with its models, and the sizes at which pictures are searched."""
        if self._identity is None:
            models = sorted(path.name for path in _models().values())
            seen = [LONGEST_SIDE, MOST_PIXELS, WIDEST_RATIO, SHORTEST_SIDE]
            self._identity = json.dumps([type(self).__name__, self.name, _version(), models, seen])
        return self._identity

    async def ready(self) -> str | None:
        """`None` when the package and its models are installed; nothing is loaded for it."""
        try:
            _models()
        except VisionError as error:
            return str(error)
        return None

    async def close(self) -> None:
        """Take no more looks; a picture in work is finished by its thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._own_pixels:
            await asyncio.to_thread(self._pixels.close)

    async def _read(self, image: VisionImage, asker: str) -> _Section:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._section, image, asker)
        except VisionError as error:
            raise VisionError(f"[Image #{image.number}]: {error}", retryable=error.retryable) from error

    def _section(self, image: VisionImage, asker: str) -> _Section:
        engine = self._loaded()
        wanted = Search(LONGEST_SIDE, MOST_PIXELS, WIDEST_RATIO, SHORTEST_SIDE)
        picture = searchable(self._pixels, image.data, image.region, wanted, limits=self._limits, tenant=asker)
        notes = list(picture.notes)
        if picture.scale < 1:
            notes.append("scaled down for recognition, so ask for a region where small text is missing or wrong")
        lines = _in_reading_order(_lines(engine(picture.pixels), picture.scale, picture.left, picture.top))
        title = f"[Image #{image.number}], {picture.width}x{picture.height} pixels"
        title += f" ({'; '.join(notes)})" if notes else ""
        if not lines:
            return _Section("No text found.", f"{title}: no text found.")
        count = "1 line of text" if len(lines) == 1 else f"{len(lines)} lines of text"
        section = "\n".join(
            [f"{title}: {count}, each as x,y,w,h in pixels of the original and what it says."]
            + [_written(line) for line in lines]
        )
        words = shorten(" ".join(line.text for line in lines), _BEGINNING, placeholder=" …")
        return _Section(f"It reads: {neutralise(words)}", section)

    def _loaded(self) -> Any:
        with self._loading:
            if self._engine is None:
                self._engine = _open_engine()
            return self._engine


def _models() -> dict[str, Path]:
    """Where the bundled models are, by RapidOCR's name for their part."""
    spec = find_spec("rapidocr")
    if spec is None or spec.origin is None or find_spec("onnxruntime") is None:
        raise VisionError(_INSTALL, retryable=False)
    folder = Path(spec.origin).parent / "models"
    models: dict[str, Path] = {}
    for part in ("Det", "Cls", "Rec"):
        found = sorted(folder.glob(f"*_{part.lower()}_*.onnx"))
        if not found:
            raise VisionError("text recognition lacks its models: reinstall rapidocr", retryable=False)
        models[part] = found[0]
    return models


def _version() -> str:
    try:
        return version("rapidocr")
    except PackageNotFoundError:  # a copy without its metadata still reads
        return ""


def _open_engine() -> Any:
    models = _models()
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise VisionError(_INSTALL, retryable=False) from error
    threads = min(THREADS_PER_LOOK, os.cpu_count() or 1)
    return RapidOCR(
        params={
            # Its logger has a handler of its own and writes a line for each model and each empty picture.
            "Global.log_level": "critical",
            "Global.max_side_len": LONGEST_SIDE,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            **{f"{part}.model_path": str(path) for part, path in models.items()},
        }
    )


def _lines(found: Any, scale: float, left: int, top: int) -> Iterable[_Line]:
    """RapidOCR's corners (four points per line, in pixels of what it was shown) as upright boxes of the original."""
    if found.boxes is None or found.txts is None or found.scores is None:
        return
    for corners, text, confidence in zip(found.boxes, found.txts, found.scores, strict=True):
        xs = [float(x) / scale + left for x, _ in corners]
        ys = [float(y) / scale + top for _, y in corners]
        yield _Line(neutralise(text), float(confidence), min(xs), min(ys), max(xs), max(ys))


def _in_reading_order(lines: Iterable[_Line]) -> list[_Line]:
    """From top to bottom, and from left to right what stands side by side: overlapping by more than half its height."""
    rows: list[list[_Line]] = []
    for line in sorted(lines, key=lambda line: (line.top + line.bottom, line.left)):
        if rows and _beside(rows[-1][-1], line):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.left)]


def _beside(one: _Line, other: _Line) -> bool:
    shared = min(one.bottom, other.bottom) - max(one.top, other.top)
    return shared > 0.5 * min(one.bottom - one.top, other.bottom - other.top)


def _written(line: _Line) -> str:
    x, y = round(line.left), round(line.top)
    place = f"{x},{y},{round(line.right) - x},{round(line.bottom) - y}"
    doubt = f" (uncertain, {line.confidence:.0%})" if line.confidence < DOUBTFUL_BELOW else ""
    return f"{place}: {line.text}{doubt}"
