"""The sweep as a picture: three charts over the number of streams, alone and behind Chiasm, as SVG or PNG.

A picture is a list of shapes (pure); two short writers put them into SVG and onto Pillow's canvas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil, floor, log10
from typing import Literal, TypeAlias
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont

from router.bench.figures import METRICS, Measured, Metric, Summary, summed_up
from router.bench.plan import Side

_CHARTS = ("ttft_ms", "stream_tokens_per_s", "aggregate_tokens_per_s")
_SIDES: tuple[tuple[Side, str, str], ...] = (
    ("alone", "brain alone", "#3366cc"),
    ("behind", "behind Chiasm", "#dd6611"),
)
_CHART_WIDTH, _HEIGHT = 340, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 48, 62
_INK, _FAINT, _PAPER = "#222222", "#dddddd", "#ffffff"
_PIXELS = 2
"""Of a PNG for one unit of a chart: sharp on today's screens."""

Anchor: TypeAlias = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class Line:
    points: tuple[tuple[float, float], ...]
    colour: str
    width: float = 1.0


@dataclass(frozen=True, slots=True)
class Dot:
    x: float
    y: float
    colour: str
    radius: float = 3.5


@dataclass(frozen=True, slots=True)
class Words:
    x: float
    y: float
    """Of the middle of the line."""
    text: str
    anchor: Anchor = "start"
    size: int = 12


Shape: TypeAlias = Line | Dot | Words


@dataclass(frozen=True, slots=True)
class Picture:
    width: int
    height: int
    shapes: tuple[Shape, ...]


def picture(waves: Sequence[Measured], title: str) -> Picture:
    """Nothing but the title where no wave came whole."""
    shapes: list[Shape] = [Words(_LEFT, 14, title, size=13)]
    metrics = {metric.key: metric for metric in METRICS}
    for number, key in enumerate(_CHARTS):
        shapes += _chart(waves, metrics[key], number * _CHART_WIDTH)
    return Picture(_CHART_WIDTH * len(_CHARTS), _HEIGHT, tuple(shapes))


def _chart(waves: Sequence[Measured], metric: Metric, left: float) -> Iterator[Shape]:
    levels = sorted({wave.streams for wave in waves})
    found: dict[Side, list[tuple[int, Summary]]] = {}
    for side, _, _ in _SIDES:
        told = [(streams, summed_up(waves, metric, streams, side)) for streams in levels]
        found[side] = [(streams, one) for streams, one in told if one is not None]
    highest = max((one.high for told in found.values() for _, one in told), default=0.0)
    if highest <= 0:
        return
    top = _nice(highest)
    x0, x1 = left + _LEFT, left + _CHART_WIDTH - _RIGHT
    y0, y1 = _HEIGHT - _BOTTOM, _TOP

    def across(streams: int) -> float:
        # One place for each level: 1, 2, 4, 8 are steps of equal interest.
        return x0 + (x1 - x0) * (levels.index(streams) + 0.5) / len(levels)

    def up(value: float) -> float:
        return y0 - (y0 - y1) * value / top

    yield Words(x0, _TOP - 14, f"{metric.title} ({metric.unit})")
    for part in range(5):
        value = top * part / 4
        yield Line(((x0, up(value)), (x1, up(value))), _FAINT)
        yield Words(x0 - 6, up(value), f"{value:g}", "end", 10)
    for streams in levels:
        yield Words(across(streams), y0 + 12, str(streams), "middle", 10)
    yield Words((x0 + x1) / 2, y0 + 28, "streams at once", "middle", 10)
    for number, (side, name, colour) in enumerate(_SIDES):
        if not found[side]:
            continue
        yield Line(tuple((across(streams), up(one.median)) for streams, one in found[side]), colour, 2)
        for streams, one in found[side]:
            yield Line(((across(streams), up(one.low)), (across(streams), up(one.high))), colour)
            yield Dot(across(streams), up(one.median), colour)
        yield Dot(x0 + 130 * number, y0 + 48, colour)
        yield Words(x0 + 130 * number + 8, y0 + 48, name, size=10)


def _nice(value: float) -> float:
    """The next of 1, 2, 4, 6, 8 times a power of ten."""
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value * 0.9999)


def svg(drawn: Picture) -> bytes:
    size = f'width="{drawn.width}" height="{drawn.height}" viewBox="0 0 {drawn.width} {drawn.height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" fill="{_INK}">',
        f'<rect width="100%" height="100%" fill="{_PAPER}"/>',
        *map(_svg_of, drawn.shapes),
        "</svg>",
    ]
    return "\n".join([*lines, ""]).encode()


def _svg_of(shape: Shape) -> str:
    match shape:
        case Line(points, colour, width):
            places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'
        case Dot(x, y, colour, radius):
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}"/>'
        case Words(x, y, text, anchor, size):
            where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="middle"'
            return f'<text {where} font-size="{size}">{escape(text)}</text>'


def png(drawn: Picture) -> bytes:
    image = Image.new("RGB", (drawn.width * _PIXELS, drawn.height * _PIXELS), _PAPER)
    pen = ImageDraw.Draw(image)
    anchors = {"start": "lm", "middle": "mm", "end": "rm"}
    for shape in drawn.shapes:
        match shape:
            case Line(points, colour, width):
                places = [(x * _PIXELS, y * _PIXELS) for x, y in points]
                pen.line(places, fill=colour, width=ceil(width * _PIXELS))
            case Dot(x, y, colour, radius):
                box = [((x + d * radius) * _PIXELS, (y + d * radius) * _PIXELS) for d in (-1, 1)]
                pen.ellipse(box, fill=colour)
            case Words(x, y, text, anchor, size):
                font = ImageFont.load_default(size * _PIXELS)
                pen.text((x * _PIXELS, y * _PIXELS), text, font=font, fill=_INK, anchor=anchors[anchor])
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
