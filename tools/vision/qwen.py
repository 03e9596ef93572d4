"""Eyes of the Qwen3-VL and Qwen3.5 families: what they want beyond plain Chat Completions.

* The thinking switch is always sent, because its default differs by size (off for 0.8B and 2B, on from 4B up).
* Sampling is the model cards' with one change: they set `presence_penalty` 1.5 when not thinking, which works against
  copying what repeats (tables, logs).  Here it is 0, and the temperature lower than the cards' 0.7, because looks are
  mostly reading; the loops that the penalty is there to prevent are caught by `max_tokens` and by `reply`.
* One token sees 32 x 32 pixels.  A picture above 4096 tokens is scaled by us, once and to multiples of 32, so that the
  server's `smart_resize` finds nothing to do: per-request limits are refused by vLLM and unknown elsewhere, and
  llama.cpp caps at the same number.  1080p and 1440p pass untouched.
* A side below 32 makes older preprocessors fail, and a ratio above 200 all of them.
"""

from __future__ import annotations

from tools.vision.openai import EyesProfile

_COMMON = {"top_k": 20, "min_p": 0, "presence_penalty": 0}

QWEN = EyesProfile(
    family="qwen",
    max_pixels=4096 * 32 * 32,
    min_side=32,
    side_multiple=32,
    answering={"temperature": 0.2, "top_p": 0.8, **_COMMON},
    thinking={"temperature": 0.6, "top_p": 0.95, **_COMMON},
    switch={on: {"chat_template_kwargs": {"enable_thinking": on}} for on in (True, False)},
)
