"""Text that a tokenizer would read as machinery is made plain text again.

Engines look for special tokens in the text of a request: `<|image_pad|>` typed by a user takes the place of the real
picture or brings the server down (CVE-2026-44222), `<|im_end|>` ends the turn, a `</think>` that somebody wrote on a
wall can end the model's thoughts for the server's parser, and llama.cpp counts `<__media__>` against the pictures it
was sent.  The same text arrives from a picture, when it is read out to the brain.

One space after the first character is enough, since these tokens match as whole strings only.  A visible space and not
a zero-width character: some tokenizers drop those before they look for tokens, and the reader should see the change.
"""

from __future__ import annotations

import re

_BARS = r"[|｜]"

# Alternatives by the first character; what follows it is looked at and stays.  "<|" and "<|>" alone are operators in
# several languages and stay.
_SPECIAL = re.compile(
    # <|name|> is the common shape (Qwen, GLM, Kimi, Llama 3, Phi), <｜name｜> DeepSeek's, <|name> and <name|> Gemma's.
    rf"<(?={_BARS}[^\s<>|｜]{{1,64}}{_BARS}>|\|[a-z_]{{1,32}}>|[a-z_]{{1,32}}\|>"
    # Where a family (llama.cpp, LLaVA, InternVL, Gemma) finds the place of a picture.
    r"|__media__>|/?(?:image|img|video|audio)>|IMG_CONTEXT>|image_soft_token>|start_of_image>|end_of_image>"
    # Turns, thoughts, calls and results as words in angle brackets (Qwen, GLM, Gemma, MiniMax and others).
    r"|/?(?:think|tool_response|tool_call|tools|arg_key|arg_value|start_of_turn|end_of_turn|minimax:tool_call)>"
    r"|/?(?:s|bos|eos|pad|unk|sop|eop)>)"
    # DeepSeek's marker of calls is a token without its brackets.
    r"|[|｜](?=DSML[|｜])"
    # Mistral's and GLM's in square brackets, MiniMax' in odd ones.
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK|IMG|IMG_BREAK|IMG_END"
    r"|gMASK|sMASK)\]|e~\[)|\](?=~!?b[\[\]])"
)


def neutralise(text: str) -> str:
    """`text` without special tokens, and without lone surrogates, which no encoder takes.  Twice changes no more."""
    return _SPECIAL.sub(lambda match: f"{match[0]} ", text.encode("utf-8", "replace").decode("utf-8"))
