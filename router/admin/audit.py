"""Who did what, one JSON line each: who, which conversation and image, when, and how it ended.

Never a task, an answer, a file name or a key.  The lines go to the logger `chiasm.audit`, to be sent wherever they have
to be kept.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import orjson

from router.log_lines import Fields

log = logging.getLogger("chiasm.audit")


class _Line(Fields):
    """In a log of objects its names are names there too."""

    def __str__(self) -> str:
        return orjson.dumps(self).decode()


def note(
    who: str,
    action: str,
    outcome: str,
    *,
    request_id: str,
    conversation: str | None = None,
    number: int | None = None,
) -> None:
    """`outcome`: `done`, or the code of the error."""
    line = _Line(
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        who=who,
        action=action,
        conversation=conversation,
        image=number,
        outcome=outcome,
        request_id=request_id,
    )
    log.info("%s", line)
