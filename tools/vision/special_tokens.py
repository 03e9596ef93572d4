"""Text that a tokenizer would read as machinery is made plain text again.

Engines look for special tokens in the text of a request: `<|image_pad|>` typed by a user takes the place of the real
picture or brings the server down (CVE-2026-44222), `<|im_end|>` ends the turn, and llama.cpp counts
`<__media__>` against the pictures it was sent.  The same text arrives from a picture, when it is read out to the brain.

One space after the `<` is enough, since these tokens match as whole strings only.  A visible space and not a
zero-width character: some tokenizers drop those before they look for tokens, and the reader should see the change.
"""

from __future__ import annotations

import re

# <|name|> is the common shape (Qwen, GLM, Llama 3, Phi), <｜name｜> DeepSeek's; the rest are the markers by which
# single families (llama.cpp, LLaVA, InternVL, Gemma) find the place of a picture, or the end of a turn or a result.
# "<|" and "<|>" alone are operators in several languages and stay.
_SPECIAL = re.compile(
    r"<(?=[|｜][^\s<>|｜]{1,64}[|｜]>|__media__>|image>|IMG_CONTEXT>|image_soft_token>|start_of_image>|end_of_image>"
    r"|/?(?:tool_response|tool_call|start_of_turn|end_of_turn|s|bos|eos)>)"
)


def neutralise(text: str) -> str:
    """`text` without special tokens, and without lone surrogates, which no encoder takes.  Twice changes no more."""
    return _SPECIAL.sub("< ", text.encode("utf-8", "replace").decode("utf-8"))
