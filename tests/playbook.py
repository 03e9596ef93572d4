"""Conversations with an exchange, written down as they should go.

    assert (
        playbook(max_turns=3)
        >> Head("a")
        << passes
        >> Text("Let me look.")
        << passes
        >> ToolStart(0, "call_1", "analyzeImage")
        >> ToolArgs(0, '{"image":"1"}')
        >> Finish("tool_calls")
        >> UpstreamEnded(clean=True)
        << CallTools((ToolCall("call_1", "analyzeImage", '{"image":"1"}'),))
    )

`>>` tells the exchange an event; each `<<` after it is one of the actions it must answer, in order, and what is not
written must not come.  On the right of `<<` stands an action, or

    passes                     the client sees just the part that was told
    nothing                    no action at all; the same as writing no `<<`, said aloud
    a(Complete, reason="stop") an action of this kind with these fields, whatever the others are
    mixed(client_ids=("c1",))  what is kept of a mixed turn

That an answer with hidden turns is kept (`Keep`) may be left out.

A playbook runs when it is asserted.  It can be kept and asserted piece by piece; `requests`, `actions` and `exchange`
show what has happened so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import count
from pprint import pformat
from typing import Any, Final, TypeAlias

from router.protocol.chat.dialect import OpenAIChat
from router.protocol.dialect import Dialect
from router.protocol.events import (
    Action,
    CallTools,
    Complete,
    Event,
    Fail,
    Keep,
    OpenUpstream,
    SendPart,
    ToolsCompleted,
    UpstreamEnded,
    UpstreamFailed,
)
from router.protocol.exchange import Exchange
from router.protocol.own_tools import OwnTools
from router.protocol.parts import ErrorFrame, Finish, Head, Opaque, Part, Reasoning, Text, ToolArgs, ToolStart, Usage
from router.protocol.profiles import PROFILES
from tools.call import ToolCall

REQUEST: Final[Mapping[str, Any]] = {"model": "brain", "messages": [{"role": "user", "content": "[Image #1] What?"}]}

_PARTS = (Head, Reasoning, Text, ToolStart, ToolArgs, Finish, Usage, ErrorFrame, Opaque)
_EVENTS = (*_PARTS, UpstreamEnded, UpstreamFailed, ToolsCompleted)
_ACTIONS = (OpenUpstream, SendPart, CallTools, Keep, Complete, Fail)


class Passes:
    def __repr__(self) -> str:
        return "passes"


class Nothing:
    def __repr__(self) -> str:
        return "nothing"


@dataclass(frozen=True, slots=True)
class Like:
    """Some of an action."""

    kind: type[Action]
    fields: Mapping[str, object]

    def __repr__(self) -> str:
        return f"a({', '.join([self.kind.__name__, *(f'{key}={value!r}' for key, value in self.fields.items())])})"

    def accepts(self, action: Action) -> bool:
        return isinstance(action, self.kind) and all(
            getattr(action, key) == value for key, value in self.fields.items()
        )


@dataclass(frozen=True, slots=True)
class Mixed:
    """What is kept of a mixed turn, as far as it is given."""

    calls: tuple[ToolCall, ...] | None = None
    client_ids: tuple[str, ...] | None = None
    said: tuple[Mapping[str, Any], ...] | None = None

    def accepts(self, action: Action) -> bool:
        return (
            isinstance(action, Keep)
            and bool(action.calls)
            and self.calls in (None, action.calls)
            and self.said in (None, action.said)
            and self.client_ids in (None, client_ids(action))
        )


def client_ids(kept: Keep) -> tuple[str, ...]:
    """The calls that the client knows of."""
    return tuple(call["id"] for call in kept.visible.get("tool_calls", ()))


Expected: TypeAlias = Action | Like | Mixed | Passes | Nothing

mixed: Final = Mixed
passes: Final = Passes()
nothing: Final = Nothing()


def a(kind: type[Action], **some: object) -> Like:
    unknown = some.keys() - {field.name for field in fields(kind)}
    assert not unknown, f"{kind.__name__} has no {', '.join(sorted(unknown))}"
    return Like(kind, some)


def owning(*names: str) -> OwnTools:
    return OwnTools(names)


def counted_ids() -> Callable[[], str]:
    """Minted ids that a test can name: `minted_0`, `minted_1`, …"""
    numbers = count()
    return lambda: f"minted_{next(numbers)}"


class Playbook:
    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.actions: list[Action] = []
        """All that the exchange has asked for so far."""
        self._unplayed: list[tuple[Event, list[Expected]]] = []
        self._told: list[str] = []
        self._answered(exchange.start())

    @property
    def requests(self) -> list[Mapping[str, Any]]:
        return [action.request for action in self.actions if isinstance(action, OpenUpstream)]

    @property
    def sent(self) -> list[Part]:
        """The parts that the client has."""
        return [action.part for action in self.actions if isinstance(action, SendPart)]

    def __rshift__(self, event: Event) -> Playbook:
        assert isinstance(event, _EVENTS), f"`>>` takes an event, not {event!r}"
        self._unplayed.append((event, []))
        return self

    def __lshift__(self, expected: Expected) -> Playbook:
        assert isinstance(expected, (*_ACTIONS, Like, Mixed, Passes, Nothing)), (
            f"`<<` takes an action, not {expected!r}"
        )
        assert self._unplayed, "`<<` follows a `>>`"
        self._unplayed[-1][1].append(expected)
        return self

    def __bool__(self) -> bool:
        """Plays what was written since the last time.  Raises AssertionError with the conversation up to the fault."""
        unplayed, self._unplayed = self._unplayed, []
        assert unplayed, "the playbook is empty: write `>> event`"
        for event, expected in unplayed:
            self._told.append(f">> {_short(event)}")
            try:
                came = self.exchange.handle(event)
            except AssertionError as error:
                raise AssertionError(self._story(f"the exchange refused this event: {_short(event)}")) from error
            self._compare(event, expected, came)
            self._answered(came)
        return True

    def __del__(self) -> None:
        # With warnings as errors, pytest makes this fail the test: a forgotten `assert` must not look like success.
        assert not self._unplayed, f"a playbook was written and never asserted; it ends {_short(self._unplayed[-1][0])}"

    def _compare(self, event: Event, expected: Sequence[Expected], came: Sequence[Action]) -> None:
        wanted = [SendPart(event) if one is passes and isinstance(event, _PARTS) else one for one in expected]
        wanted = [one for one in wanted if one is not nothing]
        if not any(isinstance(one, Keep | Like) and Keep in (type(one), getattr(one, "kind", None)) for one in wanted):
            came = [action for action in came if not isinstance(action, Keep) or action.calls]
        for index in range(max(len(wanted), len(came))):
            want = wanted[index] if index < len(wanted) else nothing
            got = came[index] if index < len(came) else nothing
            if want == got or (isinstance(want, Like | Mixed) and not isinstance(got, Nothing) and want.accepts(got)):
                continue
            self._told += [f"<< {_short(action)}" for action in came[:index]]
            raise AssertionError(self._story(f"expected  << {_whole(want)}\ncame      << {_whole(got)}"))

    def _answered(self, came: Sequence[Action]) -> None:
        self.actions += came
        self._told += [f"<< {_short(action)}" for action in came]

    def _story(self, end: str) -> str:
        return "\n".join(["", *self._told, "", end, "", repr(self.exchange)])


def playbook(
    *,
    max_turns: int = 8,
    own: OwnTools | None = None,
    request: Mapping[str, Any] = REQUEST,
    dialect: Dialect | None = None,
    late_thoughts: bool = True,
) -> Playbook:
    """A new exchange that has just asked its first turn; `analyzeImage` is owned unless said otherwise."""
    exchange = Exchange(
        dialect=dialect or OpenAIChat(PROFILES["vllm"]),
        request=request,
        own=own or owning("analyzeImage"),
        mint_id=counted_ids(),
        max_turns=max_turns,
        late_thoughts=late_thoughts,
    )
    return Playbook(exchange)


def _short(value: object) -> str:
    """One line of the story: fields by position, long ones cut."""
    if isinstance(value, OpenUpstream):
        return f"OpenUpstream(of {len(value.request.get('messages', ()))} messages)"
    if not is_dataclass(value) or isinstance(value, type | Like | Mixed):
        return repr(value)
    told = [getattr(value, field.name) for field in fields(value)]
    while told and told[-1] in (None, "", 0, {}):
        told.pop()
    return f"{type(value).__name__}({', '.join(_cut(_short(one)) for one in told)})"


def _cut(words: str) -> str:
    return words if len(words) <= 80 else words[:60] + "…" + words[-19:]


def _whole(value: object) -> str:
    return pformat(value, width=110, sort_dicts=False).replace("\n", "\n             ")
