"""The tools offered in one exchange: definitions out, calls in, failures into words."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from tools.call import ToolCall, ToolResult
from tools.definition import Tool, ToolDefinition

log = logging.getLogger("chiasm.tools")

LOOKS_AT_ONCE = 8
"""Of one request: the others wait here rather than in the line of the eyes."""

MOST_CALLS = 32
"""In one turn.  More is a brain in a loop, or one that should compare several images in one call."""


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or where the client has a tool of that name, one of ours that is still free: the client's wins."""
    if name not in taken:
        return name
    count = 1
    while (ours := f"chiasm_{name}" + (f"_{count}" if count > 1 else "")) in taken:
        count += 1
    return ours


async def _one_too_many(call: ToolCall) -> ToolResult:
    text = f"Only {MOST_CALLS} calls are run in one turn, and this was one too many. Call again if it is still needed."
    return ToolResult(call.id, text, failed=True)


class Toolbox:
    """Knows its tools by the names under which they are offered."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.definition.name: tool for tool in tools}

    @property
    def definitions(self) -> tuple[ToolDefinition, ...]:
        return tuple(tool.definition for tool in self._tools.values())

    async def call_all(self, calls: Sequence[ToolCall]) -> tuple[ToolResult, ...]:
        """Run them side by side, `LOOKS_AT_ONCE` at a time and `MOST_CALLS` in all; results in the calls' order.
        Cancelling cancels all of them."""
        at_once = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def run(call: ToolCall) -> ToolResult:
            async with at_once:
                return await self._call(call)

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(run(call) if at < MOST_CALLS else _one_too_many(call))
                for at, call in enumerate(calls)
            ]
        return tuple(task.result() for task in tasks)

    async def _call(self, call: ToolCall) -> ToolResult:
        try:
            return await self._tools[call.name].call(call)
        except Exception:
            # A fault of ours must not cost the client its answer; the brain is told, the log has the rest.
            log.exception("the tool %s failed", call.name)
            return ToolResult(call.id, f"{call.name} failed: an internal error of the image tool.", failed=True)
