"""Words as they count for being the same: composed accents (NFC), and one space for any white space.

Not NFKC, which would make one of "2" and "²", and not casefolded: both can be what a text is about.
"""

from __future__ import annotations

import unicodedata

_LONGEST_WORD = 64
"""Composing takes the square of a run of combining marks, and no word of any language is longer."""


def composed(text: str) -> str:
    words = text.split()
    if text.isascii():
        return " ".join(words)
    return " ".join(word if len(word) > _LONGEST_WORD else unicodedata.normalize("NFC", word) for word in words)
