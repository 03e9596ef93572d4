"""A tool as the brain is told of it, before a dialect gives it its wire form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tools.call import ToolCall, ToolResult


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    name: str
    description: str
    parameters: Mapping[str, Any]
    """A JSON schema; every parameter is a string, because strings stream whole through every parser, while arrays and
    numbers are converted by schema and break."""


class Tool(Protocol):
    """One thing that the brain can ask for."""

    definition: ToolDefinition

    async def call(self, call: ToolCall) -> ToolResult:
        """Do it.  Never raises but for cancellation: a failure is words in the result."""
