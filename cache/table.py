"""The images of one conversation: which number each has, and what is known of it.

Pure: a table is a value that is changed in memory and kept by `cache.tables`.  A number is given once, in order of
first appearance, to each distinct image (same bytes, same number), and never again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MOST_NUMBERED = 99_999
"""A number that a client asks for beyond this is no counter of pasted images; it gets the next free one."""


@dataclass(slots=True)
class ImageRecord:
    """One row."""

    number: int
    digest: str
    """SHA-256 of the bytes as the client sent them, in hex; of the base64 text where they could not be decoded."""
    media_type: str = ""
    width: int = 0
    height: int = 0
    bytes: int = 0
    origin: str = "user"
    problem: str = ""
    """Why nobody can look at it, in a few words; empty for a good image."""
    looks: int = 0
    last_task: str = ""
    last_answer: str = ""


@dataclass(slots=True)
class ImageTable:
    records: dict[int, ImageRecord] = field(default_factory=dict)
    _by_digest: dict[str, ImageRecord] = field(init=False)
    _highest: int = field(init=False)

    def __post_init__(self) -> None:
        self._by_digest = {record.digest: record for record in self}
        self._highest = max(self.records, default=0)

    def __iter__(self) -> Iterator[ImageRecord]:
        return iter(self.records.values())

    def __len__(self) -> int:
        return len(self.records)

    def get(self, number: int) -> ImageRecord | None:
        return self.records.get(number)

    def of_digest(self, digest: str) -> ImageRecord | None:
        return self._by_digest.get(digest)

    def number(self, image: ImageRecord, wanted: int | None = None) -> ImageRecord:
        """The row of this image: the one it has, or a new one.

        `image.number` is ignored.  `wanted` (the client's own number for it) is given if it is free, else the next
        one after the highest.
        """
        known = self.of_digest(image.digest)
        if known is not None:
            return known
        free = wanted is not None and 0 < wanted <= MOST_NUMBERED and wanted not in self.records
        image.number = wanted if free and wanted is not None else self._highest + 1
        self._highest = max(self._highest, image.number)
        self.records[image.number] = image
        self._by_digest[image.digest] = image
        return image
