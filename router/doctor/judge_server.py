"""Judges of what brain and eyes have in common: is it there, does it let us in, does it have the model, how it
streams."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.doctor import remedies
from router.doctor.facts import Facts
from router.doctor.heard import Heard, Page
from router.doctor.verdict import Verdict, fail, ok, warn

NO_LIST = frozenset({405, 500, 501})
"""Statuses of a server that works and has no list of models, as `router.upstream` takes them."""

_SLOW_START = 15.0
"""Seconds to the first event of an answer to a short prompt."""

_HELD_BACK = 0.4
"""Seconds of silence before a burst that look like something collecting the answer."""

_BURST = 0.05
"""Of the waiting time: an answer that comes within this share of it was complete before its first byte left."""

_BATCHED = 2.5
"""Tokens an event, from which they leave in batches."""


def reachable(facts: Facts, listing: Page) -> Verdict:
    if listing.fault == "silent":
        return fail(
            f"{facts.base_url} took the connection and said nothing in {listing.seconds:.0f} s",
            f"see whether the server is still loading its model; else correct base_url in {facts.place}",
        )
    if listing.fault:
        return _unreachable(facts, listing)
    if listing.status in (401, 403):
        return ok(f"answers at {facts.base_url}")
    if listing.status in (502, 503, 504):
        return fail(
            f"HTTP {listing.status}{f': {listing.words}' if listing.words else ''}",
            "wait until the server has loaded its model; behind a gateway, see whether the server behind it runs",
        )
    if listing.status == 404:
        versioned = re.search(r"/v\d+$", facts.base_url) is not None
        change = "correct its path" if versioned else f"end it in /v1: base_url = '{facts.base_url}/v1'"
        return fail(f"HTTP 404 for {facts.base_url}/models", f"base_url in {facts.place} is wrong: {change}")
    if listing.status in NO_LIST:
        return ok(f"answers at {facts.base_url}, without a list of models (HTTP {listing.status})")
    if listing.status >= 300:
        return fail(
            f"HTTP {listing.status}{f': {listing.words}' if listing.words else ''} for the list of models",
            f"correct base_url in {facts.place}",
        )
    if not isinstance(listing.json, dict):
        kind = listing.headers.get("content-type", "no type")
        return fail(
            f"{facts.base_url}/models is no list of models ({kind})",
            f"something else listens there: correct base_url in {facts.place} (it ends in /v1 for most servers)",
        )
    rows = listing.json.get("data")
    if isinstance(rows, list) and any(isinstance(row, dict) and row.get("owned_by") == "chiasm" for row in rows):
        return warn(
            f"a Chiasm at {facts.base_url}, and no model's own server",
            f"base_url in {facts.place} is where the model is served, not where clients ask",
        )
    return ok(f"{facts.called} at {facts.base_url}")


_NAMELESS = re.compile(r"name or service|nodename|resol|no address", re.IGNORECASE)
_UNTRUSTED = re.compile(r"certificate|ssl", re.IGNORECASE)


def _unreachable(facts: Facts, listing: Page) -> Verdict:
    seen = f"nobody answers at {facts.base_url}{f' ({listing.words})' if listing.words else ''}"
    if _UNTRUSTED.search(listing.words):
        change = "give the server a certificate that this machine trusts, or see whether it speaks http only"
        return fail(seen, f"{change}: base_url in {facts.place}")
    if _NAMELESS.search(listing.words):
        return fail(seen, f"no machine of that name is known here: correct base_url in {facts.place}")
    return fail(seen, f"start the server, or correct base_url in {facts.place}")


def key(facts: Facts, listing: Page, hello: Heard | None) -> Verdict:
    refusal = next((one for one in (listing, hello) if one is not None and one.status in (401, 403)), None)
    if refusal is None:
        return ok("accepted" if facts.has_key else "none is sent, and none was asked for")
    words = f"HTTP {refusal.status}{f': {refusal.words}' if refusal.words else ''}"
    if facts.has_key:
        return fail(words, f"the server does not take the api_key of {facts.place}: correct it")
    return fail(words, f"the server wants a key: set api_key in {facts.place}, such as api_key = '${{TEXT_API_KEY}}'")


_ABOUT_MODEL = re.compile(r"model", re.IGNORECASE)
_NOT_THERE = re.compile(
    r"not (be )?found|does ?n[o']t exist|unknown|no such|not exist|invalid model|not available|not served",
    re.IGNORECASE,
)


def model(facts: Facts, ids: Sequence[str], hello: Heard | None) -> Verdict:
    configured = facts.configured
    if facts.model is None:
        return fail("the server lists no model, and none is configured", f"set model in {facts.place}")
    if hello is not None and _says_no_such_model(hello):
        near = nearest(facts.model, ids)
        change = f"set model = {near!r} in {facts.place}" if near else f"correct model in {facts.place}"
        lists = f"; it lists {_listed(ids)}" if ids else ""
        return fail(f"there is no {facts.model!r} (HTTP {hello.status}){lists}", change)
    if configured is None:
        if len(ids) > 1:
            return warn(
                f"{facts.model!r}, the first of {len(ids)} listed: {_listed(ids)}",
                f"the order may change: set model in {facts.place}",
            )
        return ok(f"{facts.model!r}, the one that is listed")
    if ids and configured not in ids:
        near = nearest(configured, ids) or ids[0]
        return warn(
            f"{configured!r} is answered, but not listed; {_listed(ids)} is",
            f"if that is not the model that you mean, set model = {near!r} in {facts.place}",
        )
    return ok(f"{configured!r}{' is listed' if ids else ''}")


def _says_no_such_model(heard: Heard) -> bool:
    about = _ABOUT_MODEL.search(heard.words) is not None
    if heard.status == 404:
        return about
    return heard.status in (400, 422) and about and _NOT_THERE.search(heard.words) is not None


def nearest(wanted: str, ids: Sequence[str]) -> str | None:
    """The listed id that was most likely meant."""
    lower = wanted.lower()
    for one in ids:
        if lower.rpartition("/")[2] == one.lower().rpartition("/")[2]:
            return one
    for one in ids:
        if lower in one.lower() or one.lower() in lower:
            return one
    close = difflib.get_close_matches(lower, [one.lower() for one in ids], n=1, cutoff=0.4)
    return next((one for one in ids if close and one.lower() == close[0]), None)


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return ", ".join(map(repr, ids[:3])) + more


def answers(facts: Facts, heard: Heard) -> Verdict:
    if heard.answered:
        seen = f"in {heard.seconds:.1f} s"
        if heard.left_out:
            return ok(f"{seen}, without {', '.join(sorted(heard.left_out))}, which it refuses")
        return ok(seen)
    if heard.fault == "packed":
        encoding = heard.headers.get("content-encoding")
        return fail(
            f"{heard.why} (content-encoding: {encoding})",
            "something in between compresses the stream: switch compression off for it (nginx: gzip off)",
        )
    change = "look into the server's log"
    if heard.fault in ("silent", "stalled"):
        change = "the server is overloaded or hangs: look into its log; with a long queue raise first_byte_seconds"
    elif heard.status == 429:
        change = "the account's limit is used up: wait, or raise it with the provider"
    elif heard.status == 402:
        change = "the provider wants to be paid first"
    elif heard.status == 404:
        change = f"correct base_url in {facts.place}: {facts.base_url}/chat/completions is not there"
    return fail(heard.why, change)


def streams(facts: Facts, heard: Heard, again: Heard | None) -> Verdict:
    """`again`: the same once more, where the first looked held back; a cold server looks like that once."""
    if not heard.is_stream:
        kind = heard.headers.get("content-type", "no content-type")
        return fail(
            f"one whole answer ({kind}) although a stream was asked for",
            "let whatever stands before the server pass 'stream: true' on, or update the server",
        )
    last = again or heard
    if held_back(last) and held_back(heard):
        return fail(
            f"{len(last.arrivals)} events came at once after {last.arrivals[0]:.1f} s",
            remedies.buffered(last.headers.get("server", "") + last.headers.get("via", "")),
        )
    if not heard.finishes:
        return warn(
            "the stream ends without a finish reason",
            "update the server, or what stands before it: clients take such an answer for a broken one",
        )
    first = last.arrivals[0] if last.arrivals else last.seconds
    notes = [f"first event after {first:.2f} s", f"{len(last.arrivals)} events in {last.seconds:.1f} s"]
    if not heard.done:
        notes.append("no [DONE] (Chiasm needs none)")
    batch = tokens_per_event(heard)
    if batch > _BATCHED:
        notes.append(f"about {batch:.0f} tokens an event (speculative decoding, or a stream interval)")
    if first > _SLOW_START:
        return warn(
            ", ".join(notes), f"slow to begin: see the server's queue; raise first_byte_seconds in {facts.place}"
        )
    return ok(", ".join(notes))


def held_back(heard: Heard) -> bool:
    """Whether many events came in one burst after a silence in which they could have been sent."""
    if len(heard.arrivals) < 8:
        return False
    first, last = heard.arrivals[0], heard.arrivals[-1]
    return first >= _HELD_BACK and last - first <= _BURST * first


def tokens_per_event(heard: Heard) -> float:
    """Of what was shown: hosted models count thoughts that they keep to themselves."""
    if len(heard.arrivals) < 4 or not heard.completion_tokens:
        return 0.0
    details = (heard.usage or {}).get("completion_tokens_details")
    thought = details.get("reasoning_tokens") if isinstance(details, Mapping) and not heard.reasoning else 0
    return (heard.completion_tokens - (thought or 0)) / len(heard.arrivals)


def usage(facts: Facts, heard: Heard) -> Verdict:
    if heard.prompt_tokens and heard.completion_tokens:
        return ok(f"{heard.prompt_tokens} prompt, {heard.completion_tokens} completion tokens")
    if heard.usage is not None:
        return warn(
            "there is a usage object, but it counts nothing", "update the server: clients use it as a context meter"
        )
    if "stream_options" in heard.left_out:
        return warn(
            "stream_options is refused and usage does not come by itself",
            f"set engine in {facts.place} if it is known; clients see no context meter",
        )
    return warn(
        "none came: clients see no context meter, and max_tokens is not shared out over turns", remedies.usage(facts)
    )


@dataclass(frozen=True, slots=True)
class Room:
    """What the context is wanted for."""

    least: int
    """Tokens below which ordinary requests fail."""
    loaded: int = 0
    """`images.max_loaded_tokens`, which looks may fill; 0: does not concern this server."""


def context(facts: Facts, room: Room) -> Verdict:
    length = facts.context
    if length is None:
        if facts.engine == "ollama":
            return warn("Ollama does not say, and cuts longer prompts without a word", remedies.context(facts, 32768))
        return ok("the server does not say")
    if length < room.least:
        return warn(f"{length} tokens, little for what will be asked", remedies.context(facts, room.least))
    if room.loaded and length < 2 * room.loaded:
        return warn(
            f"{length} tokens, of which images may fill {room.loaded} before any is forgotten",
            f"set max_loaded_tokens = {max(1000, length // 4)} in [images], or "
            + remedies.context(facts, 2 * room.loaded),
        )
    return ok(f"{length} tokens")
