"""The image table of one conversation: which number each image has, and which images are loaded.

    new image ──number──▶ loaded ◀──recall, look, load──┐
                            │                           │
                            └────────forget──────▶ forgotten          pinned: loaded, and never forgotten
                                                                      deleted: neither, and its number stays taken

*Loaded*: what was seen in the image stands in the prompt (or, for a brain with eyes, its pixels do).  *Forgotten*: it
does not.  A number is given once, in order of first appearance, to each distinct image (same bytes, same number), and
never again, whatever is deleted.

Pure, and small however long the conversation grows: it is read with every request and exchanged whole with every
change.  So it holds the loaded images, of which there are few, and the numbers given last; older numbers are records
of their own (`cache.tables`), as are the rows with what is known of each image (`cache.rows`).

`stamp` is the conversation's own clock: it moves with every loading and forgetting.  A look that was kept at stamp
`s` stands in the prompt while every image of it is loaded and was loaded at or before `s`: an image that was
forgotten and came back has not brought its old looks back, or the past would be rewritten a second time.  Only where a
person loads it (`load`) do they stand again: it was loaded since ever then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

MOST_NUMBERED = 99_999
"""A number that a client asks for beyond this is no counter of pasted images; it gets the next free one."""

UNLIKE = "-"
"""The likeness of what could not be decoded."""

MOST_GAPS = 32
"""Runs of numbers that clients' own counters left out.  A number that would make one more is not given."""

MOST_RECENT = 256
"""Numbers kept in the table itself: 20 KB.  Beyond it the older half moves out."""


@dataclass(slots=True)
class LoadedImage:
    since: int
    """The stamp at which it was loaded."""
    tool: bool = False
    """Made by a tool rather than put there by a person."""
    tokens: int = 0
    """What it adds to the prompt, estimated."""
    likeness: str = ""
    """Its dHash, 16 hex digits; `UNLIKE` where it has none, empty where that is not known yet."""
    described: bool = False
    """Whether its row has a description."""
    pinned: bool = False


@dataclass(slots=True)
class ImageTable:
    """A value that is changed in memory and kept by `cache.tables`."""

    generation: str = ""
    """Drawn when the conversation began: what was kept for a deleted one never meets the next of the same name."""
    name: str = ""
    """What the client may send as `x-chiasm-conversation`."""
    client: str = ""
    """The program that began it, by its own word."""
    created: float = 0.0
    used: float = 0.0
    next: int = 1
    """The number that the next new image gets."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Runs of numbers below `next` that nobody has, both ends included."""
    recent: dict[str, int] = field(default_factory=dict)
    """Numbers by digest, the last ones given; as those who look must find them before any record is written."""
    moved_out: int = 0
    """How many numbers stand elsewhere."""
    loaded: dict[int, LoadedImage] = field(default_factory=dict)
    """By number, the least recently used first."""
    deleted: list[int] = field(default_factory=list)
    stamp: int = 0
    forgot: int = 0
    """The stamp of the last change of a status after which the brain must be told: a forgetting, a return, a
    deletion."""
    looks: int = 0
    """How often somebody looked."""
    errors: int = 0
    """How often the eyes failed."""
    vision_prompt_tokens: int = 0
    """What looking has cost, in the eyes' own tokens."""
    vision_completion_tokens: int = 0
    cost: float = 0.0
    """The same in money, by the prices of the time; 0 without prices."""
    kept: bool = field(default=True, compare=False)
    """False: no store holds this.  Its new numbers are for one request, and another image may get them later: nothing
    is to be kept under them."""

    def __len__(self) -> int:
        """How many images were given a number."""
        return self.next - 1 - sum(last - first + 1 for first, last in self.gaps)

    def numbers(self) -> Iterator[int]:
        """All numbers that were given, in order."""
        begin = 1
        for first, last in sorted(self.gaps):
            yield from range(begin, first)
            begin = last + 1
        yield from range(begin, self.next)

    def __contains__(self, number: int) -> bool:
        return 0 < number < self.next and not any(first <= number <= last for first, last in self.gaps)

    # Numbers

    def give(self, digest: str, wanted: int | None = None) -> int:
        """The number of a new image.  `wanted`, the client's own number for it, if that is free."""
        if (known := self.recent.get(digest)) is not None:
            return known
        number = self.next if wanted is None or not self._can_give(wanted) else wanted
        self.gaps = self._gaps_after(number)
        self.next = max(self.next, number + 1)
        self.recent[digest] = number
        return number

    def _can_give(self, wanted: int) -> bool:
        free = 0 < wanted <= MOST_NUMBERED and wanted not in self
        return free and len(self._gaps_after(wanted)) <= MOST_GAPS

    def _gaps_after(self, number: int) -> list[tuple[int, int]]:
        """The gaps once `number`, which nobody has, is given."""
        if number >= self.next:
            return [*self.gaps, (self.next, number - 1)] if number > self.next else self.gaps
        gaps: list[tuple[int, int]] = []
        for first, last in self.gaps:
            parts = ((first, number - 1), (number + 1, last)) if first <= number <= last else ((first, last),)
            gaps += [part for part in parts if part[0] <= part[1]]
        return gaps

    def overflow(self) -> dict[str, int]:
        """The older numbers that are to move out of the table: to be kept elsewhere before `move_out`."""
        if len(self.recent) <= MOST_RECENT:
            return {}
        return dict(list(self.recent.items())[: len(self.recent) - MOST_RECENT // 2])

    def move_out(self, numbers: Iterable[str]) -> None:
        for digest in numbers:
            if self.recent.pop(digest, None) is not None:
                self.moved_out += 1

    # Loaded and forgotten

    def status(self, number: int) -> str:
        """`loaded`, `forgotten`, or `deleted`."""
        if number in self.loaded:
            return "loaded"
        return "deleted" if number in self.deleted else "forgotten"

    @property
    def tokens(self) -> int:
        return sum(image.tokens for image in self.loaded.values())

    def arrive(self, number: int, *, tool: bool, tokens: int) -> None:
        """A new image is loaded."""
        if number in self.deleted:
            return
        self.stamp += 1
        self.loaded[number] = LoadedImage(self.stamp, tool, tokens)

    def use(self, number: int, tokens: int = 0, *, tool: bool = False) -> bool:
        """Somebody looked; `tokens` more of it stand in the prompt.  Loads what was forgotten, and says whether;
        `tool`: as in `arrive`, for one that comes back."""
        if number in self.deleted or number not in self:
            return False
        image = self.loaded.pop(number, None)
        back = image is None
        if image is None:
            self.stamp += 1
            self.forgot = self.stamp
            image = LoadedImage(self.stamp, tool)
        image.tokens += tokens
        self.loaded[number] = image  # the most recently used now
        return back

    def load(self, number: int, tokens: int = 0, *, tool: bool = False) -> bool:
        """A person brings it back: unlike `use`, with all that was ever seen in it, in the places where that stood, so
        the past is rewritten once more.  Says whether it was forgotten; `tokens`: what stands in the prompt again."""
        if number in self.loaded or not self.use(number, tokens, tool=tool):
            return False
        self.loaded[number].since = 0
        return True

    def tell(self) -> None:
        """The brain is to be shown the table as it is now."""
        self.stamp += 1
        self.forgot = self.stamp

    def forget(self, numbers: Iterable[int]) -> list[int]:
        """Answers those that were loaded."""
        gone = [number for number in numbers if self.loaded.pop(number, None) is not None]
        if gone:
            self.stamp += 1
            self.forgot = self.stamp
        return gone

    def pin(self, number: int) -> None:
        """Loaded, and never forgotten until it is unpinned."""
        self.use(number)
        if number in self.loaded:
            self.loaded[number].pinned = True

    def unpin(self, number: int) -> None:
        if number in self.loaded:
            self.loaded[number].pinned = False

    def delete(self, number: int) -> None:
        if number in self and number not in self.deleted:
            self.loaded.pop(number, None)
            self.deleted.append(number)
            self.stamp += 1
            self.forgot = self.stamp

    def stands(self, numbers: Iterable[int], stamp: int) -> bool:
        """Whether a look at these images, kept at `stamp`, still stands in the prompt."""
        return all((image := self.loaded.get(number)) is not None and image.since <= stamp for number in numbers)

    def note(self, number: int, *, likeness: str = "", described: bool = False) -> None:
        """Something was found out about an image, which is of use while it is loaded."""
        if (image := self.loaded.get(number)) is not None:
            image.likeness = likeness or image.likeness
            image.described = described or image.described
