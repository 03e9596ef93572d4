"""Why there is no image."""

from __future__ import annotations


class NotFetched(Exception):
    """`reason` is a few plain words, fit for a placeholder: nothing in it comes from a URL's query, from a server, or
    from the network that this machine is in."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
