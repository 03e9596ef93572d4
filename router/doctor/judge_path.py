"""Judges of the whole path: what a client gets from Chiasm when an image is in its conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.doctor.card import reads
from router.doctor.facts import Facts
from router.doctor.heard import Heard
from router.doctor.verdict import Verdict, fail, ok, warn
from tools.analyze_image import NAME


@dataclass(frozen=True, slots=True)
class Through:
    """One answer through Chiasm, and the word that stands in the image."""

    heard: Heard
    word: str
    streamed: bool
    looks: bool
    """Whether a look is needed: not for a brain that sees itself."""


def answer(facts: Facts, asked: Through) -> Verdict:
    heard = asked.heard
    if (fault := _fault(asked)) is not None:
        return fault
    if heard.calls:
        names = ", ".join(call.name for call in heard.calls)
        return warn(f"the model called {names} instead of answering", "a larger text model is surer")
    counted = _counted(heard)
    seen = f"{_many(counted, 'turns')}, {_many(counted, 'vision_calls')}, {heard.seconds:.1f} s"
    if reads(heard.text, asked.word):
        return ok(f"{asked.word!r} is in the answer; {seen}")
    if asked.looks and not counted.get("vision_calls", 0):
        return warn(
            f"the brain answered without a look: {_said(heard)}",
            f"a text model that calls tools more readily, or images = 'caption' in {facts.place}",
        )
    return warn(
        f"{asked.word!r} is not in the answer: {_said(heard)}; {seen}",
        "see what the checks of brain and eyes say; small models misread, or do not say what they were told",
    )


def _fault(asked: Through) -> Verdict | None:
    """What no model can be to blame for."""
    heard = asked.heard
    if not heard.answered:
        return fail(heard.why, "see what the checks of brain and eyes say, and Chiasm's log")
    if any(call.name == NAME for call in heard.calls) or NAME in heard.text:
        return warn(
            f"a trace of {NAME} reached the client",
            "the model wrote about its tool, or its call was broken: see the checks of tool calls",
        )
    if asked.streamed and (not heard.is_stream or not heard.done):
        return fail("the stream does not end with [DONE]", "something before Chiasm cuts streams: see its time limits")
    if len(heard.finishes) != 1 or len(heard.ids) != 1:
        return fail(
            f"{len(heard.finishes)} finish reasons and {len(heard.ids)} ids in one answer",
            "something before Chiasm changes its answers, or this is another version: update Chiasm",
        )
    if heard.cut_at_limit:
        return warn(
            "the answer was not done within its token limit", "give clients a larger max_tokens: thoughts count"
        )
    return None


def _counted(heard: Heard) -> Mapping[str, int]:
    ours = (heard.usage or {}).get("chiasm")
    return ours if isinstance(ours, Mapping) else {}


def _many(counted: Mapping[str, int], name: str) -> str:
    count, thing = counted.get(name, 0), {"turns": "turn", "vision_calls": "look"}[name]
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _said(heard: Heard) -> str:
    text = " ".join(heard.text.split())
    return repr(text[:70] + ("…" if len(text) > 70 else "")) if text else "nothing"


@dataclass(frozen=True, slots=True)
class Mixed:
    """A turn in which an image is asked about and the client's tool is wanted, and the turn after its result."""

    first: Through
    tool: str
    second: Through | None


def mixed(facts: Facts, asked: Mixed) -> Verdict:
    if (fault := _fault(asked.first)) is not None:
        return fault
    if asked.second is None:
        names = [call.name for call in asked.first.heard.calls]
        if names:
            return warn(f"the model called {', '.join(names)}, not {asked.tool}", "a larger text model is surer")
        return warn(
            f"no mixed turn came: the model did not call {asked.tool} ({_said(asked.first.heard)})",
            "a larger text model is surer; the path itself is not at fault",
        )
    verdict = answer(facts, asked.second)
    return Verdict(verdict.level, f"{asked.tool} reached the client; then {verdict.seen}", verdict.change)
