"""What can go wrong here beside what goes wrong everywhere (`router.errors`)."""

from __future__ import annotations

from router.errors import ChiasmError, RequestError


class NotFound(RequestError):
    """There is no such conversation or image, or there is none any more."""

    status = 404
    code = "not_found"


class Conflict(RequestError):
    """It is there, but not so that this can be done with it."""

    status = 409
    code = "conflict"


class StoreFailed(ChiasmError):
    """Nothing was done, or not all of it; to be asked again."""

    status = 503
    code = "store_unavailable"


class EyesFailed(ChiasmError):
    status = 502
    type = "upstream_error"
    code = "eyes_failed"
