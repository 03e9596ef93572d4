"""What somebody may have meant who wrote a word that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that is most like `word` in any letter case; `None` if none is like it."""
    return next(iter(difflib.get_close_matches(word.lower(), list(words), n=1)), None)
