"""Where images hide in a history, whatever its wire format, and taking them out.

Clients send them in more shapes than any specification has:

*   `image_url` parts (object or bare string), `input_image` parts, Anthropic `image` blocks with a `source`, MCP
    `image` blocks with `data` and `mimeType`, AI-SDK `media`, `file`, `file-data` and `image-data` parts;
*   the same as *text*: claude-code-router puts `JSON.stringify(blocks)` into a tool message, AI SDK the JSON of a
    tool output, MCP servers a JSON object with `content`;
*   data URLs in the middle of prose, of tool output, or of a tool call's arguments.

An image that stays where it is costs a text model hundreds of thousands of tokens or a 400, so the walk visits
every string of every message, whatever its role.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import orjson

Origin: TypeAlias = Literal["user", "tool", "url"]


@dataclass(frozen=True, slots=True)
class Base64Image:
    """`payload` is the base64 text (or a token of `router.protocol.cuts`)."""

    payload: str
    media_type: str


@dataclass(frozen=True, slots=True)
class RemoteImage:
    url: str


@dataclass(frozen=True, slots=True)
class FoundImage:
    """One image where it stands."""

    source: Base64Image | RemoteImage
    origin: Origin
    message: int
    """Index of its message."""
    inline: bool
    """It stands in the middle of a text, so what replaces it must be short and hold no quotes."""
    at: int | None = None
    """Its index in the content of a user message whose part it is; `None` wherever else it stands.  There alone every
    server that sees takes pixels."""


Say: TypeAlias = Callable[[FoundImage], str]

_LETTERS = (
    r"(?:[A-Za-z0-9+/_=-]+"
    r"|\\+/|\\+u00(?:2[bBfF]|3[dD])|%(?:2[bBfF]|3[dD])"  # what a second JSON encoder or a form makes of + / =
    r"|(?:\r?\n|\\+r\\+n|\\+n)(?=[A-Za-z0-9+/_-]{16}|[A-Za-z0-9+/_-]*=))+"  # folded lines, as `base64` prints them
)
"""A run of base64, however it was escaped and folded on its way.  Each alternative begins with another letter, so that
matching takes time in proportion to the text; a run of backslashes is never tried from its middle."""

_DATA_URL = re.compile(
    r"data:(?:(image\\*/[a-z0-9.+-]+)(?:;[a-z0-9=._-]+)*?)?;base64,(?:\r?\n|\\+n)?(" + _LETTERS + ")", re.IGNORECASE
)
_BARE_BASE64 = re.compile(
    r"(?:iVBORw0KGgo|(?<!\\)\\*/9j\\*/|R0lGOD|UklGR[A-Za-z0-9+/]{7}RUJQ|Qk[0-3][A-Za-z0-9+/]{5}AAAA|SUkqA|TU0AK)"
    + _LETTERS
)
"""PNG, JPEG, GIF, WEBP, BMP and TIFF begin so."""

_LEAST_URL = 40
"""Letters; a data URL with fewer is an example in somebody's code, no picture."""

_LEAST_BARE = 256
_BARE_SIGNS = ("iVBORw0KGgo", "/9j", "R0lGOD", "UklGR", "Qk", "SUkqA", "TU0AK")
_SAMPLE = 32
_SAMPLE_OF_RUN = re.compile(r"[A-Za-z0-9+/_=\-\\%\r\n]{32}")
"""Every letter of `_LETTERS`, however it is escaped.  A run of `_LEAST_BARE` of them covers one of the samples that are
taken so close; words have a space in nearly all of these, and looking for each of the signs takes ten times as long."""

_BLOCK_SIGNS = ("data:image/", '"image', '"input_image', '"mimeType"', '"mediaType"', '"media_type"', '"Buffer"')
"""A text that is the JSON of blocks with an image among them holds at least one of these."""

_OF_TOOLS = ("tool", "function")
_DEEPEST = 100
"""Nobody nests blocks as deep as this in earnest."""

MOST_INSIDE = 400_000
"""Lists and objects in the JSON that tools say, by its brackets: each costs some ten microseconds, in which nobody else
is served.  As many tokens are beyond the longest context, so that no conversation is lost by it."""


def replace_images(
    messages: list[Any],
    say: Say,
    token: str = "",
    *,
    flat_results: bool = True,
    only: Collection[int] | None = None,
) -> list[Any]:
    """The history with each image replaced by what `say` answers for it, asked in order of appearance.

    `token`: the word of `router.protocol.cuts`, whose tokens are images wherever they stand.  Messages without an
    image are the same objects; those with one are copies.  With `flat_results` tool messages that held one have plain
    text as content afterwards.  `only`: the indexes of the messages that are known to become others.
    """
    tokens = _tokens(token)
    return [
        message if only is not None and index not in only else _message(message, index, say, tokens, flat_results)
        for index, message in enumerate(messages)
    ]


def inside_json(messages: Sequence[Any]) -> int:
    """Lists and objects, about, in what tools say as JSON and may hold an image: `replace_images` walks all of it."""
    said = (one.get("content") for one in messages if isinstance(one, Mapping) and one.get("role") in _OF_TOOLS)
    return sum(text.count("{") + text.count("[") for text in said if isinstance(text, str) and _may_be_blocks(text))


def origin_of(messages: Sequence[Any], image: FoundImage) -> Origin:
    """Who put it there.  A person does not speak between a tool's result and the answer to it: there, a client or a
    router (claude-code-router, LiteLLM) has moved the result's images into a message of the user."""
    before = messages[image.message - 1] if image.message else None
    moved = isinstance(before, Mapping) and before.get("role") == "tool"
    return "tool" if moved and image.origin == "user" else image.origin


def without_pictures(value: Any, token: str = "") -> Any:
    """`value` with words in place of picture data: for what nobody could look at, such as an example in the
    description of a tool."""
    return _Walk("user", 0, lambda _: "[image data]", _tokens(token)).value(value)


def images_outside(request: Mapping[str, Any], token: str = "") -> str | None:
    """The name of the first field other than `messages` that holds picture data; nobody could look at it there."""
    for name, value in request.items():
        if name != "messages" and without_pictures(value, token) is not value:
            return name
    return None


def addresses_in(request: Mapping[str, Any]) -> str | None:
    """The name of the first field that would have a server with eyes fetch what a client names."""
    for name, value in request.items():
        waiting = [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, dict):
                if unseen(one) or isinstance(image_of(one), RemoteImage):
                    return name
                waiting += one.values()
            elif isinstance(one, list):
                waiting += one
    return None


class _Tokens:
    """The tokens of one request, in texts.  No pattern: the word is another in each request, and to compile one takes
    as long as to find the images of a short conversation."""

    def __init__(self, word: str) -> None:
        self._word = word

    def first(self, text: str, start: int = 0) -> tuple[int, int] | None:
        """Where the first one from `start` on begins and ends."""
        while (at := text.find(self._word, start)) >= 0:
            start = at + len(self._word)
            if (digits := _DIGITS.match(text, start)) is not None:
                return at, digits.end()
        return None

    def replaced(self, text: str, say: Callable[[str], str]) -> str:
        kept: list[str] = []
        at = 0
        while (found := self.first(text, at)) is not None:
            kept += (text[at : found[0]], say(text[found[0] : found[1]]))
            at = found[1]
        return "".join([*kept, text[at:]]) if kept else text


_DIGITS = re.compile(r"\d+")


def _tokens(token: str) -> _Tokens | None:
    return _Tokens(token) if token else None


def _message(message: Any, index: int, say: Say, tokens: _Tokens | None, flat_results: bool) -> Any:
    if not isinstance(message, dict):
        return message
    of_tool = message.get("role") in _OF_TOOLS
    walk = _Walk("tool" if of_tool else "user", index, say, tokens)
    of_result = walk.tool_content if flat_results else walk.result_content
    content = of_result if of_tool else walk.user_content if message.get("role") == "user" else walk.value
    new = {key: content(value) if key == "content" else walk.value(value) for key, value in message.items()}
    return message if all(new[key] is message[key] for key in new) else new


class _Walk:
    """One message's values; what holds no image comes back as the same object."""

    def __init__(self, origin: Origin, message: int, say: Say, tokens: _Tokens | None) -> None:
        self._origin = origin
        self._message = message
        self._say = say
        self._tokens = tokens

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            new = [self.value(item) for item in value]
            return new if any(a is not b for a, b in zip(new, value, strict=True)) else value
        if isinstance(value, dict):
            if unseen(value):
                return {"type": "text", "text": UNSEEN}
            source = image_of(value)
            if source is not None:
                return _text_for(value, self._say(self._found(source, inline=False)))
            other = self._other_data(value)
            fields = {self.text(key): item if item is other else self.value(item) for key, item in value.items()}
            return value if all(fields.get(key, fields) is item for key, item in value.items()) else fields
        return value

    def _other_data(self, part: Mapping[str, Any]) -> str | None:
        """The base64 of a file that says that it is no image and does not begin like one (Anthropic's documents).  It
        is left alone: one megabyte of base64 in sixteen holds the first letters of a JPEG."""
        media_type, data = part.get("media_type"), part.get("data")
        if part.get("type") != "base64" or not isinstance(media_type, str) or not isinstance(data, str):
            return None
        was_cut = self._tokens is not None and self._tokens.first(data) is not None
        is_image = (
            media_type.lower().startswith("image/") or data.lstrip().startswith(_BARE_SIGNS) or ";base64," in data
        )
        return None if was_cut or is_image else data

    def user_content(self, content: Any) -> Any:
        """The parts of the content keep their indexes."""
        if not isinstance(content, list):
            return self.value(content)
        new = [self._part(part, index) for index, part in enumerate(content)]
        return new if any(a is not b for a, b in zip(new, content, strict=True)) else content

    def _part(self, part: Any, index: int) -> Any:
        source = image_of(part) if isinstance(part, dict) else None
        if source is None:
            return self.value(part)
        return _text_for(part, self._say(self._found(source, inline=False, at=index)))

    def tool_content(self, content: Any) -> Any:
        """Always text afterwards, if there was an image: no template of Chat Completions knows what to do with anything
        else."""
        if isinstance(content, str):
            return self._tool_text(content)
        new = self.value(content)
        return content if new is content else _as_text(new)

    def result_content(self, content: Any) -> Any:
        """Parts stay parts."""
        return self._tool_text(content) if isinstance(content, str) else self.value(content)

    def _tool_text(self, text: str) -> str:
        if _may_be_blocks(text):
            try:
                parsed = orjson.loads(text)
            except orjson.JSONDecodeError:
                return self.text(text)
            if not isinstance(parsed, dict | list) or _deeper_than(_DEEPEST, parsed):
                return self.text(text)
            new = self.value(parsed)
            return text if new is parsed else _as_text(new)
        return self.text(text)

    def text(self, text: str) -> str:
        if ";" in text and (";base64," in text or ";BASE64," in text):
            text = _DATA_URL.sub(self._of_data_url, text)
        if len(text) > _LEAST_BARE and _has_long_run(text) and any(sign in text for sign in _BARE_SIGNS):
            text = _BARE_BASE64.sub(self._of_bare, text)
        if self._tokens is not None:
            text = self._tokens.replaced(text, lambda token: self._inline(token, ""))
        return text

    def _of_data_url(self, match: re.Match[str]) -> str:
        is_token = self._tokens is not None and self._tokens.first(match[2]) == (0, len(match[2]))
        is_image = match[1] is not None or match[2].lstrip("\\").startswith(_BARE_SIGNS)
        if not is_image or (len(match[2]) < _LEAST_URL and not is_token):
            return match[0]
        return self._inline(match[2], (match[1] or "").replace("\\", ""))

    def _of_bare(self, match: re.Match[str]) -> str:
        return match[0] if len(match[0]) < _LEAST_BARE else self._inline(match[0], "")

    def _inline(self, payload: str, media_type: str) -> str:
        return self._say(self._found(Base64Image(payload, media_type), inline=True))

    def _found(self, source: Base64Image | RemoteImage, *, inline: bool, at: int | None = None) -> FoundImage:
        origin: Origin = "url" if isinstance(source, RemoteImage) else self._origin
        return FoundImage(source, origin, self._message, inline, at)


def _may_be_blocks(text: str) -> bool:
    return text[:64].lstrip()[:1] in ("[", "{") and any(sign in text for sign in _BLOCK_SIGNS)


def _has_long_run(text: str) -> bool:
    """Whether there may be `_LEAST_BARE` letters of base64 in a row; never wrong where there are."""
    samples = range(0, len(text) - _SAMPLE + 1, _LEAST_BARE - _SAMPLE + 1)
    return any(_SAMPLE_OF_RUN.match(text, at) for at in samples)


def _text_for(part: Mapping[str, Any], text: str) -> dict[str, Any]:
    """What stands in the image's place; a cache mark, which clients set on the last part of a message, stays there."""
    mark = {"cache_control": part["cache_control"]} if "cache_control" in part else {}
    return {"type": "text", "text": text, **mark}


def _deeper_than(limit: int, value: Any) -> bool:
    """Asked before the walk, which is recursive, so that it never ends half way."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def image_of(part: Mapping[str, Any]) -> Base64Image | RemoteImage | None:
    """The image that a content part is, in any of the shapes above; `None` if it is none."""
    kind = part.get("type")
    match kind:
        case "image_url" | "input_image":
            url = part.get("image_url", part.get("url"))
            if isinstance(url, Mapping):
                url = url.get("url")
            return _of_url(url)
        case "image" | "media" | "file" | "file-data" | "image-data" | "image-url":
            pass
        case "input_file":
            data = part.get("file_data")
            return _of_url(data) if isinstance(data, str) and data.startswith("data:image/") else None
        case "Buffer":  # how Node writes bytes into JSON
            return _of_numbers(part.get("data"))
        case _:
            return _by_media_type(part)
    source = part.get("source")
    if isinstance(source, Mapping):
        if isinstance(source.get("data"), str):
            return _typed(source["data"], source.get("media_type"), certain=kind == "image")
        return _of_url(source.get("url")) if kind == "image" else None
    nested = part.get("file")
    if isinstance(nested, Mapping):
        data = nested.get("file_data")
        return _of_url(data) if isinstance(data, str) and data.startswith("data:image/") else None
    media_type = part.get("mimeType", part.get("mediaType", part.get("media_type", part.get("mime_type"))))
    for key in ("data", "image", "image_url", "url"):
        value = part.get(key)
        if isinstance(value, Mapping):
            value = value.get("url", value.get("data"))
        if isinstance(value, str) and value:
            if value.startswith(("data:", "http:", "https:")):
                certain = kind in ("image", "image-data", "image-url") or value.startswith("data:image/")
                is_image = certain or (isinstance(media_type, str) and media_type.startswith("image/"))
                return _of_url(value) if is_image else None
            return _typed(value, media_type, certain=kind in ("image", "image-data"))
    return Base64Image("", "") if kind == "image" else None


_BY_ADDRESS = ("video_url", "audio_url", "file_url")
_PERHAPS_BY_ADDRESS = {"input_file": "file_url", "computer_screenshot": "image_url"}
"""Types of parts that can bring it themselves too, and where each has its address."""

UNSEEN = "(Something that nobody here can open: a video, a sound or a file by its address.)"


def unseen(part: Mapping[str, Any]) -> bool:
    """Whether it would have the brain's server fetch what a client names, or load what a client computed."""
    kind = part.get("type")
    if not isinstance(kind, str):
        return False
    if kind == "image_embeds":
        return True
    if kind == "document":
        source = part.get("source")
        return isinstance(source, Mapping) and source.get("type") == "url"
    if kind in _PERHAPS_BY_ADDRESS:
        address = part.get(_PERHAPS_BY_ADDRESS[kind])
        return address is not None and not _brings_it(address)
    return kind in _BY_ADDRESS and not _brings_it(part.get(kind))


def _brings_it(address: object) -> bool:
    url = address.get("url") if isinstance(address, Mapping) else address
    return isinstance(url, str) and url[:5].lower() == "data:"


def _by_media_type(part: Mapping[str, Any]) -> Base64Image | None:
    """Whatever says that it is an image and brings data: MCP's `resource`, Gemini's `inlineData`, what will come."""
    media_type = next((part[key] for key in _MEDIA_TYPES if isinstance(part.get(key), str)), "")
    if not media_type.lower().startswith("image/"):
        return None
    for key in ("data", "blob", "bytes", "base64", "content", "url"):
        value = part.get(key)
        if isinstance(value, str) and len(value) >= _LEAST_URL and not value.startswith(("http:", "https:")):
            return Base64Image(_after_comma(value), media_type)
    return None


_MEDIA_TYPES = ("mimeType", "mediaType", "media_type", "mime_type", "contentType")


def _of_numbers(data: Any) -> Base64Image | None:
    if not isinstance(data, list) or data[:3] not in ([137, 80, 78], [255, 216, 255], [71, 73, 70], [82, 73, 70]):
        return None
    try:
        return Base64Image(base64.b64encode(bytes(data)).decode(), "")
    except (ValueError, TypeError):
        return None


def _typed(data: str, media_type: object, *, certain: bool) -> Base64Image | None:
    if isinstance(media_type, str) and media_type.startswith("image/"):
        return Base64Image(_after_comma(data), media_type)
    return Base64Image(_after_comma(data), "") if certain else None


def _after_comma(data: str) -> str:
    return data.partition(",")[2] if data.startswith("data:") else data


def _of_url(url: object) -> Base64Image | RemoteImage:
    if not isinstance(url, str):
        return Base64Image("", "")
    head, comma, payload = url.partition(",")
    if head[:5].lower() == "data:":
        media_type = head[5:].partition(";")[0]
        return Base64Image(payload if comma and ";base64" in head.lower() else "", media_type)
    return RemoteImage(url)


def _as_text(value: Any) -> str:
    """Blocks of text (which images now are) become the text itself, anything else stays JSON."""
    words: list[str] = []
    for block in value if isinstance(value, list) else [value]:
        text = block.get("text") if isinstance(block, dict) and block.get("type") == "text" else block
        if not isinstance(text, str):
            return orjson.dumps(value).decode()
        words.append(text)
    return "\n".join(words)
