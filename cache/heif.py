"""HEIC, the format of phones: read by its boxes like the other formats, decoded only where a worker can be lost.

A file is boxes in boxes (ISO/IEC 14496-12 and 23008-12): `meta` says which item is the picture (`pitm`), what kind it
is (`iinf`), which properties it has (`iprp`: its size, and how it is turned) and where its bytes lie (`iloc`).  All
numbers here are what the file says of itself.  The coded frame may be larger than that, so no limit checked here bounds
the work of decoding; the limits of a worker do.

The decoder applies the turning that the boxes tell (and EXIF, which repeats it, must not be applied again), so sizes
are those of the upright picture and the orientation is 1.

`pillow_heif` is an extra.  It is not imported here: whoever only looks at structure needs no decoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from struct import error as StructError
from struct import unpack_from
from typing import Any, cast

from PIL import ImageFile

MEDIA_TYPE = "image/heic"

HEIC_DECODER = "pillow_heif.as_plugin"

BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1"})
"""Of still pictures.  `hevc` and `msf1` are films."""

NOT_INSTALLED = "unsupported format HEIC (install pillow-heif to have it read)"

_MAX_BOXES = 20_000
"""In one file, and of what boxes repeat (items, their extents and properties).  A phone's picture in 48 tiles has some
120 of the former and 300 of the latter."""

_CODED = frozenset({b"hvc1", b"hev1", b"grid", b"iden"})


class BadBoxes(Exception):
    """`words` on what is wrong with them."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


def is_installed() -> bool:
    """Whether there is a decoder."""
    try:
        return find_spec("pillow_heif") is not None
    except (ImportError, ValueError):  # a module that was blocked or replaced
        return False


def open_heic(data: bytes) -> ImageFile.ImageFile:
    """Open, not yet decode.  Raises whatever it raises; for a worker."""
    options: Any = import_module("pillow_heif.options")
    options.DECODE_THREADS = 1
    # Parts of the file that nobody will see need not be read.
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    return cast(ImageFile.ImageFile, import_module(HEIC_DECODER).HeifImageFile(BytesIO(data)))


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels that the primary image claims to have.  Raises `BadBoxes`."""
    try:
        return _Reader(data).size()
    except (StructError, IndexError) as error:
        raise BadBoxes("damaged HEIC") from error


@dataclass(frozen=True, slots=True)
class _Box:
    kind: bytes
    start: int
    """Of what it holds, behind its own head."""
    end: int


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = _MAX_BOXES

    def size(self) -> tuple[int, int]:
        meta = next((box for box in self._boxes(0, len(self._data)) if box.kind == b"meta"), None)
        if meta is None:
            raise BadBoxes("truncated HEIC")
        held = {box.kind: box for box in self._boxes(meta.start + 4, meta.end)}
        if not {b"pitm", b"iinf", b"iprp", b"iloc"} <= held.keys():
            raise BadBoxes("damaged HEIC")
        primary = self._primary(held[b"pitm"])
        kind = self._kinds(held[b"iinf"]).get(primary)
        if kind == b"av01":
            raise BadBoxes("unsupported format AVIF")
        if kind not in _CODED:
            raise BadBoxes("unsupported format HEIC of an unknown coding")
        self._check_whole(held[b"iloc"])
        return self._upright(held[b"iprp"], primary)

    def _boxes(self, start: int, end: int) -> Iterator[_Box]:
        while start + 8 <= end:
            self._step()
            size, kind = unpack_from(">I4s", self._data, start)
            head = 8
            if size == 1:
                (size,) = unpack_from(">Q", self._data, start + 8)
                head = 16
            elif size == 0:
                size = end - start
            if size < head:
                raise BadBoxes("damaged HEIC")
            if start + size > end:
                raise BadBoxes("truncated HEIC" if end == len(self._data) else "damaged HEIC")
            yield _Box(kind, start + head, start + size)
            start += size

    def _step(self) -> None:
        """The walk is bounded: a file of nothing but entries is a bomb for the walker."""
        self._left -= 1
        if self._left < 0:
            raise BadBoxes("damaged HEIC")

    def _version(self, box: _Box) -> int:
        return self._data[box.start]

    def _primary(self, box: _Box) -> int:
        form = ">H" if self._version(box) == 0 else ">I"
        return int(unpack_from(form, self._data, box.start + 4)[0])

    def _kinds(self, box: _Box) -> Mapping[int, bytes]:
        """The type of each item, by its id."""
        kinds: dict[int, bytes] = {}
        for entry in self._boxes(box.start + (6 if self._version(box) == 0 else 8), box.end):
            version = self._version(entry)
            if entry.kind == b"infe" and version >= 2:
                item, _, kind = unpack_from(">HH4s" if version == 2 else ">IH4s", self._data, entry.start + 4)
                kinds[item] = kind
        return kinds

    def _check_whole(self, box: _Box) -> None:
        """Every byte that an item lies in must be there."""
        version = self._version(box)
        sizes, at = unpack_from(">H", self._data, box.start + 4)[0], box.start + 6
        offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
        index_size = sizes & 15 if version > 0 else 0
        wide = 2 if version < 2 else 4
        count, at = self._number(at, wide), at + wide
        for _ in range(count):
            self._step()
            at += wide
            method = 0
            if version > 0:
                method, at = self._number(at, 2) & 15, at + 2
            at += 2
            base, at = self._number(at, base_size), at + base_size
            extents, at = self._number(at, 2), at + 2
            for _ in range(extents):
                self._step()
                if at > box.end:
                    raise BadBoxes("damaged HEIC")
                at += index_size
                offset, at = self._number(at, offset_size), at + offset_size
                length, at = self._number(at, length_size), at + length_size
                if method == 0 and base + offset + length > len(self._data):
                    raise BadBoxes("truncated HEIC")

    def _number(self, at: int, size: int) -> int:
        if at + size > len(self._data):
            raise BadBoxes("truncated HEIC")
        return int.from_bytes(self._data[at : at + size], "big")

    def _upright(self, box: _Box, primary: int) -> tuple[int, int]:
        inside = list(self._boxes(box.start, box.end))
        properties = [one for held in inside if held.kind == b"ipco" for one in self._boxes(held.start, held.end)]
        width = height = 0
        for number in (number for held in inside if held.kind == b"ipma" for number in self._of_item(held, primary)):
            if not 0 < number <= len(properties):
                continue
            one = properties[number - 1]
            if one.kind == b"ispe":
                width, height = unpack_from(">II", self._data, one.start + 4)
            elif one.kind == b"clap":
                wide, of_wide, high, of_high = unpack_from(">IIII", self._data, one.start)
                if of_wide == 0 or of_high == 0:
                    raise BadBoxes("damaged HEIC")
                width, height = min(width, wide // of_wide), min(height, high // of_high)
            elif one.kind == b"irot" and self._data[one.start] & 1:
                width, height = height, width
        if width == 0 or height == 0:
            raise BadBoxes("damaged HEIC")
        return width, height

    def _of_item(self, box: _Box, item: int) -> Iterator[int]:
        """The numbers of the properties of `item`, in the order in which they are applied."""
        version, long_form = self._version(box), self._data[box.start + 3] & 1
        wide = 2 if version < 1 else 4
        count, at = self._number(box.start + 4, 4), box.start + 8
        for _ in range(count):
            self._step()
            if at >= box.end:
                raise BadBoxes("damaged HEIC")
            this, at = self._number(at, wide), at + wide
            held, at = self._number(at, 1), at + 1
            for _ in range(held):
                self._step()
                number = self._number(at, 2) & 0x7FFF if long_form else self._number(at, 1) & 0x7F
                at += 2 if long_form else 1
                if this == item:
                    yield number
