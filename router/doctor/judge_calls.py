"""Judges of tool calls: repeated, with another tool beside, two at once, forced, and their results taken back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from router.doctor import remedies
from router.doctor.calls import BROKEN, MODELS_OWN, Outcome, Required, outcome
from router.doctor.facts import Facts
from router.doctor.heard import Heard
from router.doctor.verdict import Verdict, fail, ok, warn

_LONG_SHOWN = 90


@dataclass(frozen=True, slots=True)
class Tried:
    """One request for a call: its stream, and where that went wrong the same request once more, not streamed."""

    streamed: Heard
    whole: Heard | None = None


@dataclass(frozen=True, slots=True)
class Calling:
    offered: Required
    tries: tuple[Tried, ...]


def taken(facts: Facts, heard: Heard) -> Verdict:
    """Whether a request with tools is answered at all."""
    if heard.status < 400:
        return ok("a list of tools is taken")
    return fail(f"tools are refused: {heard.why}", remedies.tool_parser(facts))


def calls(facts: Facts, asked: Calling) -> Verdict:
    """A call in a stream, as often as it was asked for."""
    found = [_judged(one, asked.offered) for one in asked.tries]
    count = len(found)
    if refused := [one.streamed for one in asked.tries if one.streamed.status >= 400]:
        return fail(f"{_times(len(refused), count)}{refused[0].why}", "look into the server's log")
    if broken := [(one, tried) for one, tried in zip(found, asked.tries, strict=True) if one in BROKEN]:
        return _broken(facts, broken, count)
    for worst, remedy in (
        (Outcome.AS_TEXT, remedies.tool_parser(facts)),
        (Outcome.IN_THOUGHTS, remedies.thinks_first(facts)),
    ):
        if worst in found:
            return fail(f"{_times(found.count(worst), count)}{worst.value}", remedy)
    if Outcome.NO_ANSWER in found:
        tried = asked.tries[found.index(Outcome.NO_ANSWER)].streamed
        return fail(f"{_times(found.count(Outcome.NO_ANSWER), count)}{tried.why}", "look into the server's log")
    if Outcome.LEAKED in found:
        return warn(f"{_times(found.count(Outcome.LEAKED), count)}{Outcome.LEAKED.value}", remedies.tool_parser(facts))
    return _of_the_model(facts, found, asked)


def _judged(tried: Tried, offered: Required) -> Outcome:
    """A parameter that is missing in both ways of asking was left out by the model, not lost."""
    found = outcome(tried.streamed, offered)
    doubtful = found in (Outcome.LOST_PARAMETER, Outcome.NO_ARGUMENTS)
    if doubtful and tried.whole is not None and outcome(tried.whole, offered) is found:
        return Outcome.LEFT_OUT
    if found is Outcome.EMPTY and tried.whole is not None and outcome(tried.whole, offered) is Outcome.WHOLE:
        return Outcome.LOST
    return found


def _broken(facts: Facts, broken: Sequence[tuple[Outcome, Tried]], count: int) -> Verdict:
    (kind, _), *_ = Counter(one for one, _ in broken).most_common(1)
    example = next(tried.streamed for one, tried in broken if one is kind)
    seen = [f"{_times(len(broken), count)}{kind.value}{_shown(kind, example)}"]
    if any(tried.whole is not None and tried.whole.answered and tried.whole.calls for _, tried in broken):
        seen.append("the same request, not streamed, has its call")
    if facts.tokens_per_event > 2.5:
        seen.append(f"about {facts.tokens_per_event:.0f} tokens an event")
    change = remedies.speculative(facts)
    if re.search(r"grammar", example.error, re.IGNORECASE):
        change = remedies.grammar(facts)
    elif kind is Outcome.ERROR and not re.search(r"index out of range|list index", example.error):
        change = f"look into the server's log; if it happens in streams only, {change}"
    return fail("; ".join(seen), change)


def _shown(kind: Outcome, heard: Heard) -> str:
    if kind in (Outcome.ERROR, Outcome.ERROR_AFTER):
        return f" ({heard.error})"
    if kind is Outcome.LOST:
        return f" ({heard.completion_tokens} tokens)" if heard.completion_tokens else ""
    call = next(iter(heard.calls[-1:]), None)
    if call is None:
        return ""
    text = " ".join(f"{call.name} {call.arguments}".split())
    return f": {text[:_LONG_SHOWN]}{'…' if len(text) > _LONG_SHOWN else ''}"


def _of_the_model(facts: Facts, found: Sequence[Outcome], asked: Calling) -> Verdict:
    """Nothing is broken: what the model made of it."""
    count, good = len(found), found.count(Outcome.WHOLE)
    if good == count:
        first = asked.tries[0].streamed
        names = " and ".join(dict.fromkeys(call.name for call in first.calls))
        return ok(f"{count} of {count} whole: {names}" if count > 1 else f"whole: {names}")
    (usual, _), *_ = Counter(one for one in found if one in MODELS_OWN).most_common(1)
    seen = f"{good} of {count} called; else: {usual.value}"
    if usual is Outcome.TOO_LONG:
        return warn(seen, "long thoughts: give clients a larger max_tokens, or set thinking = 'off' for quick looks")
    if good:
        return warn(seen, f"the model does not always call: a larger one is surer. If often, {_caption(facts)}")
    return warn(seen, remedies.weak_model(facts))


def _caption(facts: Facts) -> str:
    return f"set images = 'caption' in {facts.place}"


def _times(broken: int, count: int) -> str:
    return f"{broken} of {count} broken: " if count > 1 else ""


def beside(facts: Facts, asked: Calling) -> Verdict:
    """With another tool present."""
    verdict = calls(facts, asked)
    first = asked.tries[0].streamed
    if verdict.level == "ok" and all(call.name != "analyzeImage" for call in first.calls):
        return warn(f"called {first.calls[0].name} where an image was asked about", remedies.weak_model(facts))
    return verdict


def two(facts: Facts, asked: Calling) -> Verdict:
    """Two calls at once, of two images."""
    verdict = calls(facts, asked)
    if verdict.level != "ok":
        return verdict
    count = len(asked.tries[0].streamed.calls)
    if count >= 2:
        return ok(f"{count} calls, each whole")
    return ok("one call for both, or one after the other; whole")


@dataclass(frozen=True, slots=True)
class Forced:
    required: Calling
    named: Calling


def forced(facts: Facts, asked: Forced) -> Verdict:
    """`tool_choice`, which clients send and Chiasm passes on."""
    notes: list[str] = []
    for choice, asking in (("required", asked.required), ("a named tool", asked.named)):
        heard = asking.tries[0].streamed
        found = outcome(heard, asking.offered)
        if found is Outcome.REFUSED:
            if facts.profile.only_auto_tool_choice:
                notes.append(f"{choice} is refused, as known")
                continue
            if re.search(r"grammar", heard.words, re.IGNORECASE):
                return fail(f"{choice}: {heard.why}", remedies.grammar(facts))
            if heard.status >= 500:
                return fail(f"{choice}: {heard.why}", "update the server; until then clients must not force tools")
            return warn(f"{choice} is refused: {heard.why}", "clients that force a tool will not work with this server")
        if found in (Outcome.ERROR, Outcome.ERROR_AFTER) and re.search(r"grammar", heard.error, re.IGNORECASE):
            return fail(f"{choice}: {heard.why}", remedies.grammar(facts))
        if not heard.fault and not heard.calls and not heard.text and not heard.error and not heard.finishes:
            return fail(f"{choice}: HTTP 200 and an empty stream", "update the server; until then do not force tools")
        if found in BROKEN or found in (Outcome.AS_TEXT, Outcome.IN_THOUGHTS, Outcome.NO_ANSWER):
            verdict = calls(facts, asking)
            return (
                Verdict(verdict.level, f"{choice}: {verdict.seen}", verdict.change)
                if verdict.level != "ok"
                else ok(f"{choice}: the model left a parameter out")
            )
        if found in MODELS_OWN:
            notes.append(f"{choice} is not obeyed")
        elif found is Outcome.LEAKED:
            notes.append(f"{choice} leaves markup among the words (Chiasm takes it out)")
        elif "tool_calls" not in heard.finishes:
            notes.append(f"{choice} is obeyed, and finishes with {', '.join(heard.finishes) or 'no reason'}")
        else:
            notes.append(f"{choice} is obeyed")
    if any("not obeyed" in note for note in notes):
        return warn("; ".join(notes), "clients that force a tool may get words instead")
    return ok("; ".join(notes))


@dataclass(frozen=True, slots=True)
class Returned:
    """The follow-up with a tool's result, and the word that stands in it."""

    heard: Heard
    word: str
    with_thoughts: bool


def result(facts: Facts, asked: Returned) -> Verdict:
    heard = asked.heard
    if not heard.answered:
        about_thoughts = re.search(r"reasoning", heard.words, re.IGNORECASE)
        change = "look into the server's log: a tool's result could not be put into its prompt"
        if about_thoughts:
            change = f"set engine in {facts.place}: it decides in which field thoughts go back"
        return fail(heard.why, change)
    how = " with its thoughts" if asked.with_thoughts else ""
    if asked.word.lower() in heard.text.lower():
        return ok(f"taken back{how} and used")
    if heard.calls:
        return warn("taken back, and the model called again", "a weak model: it may look several times")
    return warn("taken back, but not used in the answer", "a weak model, or a template that drops tool results")


def system_messages(facts: Facts, heard: Heard) -> Verdict:
    """Two at the beginning and one in the middle, as agents send them."""
    if heard.answered:
        return ok("several are taken")
    if heard.status < 400:
        return warn(heard.why, "look into the server's log")
    if facts.profile.one_system_message:
        return ok("several are refused, as Qwen3.5's template does; Chiasm makes them one")
    return fail(
        f"several are refused ({heard.why}), and the profile {facts.engine!r} sends them as they are",
        f"set engine = 'auto' in {facts.place}",
    )


def cache_reuse(facts: Facts, first: Heard, second: Heard) -> Verdict:
    """The same prompt twice."""
    for heard in (first, second):
        if not heard.answered:
            return warn(f"a prompt of some pages was not answered: {heard.why}", remedies.context(facts, 32768))
    if second.cached is None:
        hint = remedies.cache_not_told(facts)
        seen = "the server does not say how much of a prompt it had before"
        return warn(seen, hint) if hint else ok(seen)
    prompt = second.prompt_tokens
    of = f" of {prompt}" if prompt else ""
    if second.cached <= 0:
        return warn(f"0{of} tokens of a repeated prompt were reused", remedies.cache(facts))
    if prompt and second.cached < prompt // 2:
        return warn(f"only {second.cached}{of} tokens of a repeated prompt were reused", remedies.cache(facts))
    return ok(f"{second.cached}{of} tokens of a repeated prompt were reused")
