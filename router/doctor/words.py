"""A server's words, made fit to be shown."""

from __future__ import annotations

import re

import orjson

_LONGEST = 240
_LONG_BASE64 = re.compile(r"[A-Za-z0-9+/]{120,}={0,2}")


def cleaned(text: str, secrets: tuple[str, ...] = (), *, longest: int = _LONGEST) -> str:
    """In one line, without these secrets, picture data and control characters, and cut after that, or half a secret
    would remain."""
    for secret in secrets:
        for written in {secret, orjson.dumps(secret).decode()[1:-1]} - {""}:
            text = text.replace(written, "[key]")
    text = _LONG_BASE64.sub("[data]", text)
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def error_words(body: bytes) -> str:
    """`{"error": {"message"}}`, `{"error": "…"}`, `{"detail"}`, `{"message"}`, or plain text that is no web page."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body.decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else text
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(key):
            value = value[key]
    if isinstance(value, str):
        return value
    return orjson.dumps(value).decode() if value else ""
