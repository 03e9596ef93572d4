"""What a server said when it refused, made short and harmless enough to be shown to the brain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import orjson

from tools.vision.special_tokens import neutralise

MAX_WORDS = 300
"""Characters.  What went wrong stands at the beginning; behind it come stack traces and echoes of the request."""

_PICTURE = re.compile(r"data:[^\s\"']{16,}|[A-Za-z0-9+/_=-]{64,}")
_KEY = re.compile(r"(?i)\bbearer\s+\S+|\b(?:sk|pk|api|key)-[A-Za-z0-9_-]{8,}")
_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,20}://\S+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[[0-9a-fA-F:]*:[0-9a-fA-F:.]*\](?::\d+)?"
)
_SPACE = re.compile(r"[\s\x00-\x1f\x7f]+")


def server_words(payload: bytes, *, secrets: Iterable[str] = ()) -> str:
    """The message of an error body in any of the shapes that servers use, or "" where there is none to show.

    Understood: `{"error": {"message"}}`, `{"error": "…"}`, `{"detail": "…"}`, `{"detail": [{"msg"}]}`,
    `{"message": "…"}` and plain text.  `secrets` (key, host) are struck out wherever they appear, and so are picture
    data, other keys and addresses.
    """
    words = _found(payload)
    for secret in secrets:
        if secret:
            words = words.replace(secret, "…")
    for pattern in (_PICTURE, _KEY, _ADDRESS):
        words = pattern.sub("…", words)
    words = neutralise(_SPACE.sub(" ", words)).strip()
    return words if len(words) <= MAX_WORDS else words[: MAX_WORDS - 1] + "…"


def complaint(payload: bytes) -> str:
    """What an error body says and which field it says it about, for our eyes only.

    Not the whole body: pydantic's errors echo the request, in which every field has a name.
    """
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload[:500].decode("utf-8", "replace")
    return " ".join([_message(body), *_places(body)])


def _places(body: object) -> Iterator[str]:
    """`param` as OpenAI names the field, `loc` as pydantic does."""
    if isinstance(body, list):
        for item in body:
            yield from _places(item)
    if isinstance(body, dict):
        yield from _places(body.get("error"))
        yield from _places(body.get("detail"))
        if isinstance(body.get("param"), str):
            yield body["param"]
        if isinstance(body.get("loc"), list):
            yield from (str(step) for step in body["loc"])


def _found(payload: bytes) -> str:
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        text = payload[:4096].decode("utf-8", "replace")
        # A page made for a browser, from some gateway in between: its status says more than its markup.
        return "" if text.lstrip()[:1] == "<" else text
    return _message(body)


def _message(body: object) -> str:
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return "; ".join(filter(None, (_message(item) for item in body[:3])))
    if isinstance(body, dict):
        for key in ("error", "detail", "message", "msg"):
            words = _message(body.get(key))
            if words:
                return words
    return ""
