"""How errors look in Messages: `{"type": "error", "error": {"type", "message"}}`."""

from __future__ import annotations

from typing import Any

from router.errors import ChiasmError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""By status.  Clients decide by them whether to ask again."""

_PASSING = ("429", "503", "529")
"""What a server says inside its stream and soon takes back.  Other codes there are its faults, whatever it calls them:
vLLM says 400 for the exceptions of its parsers."""

STATUSES = {type_: status for status, type_ in TYPES.items()}


def error_body(error: ChiasmError) -> dict[str, Any]:
    """The words stay the server's own: Claude Code reads the numbers in "input length and `max_tokens` exceed …"."""
    type_ = TYPES.get(int(error.code)) if error.code in _PASSING else TYPES.get(error.status)
    type_ = type_ or ("invalid_request_error" if 400 <= error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": type_, "message": error.message}}
