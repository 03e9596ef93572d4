"""What the brain asks for and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as the brain wrote it."""

    id: str
    name: str
    arguments: str
    """Exactly the text of the wire, broken or not."""


@dataclass(frozen=True, slots=True)
class VisionUsage:
    """What looking cost, in the eyes' own tokens."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: VisionUsage) -> VisionUsage:
        return VisionUsage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The words for the brain.  A failure is words too: an exception never crosses this border."""

    call_id: str
    text: str
    usage: VisionUsage = VisionUsage()
    failed: bool = False
    images: tuple[int, ...] = ()
    """The images that the words are about: they go from the prompt when one of these is forgotten."""
    stamp: int = 0
    """Of the image table, when they were looked at."""
    pictures: tuple[int, ...] = ()
    """The images that a brain with eyes of its own is to be shown with the words."""
