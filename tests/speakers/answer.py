"""What a client has read, whatever it was written in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Call:
    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    """Names are those of Chat Completions."""

    id: str = ""
    created: int = 0
    model: str = ""
    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    finish: str | None = None
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    order: list[str] = field(default_factory=list)
    """Kinds of what came, runs of one kind told once: "reasoning", "text", "call 0", …"""
    others: list[dict[str, Any]] = field(default_factory=list)
    """Chunks of other choices."""

    def came(self, kind: str) -> None:
        if self.order[-1:] != [kind]:
            assert kind.startswith("call") or not self.calls, "no words after the first call"
            self.order.append(kind)


def check_error(error: Any) -> dict[str, Any]:
    """An error as everybody here speaks of it."""
    assert isinstance(error, dict), error
    assert error.keys() == {"message", "type", "param", "code"}, error
    assert error["message"]
    assert error["type"]
    return dict(error)
