"""Inside a worker: started by path in a bare interpreter, it takes pictures one by one until its pipe ends.

What can be asked for is listed here by name.  Most of it lies in rooms above this one; it is imported once, before the
door is locked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

Work = Callable[[bytes, Mapping[str, Any]], tuple[dict[str, Any], bytes]]
"""A picture and what to do, to facts about it and pixels.  Words on why not are raised as an exception with a `words`
attribute."""

WORK = {
    "prepare": ("tools.vision.sandboxed", "prepare_inside"),
    "search": ("tools.vision.sandboxed", "search_inside"),
    "likeness": ("cache.likeness", "likeness_inside"),
}
"""The only names that mean anything here."""

READY = {"ready": True}

_PIECE = 1024 * 1024


def main() -> None:
    """`worker.py PARENT MEMORY_BYTES CPU_SECONDS MOST_BYTES`."""
    parent, memory, seconds, most = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    root = str(Path(__file__).resolve().parents[2])
    if root not in sys.path:
        sys.path.insert(0, root)
    from cache.pixels import lockdown

    lockdown.end_with_parent(parent)
    work: dict[str, Work] = {name: getattr(import_module(room), one) for name, (room, one) in WORK.items()}
    _import_the_rest()
    lockdown.lock_down(memory)
    _serve(work, seconds, most)


def _import_the_rest() -> None:
    """What Pillow imports only when it needs it, at which time no file can be opened any more."""
    from PIL import Image

    Image.preinit()
    for name in ("ImageChops", "ImageColor", "ImagePalette", "ImageSequence", "MpoImagePlugin", "TiffImagePlugin"):
        import_module(f"PIL.{name}")
    from cache.heif import HEIC_DECODER, is_installed

    if is_installed():
        import_module(HEIC_DECODER)


def _serve(work: Mapping[str, Work], seconds: float, most: int) -> None:
    from cache.pixels import lockdown
    from cache.pixels.frames import HEAD, lengths, parsed

    _send(READY, b"")
    while (head := _read(HEAD.size)) is not None:
        facts_size, data_size = lengths(head, most)
        asked, data = _read(facts_size), _read(data_size)
        if asked is None or data is None:
            return
        request = parsed(asked)
        lockdown.allow_cpu(seconds)
        facts: dict[str, Any]
        pixels = b""
        try:
            facts, pixels = work[request["work"]](data, request["how"])
            facts = {"done": facts}
        except MemoryError:
            facts = {"too_costly": True}
        except Exception as error:
            facts = {"refused": str(getattr(error, "words", "") or "damaged")[:500]}
        del data
        _send(facts, pixels)


def _read(size: int) -> bytes | None:
    """Exactly so many bytes; `None` where the pipe ended."""
    found: list[bytes] = []
    while size > 0:
        piece = os.read(0, min(size, _PIECE))
        if not piece:
            return None
        found.append(piece)
        size -= len(piece)
    return b"".join(found)


def _send(facts: Mapping[str, Any], data: bytes) -> None:
    from cache.pixels.frames import head_and_facts

    for part in (head_and_facts(facts, len(data)), data):
        view = memoryview(part)
        while view:
            view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
