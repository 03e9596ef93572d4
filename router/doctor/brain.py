"""The checks of a brain, and how each is asked.

Requests are what Chiasm will send: its tool as the brain is told of it, its words in an image's place, the profile's
thinking switch.  Temperature 0 where nothing is thought, because a check that fails by chance teaches nothing; what
varies from try to try is the question.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from cache.record import ImageRecord
from router.config import TextSettings
from router.doctor import judge_calls, judge_server, judge_thinking
from router.doctor.calls import Outcome, Required, outcome
from router.doctor.card import code_word
from router.doctor.check import Check
from router.doctor.heard import Heard, HeardCall, Page
from router.doctor.judge_calls import Calling, Forced, Returned, Tried
from router.doctor.judge_server import Room
from router.doctor.judge_thinking import Switched
from router.doctor.probe import Probe
from router.doctor.server import Server
from router.doctor.verdict import Verdict, skipped
from router.protocol.chat.format import tool_object
from router.protocol.placeholders import placeholder
from tools.analyze_image import NAME, definition
from tools.quotation import quoted

_HELLO_TOKENS = 96
_SHORT_TOKENS = 400
"""For a sentence, after a short thought."""
_CALL_TOKENS = 200
_THOUGHT_TOKENS = 500

_LEAST_CONTEXT = 8192
"""A short system text, tools and a few turns."""

_PREFIX_LETTERS = 9600
"""Some 2400 tokens: above the largest block in which an engine shares prompts (2096, Qwen3.5 on vLLM)."""

READ: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "Read",
        "description": "Reads a file.",
        "parameters": {
            "type": "object",
            "properties": {"file_path": {"type": "string", "description": "Path of the file."}},
            "required": ["file_path"],
        },
    },
}
_OURS: Required = {NAME: ("image", "task")}
_BOTH: Required = {**_OURS, "Read": ("file_path",)}

_QUESTIONS = (
    "What is the code word?",
    "What word is written in this image?",
    "What color is the background of this image?",
    "Which text does this picture show?",
    "What does the error message say?",
)


class Brain(Server):
    def __init__(
        self,
        settings: TextSettings,
        *,
        title: str,
        place: str,
        probe: Probe,
        chance: random.Random,
        repeat: int,
        max_loaded_tokens: int,
    ) -> None:
        super().__init__(settings, title=title, place=place, probe=probe, chance=chance)
        self.settings = settings
        self.repeat = repeat
        self.room = Room(_LEAST_CONTEXT, max_loaded_tokens)
        self.first_call: Tried | None = None
        self.calling: Tried | None = None
        """A whole call, for the check that gives its result back; one with thoughts if there was one."""
        self.question = ""
        self.switched: Switched | None = None
        self.refuses_switch = False

    def request(self, messages: Sequence[Mapping[str, Any]], *, tokens: int, **fields: Any) -> dict[str, Any]:
        return {
            "model": self.facts.model,
            "messages": list(messages),
            "max_tokens": tokens,
            "stream": True,
            **({"stream_options": {"include_usage": True}} if self.facts.profile.stream_options else {}),
            **fields,
        }

    def thinking(self, on: bool) -> dict[str, Any]:
        """The switch, and a temperature that suits; none where the server was found to refuse the switch."""
        switch = {} if self.refuses_switch else dict(self.facts.profile.thinking[on])
        return {**switch, "temperature": 0.6 if on else 0}

    def room_for(self, tokens: int, *, think: bool) -> int:
        """`tokens`, and more where thoughts come first, asked for or not."""
        asked = self.switched
        anyway = asked is not None and (
            judge_thinking.thoughts(asked.off) or (self.refuses_switch and judge_thinking.thoughts(asked.default))
        )
        return tokens + _THOUGHT_TOKENS if think or anyway else tokens

    async def count_aloud(self) -> Heard:
        words = "Count from one to thirty in words, one after the other."
        return await self.probe.chat(self.request([_user(words)], tokens=_HELLO_TOKENS))


def _user(words: str) -> dict[str, Any]:
    return {"role": "user", "content": words}


def _shown(*numbers: int) -> str:
    """What stands in images' places."""
    return "\n".join(
        placeholder(
            ImageRecord(
                number=number, digest="", media_type="image/png", width=960, height=600, bytes=1, origin="user"
            ),
            NAME,
        )
        for number in numbers
    )


# Is it there


async def _hello(brain: Brain) -> Heard | None:
    return await brain.first_completion(brain.count_aloud)


async def _answered(brain: Brain) -> Heard:
    heard = await _hello(brain)
    assert heard is not None, "the check of the model has passed"
    return heard


async def _listing_and_hello(brain: Brain) -> tuple[Page, Heard | None]:
    return brain.listing, await _hello(brain)


async def _ids_and_hello(brain: Brain) -> tuple[list[str], Heard | None]:
    return brain.ids, await _hello(brain)


async def _streamed(brain: Brain) -> tuple[Heard, Heard | None]:
    heard = await _answered(brain)
    # A server that has just started is slow once, and then quick: only what is held back twice is held back.
    return heard, await brain.count_aloud() if heard.is_stream and judge_server.held_back(heard) else None


async def _room(brain: Brain) -> Room:
    return brain.room


# Thoughts


async def _switched(brain: Brain) -> Switched:
    words = [_user("What is 17 + 25?")]
    on = await brain.probe.chat(brain.request(words, tokens=_SHORT_TOKENS, **brain.thinking(True)))
    off = await brain.probe.chat(brain.request(words, tokens=_SHORT_TOKENS, **brain.thinking(False)))
    brain.refuses_switch = on.status in (400, 422) or off.status in (400, 422)
    brain.switched = Switched(on, off, await _answered(brain), brain.settings.thinking)
    return brain.switched


async def _the_same_answers(brain: Brain) -> Switched | Verdict:
    return brain.switched or skipped("because 'thinking switch' was not asked")


# Calls


def _without_tools(brain: Brain) -> Verdict | None:
    if brain.settings.images in ("tool", "native"):
        return None
    return skipped(f"because images = {brain.settings.images!r}, which needs no tool calls")


async def _try(brain: Brain, request: dict[str, Any], offered: Required) -> Tried:
    heard = await brain.probe.chat(request)
    found = outcome(heard, offered)
    if found in (Outcome.WHOLE, Outcome.NOT_CALLED, Outcome.TOO_LONG, Outcome.REFUSED, Outcome.NO_ANSWER):
        return Tried(heard)
    unstreamed = {key: value for key, value in request.items() if key != "stream_options"} | {"stream": False}
    return Tried(heard, await brain.probe.chat(unstreamed))


def _asking(brain: Brain, words: str, *images: int, tools: Sequence[Any], think: bool, **fields: Any) -> dict[str, Any]:
    messages = [_user(f"{_shown(*images)}\n{words}")]
    return brain.request(
        messages, tokens=brain.room_for(_CALL_TOKENS, think=think), tools=list(tools), **brain.thinking(think), **fields
    )


async def _called(brain: Brain, *, think: bool) -> Calling:
    tries = []
    for turn in range(brain.repeat):
        first = brain.first_call if turn == 0 and not think else None
        tried = first or await _one_call(brain, turn, think=think)
        tries.append(tried)
        if outcome(tried.streamed, _OURS) is Outcome.WHOLE:
            brain.calling, brain.question = tried, _question(turn)
    return Calling(_OURS, tuple(tries))


def _question(turn: int) -> str:
    words = _QUESTIONS[turn % len(_QUESTIONS)]
    # The length of a call decides where it is cut.
    return words if turn < len(_QUESTIONS) else f"{words} Answer in {5 + turn} words."


async def _one_call(brain: Brain, turn: int, *, think: bool) -> Tried:
    request = _asking(brain, _question(turn), 1, tools=[tool_object(definition())], think=think)
    return await _try(brain, request, _OURS)


async def _tools(brain: Brain) -> Heard | Verdict:
    if (why := _without_tools(brain)) is not None:
        return why
    brain.first_call = await _one_call(brain, 0, think=False)
    return brain.first_call.streamed


async def _called_plainly(brain: Brain) -> Calling:
    return await _called(brain, think=False)


async def _called_thinking(brain: Brain) -> Calling:
    return await _called(brain, think=True)


async def _called_beside(brain: Brain) -> Calling:
    request = _asking(brain, _QUESTIONS[1], 1, tools=[READ, tool_object(definition())], think=False)
    return Calling(_BOTH, (await _try(brain, request, _BOTH),))


async def _called_twice(brain: Brain) -> Calling:
    words = "What is the code word in each of these two images? Look at both."
    return Calling(
        _OURS, (await _try(brain, _asking(brain, words, 1, 2, tools=[tool_object(definition())], think=False), _OURS),)
    )


async def _result(brain: Brain) -> Returned | Verdict:
    if brain.calling is None:
        return skipped("because the model made no whole call whose result it could be given")
    heard, word = brain.calling.streamed, code_word(brain.chance)
    messages = [
        _user(f"{_shown(1)}\n{brain.question}"),
        _said(brain, heard),
        *(
            {"role": "tool", "tool_call_id": f"call_doctor_{slot}", "content": quoted([1], f'The text "{word}".')}
            for slot in range(len(heard.calls))
        ),
    ]
    request = brain.request(
        messages, tokens=_SHORT_TOKENS, tools=[tool_object(definition())], **brain.thinking(bool(heard.reasoning))
    )
    return Returned(await brain.probe.chat(request), word, bool(heard.reasoning.strip()))


def _said(brain: Brain, heard: Heard) -> dict[str, Any]:
    """The turn with the call, as Chiasm gives it back."""
    profile = brain.facts.profile
    thoughts = dict.fromkeys(profile.history_reasoning, heard.reasoning)
    return {
        "role": "assistant",
        "content": heard.text or None,
        **(thoughts if heard.reasoning or profile.empty_reasoning else {}),
        "tool_calls": [_wire(call, slot) for slot, call in enumerate(heard.calls)],
    }


def _wire(call: HeardCall, slot: int) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_doctor_{slot}", "type": "function", "function": function}


async def _forced(brain: Brain) -> Forced:
    found = []
    for choice in ("required", {"type": "function", "function": {"name": "Read"}}):
        words = [_user("Read the file notes.txt.")]
        tools = {"tools": [READ], "tool_choice": choice}
        tokens = brain.room_for(_CALL_TOKENS, think=False)
        request = brain.request(words, tokens=tokens, **tools, **brain.thinking(False))
        offered: Required = {"Read": ("file_path",)}
        found.append(Calling(offered, (Tried(await brain.probe.chat(request)),)))
    return Forced(*found)


# Prompts


async def _system_messages(brain: Brain) -> Heard:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "system", "content": "Answer briefly."},
        _user("Hello!"),
        {"role": "assistant", "content": "Hello."},
        {"role": "system", "content": "The user is in a hurry."},
        _user("What is 2 + 2?"),
    ]
    return await brain.probe.chat(brain.request(messages, tokens=_HELLO_TOKENS, **brain.thinking(False)))


async def _repeated(brain: Brain) -> tuple[Heard, Heard]:
    nonce = "".join(code_word(brain.chance) for _ in range(4))
    lines = [f"Notes of the night watch {nonce}."]
    length = min(_PREFIX_LETTERS, 2 * (brain.facts.context or _PREFIX_LETTERS))
    while sum(map(len, lines)) < length:
        lines.append(f"{len(lines)}. At {len(lines) % 24} o'clock the gate was closed and the lamp burned quietly.")
    messages = [_user("\n".join([*lines, "Which lamp burned? Answer with one word."]))]
    request = brain.request(messages, tokens=8, **brain.thinking(False))
    return await brain.probe.chat(request), await brain.probe.chat(request)


_WORKS = ("answers",)

CHECKS: tuple[Check[Brain, Any], ...] = (
    Check("reachable", Brain.ask_for_models, judge_server.reachable),
    Check("key", _listing_and_hello, lambda facts, e: judge_server.key(facts, *e), ("reachable",)),
    Check("model", _ids_and_hello, lambda facts, e: judge_server.model(facts, *e), ("key",)),
    Check("answers", _answered, judge_server.answers, ("model",)),
    Check("context length", _room, judge_server.context, ("model",)),
    Check("streams", _streamed, lambda facts, e: judge_server.streams(facts, *e), _WORKS),
    Check("usage in stream", _answered, judge_server.usage, ("streams",)),
    Check("several system messages", _system_messages, judge_calls.system_messages, _WORKS),
    Check("thinking switch", _switched, judge_thinking.switch, _WORKS),
    Check("reasoning field", _the_same_answers, judge_thinking.reasoning, _WORKS),
    Check("tools", _tools, judge_calls.taken, ("streams",)),
    Check("tool call", _called_plainly, judge_calls.calls, ("tools",)),
    Check("tool call, thinking", _called_thinking, judge_calls.calls, ("tools",)),
    Check("tool call beside another tool", _called_beside, judge_calls.beside, ("tools",)),
    Check("two tool calls at once", _called_twice, judge_calls.two, ("tools",)),
    Check("tool result", _result, judge_calls.result, ("tools",)),
    Check("tool_choice", _forced, judge_calls.forced, ("tools",)),
    Check("prefix cache", _repeated, lambda facts, e: judge_calls.cache_reuse(facts, *e), _WORKS),
)
