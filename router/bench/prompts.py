"""Prompts of a given number of tokens that no prefix cache knows.

A prompt is ordinary words in a random order, pads to hit the number, and a question.  The order is drawn anew for each
prompt, so that two of them have nothing in common but the chat template's head.  Tokenizers cut words at their spaces,
so another order of the same words has nearly always the same length; the count of each prompt is checked all the same.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import floor
from typing import Final, TypeAlias

Counter: TypeAlias = Callable[[str], Awaitable[int]]
"""Tokens of a conversation that is this one user message, chat template included."""

COUNT_ON: Final = "Count upwards from one in words, one after the other, and never stop."

_WORDS: Final = tuple(
    """
    apple river stone cloud green house light paper music water bread chair table horse night morning garden window
    summer winter yellow silver letter number bottle mountain forest island market street bridge engine doctor
    kitchen button pencil basket carpet ladder mirror pocket ribbon saddle tunnel valley wagon harbor meadow
    """.split()  # noqa: SIM905 (words read better than quotes)
)

_TRIES: Final = 12
_PER_WORD: Final = 1.3
"""Tokens, before anything is known of a tokenizer."""

_FEWER, _MORE = -16, 1024
"""Tokens by which usage may differ from a count: an end that is not counted, and a template with a long preamble."""

_FRAME: Final = 24
"""Tokens of question and template, likewise."""


@dataclass(frozen=True, slots=True)
class Prompt:
    text: str
    tokens: int
    """As counted, or as estimated."""
    exact: bool
    """It was counted, and is what was wanted."""


class Composer:
    """`counter`: of the server whose tokens are meant; `None`: lengths are estimated, from `learn` as soon as that was
    told."""

    def __init__(self, counter: Counter | None, chance: random.Random) -> None:
        self._counter = counter
        self._chance = chance
        self._per_word = _PER_WORD
        self._frame = float(_FRAME)
        self._offset = 0
        self._shapes: dict[tuple[int, str], tuple[int, int]] = {}
        """Words and pads that made a length last time."""

    @property
    def counts(self) -> bool:
        return self._counter is not None

    def learn(self, prompt: Prompt, prompt_tokens: int) -> bool:
        """The server's usage for a prompt.  A little more than the count is a template that the count leaves out.

        Says whether the two can be of the same prompt: a server that cuts prompts tells far fewer.
        """
        if not prompt_tokens:
            return True
        if self._counter is None:
            words = len(prompt.text.split())
            self._per_word, self._frame = max(0.2, (prompt_tokens - _FRAME) / words), float(_FRAME)
        elif _FEWER <= prompt_tokens - prompt.tokens <= _MORE:
            self._offset += prompt_tokens - prompt.tokens
        else:
            return False
        self._shapes.clear()
        return True

    async def prompt(self, tokens: int, question: str = COUNT_ON, *, planted: str = "", depth: float = 0.0) -> Prompt:
        """`planted`: a sentence that stands at `depth` (0 to 1) of the words."""
        key = (tokens, question if not planted else f"{question}\0{depth}")
        words, pads = self._shapes.get(key, (max(1, round((tokens - self._frame) / self._per_word)), 0))
        drawn = self._drawn(words)
        if self._counter is None:
            return Prompt(_text(drawn, 0, question, planted, depth), tokens, exact=False)
        nearest: tuple[int, Prompt] | None = None
        for _ in range(_TRIES):
            text = _text(drawn, pads, question, planted, depth)
            counted = await self._counter(text) + self._offset
            missing = tokens - counted
            if nearest is None or abs(missing) < nearest[0]:
                nearest = (abs(missing), Prompt(text, counted, exact=missing == 0))
            if missing == 0:
                self._shapes[key] = (len(drawn), pads)
                break
            if -pads <= missing <= max(8, 2 * self._per_word):
                pads += missing
                continue
            # The first count tells how long this tokenizer's words are; the frame is small beside them.
            if len(drawn) >= _FRAME:
                self._per_word = max(0.2, (counted - pads - self._frame) / len(drawn))
            wanted = max(0, len(drawn) + floor((missing + pads) / self._per_word))
            pads = 0
            if wanted == len(drawn) == 0:
                break
            drawn = drawn[:wanted] + self._drawn(wanted - len(drawn))
        assert nearest is not None
        return nearest[1]

    def _drawn(self, number: int) -> list[str]:
        """Every word as often as every other, so that lengths agree."""
        if number <= 0:
            return []
        words = [_WORDS[place % len(_WORDS)] for place in range(number)]
        self._chance.shuffle(words)
        return words


def _text(words: Sequence[str], pads: int, question: str, planted: str, depth: float) -> str:
    place = round(depth * len(words))
    before, after = " ".join(words[:place]), " ".join(words[place:])
    tail = " ." * pads
    body = f"{before}\n{planted}\n{after}{tail}" if planted else f"{before}{after}{tail}"
    return f"{body}\n\n{question}"
