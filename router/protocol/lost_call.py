"""A turn that ends well and says nothing, with our tools on offer, has most likely lost a call.

Streaming parsers of vLLM up to 0.22 drop one that arrives in a single piece; its whole-answer parser finds it.  So such
a turn is asked again, which is billed again.  It is not where the thoughts are the answer: some servers put all of it
there when thinking is off or the end of the thought was not found, and would do so again.
"""

from __future__ import annotations

import re

from router.protocol.turn import Turn

_LEAST_ANSWER = 80
"""Characters; a shorter last paragraph is more likely a plan."""

_ENDS_A_SENTENCE = re.compile(r"[.!?][\"')*_`]*$")
_PLANS = re.compile(
    r"(?i)\b(?:i|i'm|i'll|me|my|we|us|let's|user|need|should|must|will|going to|call|tools?|function|images?|pictures?|"
    r"screenshots?|photos?|look|see|view|inspect|check|analy[sz]e\w*)\b"
)
"""Words of someone who is about to look.  An answer may hold one, too, and is then asked for again in vain: a call that
stays lost costs the client its answer, a turn asked twice costs tokens."""


def may_have_lost_a_call(turn: Turn) -> bool:
    silent = not turn.calls and not turn.content.strip() and turn.finish in ("stop", "tool_calls")
    return silent and not _is_an_answer(turn.reasoning)


def _is_an_answer(thoughts: str) -> bool:
    """Whether the last paragraph of these thoughts reads like something said to somebody."""
    last = thoughts.rstrip().rpartition("\n\n")[2]
    return len(last) >= _LEAST_ANSWER and bool(_ENDS_A_SENTENCE.search(last)) and not _PLANS.search(last)
