"""Judges of thoughts: the switch, both ways, and the field in which they come."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from router.doctor import remedies
from router.doctor.facts import Facts
from router.doctor.heard import Heard
from router.doctor.verdict import Verdict, fail, ok, warn

_TAG = re.compile(r"</?think(ing)?>|<\|?channel\|?>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Switched:
    """The same short question with the engine's thinking switch on, off, and not sent."""

    on: Heard
    off: Heard
    default: Heard
    wanted: Literal["client", "on", "off"]
    """`thinking` of the configuration."""


def thoughts(heard: Heard) -> bool:
    """Told apart, by a parser."""
    return bool(heard.reasoning.strip())


def _thought(heard: Heard) -> bool:
    """In whatever form."""
    return thoughts(heard) or _TAG.search(heard.text) is not None


def reasoning(facts: Facts, asked: Switched) -> Verdict:
    """Where thoughts come."""
    for heard, how in ((asked.on, "on"), (asked.off, "off"), (asked.default, "left alone")):
        if tag := _TAG.search(heard.text):
            inside = "</" in tag[0] and not _TAG.search(heard.text[: tag.start()])
            where = "the text starts inside the thought" if inside else "thoughts stand among the words"
            return fail(f"{tag[0]!r} in the answer (thinking {how}): {where}", remedies.reasoning_parser(facts))
    if asked.off.answered and not asked.off.text.strip() and thoughts(asked.off) and not asked.off.cut_at_limit:
        return fail(
            "with thinking off the whole answer comes as a thought, and no words",
            f"the reasoning parser takes all text for thoughts: {remedies.reasoning_parser(facts)}, or update the "
            "server",
        )
    if asked.on.answered and not thoughts(asked.on) and asked.on.cut_at_limit and not asked.off.cut_at_limit:
        return warn(
            "with thinking on no thoughts are told apart, and the answer does not come to its end",
            f"its words may be thoughts: {remedies.reasoning_parser(facts)}",
        )
    fields = asked.on.reasoning_fields | asked.default.reasoning_fields
    if not fields:
        return ok("no thoughts came")
    both = " (both, the same text; Chiasm reads one)" if len(fields) > 1 else ""
    return ok(f"in {' and '.join(repr(name) for name in sorted(fields))}{both}")


def switch(facts: Facts, asked: Switched) -> Verdict:
    """Whether the switch is obeyed."""
    for heard, how in ((asked.on, "on"), (asked.off, "off")):
        if heard.answered:
            continue
        seen = f"the switch {how!r} is not taken: {heard.why}"
        change = f"set engine in {facts.place} to the one that this server is, or leave thinking = 'client' there"
        return fail(seen, change) if asked.wanted == how else warn(seen, change)
    on, off = _thought(asked.on), _thought(asked.off)
    default = "on" if _thought(asked.default) else "off"
    if on and not off:
        return ok(f"obeyed both ways; {default} by default{_by_size(default)}")
    if off:
        seen = "thinks although the switch is off"
        change = f"many models cannot be told not to; if this one can, set engine in {facts.place}"
        if asked.wanted == "off":
            return fail(seen, f"{change}, else thinking = 'client'")
        return warn(seen, f"{change}. Looks before an answer cost its thoughts each time")
    if asked.wanted == "on":
        return warn("does not think although the switch is on", f"set thinking = 'client' in {facts.place}")
    return ok("does not think, with the switch on or off: a model without thoughts, or a template without the switch")


def _by_size(default: str) -> str:
    return " (Qwen3.5: 0.8B and 2B are off, 4B and up are on)" if default == "off" else ""
