"""What can go wrong, whose fault it is, and how the client is told.

    ChiasmError
    ├── RequestError            the client's: 4xx, before anything was asked upstream
    │   ├── BadRequest          400
    │   ├── Unauthorized        401
    │   ├── Forbidden           403
    │   ├── UnknownModel        404 model_not_found
    │   ├── NoSuchPath          404
    │   ├── NotAllowed          405
    │   ├── BodyTooLarge        413
    │   ├── BodyTooSlow         408
    │   ├── HeadTooSlow         408
    │   └── HeadTooLarge        431
    ├── UpstreamError           the brain's server's
    │   ├── UpstreamRefused     its own 4xx or 429: status and words kept
    │   ├── UpstreamBroken      502: unreachable, its 5xx, cut off, garbled, an error in its stream
    │   └── UpstreamSilent      504: nothing within the time allowed
    ├── Overloaded              503: ours, soon over
    │   └── TooManyBodies
    └── ShuttingDown            503: ours

An error is turned into a response in one place, at the border (`router.door`): before the stream began as
a status and a body, afterwards as one event and `[DONE]`.  A stream that failed never ends as if it had not:
SDKs take a clean end without a finish reason for success.
"""

from __future__ import annotations

from typing import ClassVar


class ChiasmError(Exception):
    """`str(error)` is a sentence for the client; it never holds keys, prompts or picture data."""

    status: int = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    retry_after: float | None = None

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status or self.status
        self.code = code or self.code
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        """Errors are values in actions and events, so that playbooks can compare them."""
        return (
            type(self) is type(other)
            and isinstance(other, ChiasmError)
            and (self.args, self.status, self.code) == (other.args, other.status, other.code)
        )

    def __hash__(self) -> int:
        return hash((type(self), self.args, self.status, self.code))


class RequestError(ChiasmError):
    status = 400
    type = "invalid_request_error"


class BadRequest(RequestError):
    """The body is not what the endpoint takes; `param` names the place."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Unauthorized(RequestError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(RequestError):
    status = 403
    type = "permission_error"
    code = "foreign_origin"


class UnknownModel(RequestError):
    status = 404
    code = "model_not_found"


class NoSuchPath(RequestError):
    status = 404
    code = "not_found"


class NotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"


class BodyTooLarge(RequestError):
    status = 413
    code = "request_too_large"


class BodyEncoded(RequestError):
    status = 415
    code = "unsupported_content_encoding"


class BodyTooSlow(RequestError):
    status = 408
    code = "request_timeout"


class HeadTooSlow(RequestError):
    status = 408
    code = "request_timeout"


class HeadTooLarge(RequestError):
    status = 431
    code = "headers_too_large"


class UpstreamError(ChiasmError):
    status = 502
    type = "upstream_error"


class UpstreamRefused(UpstreamError):
    """The server's own 4xx: its status and words stand, because clients read them (context length, rate limits)."""

    status = 400
    code = "upstream_refused"


class UpstreamBroken(UpstreamError):
    code = "upstream_error"


class UpstreamSilent(UpstreamError):
    status = 504
    code = "upstream_timeout"


class Overloaded(ChiasmError):
    """More than we take at once; always says when to try again."""

    status = 503
    code = "overloaded"


class TooManyBodies(Overloaded):
    """The client may still be sending."""


class ShuttingDown(ChiasmError):
    status = 503
    code = "server_shutdown"
