"""Which calls are ours."""

from __future__ import annotations

from collections.abc import Collection

_LEAST_LETTERS = 6
"""A shorter name is near too many others."""


class OwnTools:
    """The tools offered in one exchange, by name; `of_client` are the client's, which are never claimed."""

    def __init__(self, names: Collection[str] = (), of_client: Collection[str] = ()) -> None:
        self.names = tuple(names)
        self._of_client = frozenset(of_client)
        self._plain = {_plain(name): name for name in names if len(_plain(name)) >= _LEAST_LETTERS}

    def claim(self, name: str) -> str | None:
        """The tool of ours that a call of `name` means; `None`: it is the client's affair.

        Speculative decoding and small models mangle names (`analyze_image`, `analyzeImage image="1"`).  A name that is
        neither ours nor one of the client's and begins like ours can mean nothing else; anything further away is left
        to the client, which can say that there is no such tool.
        """
        if name in self.names:
            return name
        if name in self._of_client:
            return None
        plain = _plain(name)
        return next((own for ours, own in self._plain.items() if plain.startswith(ours)), None)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
