"""What one request brought back, as it was: the evidence that judges read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Fault = Literal["", "unreachable", "silent", "stalled", "broke", "packed"]
"""How an answer failed to come, beside a status: nobody listens; no first event in time; it went quiet; the connection
broke; its body is compressed although that was not asked for."""


@dataclass(frozen=True, slots=True)
class HeardCall:
    name: str
    arguments: str
    """The text of the wire, all fragments joined."""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """A completion, or why there is none.  Times in seconds since the request was sent."""

    status: int = 0
    """0: no answer."""
    fault: Fault = ""
    words: str = ""
    """Of a refusal, cleaned."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    text: str = ""
    reasoning: str = ""
    reasoning_fields: frozenset[str] = frozenset()
    calls: tuple[HeardCall, ...] = ()
    finishes: tuple[str, ...] = ()
    usage: Mapping[str, Any] | None = None
    cached: int | None = None
    """Prompt tokens that the server had from before, where it tells."""
    error: str = ""
    """Words of an error inside the stream."""
    done: bool = False
    """It ended as its format says: `[DONE]`, or one whole object."""
    arrivals: tuple[float, ...] = ()
    """When each event that said something came."""
    seconds: float = 0.0
    left_out: frozenset[str] = frozenset()
    """Fields that the server refused and was asked again without."""
    ids: frozenset[str] = frozenset()
    """`id` of its chunks."""
    first: Mapping[str, Any] = field(default_factory=dict)
    """Its first object, by which engines can be told."""

    @property
    def answered(self) -> bool:
        return 200 <= self.status < 300 and not self.fault and not self.error

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def prompt_tokens(self) -> int:
        return self._counted("prompt_tokens")

    @property
    def completion_tokens(self) -> int:
        return self._counted("completion_tokens")

    @property
    def cut_at_limit(self) -> bool:
        return "length" in self.finishes

    @property
    def why(self) -> str:
        """In a few words, why there is no whole answer."""
        if self.fault:
            return {
                "unreachable": "nobody answers there",
                "silent": f"no word within {self.seconds:.0f} s",
                "stalled": f"the answer stopped in its middle ({self.seconds:.0f} s)",
                "broke": "the connection broke in the middle of the answer",
                "packed": "the answer is compressed, which was not asked for",
            }[self.fault]
        if self.error:
            return f"an error in the stream: {self.error}"
        return f"HTTP {self.status}{f': {self.words}' if self.words else ''}"

    def _counted(self, name: str) -> int:
        value = (self.usage or {}).get(name)
        return value if isinstance(value, int) else 0


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to a GET."""

    status: int = 0
    fault: Fault = ""
    words: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    """`None` where the body is not JSON."""
    seconds: float = 0.0
