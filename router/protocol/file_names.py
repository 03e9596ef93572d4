"""What the client calls an image: a file name, for the image table, so that "the login page" finds its number.

Nothing in a request says it in one way.  Four places are looked at, the surest first:

1.  the image's own part, or one around it that holds no other image: `filename`, `name`, `path`, `uri` …;
2.  words that end where the image begins: Codex writes `<image name=[Image #1] path="/tmp/a.png">` before it, Markdown
    `![a.png](data:…`;
3.  words in the same message in a form that clients use: `[Image: source: /tmp/a.png]` of Claude Code (it may also
    send them as a message of their own behind the image), `"filePath": "/tmp/a.png"` of OpenCode, Markdown images,
    `@a.png`, Codex' list of files; in a tool's result any file name of an image ("saved it as page-1.png");
4.  the arguments of the call that a tool message answers (`{"file_path": "/tmp/a.png"}`), or of the calls just before
    a message into which their images were moved.

The last two say names but not of which image.  They count only where there are as many names as images without one;
else the images stay nameless, for a wrong name is worse than none.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

from router.protocol.image_parts import Base64Image, FoundImage, RemoteImage, image_of

_LONGEST_NAME = 60
_NEAR = 4_000
"""Characters at the beginning and at the end of a text in which names are looked for."""
_DEEPEST = 100

_NO_WORDS = ("role", "type", "id", "tool_call_id")
_NAME_FIELDS = ("filename", "file_name", "fileName", "file_path", "filePath", "path", "uri", "name", "title")
_ARGUMENTS = (
    *_NAME_FIELDS,
    *("absolute_path", "absolutePath", "target_file", "file", "files", "paths", "image", "images"),
    *("image_path", "imagePath", "output", "output_path", "outputPath", "savePath"),
)

_IMAGE_EXTENSION = r"\.(?:png|jpe?g|gif|webp|bmp|tiff?|avif|heic|svg)"
_ENDS_AS_IMAGE = re.compile(_IMAGE_EXTENSION + r"\Z", re.IGNORECASE)
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}\Z")

_JUST_BEFORE = (
    re.compile(r"""<image\b[^<>]{0,400}?\bpath=(?:"([^"<>\n]{1,1000})"|'([^'<>\n]{1,1000})')[^<>]{0,100}>\s*\Z"""),
    re.compile(r"!\[([^\[\]\n]{1,200})\]\((?:data:[^()\s]{0,100})?\Z"),
)
_FORMS = (
    re.compile(r"\[Image: source: ([^\[\]\n]{1,1000}?)(?:, (?:original|displayed) [^\[\]\n]{0,300})?\]"),
    re.compile(r"""<image\b[^<>]{0,400}?\bpath=["']([^"'<>\n]{1,1000})["']"""),
    re.compile(r'"(?:file_?path|path|file_?name)"\s?:\s?"([^"\n]{1,1000})"', re.IGNORECASE),
    re.compile(r"!\[[^\[\]\n]{0,200}\]\(<?([^()<>\n]{1,1000})>?\)"),
    re.compile(r"^## ([^\n]{1,200}?" + _IMAGE_EXTENSION + "):", re.IGNORECASE | re.MULTILINE),
    re.compile(r"@(?<![\w.]@)([^\s\"'`<>|@]{1,300}?" + _IMAGE_EXTENSION + r")(?![\w.])", re.IGNORECASE),
)
_SOURCES_ONLY = re.compile(r"(?:\s*\[Image: [^\[\]\n]{1,1500}\])+\s*")
_MENTION = re.compile(_IMAGE_EXTENSION + r"(?![\w])", re.IGNORECASE)
_AROUND_MENTION = re.compile(r"[\s\"'`<>|()\[\]{}=,;]")
_MOVED = re.compile(r"\btool\b", re.IGNORECASE)


def file_names(messages: Sequence[Any], found: Sequence[FoundImage]) -> list[str]:
    """For each image found in `messages`, in their order, its file name without a path; empty where nothing certain is
    said.  The words are the client's, or whoever's gave the file its name: of one line, and otherwise not to be
    trusted."""
    names: list[str] = []
    calls = _CallsBefore(messages)
    for index, group in groupby(found, key=lambda image: image.message):
        images = list(group)
        said = _Said(images)
        said.walk(messages[index])
        names += said.names(messages, index, calls) if said.all_found() else [""] * len(images)
    return names


@dataclass(slots=True)
class _Place:
    """An image where it stands."""

    before: str
    """The text just before it."""
    name: str = ""


class _Said:
    """What one message says, and where its images stand in it."""

    def __init__(self, images: Iterable[FoundImage]) -> None:
        self._awaited = deque(images)
        self._astray = False
        self._places: list[_Place] = []
        self._texts: list[str] = []

    def all_found(self) -> bool:
        return not self._awaited and not self._astray

    # Walking it in the order in which images were found

    def walk(self, message: Any) -> None:
        of_tool = isinstance(message, Mapping) and message.get("role") in ("tool", "function")
        for key, value in message.items() if isinstance(message, Mapping) else ():
            if key not in _NO_WORDS:
                self._value(_parsed(value) if of_tool and key == "content" else value, 0)

    def _value(self, value: Any, depth: int) -> None:
        if isinstance(value, str):
            self._text(value)
        elif depth > _DEEPEST:
            self._astray = True
        elif isinstance(value, list):
            for item in value:
                self._value(item, depth + 1)
        elif isinstance(value, Mapping):
            self._part(value, depth)

    def _part(self, part: Mapping[str, Any], depth: int) -> None:
        if (source := image_of(part)) is not None:
            if self._awaited and not self._awaited.popleft().inline:
                self._place(_own_name(part, source))
            else:
                self._astray = True
            return
        first = len(self._places)
        for key, item in part.items():
            if key not in _NO_WORDS:
                self._value(item, depth + 1)
        inside = self._places[first:]
        if len(inside) == 1 and not inside[0].name:
            inside[0].name = _named(part)

    def _text(self, text: str) -> None:
        while self._awaited and self._awaited[0].inline:
            source = self._awaited[0].source
            payload = source.payload if isinstance(source, Base64Image) else source.url
            before, standing, after = text.partition(payload)
            if not standing or not payload:
                break
            self._awaited.popleft()
            self._texts.append(before)
            self._place("")
            text = after
        self._texts.append(text)

    def _place(self, name: str) -> None:
        self._places.append(_Place(self._texts[-1][-_NEAR:] if self._texts else "", name))

    # What it says

    def names(self, messages: Sequence[Any], index: int, calls: _CallsBefore) -> list[str]:
        for place in self._places:
            place.name = place.name or _just_before(place.before)
        nameless = [place for place in self._places if not place.name]
        if nameless:
            for names in self._lists(messages, index, calls):
                distinct = list({_base(path): path for path in names}.values())
                if len(nameless) in (len(names), len(distinct)):
                    for place, path in zip(nameless, names if len(names) == len(nameless) else distinct, strict=True):
                        place.name = _base(path)
                    break
        return [place.name for place in self._places]

    def _lists(self, messages: Sequence[Any], index: int, calls: _CallsBefore) -> Iterator[list[str]]:
        """Lists of paths, the surest first."""
        named = {place.name for place in self._places if place.name}

        def unused(paths: Iterable[str]) -> list[str]:
            return [path for path in paths if (name := _base(path)) and name not in named]

        text = _ends("\n".join(_ends(text) for text in self._texts))
        for form in _FORMS:
            yield unused(path for path in form.findall(text) if _is_image(path) or form is _FORMS[0])
        yield unused(_sources_behind(messages, index))
        role = messages[index].get("role")
        if role in ("tool", "function"):
            yield unused(_mentions(text))
        if role in ("tool", "function") or not text.strip() or _MOVED.search(text):
            yield unused(_arguments(messages, index, calls))


def _parsed(content: Any) -> Any:
    """The blocks that a tool message holds as JSON."""
    if isinstance(content, str) and content[:64].lstrip()[:1] in ("[", "{"):
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            return content
    return content


def _own_name(part: Mapping[str, Any], source: Base64Image | RemoteImage) -> str:
    for inside in (part, part.get("file"), part.get("image_url"), part.get("source")):
        if isinstance(inside, Mapping) and (name := _named(inside)):
            return name
    return _base(source.url) if isinstance(source, RemoteImage) and _is_image(source.url) else ""


def _named(fields: Mapping[str, Any]) -> str:
    values = (fields.get(field) for field in _NAME_FIELDS)
    return next((name for value in values if isinstance(value, str) and (name := _base(value))), "")


def _just_before(text: str) -> str:
    for form in _JUST_BEFORE:
        # Only the end can match; looking for it from each place of a long text would take its square.
        if (match := form.search(text, max(0, text.rfind("<image"), text.rfind("![")))) is not None:
            return _base(next(group for group in match.groups() if group))
    return ""


def _sources_behind(messages: Sequence[Any], index: int) -> list[str]:
    """Claude Code may name the sources of images in a message of their own behind them."""
    behind = messages[index + 1] if index + 1 < len(messages) else None
    if not isinstance(behind, Mapping) or behind.get("role") != "user":
        return []
    content = behind.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    paths: list[str] = []
    for text in texts:
        if not isinstance(text, str) or len(text) > _NEAR or not _SOURCES_ONLY.fullmatch(text):
            return []
        paths += _FORMS[0].findall(text)
    return paths


def _mentions(text: str) -> list[str]:
    """Paths of images in running text.  Those with a space in them are cut there, which leaves their end."""
    found = []
    for match in _MENTION.finditer(text):
        start = max(0, match.start() - 300)
        found.append(_AROUND_MENTION.split(text[start : match.start()])[-1] + match[0])
    return [path for path in found if not _base(path).startswith(".")]


def _arguments(messages: Sequence[Any], index: int, calls_before: _CallsBefore) -> list[str]:
    """Paths of images in the arguments of the call that a tool message answers; for another message, of the calls that
    the tool messages just before it answer."""
    answers = [messages[index]]
    if answers[0].get("role") not in ("tool", "function"):
        answers = []
        for before in range(index - 1, -1, -1):
            message = messages[before]
            if not isinstance(message, Mapping) or message.get("role") != "tool":
                break
            answers.append(message)
        answers.reverse()
    calls = calls_before(index)
    paths: list[str] = []
    for answer in answers:
        arguments = calls.get(str(answer.get("tool_call_id")))
        if isinstance(arguments, str):
            try:
                arguments = orjson.loads(arguments)
            except orjson.JSONDecodeError:
                continue
        if isinstance(arguments, Mapping):
            paths += _paths(arguments)
    return paths


class _CallsBefore:
    """Arguments by id, of the assistant message that the tool messages at an index or just before it answer.  Every
    message is looked at once, however many ask."""

    def __init__(self, messages: Sequence[Any]) -> None:
        self._messages = messages
        self._arguments: dict[int, dict[str, Any]] = {}
        self._callers: list[int | None] = []
        caller: int | None = None
        for index, message in enumerate(messages):
            self._callers.append(caller)
            if isinstance(message, Mapping) and isinstance(message.get("tool_calls"), list):
                caller = index
            elif isinstance(message, Mapping) and message.get("role") == "assistant":
                caller = None

    def __call__(self, index: int) -> dict[str, Any]:
        caller = self._callers[index]
        if caller is None:
            return {}
        if caller not in self._arguments:
            calls = self._messages[caller]["tool_calls"]
            functions = [(call.get("id"), call.get("function")) for call in calls if isinstance(call, Mapping)]
            self._arguments[caller] = {
                id: function.get("arguments")
                for id, function in functions
                if isinstance(id, str) and isinstance(function, Mapping)
            }
        return self._arguments[caller]


def _paths(arguments: Mapping[str, Any]) -> list[str]:
    values = [arguments.get(name) for name in _ARGUMENTS]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(item for item in flat if isinstance(item, str) and _is_image(item)))


def _ends(text: str) -> str:
    return text if len(text) <= 2 * _NEAR else f"{text[:_NEAR]}\n{text[-_NEAR:]}"


def _is_image(path: str) -> bool:
    return _ENDS_AS_IMAGE.search(_base(path)) is not None


def _base(path: str) -> str:
    """The last word of a path or of a URL, fit to be shown; empty where it is no file name."""
    path = path.strip()[:4_000]
    if path[:5].lower() == "data:":
        return ""
    if "://" in path[:12]:
        try:
            path = unquote(urlsplit(path).path)
        except ValueError:
            return ""
    last = re.split(r"[/\\]", path)[-1]
    name = " ".join("".join(character if _is_shown(character) else " " for character in last).split())
    extension = _EXTENSION.search(name)
    if extension is None or extension.start() == 0:
        return ""
    if len(name) > _LONGEST_NAME:
        name = name[: _LONGEST_NAME - 1 - len(extension[0])] + "…" + extension[0]
    return name


def _is_shown(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CZ" or character == " "
