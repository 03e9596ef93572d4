"""The ledger: what the client does not know of a history, put back where it happened.

A client never learns of our tools, so the history that it sends back lacks our calls and their results, and for a
*mixed turn* (our calls beside the client's) the brain would even find one of two questions unanswered.  So every
hidden turn is kept, found again by its *place*, and put back byte for byte: the brain knows what it saw, and the
server's prefix cache finds the prompt that it saw before.  The image table, once shown, stays where it was shown in
the same way.

A place is what both sides of the gap agree upon: everything that was said up to and with the visible message.  Each
client writes that down anew in its own way (other white space, content as a string or as parts, thoughts left out or
put into the text, reminders that come and go), so it is *normalised* before it is hashed:

*   **full**: all messages so far but those of the system.  Two places are the same only if the whole conversation
    was.
*   **near**: this message and the one before it.  What finds a turn again in a history whose beginning was trimmed or
    edited; it counts only while it means one turn.
*   **calls**: the words of this message and the ids of its calls, likewise.  What finds a turn again whose calls the
    client has written anew: Claude Code takes `cd … && ` out of commands, and JavaScript says 2 for 2.0.

What was seen in an image that is forgotten now is left out: the call stays, and its result says where the words went.
So are pictures that a brain with eyes was shown.

What is kept is used only where it fits; a history that does not fit, or whose turns were lost, stays as the client
sent it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from router.protocol.pictures import has_pictures, with_some_pictures
from router.protocol.plain import OF_SYSTEM, PlainMessages, calls_of, words_of_system

Stands = Callable[[Iterable[int], int], bool]
"""Whether what was seen in these images, kept at that stamp of the table, still stands in the prompt."""


DELETED = "(It was deleted.)"
"""What stands where a look at an image stood that was deleted."""

_THOUGHTS = ("reasoning", "reasoning_content")


@dataclass(frozen=True, slots=True)
class Place:
    full: str
    near: str
    calls: str = ""
    """Empty where there are none with ids."""


@dataclass(frozen=True, slots=True)
class KeptTurn:
    """What stands in place of one visible assistant message."""

    said: Sequence[Mapping[str, Any]]
    """Hidden turns and their results, last what the client saw of it: an assistant message with all its calls, ours
    and the client's.  As the server saw it, and must see it again."""
    results: Sequence[Mapping[str, Any]] = ()
    """Tool messages that answer our calls of a mixed turn; they stand among the client's own results.  Pictures that
    they bring follow behind all of those."""
    looks: Sequence[Sequence[int]] = ()
    """The images that each tool message looked at, those of `said` first, then those of `results`."""
    stamp: int = 0
    """Of the image table, when it was kept."""


@dataclass(frozen=True, slots=True)
class KeptTable:
    """An image table at the end of the message where it was first shown."""

    text: str
    stamp: int = 0


class Trail:
    """The place of every message of a history, and of what comes next."""

    def __init__(
        self, messages: Sequence[Any], wire: str = "", plain: PlainMessages | None = None, *, tenant: str = ""
    ) -> None:
        """`wire`: the format that the history came in; those of different formats have no place in common.  `plain`:
        who remembers what counts of a message of this tenant's."""
        self._plain = PlainMessages() if plain is None else plain
        self._tenant = tenant
        self._head = words_of_system(messages)
        self._chain = hashlib.sha256(wire.encode())
        self._wire = wire.encode()
        self._before = b""
        self.places = [self.follow(message) for message in messages]

    def follow(self, message: Any) -> Place:
        """The place of a message that follows all others; the next one follows it."""
        plain = self._plain.of(message, self._tenant)
        self._chain.update(plain.words)
        place = Place(
            self._chain.hexdigest()[:40],
            hashlib.sha256(self._wire + self._before + plain.words).hexdigest()[:40],
            hashlib.sha256(self._wire + plain.calls).hexdigest()[:40] if plain.calls else "",
        )
        self._before = plain.words or self._before
        return place

    def of_table(self, index: int) -> Place:
        """The place of a table that was shown at the end of this message.  Here the system's first words count: a
        request beside the main line, such as one for a title, has the same first message and others of these."""
        place = self.places[index]
        return Place(hashlib.sha256(self._head + place.full.encode()).hexdigest()[:40], place.near)


def of_one_line(tables: Mapping[int, KeptTable]) -> dict[int, KeptTable]:
    """Without those that were shown in another line, which has its beginning in common with this one: a table follows
    another only when something has changed since, so in one line their stamps rise."""
    line: dict[int, KeptTable] = {}
    for index in sorted(tables, reverse=True):
        if not line or tables[index].stamp < min(table.stamp for table in line.values()):
            line[index] = tables[index]
    return line


def weave(
    messages: Sequence[Any],
    turns: Mapping[int, KeptTurn],
    tables: Mapping[int, KeptTable],
    *,
    stands: Stands = lambda numbers, stamp: True,
    recall: str = "recallImage",
) -> list[Any]:
    """The history with what was kept in it, by index of the client's message.  `recall`: the tool that brings a
    forgotten image back."""
    woven: list[Any] = []
    taken = 0
    for index, message in enumerate(messages):
        if index < taken:
            continue
        turn = turns.get(index)
        if turn is None:
            woven.append(_with_table(message, tables.get(index)))
            continue
        taken = index + 1
        while taken < len(messages) and _is_result(messages[taken]):
            taken += 1
        of_client = [_with_table(messages[at], tables.get(at)) for at in range(index + 1, taken)]
        said, results = _shown(_with_ids_of(message, turn), stands, recall)
        pictures = [message for message in results if has_pictures(message)]
        answers = [message for message in results if not has_pictures(message)]
        woven += [*said, *_in_order_of_calls(said[-1], [*answers, *of_client]), *pictures]
    return woven


def with_results(messages: Sequence[Any], results: Sequence[Mapping[str, Any]]) -> list[Any]:
    """A history that begins behind a mixed turn, with what answers our calls of it among the client's own results."""
    at = next((index for index, message in enumerate(messages) if _is_result(message)), None)
    if at is None:  # the client answers nothing: behind the system's words
        at = sum(isinstance(message, Mapping) and message.get("role") in OF_SYSTEM for message in messages[:1])
    behind = at
    while behind < len(messages) and _is_result(messages[behind]):
        behind += 1
    answers = [message for message in results if not has_pictures(message)]
    pictures = [message for message in results if has_pictures(message)]
    return [*messages[:at], *answers, *messages[at:behind], *pictures, *messages[behind:]]


def without_thoughts(turn: KeptTurn, taken: Collection[str]) -> KeptTurn:
    """For a server that takes thoughts back only in the fields `taken`: it may have refused others since."""
    said = [
        {name: value for name, value in message.items() if name not in _THOUGHTS or name in taken}
        for message in turn.said
    ]
    return replace(turn, said=said)


def without_pictures(turn: KeptTurn) -> KeptTurn:
    """For a brain that has no eyes: the client may have asked one that has, and gone on with another."""
    said = [message for message in turn.said if not has_pictures(message)]
    return replace(turn, said=said, results=[message for message in turn.results if not has_pictures(message)])


def _shown(turn: KeptTurn, stands: Stands, recall: str) -> tuple[list[Any], list[Any]]:
    """The turn's messages, without what was seen in images that are forgotten now."""
    looks = iter(turn.looks)
    gone: set[int] = set()

    def shown(message: Mapping[str, Any]) -> dict[str, Any] | None:
        if has_pictures(message):
            return with_some_pictures(message, lambda number: number not in gone and stands([number], turn.stamp))
        if not _is_result(message):
            return dict(message)
        numbers = next(looks, ())
        if stands(numbers, turn.stamp) or message.get("content") == DELETED:
            return dict(message)
        gone.update(numbers)
        return {**message, "content": forgotten(numbers, recall)}

    said, results = [shown(message) for message in turn.said], [shown(message) for message in turn.results]
    return [one for one in said if one is not None], [one for one in results if one is not None]


def forgotten(numbers: Sequence[int], recall: str) -> str:
    """What stands where a look stood."""
    which = ", ".join(f"#{number}" for number in numbers)
    call = f'call {recall} with image "{numbers[0]}"' if len(numbers) == 1 else f"call {recall}"
    return f"(What was seen in image {which} was forgotten to save room; {call} to have it back.)"


def _with_ids_of(message: Any, turn: KeptTurn) -> KeptTurn:
    """The turn with the client's calls called as the client calls them: its results do so too."""
    last = turn.said[-1]
    answered = {result.get("tool_call_id") for result in turn.results}
    ours = [call.get("id") for call in last.get("tool_calls") or () if call.get("id") not in answered]
    theirs = [call.get("id") for call in calls_of(message)] if isinstance(message, Mapping) else []
    if ours == theirs or len(ours) != len(theirs):
        return turn
    renamed = dict(zip(ours, theirs, strict=True))
    calls = [{**call, "id": renamed.get(call.get("id"), call.get("id"))} for call in last["tool_calls"]]
    return replace(turn, said=[*turn.said[:-1], {**last, "tool_calls": calls}])


def _in_order_of_calls(said: Mapping[str, Any], results: Sequence[Any]) -> list[Any]:
    """Some templates (Qwen's) render results without ids, one after the other: their order is all that pairs them."""
    order = {call["id"]: position for position, call in enumerate(said.get("tool_calls") or ())}
    return sorted(results, key=lambda result: order.get(str(result["tool_call_id"]), len(order)))


def _with_table(message: Any, table: KeptTable | None) -> Any:
    return message if table is None else with_table(message, table.text)


def with_table(message: Mapping[str, Any], text: str) -> dict[str, Any]:
    """`message` with an image table at its end.  Not a message of its own: a second user message in a tool loop makes
    templates drop the thoughts before it, and most servers take no system message there."""
    content = message.get("content")
    if isinstance(content, list):
        # Templates put the parts of a message together with nothing in between.
        return {**message, "content": [*content, {"type": "text", "text": f"\n\n{text}" if content else text}]}
    return {**message, "content": f"{content}\n\n{text}" if content else text}


def _is_result(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "tool" and "tool_call_id" in message
