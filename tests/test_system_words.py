"""What the system says in the middle of a history, for templates that take it only at the head."""

from __future__ import annotations

import time
from typing import Any

import pytest

from router.protocol.system_words import one_system_message


def system(words: str) -> dict[str, Any]:
    return {"role": "system", "content": words}


def reminder(words: str) -> str:
    return f"<system-reminder>\n{words}\n</system-reminder>"


def test_several_behind_each_other_join_what_stands_before_them_in_their_order() -> None:
    plain = {"role": "user", "content": "Hi."}
    parts = {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "12 degrees"}]}
    messages = one_system_message([plain, system("a"), system("b"), parts, system("c"), system("d")])
    assert messages == [
        {"role": "user", "content": f"Hi.\n\n{reminder('a')}\n\n{reminder('b')}"},
        {**parts, "content": [*parts["content"], *({"type": "text", "text": f"\n\n{reminder(one)}"} for one in "cd")]},
    ]
    said = {"role": "assistant", "content": "So."}
    assert one_system_message([said, system("a"), system("b"), plain]) == [
        said,
        {"role": "user", "content": f"{reminder('a')}\n\n{reminder('b')}\n\nHi."},
    ]


@pytest.mark.parametrize("content", ["Hi.", [{"type": "text", "text": "Hi."}]], ids=["text", "parts"])
def test_a_history_of_nothing_else_takes_time_in_proportion_to_its_length(content: Any) -> None:
    """It is done on the event loop, where it would hold up everybody."""
    messages = [{"role": "user", "content": content}, *(system("x" * 600) for _ in range(20_000))]
    begun = time.process_time()
    assert len(one_system_message(messages)) == 1
    assert time.process_time() - begun < 5  # a square would take a minute
