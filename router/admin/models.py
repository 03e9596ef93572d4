"""What the admin API takes and gives.  `openapi.json` is made from these."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_LISTED = 200
"""Entries of a page: some 200 KB where every answer is as long as a row keeps it."""

Status = Literal["loaded", "forgotten"]
Action = Literal["forget", "load", "pin", "unpin"]


class _Given(BaseModel):
    """What goes out."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cost(_Given):
    """What looking has cost by the configured prices."""

    prompt_tokens: int
    completion_tokens: int
    amount: float = Field(description="In `server.currency`.")


def _nothing(value: object) -> bool:
    return value is None


class Conversation(_Given):
    """Times are seconds since 1970."""

    id: str = Field(description="Opaque; the same after a restart and on every machine that shares the store.")
    tenant: str = Field(description="A digest of the client's API key; `local` where there are no keys.")
    client: str = Field(description="The program that began it, by its own word.")
    images: int = Field(description="Without those that were deleted.")
    loaded: int
    forgotten: int
    looks: int
    created: float
    last_used: float
    cost: Cost | None = Field(default=None, exclude_if=_nothing, description="Missing where no prices are set.")


class Image(_Given):
    """One row of the image table.  Words in it were written by strangers: file names by clients, descriptions and
    answers by a vision model that reads out what is in pictures."""

    number: int
    file: str
    media_type: str
    width: int
    height: int
    bytes: int
    digest: str = Field(description="SHA-256 of the bytes as the client sent them, in hex.")
    origin: str = Field(description="`user`, `tool` or `url`.")
    status: Status
    reason: str = Field(description="Why nobody can look at it; empty for a good image.")
    pinned: bool
    first_turn: int | None = Field(description="In which turn of the conversation it came; null: not known.")
    last_turn: int | None = Field(
        description="In which turn it was looked at or recalled last; null: never, or not known."
    )
    looks: int
    last_task: str
    last_answer: str = Field(description="Its first 2,000 characters.")
    description: str
    last_used: float


class ImageDetails(Image):
    """With `details=true`."""

    first_seen: float
    seconds: float = Field(description="How long the eyes took for their last look; 0: none was made.")
    errors: int = Field(description="Looks at which the eyes failed.")
    last_error: str
    cost: Cost | None = Field(default=None, exclude_if=_nothing, description="Missing where no prices are set.")


class Conversations(_Given):
    data: list[Conversation]
    next_cursor: str | None


class Images(_Given):
    data: list[Image]
    next_cursor: str | None


class DetailedImages(_Given):
    data: list[ImageDetails]
    next_cursor: str | None


class Answer(_Given):
    answer: str


class Deleted(_Given):
    deleted: bool = Field(description="Whether there was anything left to delete.")


class Session(_Given):
    who: str
    csrf: str | None = Field(description="For `x-csrf-token`; null for who sends the key with each request.")


class BrainState(_Given):
    name: str
    images: str = Field(description="`tool`, `caption`, `native` or `off`.")
    breaker: str = Field(description="`closed`: asked as usual; `open`: left alone for a while; `half open`: tried.")
    eyes: str | None


class EyesState(_Given):
    name: str
    kind: str
    looks: int = Field(description="Under way in this process, those that wait counted.")
    waiting: int
    max_concurrency: int


class StoreState(_Given):
    kind: str
    bytes: int | None = Field(description="What it holds; null where that is not known.")
    max_bytes: int | None


class Stats(_Given):
    version: str
    brains: list[BrainState]
    eyes: list[EyesState]
    store: StoreState
    conversations: int
    images: int
    listeners: int = Field(description="Event streams of this process.")


class Error(_Given):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(_Given):
    error: Error


class _Taken(BaseModel):
    """What comes in."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Task(_Taken):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    task: str = Field(min_length=1, max_length=4000, pattern=r"\S")


class _Paged(_Taken):
    limit: int = Field(default=50, ge=1, le=MOST_LISTED)
    cursor: str | None = Field(default=None, max_length=400, description="`next_cursor` of the page before.")
    status: Status | None = Field(default=None, description="Images that are so; conversations that have such images.")
    q: str = Field(default="", max_length=200, description="Words to be found, in either case.")


class ConversationQuery(_Paged):
    """A page may be shorter than `limit` although there are more: `next_cursor` says whether."""

    conversation: str | None = Field(
        default=None, max_length=200, description="Its id, or what the client calls it (`x-chiasm-conversation`)."
    )
    error: bool | None = Field(default=None, description="Those in which a look has failed, or none has.")


class ImageQuery(_Paged):
    """A page may be shorter than `limit` although there are more: `next_cursor` says whether."""

    error: bool | None = Field(
        default=None, description="Those that cannot be looked at or at which a look has failed; or not."
    )
    details: bool = Field(default=False, description="With the fields of `ImageDetails`.")


class ImageDetail(_Taken):
    details: bool = Field(default=False, description="With the fields of `ImageDetails`.")


class EventQuery(_Taken):
    conversation: str | None = Field(
        default=None, max_length=200, description="Only what concerns the one with this id."
    )
