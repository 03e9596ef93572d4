"""What counts of a message, however it was written down: white space, parts, ids, reminders and thoughts do not.

A client sends the whole history with each request, so what was made of a message is remembered under the SHA-256 of all
that it was made from, inside its tenant: if tenants shared it, how fast an answer begins would tell one what another
has said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from cache.composed import composed
from cache.remembered import Remembered
from router.protocol.cache_marks import without_cache_control

REMEMBERED = 20_000
"""Messages, about 400 bytes each: a hundred long conversations."""


@dataclass(frozen=True, slots=True)
class Plain:
    """Digests; empty where nothing counts."""

    words: bytes
    """Of the role, the words and the calls: no ids, which clients rewrite and some servers count anew in each turn, and
    nothing of the system's words, which hold the date and the like."""
    calls: bytes
    """Of the words and the ids of the calls; nothing where they have none."""


class PlainMessages:
    """Remembers what it was asked last; one for all requests."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._known: Remembered[Plain] = Remembered(most)

    def __len__(self) -> int:
        return len(self._known)

    def of(self, message: Any, tenant: str = "") -> Plain:
        key = _key(message, tenant)
        if key is None:
            return _plain(message)
        known = self._known.get(key)
        if known is None:
            known = _plain(message)
            self._known.put(key, known)
        return known


def _key(message: Any, tenant: str) -> str | None:
    """Of the tenant and everything that `_plain` looks at; `None` where that cannot be written down to the letter."""
    if type(message) is not dict:
        return None
    read = (message.get("role"), message.get("content"), message.get("tool_calls"))
    try:
        return f"{tenant}/{hashlib.sha256(orjson.dumps(read, option=_TO_THE_LETTER)).hexdigest()}"
    except TypeError:
        return None


_TO_THE_LETTER = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME
"""Objects of ours are written like others that mean something else."""


def _plain(message: Any) -> Plain:
    return Plain(_digest(_plain_message(message)), _digest(_ids_of_calls(message)))


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest() if data else b""


OF_SYSTEM = ("system", "developer")


@dataclass(frozen=True, slots=True)
class _Aside:
    """A part of a text that clients put in and take out again."""

    opening: str
    closing: str
    role: str = field(default="")


_ASIDES = (
    _Aside("<system-reminder>", "</system-reminder>"),  # Claude Code moves them from message to message
    _Aside("<think>", "</think>", "assistant"),  # thoughts that a client keeps in the text
    _Aside('<details type="reasoning"', "</details>", "assistant"),  # Open WebUI
)


def words_of_system(messages: Sequence[Any]) -> bytes:
    """The words of the system before anybody else's."""
    head = hashlib.sha256()
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in OF_SYSTEM:
            break
        head.update(_dumps(_words(message.get("content"), "system")))
    return head.digest()


def _plain_message(message: Any) -> bytes:
    """What counts of a message: no ids, which clients rewrite and some servers count anew in each turn, and nothing of
    the system's words, which hold the date and the like."""
    if not isinstance(message, Mapping):
        return _dumps(message)
    role = message.get("role")
    if role in OF_SYSTEM:
        return b""
    calls = [[call["function"].get("name"), _value(call["function"].get("arguments"))] for call in calls_of(message)]
    words = _words(message.get("content"), str(role))
    if role == "user" and not words:
        return b""  # nothing but reminders, which are gone the next time
    return _dumps([role, words, calls])


def _ids_of_calls(message: Any) -> bytes:
    """What counts of a message where its calls are known by their ids alone; nothing where they have none."""
    calls = calls_of(message) if isinstance(message, Mapping) else []
    ids = [[call["function"].get("name"), call.get("id")] for call in calls]
    if not ids or not all(isinstance(id_, str) and id_ for _, id_ in ids):
        return b""
    return _dumps(["calls", _words(message.get("content"), "assistant"), ids])


def _words(content: Any, role: str) -> Any:
    if content is None:
        return ""
    if isinstance(content, str):
        return _plain_text(content, role)
    if not isinstance(content, list):
        return content
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
    words = _plain_text("\n".join(text for text in texts if isinstance(text, str)), role)
    if role == "assistant":
        return words  # beside them stand thoughts, calls, what the server carried out itself
    others = [
        without_cache_control(part) for part, text in zip(content, texts, strict=True) if not isinstance(text, str)
    ]
    return [words, others] if others else words


def _plain_text(text: str, role: str) -> str:
    for aside in _ASIDES:
        if aside.opening in text and aside.role in ("", role):
            text = _without(text, aside)
    text = composed(text)
    # The brain's words may be in several parts, cut wherever a thought or a call stood.
    return text.replace(" ", "") if role == "assistant" else text


def _without(text: str, aside: _Aside) -> str:
    """In linear time, whatever somebody wrote: an opening without an end stays."""
    kept: list[str] = []
    at = 0
    while (begin := text.find(aside.opening, at)) >= 0:
        end = text.find(aside.closing, begin)
        if end < 0:
            break
        kept.append(text[at:begin])
        at = end + len(aside.closing)
    return "".join([*kept, text[at:]])


def calls_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return []
    return [call for call in calls if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping)]


def _value(arguments: Any) -> Any:
    """Arguments as a value: clients parse them and write them again with other spaces."""
    try:
        return orjson.loads(arguments) if isinstance(arguments, str) else arguments
    except orjson.JSONDecodeError:
        return arguments


def _dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # nested deeper than it writes, numbers beyond 64 bits, half a surrogate pair
        return repr(value).encode("utf-8", "replace")
