"""What is known of one image of one conversation: a row of its image table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Origin = Literal["user", "tool", "url"]


@dataclass(slots=True)
class ImageRecord:
    """One row.  The facts of the image never change; what was seen in it does."""

    number: int
    digest: str
    """SHA-256 of the bytes as the client sent them, in hex; of the base64 text where they could not be decoded."""
    media_type: str = ""
    width: int = 0
    height: int = 0
    bytes: int = 0
    origin: str = "user"
    """`user`: a person put it there; `tool`: a tool's result; `url`: by its address."""
    problem: str = ""
    """Why nobody can look at it, in a few words; empty for a good image."""
    file: str = ""
    """What the client calls it, if it said so."""
    description: str = ""
    """A few words on what it shows."""
    caption: str = ""
    """What stands in its place for a brain that cannot look; never changed once it was shown."""
    looks: int = 0
    last_task: str = ""
    last_answer: str = ""
    first_seen: float = 0.0
    """In seconds since 1970."""
    last_used: float = 0.0
    first_turn: int = 0
    """In which turn of the conversation it came: the number of answers before it, and one; 0: not known."""
    last_turn: int = 0
    """In which turn somebody looked at it last or had it back; 0: not known."""
    tokens: int = 0
    """What all its looks add to a prompt in which they stand, estimated."""
    seconds: float = 0.0
    """How long the eyes took for the last look that they made; waiting for a place is part of it."""
    vision_prompt_tokens: int = 0
    """What its looks have cost, in the eyes' own tokens; of a look at several images, its share."""
    vision_completion_tokens: int = 0
    cost: float = 0.0
    """The same in money, by the prices of the time; 0 without prices."""
    errors: int = 0
    """Looks at which the eyes failed."""
    last_error: str = ""
    """Why, the last time, in our own words."""
    last_beside: list[int] = field(default_factory=list)
    """The other images of the last look: it is about them too, and goes when one of them is deleted."""
