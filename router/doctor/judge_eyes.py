"""Judges of eyes: what they read, what they take, how long they need."""

from __future__ import annotations

import re
from dataclasses import dataclass

from router.doctor import remedies
from router.doctor.card import Card, nearly, reads
from router.doctor.facts import Facts
from router.doctor.heard import Heard
from router.doctor.verdict import Verdict, fail, ok, warn

_SLOW = 15.0
"""Seconds for one word on a small picture."""

_ONLY_WORDS = 80
"""Prompt tokens of the question without its picture, in any tokenizer; the smallest card takes 32 more."""

_NO_PICTURES = re.compile(
    r"multimodal|image input|vision|image_url|mmproj|at most 0 image|does not support image|unknown part", re.I
)
_AT_MOST = re.compile(r"at most (\d+) image", re.I)
_TOO_LONG = re.compile(r"context|maximum.*length|too (long|large|many)|exceed", re.I)


@dataclass(frozen=True, slots=True)
class Read:
    """A card and what was said of it."""

    heard: Heard
    card: Card


def small(facts: Facts, asked: Read) -> Verdict:
    """One code word on a small card: whether pictures arrive at all."""
    heard, word = asked.heard, asked.card.words[0]
    if not heard.answered:
        return _refused(facts, heard)
    if reads(heard.text, word):
        return ok(f"{word!r} read in {heard.seconds:.1f} s")
    if not heard.text.strip() and heard.reasoning.strip():
        return fail("nothing but thoughts came: the look's tokens were spent on them", _told_not_to_think(facts))
    said = _said(heard)
    if nearly(heard.text, word):
        return warn(f"read {said} where {word!r} stands", "one letter off: a larger vision model reads better")
    if 0 < heard.prompt_tokens < _ONLY_WORDS:
        return fail(
            f"{word!r} stands there, {said} was said; {heard.prompt_tokens} prompt tokens: the picture was dropped",
            remedies.pictures_taken(facts),
        )
    return fail(f"{word!r} stands there, {said} was said", f"{remedies.pictures_taken(facts)}, or a better one")


def _refused(facts: Facts, heard: Heard) -> Verdict:
    limit = _AT_MOST.search(heard.words)
    if _NO_PICTURES.search(heard.words) or (limit and limit[1] == "0"):
        return fail(f"pictures are refused: {heard.why}", remedies.pictures_taken(facts))
    if heard.status == 429:
        return fail(heard.why, "the account's limit is used up: wait, or raise it with the provider")
    return fail(heard.why, "look into the server's log")


def _said(heard: Heard) -> str:
    text = " ".join(heard.text.split())
    return repr(text[:60] + ("…" if len(text) > 60 else "")) if text else "nothing"


def places(facts: Facts, asked: tuple[Read, Read]) -> Verdict:
    """Which word stands at the bottom, and the colour behind it."""
    words, colour = asked
    for one in asked:
        if not one.heard.answered:
            return _refused(facts, one.heard)
    top, bottom = words.card.words
    right = reads(words.heard.text, bottom) and not reads(words.heard.text, top)
    seen = [f"bottom word {bottom!r}: {_said(words.heard)}", f"{colour.card.background} ground: {_said(colour.heard)}"]
    if right and reads(colour.heard.text, colour.card.background):
        return ok("; ".join(seen))
    return warn("; ".join(seen), "a larger vision model sees places and colours better (Qwen3.5-9B and up)")


def large(facts: Facts, asked: Read) -> Verdict:
    """A caption on a whole screen."""
    heard, card = asked.heard, asked.card
    size = f"{card.width}x{card.height}"
    if not heard.answered:
        if _TOO_LONG.search(heard.words):
            return fail(f"{size} does not fit: {heard.why}", remedies.context(facts, 16384))
        return fail(
            f"{size}: {heard.why}", "look into the server's log: its memory may be too small for large pictures"
        )
    wanted = card.width * card.height // 1024
    tokens = heard.prompt_tokens
    if reads(heard.text, card.words[0]):
        return ok(f"{size}: {card.words[0]!r} read, {tokens} prompt tokens, {heard.seconds:.1f} s")
    if 0 < tokens < wanted // 2:
        return warn(
            f"{size}: {card.words[0]!r} not read; {tokens} prompt tokens: the server makes pictures smaller",
            remedies.small_pictures(facts),
        )
    return warn(
        f"{size}: {card.words[0]!r} stands there, {_said(heard)} was said",
        "a larger vision model reads small print better; the brain can ask for a region",
    )


@dataclass(frozen=True, slots=True)
class Taken:
    """Several pictures at once, and a picture with settings of its own."""

    several: Heard
    count: int
    kwargs: Heard


def limits(facts: Facts, asked: Taken) -> Verdict:
    several = asked.several
    kwargs = (
        "settings per request are taken"
        if asked.kwargs.answered
        else "settings per request are refused, and Chiasm sends none"
    )
    if several.answered:
        return ok(f"{asked.count} pictures in one request; {kwargs}")
    most = _AT_MOST.search(several.words)
    if most or re.search(r"\bimages?\b", several.words):
        count = f"at most {most[1]}" if most else "refused"
        return warn(
            f"{asked.count} pictures in one request: {count} ({several.why}); {kwargs}",
            f"to let images be compared, {remedies.picture_limit(facts)}",
        )
    if _TOO_LONG.search(several.words):
        return warn(f"{asked.count} pictures do not fit: {several.why}", remedies.context(facts, 16384))
    return warn(f"{asked.count} pictures in one request: {several.why}", "look into the server's log")


@dataclass(frozen=True, slots=True)
class Silent:
    """The first look, and whether the configuration lets the eyes think."""

    heard: Heard
    may_think: bool


def thinking(facts: Facts, asked: Silent) -> Verdict:
    heard = asked.heard
    if asked.may_think:
        return ok("thinking = true is configured")
    if re.search(r"</?think", heard.text):
        return fail("thoughts among the words of a look", remedies.reasoning_parser(facts))
    if heard.reasoning.strip():
        return warn(f"thinks before it looks ({len(heard.reasoning)} characters)", _told_not_to_think(facts))
    return ok("off")


def _told_not_to_think(facts: Facts) -> str:
    return f"set kind = 'qwen' in {facts.place} for Qwen's models; for others take one that can be told not to think"


@dataclass(frozen=True, slots=True)
class Timed:
    seconds: float
    allowed: float
    """`timeout_seconds` of the configuration."""


def latency(facts: Facts, asked: Timed) -> Verdict:
    seen = f"{asked.seconds:.1f} s for one word, of {asked.allowed:g} s allowed"
    if asked.seconds > asked.allowed / 2:
        return fail(seen, f"raise timeout_seconds in {facts.place}, or give the eyes a faster machine")
    if asked.seconds > _SLOW:
        return warn(seen, "every look costs this: a smaller vision model, or a faster machine")
    return ok(seen)
