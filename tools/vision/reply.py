"""Reading what a vision server answered, whatever exactly it is.

An answer is a Chat Completions object by name only.  `content` is a string, a list of parts or null; thoughts come in
`reasoning` or `reasoning_content`, or, from a server without a reasoning parser, inside the content: as
`<think>…</think>`, or only up to `</think>`, because Qwen's template has already written the opening tag into the
prompt.  A model that runs into its limit may have said nothing at all, or the same line a hundred times.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from tools.call import VisionUsage
from tools.vision.backend import VisionError
from tools.vision.special_tokens import neutralise

LOOP_WINDOW = 8000
"""Characters at the end of an answer that are searched for a loop."""

LOOP_LEAST = 160
"""Characters that have to be repetition before it counts as a loop: a ruler of dashes stays."""

_MOST_TOKENS = 2**40
"""A larger count is none; JSON has room for 64 bits when several are added up."""

LOOP_TIMES = 4
"""How often a piece must come again."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said, thoughts removed; `text` may be empty.  `cut` and `looped` say that it did not end there;
    `ended`, that it ended by itself, rather than at a limit, a filter or a fault."""

    text: str
    cut: bool
    looped: bool
    refusal: str
    usage: VisionUsage
    ended: bool = True


def read_reply(payload: bytes, media_type: str) -> Reply | None:
    """`None` for JSON that holds no answer, such as an error sent with status 200; `VisionError` for anything else."""
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        kind = media_type if media_type.isascii() and len(media_type) < 40 else ""
        raise VisionError(
            f"The vision model's answer is not JSON{f' but {kind}' if kind and 'json' not in kind else ''}.",
            retryable=True,
        ) from error
    choices = body.get("choices") if isinstance(body, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(message, dict):
        return None
    content = _text(message.get("content"))
    # Where the server has parsed the thoughts out, a "</think>" in the content is something that was read.
    parsed = any(_text(message.get(key)).strip() for key in ("reasoning", "reasoning_content"))
    text = neutralise(content if parsed else _without_thoughts(content)).strip()
    finish = first.get("finish_reason")
    cut = finish == "length"
    # A loop never ends by itself.  A model that stopped of its own accord has seen what it repeats: a log, a table.
    kept = _without_loop(text) if cut else text
    refusal = _text(message.get("refusal")).strip()
    return Reply(kept, cut, len(kept) < len(text), refusal, _usage(body), ended=finish in ("stop", None))


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text(part.get("text")) if isinstance(part, dict) else _text(part) for part in content)
    return ""


def _without_thoughts(text: str) -> str:
    opened = text.lstrip().startswith("<think>")
    before, closed, after = text.partition("</think>")
    if closed:
        return after
    return "" if opened else before


def _without_loop(text: str) -> str:
    """`text` up to and with the first round of a loop at its end.

    The shortest period of the end is looked for by the Z function of the reversed text: `same[p]` is how far the text,
    read backwards, agrees with itself shifted by `p`, so the loop of period `p` is `p + same[p]` characters long.
    """
    backwards = text[: -LOOP_WINDOW - 1 : -1]
    size = len(backwards)
    same = [0] * size
    left = right = 0
    for p in range(1, size):
        length = min(right - p, same[p - left]) if p < right else 0
        while p + length < size and backwards[length] == backwards[p + length]:
            length += 1
        same[p] = length
        if p + length > right:
            left, right = p, p + length
        if length >= LOOP_TIMES * p and length >= LOOP_LEAST:
            return text[: len(text) - length].rstrip()
    return text


def _usage(body: dict[str, object]) -> VisionUsage:
    usage = body.get("usage")
    found = usage if isinstance(usage, dict) else {}
    return VisionUsage(1, _count(found.get("prompt_tokens")), _count(found.get("completion_tokens")))


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST_TOKENS else 0
