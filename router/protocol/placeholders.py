"""The words that stand for an image, and finding numbers in words.

A placeholder is a function of the image, its numbers (ours, and the client's where that is another) and the name of
the tool alone, so that a history renders to the same bytes on every later turn and the server's prefix cache keeps
hitting.  It says plainly that nothing is visible and what to do, because a model that reads "[Image #1]" alone pretends
to have seen it or searches the disk for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cache.record import ImageRecord

MARKER = re.compile(r"\[Image #(\d{1,6})(?=[\]:])")
"""`[Image #3]` or `[Image #3: …`; Claude Code and Codex write the first themselves."""


def placeholder(record: ImageRecord, tool: str | None, called: int | None = None) -> str:
    """What stands where the image stood; `tool` is the name under which the brain can look (`None`: it cannot), and
    `called` the number by which the client's own words mean the image, where that is another."""
    if record.problem:
        return f"[Image #{record.number}: unreadable, {record.problem}]"
    number = record.number
    if tool is None:
        return f"[Image #{number}] (attached {_facts(record, called)}, not visible to you)"
    # Measured with a small model: "attached" and the number inside the words keep it from taking them for its task.
    facts = _facts(record, called)
    return f'[Image #{number}] (attached {facts}, not visible; call {tool} with image "{number}" to look at it)'


def captioned(record: ImageRecord, description: str) -> str:
    """What stands where the image stood for a brain that cannot look: a description, or why there is none."""
    if record.problem:
        return placeholder(record, None)
    return f"[Image #{record.number}] (attached {_facts(record)}, described by a vision model)\n{description}"


def unseen(record: ImageRecord, reason: str) -> str:
    """What stands there when nobody could describe it."""
    words = " ".join(reason.split())
    return f"[Image #{record.number}] (attached {_facts(record)}, could not be looked at: {words}; do not guess)"


def inline_placeholder(record: ImageRecord) -> str:
    """The short form, for the middle of a sentence or of a JSON string: no quotes, no line ends."""
    if record.problem:
        return f"[Image #{record.number}: unreadable, {record.problem}]".replace('"', "'").replace("\\", "/")
    return f"[Image #{record.number}]"


def not_shown(record: ImageRecord, recall: str | None, called: int | None = None) -> str:
    """What stands where the pixels stood, or could not stand, for a brain that has eyes itself; `recall` is the name
    under which it can have them shown (`None`: it cannot)."""
    if record.problem:
        return placeholder(record, None)
    way = "" if recall is None else f'; call {recall} with image "{record.number}" to see it'
    return f"[Image #{record.number}] (attached {_facts(record, called)}, not shown here{way})"


def inline_not_shown(record: ImageRecord, recall: str | None) -> str:
    """The same in short, as `inline_placeholder`."""
    if record.problem or recall is None:
        return inline_placeholder(record)
    return f"[Image #{record.number}: not shown here, {recall} shows it]"


def _facts(record: ImageRecord, called: int | None = None) -> str:
    facts = f"{_FORMATS.get(record.media_type, 'image')}, {record.width}x{record.height}"
    return facts if called is None else f"{facts}, the user's image {called}"


_FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/avif": "AVIF",
    "image/heic": "HEIC",
}


def markers(text: str) -> list[int]:
    """The numbers of the markers in `text`, each once, in order of appearance."""
    return list(dict.fromkeys(int(number) for number in MARKER.findall(text)))


def renumber(text: str, numbers: Mapping[int, int]) -> str:
    """Markers rewritten, all at once, so that swapping 1 and 2 works."""
    return MARKER.sub(lambda match: f"[Image #{numbers.get(int(match[1]), int(match[1]))}", text)
