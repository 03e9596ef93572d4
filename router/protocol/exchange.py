"""One client request: several turns of the brain, one answer.

The brain is asked once and says something: thoughts, words, tool calls.  Some calls are *owned*: they name one of
our tools, and the client must never learn of them.  The others are the client's.

    IDLE ──start──▶ STREAMING ──upstream ended──▶ DONE
                      ▲    │
        ToolsCompleted│    │ only owned calls, and turns left
                      │    ▼
                   CALLING_TOOLS

What passes at once: thoughts and words, as they come, and the client's calls.  What is held:

*   **Owned calls**, until the turn ends.  A turn ends when its stream ends, not at a finish reason: some servers
    send one after every chunk, some none, and vLLM's last words ride on the chunk that carries it.
*   **White space** that nothing has followed yet.  vLLM with Qwen says "\\n\\n" between its thought and its tool
    call; shown to a client, that is an empty text block.  It goes out with the next word, or at the end, or is
    dropped when a call follows.
*   **A second client call**, while the first is unfinished.  Clients read calls one after the other (claude-code-
    router writes into a closed block otherwise), so interleaved fragments are put in line.  A call is finished when
    its arguments are a complete object, or when the turn is over: one that has none yet may still get some.
*   **What may become a call written as text** (`rescue.py`), while our tools are on offer.
*   **Words after the client's first call**: no client has a place for them (the same one writes them into the tool
    block).  They stay in the turn's record, which goes back to the brain.

Where an owned call was taken out, and so wherever a follow-up turn begins, the words after it are joined to what the
client already saw: line ends at their head are dropped, and a blank line stands between unless white space already
does, so that "Let me look." and "The image shows" do not run together.

When a turn has owned calls only, they are run and the brain is asked again with the request unchanged, what it
said, and the results: exactly what its own template would render, so its prefix cache still holds.  When it has
calls of both kinds (a *mixed turn*), the client must answer its own first: its calls go out with the finish
`tool_calls`, ours run meanwhile, and the client's next request is completed with what they said.

An answer with hidden turns is kept whole before it ends (`Keep`), under what the client saw of it: the history that the
client sends next lacks them, and the brain must find them where they were (`ledger.py`).

The last turn that `max_turns` allows is announced to the brain in the tool results before it, with the tool list
unchanged: taking tools away makes some models write calls as text, and costs the whole prefix cache with Qwen's
template, which renders tools first.

A turn that ends well and says nothing at all is asked again once, not streamed: some parsers lose a whole call.

A follow-up that is refused before its first word, for something that we put into it, is asked once more with less: too
long a prompt with the looks cut short, thoughts that the server does not take back without them.

*Reasoning details* (`reasoning_details.py`) are a turn's thoughts in a form made for sending back.  While our tools are
on offer they wait for the end of the turn: those of a turn with calls of ours go back to the brain only, because they
name those calls, and because in the client's history they would be signed thoughts to a message that is not there.

Nothing here waits, and nothing knows of time, sockets or bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, assert_never

from router.errors import UpstreamBroken, UpstreamError, UpstreamRefused
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
from router.protocol.follow_up import FollowUp
from router.protocol.lost_call import may_have_lost_a_call
from router.protocol.outline import is_thought
from router.protocol.own_tools import OwnTools
from router.protocol.parts import Block, ErrorFrame, Finish, Head, Opaque, Reasoning, Text, ToolArgs, ToolStart, Usage
from router.protocol.pieces import Pieces
from router.protocol.reasoning_details import FIELD as DETAILS
from router.protocol.reasoning_details import fragments
from router.protocol.refusals import REFUSING, too_long
from router.protocol.rescue import TextGate
from router.protocol.turn import MOST_CHARACTERS, CallInTurn, Turn
from tools.call import ToolCall, ToolResult, VisionUsage

LAST_TURN_NOTE = (
    "\n\n(This was the last tool call of this answer: no further call will be carried out. "
    "Answer now with what you have.)"
)
STOPPED = frozenset({"content_filter", "refusal", "model_context_window_exceeded"})
"""Finish reasons that end an answer whatever it was about to do."""

NO_ANSWER_NOTE = "[No answer: the model kept asking for tools until the limit of {turns} turns was reached.]"


class State(Enum):
    IDLE = "idle"
    STREAMING = "streaming"
    CALLING_TOOLS = "calling tools"
    DONE = "done"


class Seam:
    """One kind of text (words, or thoughts), sewn together for the client where an owned call was taken out of it."""

    __slots__ = ("_fresh", "_held", "_last")

    def __init__(self) -> None:
        self._held = ""
        self._last = ""
        """The last character the client saw."""
        self._fresh = False
        """Whether nothing visible has been said since the last cut."""

    def cut(self) -> None:
        """Something that the client does not see stands here: a call, the end of a turn."""
        self._held = ""
        self._fresh = True

    def take(self, text: str) -> str:
        """What the client sees now of `text` and of what was held before it."""
        text = self._held + text
        if not text or text.isspace():
            self._held = text
            return ""
        self._held = ""
        if self._fresh and self._last:
            text = text.lstrip("\n")  # Qwen begins its words with a blank line of its own
            if not self._last.isspace():
                text = "\n\n" + text
        self._fresh = False
        self._last = text[-1]
        return text

    @property
    def begun(self) -> bool:
        """Whether the client has seen anything."""
        return bool(self._last)

    def rest(self) -> str:
        """The white space still held at the end of the answer."""
        text, self._held = self._held, ""
        return text


class Exchange:
    """Tell it what happened (`handle`), do what it answers, until that is `Complete` or `Fail`."""

    def __init__(
        self,
        *,
        dialect: Dialect,
        request: Mapping[str, Any],
        own: OwnTools,
        mint_id: Callable[[], str],
        max_turns: int,
        looked: VisionUsage = VisionUsage(),  # noqa: B008 (frozen)
        late_thoughts: bool = True,
    ) -> None:
        """`mint_id`: ids for calls that came without one.  `looked`: what looking has cost before the first turn.
        `late_thoughts`: whether the client can read thoughts that come after visible words."""
        self._dialect = dialect
        self._first = self._request = request
        self._own = own
        self._mint_id = mint_id
        self._max_turns = max_turns
        self._state = State.IDLE
        self._words = Seam()
        self._thoughts = Seam()
        self._word_gate = TextGate(own.names)
        self._thought_gate = TextGate(own.names)
        self._asked_again = False
        """Whether a turn that said nothing was asked again already; once is enough."""
        self._turn = Turn(0)
        self._past: list[Turn] = []
        self._following: FollowUp | None = None
        """How the current turn was put together, where it is a follow-up."""
        self._vision = looked
        self._shown = Pieces()
        """The words that the client saw."""
        self._looks: list[tuple[int, ...]] = []
        """The images that each result so far is about."""
        self._stamp = 0
        self._late_thoughts = late_thoughts
        self._client_call: CallInTurn | None = None
        """The client's call that is going out now."""
        self._client_calls = 0
        self._waiting: deque[CallInTurn] = deque()
        """The client's calls that begin when the one before them is finished."""

    def __repr__(self) -> str:
        owned, client = len(self._turn.owned), len(self._turn.of_client)
        return (
            f"<Exchange turn {self._turn.number}/{self._max_turns} {self._state.name}, "
            f"{owned} owned call{'s' * (owned != 1)}, {client} client call{'s' * (client != 1)}>"
        )

    @property
    def state(self) -> State:
        return self._state

    @property
    def turns(self) -> int:
        """How many turns were begun."""
        return self._turn.number

    @property
    def turn(self) -> Turn:
        """The one that is being heard, or was heard last."""
        return self._turn

    @property
    def vision(self) -> VisionUsage:
        return self._vision

    @property
    def heard(self) -> bool:
        """Whether the current turn has said anything yet."""
        return self._turn.heard

    @property
    def finished(self) -> bool:
        """Whether the current turn has given a finish reason: little can follow."""
        return self._turn.finish is not None

    def start(self) -> list[Action]:
        assert self._state is State.IDLE, self
        return [self._open(self._request)]

    def handle(self, event: Event) -> list[Action]:
        """Raises AssertionError where the event cannot happen now: that is a fault in the caller."""
        if self._state is State.CALLING_TOOLS:
            assert isinstance(event, ToolsCompleted), (self, event)
            return self._tools_completed(event.results)
        assert self._state is State.STREAMING, (self, event)
        match event:
            case Text() | Reasoning() | ToolArgs():
                return self._piece(event)
            case ToolStart():
                return self._tool_start(event)
            case Head():
                self._turn.heard = True
                return [SendPart(event)] if self._turn.number == 1 else []
            case Finish(reason):
                self._turn.heard = True
                self._turn.finish = reason
                return []
            case Usage():
                self._turn.heard = True
                self._turn.usage = event
                return []
            case Opaque():
                return self._opaque(event)
            case Block(value):
                self._turn.heard = True
                self._turn.blocks.append(value)
                return []
            case ErrorFrame():
                return self._failed(self._told(event))
            case UpstreamFailed(error):
                return self._failed(error)
            case UpstreamEnded(clean):
                return self._upstream_ended(clean)
            case ToolsCompleted():
                raise AssertionError((self, event))
            case _:
                assert_never(event)

    # What the brain says

    def _piece(self, part: Text | Reasoning | ToolArgs) -> list[Action]:
        self._turn.length += len(part.text)
        if self._turn.length > MOST_CHARACTERS:
            return self._endless()
        match part:
            case Text():
                return self._text(part)
            case Reasoning():
                return self._reasoning(part)
            case ToolArgs():
                return self._tool_args(part)

    def _endless(self) -> list[Action]:
        self._state = State.DONE
        words = f"the text model's server said more than {MOST_CHARACTERS // 2**20} million characters in one go"
        return [Fail(UpstreamBroken(words))]

    def _text(self, part: Text) -> list[Action]:
        self._turn.heard = True
        text = self._word_gate.feed(part.text) if self._own.names else part.text
        return self._say(part, text) if text else []

    def _say(self, part: Text, text: str) -> list[Action]:
        """`text`: what is certainly no call of ours, of `part` and what was held before it."""
        self._turn.content_pieces.append(text)
        if self._client_call is not None:
            return []
        text = self._words.take(text)
        if not text:
            return []
        self._shown.append(text)
        return [SendPart(part if text is part.text else replace(part, text=text))]

    def _reasoning(self, part: Reasoning) -> list[Action]:
        self._turn.heard = True
        text = self._thought_gate.feed(part.text) if self._own.names else part.text
        return self._think(part, text) if text else []

    def _think(self, part: Reasoning, text: str) -> list[Action]:
        self._turn.reasoning_pieces.append(text)
        if self._client_call is not None or (self._words.begun and not self._late_thoughts):
            return []
        text = self._thoughts.take(text)
        if not text:
            return []
        return [SendPart(part if text is part.text else replace(part, text=text))]

    def _opaque(self, part: Opaque) -> list[Action]:
        turn = self._turn
        turn.heard = True
        if part.choice is not None:  # it has a stream of its own (`n` > 1, where no tool of ours is offered)
            return [SendPart(part)]
        turn.detail_pieces += fragments(part.delta)
        if self._own.names and "function_call" in part.delta:
            return []  # the old form of a call, which some servers send beside the new one: it names our tool
        held = {DETAILS} if self._own.names else set()
        late = part.delta.keys() - {DETAILS} if turn.calls else set()  # as words are, behind a call
        shown = {name: value for name, value in part.delta.items() if name not in held | late}
        if not shown:
            return []
        return [SendPart(part if len(shown) == len(part.delta) else Opaque(shown))]

    def _interrupted(self) -> list[Action]:
        thoughts, words = self._thought_gate.interrupt(), self._word_gate.interrupt()
        return self._given_back(thoughts, words)

    def _given_back(self, thoughts: str, words: str) -> list[Action]:
        return [
            *(self._think(Reasoning(thoughts), thoughts) if thoughts else []),
            *(self._say(Text(words), words) if words else []),
        ]

    def _written_calls(self) -> list[Action]:
        """The turn is over: calls of ours that came as text join its calls, other text that was held goes out.

        A call inside a thought counts only where nothing else was said: a model may well think about calling.
        """
        if not self._own.names:
            return []
        actions = self._given_back(self._thought_gate.close(), self._word_gate.close())
        turn = self._turn
        silent = not turn.calls and not turn.content.strip()
        written = self._word_gate.calls or (self._thought_gate.calls if silent else [])
        for slot, call in enumerate(written, max(turn.calls, default=-1) + 1):
            turn.calls[slot] = CallInTurn(slot, self._mint_id(), call.name, True, Pieces([call.arguments]))
        if written:
            self._words.cut()
            self._thoughts.cut()
        return actions

    def _tool_start(self, part: ToolStart) -> list[Action]:
        turn = self._turn
        turn.heard = True
        interrupted = self._interrupted()
        own = self._own.claim(part.name)
        call = CallInTurn(part.slot, part.id, own or part.name, own is not None, extra=part.extra)
        turn.calls[part.slot] = call
        self._words.cut()
        self._thoughts.cut()
        if call.owned:
            return interrupted
        self._waiting.append(call)
        return [*interrupted, *self._next_client_calls()]

    def _tool_args(self, part: ToolArgs) -> list[Action]:
        call = self._turn.calls[part.slot]
        call.pieces.append(part.text)
        if call is not self._client_call:
            return []
        sent = SendPart(ToolArgs(self._client_calls - 1, part.text))
        if self._waiting and part.text.rstrip().endswith("}"):  # no need to parse what cannot be the end
            return [sent, *self._next_client_calls()]
        return [sent]

    def _next_client_calls(self) -> list[Action]:
        actions: list[Action] = []
        while self._waiting and (self._client_call is None or self._client_call.is_whole()):
            actions += self._begin_client_call(self._waiting.popleft())
        return actions

    def _begin_client_call(self, call: CallInTurn) -> list[Action]:
        """The client's numbers count from 0 in order of appearance, whatever the server's were."""
        actions: list[Action] = [SendPart(ToolStart(self._client_calls, call.id, call.name, call.extra))]
        if call.pieces:
            actions.append(SendPart(ToolArgs(self._client_calls, call.arguments)))
        self._client_call = call
        self._client_calls += 1
        return actions

    # How a turn ends

    def _upstream_ended(self, clean: bool) -> list[Action]:
        return [*self._written_calls(), *self._turn_ended(clean)]

    def _turn_ended(self, clean: bool) -> list[Action]:
        turn = self._turn
        owned, of_client = turn.owned, turn.of_client
        calls_are_whole = bool(turn.calls) and all(call.is_whole() for call in turn.calls.values())
        if turn.finish is None and not clean and not (calls_are_whole and not of_client):
            return self._failed(
                UpstreamBroken("the text model's server ended its answer in the middle", code="upstream_truncated")
            )
        if not turn.heard:
            return self._failed(
                UpstreamBroken("the text model's server ended its answer without a word", code="upstream_truncated")
            )
        # A call that the limit cut is not run, though it may look whole: vLLM closes its arguments (`{}` in the end).
        # Were it whole, there would still be no tokens left to say what was seen.  Others call the cut `tool_calls`.
        cut = turn.finish == "length" or (not calls_are_whole and self._dialect.spent(self._request, turn))
        if cut and owned:
            turn.finish = "length"
        if owned and not cut and turn.finish not in STOPPED:
            if of_client:
                return self._mixed_turn(owned)
            if turn.number < self._max_turns:
                self._state = State.CALLING_TOOLS
                return [CallTools(tuple(call.whole() for call in owned))]
            return self._out_of_turns()
        if self._said_nothing() and (again := self._dialect.whole(self._request)) is not None:
            self._asked_again = True
            self._past.append(turn)
            return [self._open(again, follows=self._request)]
        return [
            *self._remaining_client_calls(),
            *self._held_details(),
            *self._last_words(),
            *self._ended(self._reason()),
        ]

    def _said_nothing(self) -> bool:
        return (
            bool(self._own.names)
            and not self._asked_again
            and self._turn.number < self._max_turns
            and may_have_lost_a_call(self._turn)
        )

    def _mixed_turn(self, owned: tuple[CallInTurn, ...]) -> list[Action]:
        calls = tuple(call.whole() for call in owned)
        return [*self._remaining_client_calls(), *self._ended("tool_calls", calls)]

    def _ended(self, reason: str, pending: tuple[ToolCall, ...] = ()) -> list[Action]:
        """The answer is over.  `pending`: calls of ours that are still to be run."""
        return [*self._kept(pending), self._complete(reason)]

    def _kept(self, pending: tuple[ToolCall, ...]) -> list[Action]:
        hidden = self._dialect.added(self._first, self._request)
        if not self._own.names:
            return []
        shown = str(self._shown)
        visible = Turn(0, content_pieces=Pieces([shown]), calls={call.slot: call for call in self._turn.of_client})
        said = self._turn
        if said.owned and not pending:  # calls that were never run would stand there without an answer
            content = said.content if said.content.strip() else shown
            thoughts = [block for block in said.blocks if is_thought(block)]
            said = replace(said, calls=visible.calls, content_pieces=Pieces([content]), blocks=thoughts)
        message = self._dialect.assistant_message
        return [Keep(message(visible), (*hidden, message(said)), tuple(self._looks), self._stamp, pending)]

    def _out_of_turns(self) -> list[Action]:
        note: list[Action] = []
        if not self._turn.content.strip():
            text = self._words.take(NO_ANSWER_NOTE.format(turns=self._max_turns))
            self._shown.append(text)
            note = [SendPart(Text(text))]
        return [*note, *self._last_words(), *self._ended("stop")]

    def _remaining_client_calls(self) -> list[Action]:
        actions: list[Action] = []
        while self._waiting:
            actions += self._begin_client_call(self._waiting.popleft())
        return actions

    def _held_details(self) -> list[Action]:
        turn = self._turn
        if not self._own.names or turn.owned or not turn.detail_pieces:
            return []
        return [SendPart(Opaque({DETAILS: turn.details}))]

    def _last_words(self) -> list[Action]:
        if self._client_call is not None:
            return []
        thoughts, words = self._thoughts.rest(), self._words.rest()
        return [
            *([SendPart(Reasoning(thoughts))] if thoughts else []),
            *([SendPart(Text(words))] if words else []),
        ]

    def _reason(self) -> str:
        """Decided by what was said, not by what the server called it: some say `stop` after calls, some `tool_calls`
        after calls that only we saw."""
        finish = self._turn.finish
        if finish == "length" or finish in STOPPED:
            return finish
        if self._turn.of_client:
            return "tool_calls"
        return "stop" if finish in (None, "tool_calls") else finish

    def _complete(self, reason: str) -> Complete:
        self._state = State.DONE
        vision = {
            "turns": self._turn.number,
            "vision_calls": self._vision.calls,
            "vision_prompt_tokens": self._vision.prompt_tokens,
            "vision_completion_tokens": self._vision.completion_tokens,
        }
        return Complete(reason, self._dialect.usage([*self._past, self._turn], vision))

    def _told(self, frame: ErrorFrame) -> UpstreamError:
        """An error in the stream.  As its first word it is the refusal that others send as a status (OpenRouter's 429);
        later the same codes stand for faults of the server (vLLM's 400 for its parser's exceptions)."""
        status = frame.code if isinstance(frame.code, int) else frame.status
        word = frame.code if isinstance(frame.code, str) else None
        if status is not None and 400 <= status < 500 and not self._turn.heard:
            return UpstreamRefused(frame.message, status=status, code=word)
        return UpstreamBroken(frame.message, code=None if frame.code is None else str(frame.code))

    def _failed(self, error: UpstreamError) -> list[Action]:
        """A finish reason is the commit point: what breaks after it does not undo a whole answer."""
        if self._turn.finish is not None:
            return self._upstream_ended(clean=True)
        owned = self._turn.owned
        whole = all(call.is_whole() for call in owned)
        if owned and whole and not self._turn.of_client and isinstance(error, UpstreamBroken):
            # vLLM up to 0.16 fails in the finish chunk, after correct arguments
            return self._upstream_ended(clean=True)
        if again := self._asked_with_less(error):
            return again
        self._state = State.DONE
        return [Fail(error)]

    def _asked_with_less(self, error: UpstreamError) -> list[Action]:
        """Once for each follow-up.  The refused one has said nothing and counts as if it had not been."""
        following, self._following = self._following, None
        if following is None or self._turn.heard or not isinstance(error, UpstreamRefused):
            return []
        if error.status not in REFUSING:
            return []
        if (dialect := self._dialect.yielding(error)) is not None:
            self._dialect = dialect
            smaller: FollowUp | None = following
        else:
            smaller = following.shortened() if too_long(f"{error.code} {error.message}") else None
        if smaller is None:
            return []
        self._turn = self._past.pop()
        actions = self._follow_up(smaller)
        self._following = None
        return actions

    # What follows

    def _tools_completed(self, results: tuple[ToolResult, ...]) -> list[Action]:
        for result in results:
            self._vision += result.usage
            self._looks.append(result.images)
            self._stamp = max(self._stamp, result.stamp)
        return self._follow_up(FollowUp(self._request, self._turn, results))

    def _follow_up(self, following: FollowUp) -> list[Action]:
        results = following.results
        if self._turn.number + 1 == self._max_turns:
            results = (*results[:-1], replace(results[-1], text=results[-1].text + LAST_TURN_NOTE))
        request = self._dialect.follow_up(following.before, following.turn, results)
        if request is None:
            return [*self._last_words(), *self._ended("length")]
        self._past.append(following.turn)
        opened = self._open(request)
        self._following = following
        return [opened]

    def _open(self, request: Mapping[str, Any], *, follows: Mapping[str, Any] | None = None) -> OpenUpstream:
        """`follows`: the request that later turns build upon, where that is not `request` itself."""
        if self._turn.number:
            self._words.cut()
            self._thoughts.cut()
            self._word_gate = TextGate(self._own.names)
            self._thought_gate = TextGate(self._own.names)
        self._request = request if follows is None else follows
        self._turn = Turn(self._turn.number + 1)
        self._following = None
        self._state = State.STREAMING
        return OpenUpstream(request)
