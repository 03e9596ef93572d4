"""What the demo looks like: one line for each step at the time it happens, then the client's stream, then the proof.

Nothing here asks Chiasm how it works inside.  What the brain was sent and what it did is told by the stand-in brain,
which belongs to the demo; what was answered, by the client's stream.  How long the eyes looked is the time between the
brain's last word and the next request it gets, so it holds the few milliseconds around the look as well.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias, assert_never

from rich.console import Console
from rich.status import Status
from rich.text import Text

from router.demo.brain import Asked, Called, Doing, Finished, Said, Thought, lines_read

_WIDEST = 100
"""Columns.  Longer lines are hard to follow, on however wide a screen."""

_STANDS_FOR_IMAGE = re.compile(r"\[Image #\d+[^\n]*")
_STANDING_SHOWN = 3
_MOST_SHOWN = 100
"""Characters of what a client or the brain said that are shown in a step."""

_LIKE_BASE64 = re.compile(r"[A-Za-z0-9+/]{60,}")
"""Words are shorter, and so are ids."""


class OutputClosed(Exception):
    """Nobody reads standard output any more."""


class DemoConsole(Console):
    """Raises `OutputClosed` where rich would end the process under the feet of two running servers."""

    def on_broken_pipe(self) -> NoReturn:
        self.quiet = True
        if self.file is sys.stdout:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush when Python ends
        raise OutputClosed


def open_console() -> DemoConsole:
    """Standard output: colours on a terminal (unless NO_COLOR is set), plain lines anywhere else."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # an image may hold letters that the terminal cannot show
    console = DemoConsole(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, _WIDEST) if console.is_terminal else _WIDEST
    return console


# What the client did and got


@dataclass(frozen=True, slots=True)
class Picture:
    name: str
    media_type: str
    width: int
    height: int
    data: bytes
    base64: str

    def __str__(self) -> str:
        kind = self.media_type.removeprefix("image/").upper()
        return f"{self.name} ({kind}, {self.width}x{self.height}, {_size(len(self.data))})"


@dataclass(frozen=True, slots=True)
class Sent:
    """The client's request, `size` bytes."""

    request_id: str
    size: int


@dataclass(frozen=True, slots=True)
class Heard:
    """A piece of the client's stream."""

    text: str
    reasoning: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """The client's stream is over."""

    pieces: int
    """Of text and of thoughts."""
    tool_calls: int
    finish_reason: str
    problem: str = ""
    """Why there is no whole answer, in one line."""


Step: TypeAlias = Doing | Sent | Heard | Answered


@dataclass(slots=True)
class _Story:
    """One request on its way."""

    begun: float
    """All times in seconds on the event loop's clock."""
    sent: Sent | None = None
    turns: int = 0
    last_word: float = 0.0


@dataclass(slots=True)
class _Seen:
    """What the proof at the end needs."""

    largest: int = 0
    """Of the requests to the brain, in bytes."""
    image_data: bool = False
    lines: list[str] = field(default_factory=list)
    """What the eyes read."""
    answer: str = ""


class Show:
    """`tell` it each step in the order in which they happen."""

    def __init__(self, console: Console, picture: Picture, question: str) -> None:
        self._console = console
        self._picture = picture
        self._question = question
        self._bar, self._yes, self._no = ("│", "✓", "✗") if console.encoding.startswith("utf") else ("|", "+", "-")
        self._stories: dict[str, _Story] = {}
        self._seen = _Seen()
        self._own: str | None = None
        """The request id of the demo's own request."""
        self._stream = _ClientStream(self._stream_row)
        self._looking: Status | None = None

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._looking is not None:
            self._looking.stop()
            self._looking = None

    def opening(self, brain_url: str, router_url: str) -> None:
        self._line()
        self._line("Chiasm demo: a text model answers a question about an image", style="bold")
        self._line()
        self._who("brain", f"a stand-in at {brain_url}: simple rules, no model")
        self._who("eyes", "text recognition (OCR) on this machine: they read, nothing else")
        self._who("chiasm", f"the real router at {router_url}, between the two")
        self._line()

    def tell(self, now: float, step: Step) -> None:
        self.close()
        match step:
            case Sent(request_id, _):
                self._own = request_id
                self._stories[request_id] = _Story(now, step)
                self._step(now, request_id, "client", f"sends {self._picture} and asks {_quoted(self._question)}")
            case Asked(request_id, body):
                self._asked(now, request_id, body)
            case Thought(request_id, text):
                if not self._is_answering(request_id):
                    self._step(now, request_id, "brain", f"thinks: {text}")
            case Said(request_id, text):
                if not self._is_answering(request_id):
                    self._step(now, request_id, "brain", f"says: {_short(text)}")
            case Called(request_id, name, arguments):
                shown = ", ".join(f"{key}={_quoted(value)}" for key, value in arguments.items())
                self._step(now, request_id, "brain", f"calls {name}({shown})", "the client sees nothing of this call")
            case Finished(request_id, reason):
                self._finished(now, request_id, reason)
            case Heard(text, reasoning):
                self._seen.answer += "" if reasoning else text
                self._stream.add(text, reasoning=reasoning)
            case Answered():
                self._stream.end()
                if self._stream.shown:
                    self._line()
            case _:
                assert_never(step)

    def _asked(self, now: float, request_id: str, body: bytes) -> None:
        story = self._stories.setdefault(request_id, _Story(now))
        story.turns += 1
        messages = _messages(body)
        mine = request_id == self._own
        if mine:
            self._seen.largest = max(self._seen.largest, len(body))
            self._seen.image_data |= self._image_data_in(body)
        if story.turns == 1:
            standing = _STANDS_FOR_IMAGE.findall(_texts(messages, "user"))
            if standing and story.sent is not None:
                words = "takes the image out, keeps it, and asks the brain"
                explained = (
                    f"{_size(story.sent.size)} in, {_size(len(body))} out, text only; where the image was stands"
                )
                self._step(now, request_id, "chiasm", words, explained, *standing)
            else:
                words = f"asks the brain for a client: {_size(len(body))} of text"
                self._step(now, request_id, "chiasm", words, *standing[-_STANDING_SHOWN:])
            return
        lines = lines_read(_texts(_since_last_said(messages), "tool"))
        if mine:
            self._seen.lines += lines
        read = f"read {len(lines)} {'line' if len(lines) == 1 else 'lines'} of text" if lines else "read no text"
        self._step(now, request_id, "eyes", f"looked for {now - story.last_word:.1f} s and {read}")
        self._step(now, request_id, "chiasm", f"tells the brain what was read: {_size(len(body))}")
        if mine:
            self._line()
            self._line("What the client gets, in one stream")
            self._line()
            self._stream.open()

    def _finished(self, now: float, request_id: str, reason: str) -> None:
        story = self._stories.get(request_id)
        if story is None:
            return
        story.last_word = now
        if reason == "tool_calls":
            if request_id == self._own and self._console.is_terminal and not self._console.is_dumb_terminal:
                self._looking = self._console.status("the eyes are looking", spinner="dots", spinner_style="cyan")
                self._looking.start()
            return
        del self._stories[request_id]
        if request_id != self._own:
            self._row(now - story.begun, "brain", _ENDS.get(reason, reason))
            self._line()

    def _is_answering(self, request_id: str) -> bool:
        """Then its words stand in the client's stream, or belong to somebody else's client."""
        story = self._stories.get(request_id)
        return story is None or story.turns > 1

    def _image_data_in(self, body: bytes) -> bool:
        runs: list[str] = _LIKE_BASE64.findall(body.decode("utf-8", "replace"))
        return any(run[:60] in self._picture.base64 or run[-60:] in self._picture.base64 for run in runs)

    def verdict(self, answered: Answered) -> bool:
        """What was promised, checked against what went over the wire; whether all of it held."""
        seen = self._seen
        if answered.problem:
            self._check(False, f"there is no whole answer: {answered.problem}")
            return False
        in_answer = sum(line in seen.answer for line in seen.lines)
        self._check(not seen.image_data, f"the brain got text only, {_size(seen.largest)} at most, no image data")
        self._check(
            answered.tool_calls == 0 and answered.finish_reason == "stop",
            f"the client got one answer in {answered.pieces} pieces, no tool calls, "
            f"finish reason {answered.finish_reason!r}",
        )
        if seen.lines:
            self._check(in_answer > 0, f"{in_answer} of the {len(seen.lines)} lines in the image are in the answer")
        else:
            self._check(False, "no text was found in the image, and text is all that these eyes can see")
        return not seen.image_data and answered.tool_calls == 0 and answered.finish_reason == "stop" and in_answer > 0

    def next_steps(self) -> None:
        self._line()
        self._line("Next", style="bold")
        self._line()
        self._command('chiasm demo picture.png "What does it say?"', "your own image")
        self._command("chiasm demo --serve", "leave it running for a client")
        self._command("chiasm serve --text URL --vision URL", "real models; URLs end in /v1")
        self._line()
        self._line("  README.md has the rest.")
        self._line()

    def serving(self, base_url: str, model: str, curl: str) -> None:
        self._line()
        self._line("Running for your client", style="bold")
        self._line()
        self._who("base URL", base_url)
        self._who("model", model)
        self._who("API key", "any; none is asked for")
        self._line()
        self._console.print(Text(curl), soft_wrap=True)
        self._line()
        self._line("  Ctrl-C ends it.  What your client does shows below.")
        self._line()

    # Layout: seconds, a name, and words that keep to their column when they are too many for one line

    def _step(self, now: float, request_id: str, who: str, *words: str) -> None:
        story = self._stories.get(request_id)
        self._row(now - story.begun if story is not None else 0.0, who, *words)

    def _row(self, seconds: float, who: str, *words: str) -> None:
        """`words`: the step, then lines that explain it."""
        first = Text.assemble((f"{seconds:6.2f} s  ", "dim"), (f"{who:<8}", _COLOURS[who]))
        rest = Text(" " * len(first))
        for number, line in enumerate(words):
            self._hanging(first if number == 0 else rest, rest, Text(_printable(line), "dim" if number else ""))

    def _who(self, name: str, words: str) -> None:
        self._hanging(Text(f"  {name:<10}", _COLOURS.get(name, "")), Text(" " * 12), Text(words))

    def _stream_row(self, label: str, words: str) -> None:
        bar = (f"{self._bar} ", "dim")
        body = Text(_printable(words), "dim" if self._stream.label == "thinking" else "")
        self._hanging(Text.assemble(f"  {label:<10}", bar), Text.assemble(" " * 12, bar), body)

    def _check(self, holds: bool, words: str) -> None:
        mark = Text(f"  {self._yes if holds else self._no} ", "green" if holds else "bold red")
        self._hanging(mark, Text("    "), Text(_printable(words)))

    def _command(self, command: str, words: str) -> None:
        self._hanging(Text(f"  {command:<48}"), Text(" " * 50), Text(words, "dim"))

    def _hanging(self, first: Text, rest: Text, body: Text) -> None:
        for line in body.wrap(self._console, max(20, self._console.width - len(first))) or [Text()]:
            whole = first + line
            whole.rstrip()
            self._console.print(whole, soft_wrap=True)  # wrapped already
            first = rest

    def _line(self, words: str = "", *, style: str = "") -> None:
        self._console.print(Text(words, style))


_ENDS: Mapping[str, str] = {
    "stop": "has answered",
    "gone": "stops, the client is gone",
    "refused": "refuses the request",
}
_COLOURS: Mapping[str, str] = {"client": "yellow", "chiasm": "bold blue", "brain": "magenta", "eyes": "green"}


class _ClientStream:
    """The client's stream as rows of whole lines; held back until `open`, so that it does not mix with the steps."""

    def __init__(self, row: Callable[[str, str], None]) -> None:
        self._row = row
        self._open = False
        self._held: list[tuple[str, str]] = []
        self._arriving = ""
        self._line = ""
        self.label = ""
        """Of what is being shown: "thinking" or "answer"."""

    @property
    def shown(self) -> bool:
        """Whether anything was."""
        return bool(self.label)

    def open(self) -> None:
        self._open = True
        held, self._held = self._held, []
        for label, words in held:
            self._put(label, words)

    def add(self, text: str, *, reasoning: bool) -> None:
        label = "thinking" if reasoning else "answer"
        if label != self._arriving:
            self._flush()
            self._arriving = label
        self._line += text
        *whole, self._line = self._line.split("\n")
        for words in whole:
            self._put(label, words)

    def end(self) -> None:
        self._flush()
        self.open()

    def _flush(self) -> None:
        if self._line:
            self._put(self._arriving, self._line)
        self._line = ""

    def _put(self, label: str, words: str) -> None:
        if not self._open:
            self._held.append((label, words))
        elif label == self.label:
            self._row("", words)
        elif words.strip():  # empty lines between turns show nothing that the labels do not
            self.label = label
            self._row(label, words)


def _messages(body: bytes) -> list[Mapping[str, Any]]:
    try:
        messages = json.loads(body).get("messages")
    except (ValueError, AttributeError):
        return []
    return [message for message in messages or () if isinstance(message, dict)]


def _since_last_said(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    last = max((index for index, message in enumerate(messages) if message.get("role") == "assistant"), default=-1)
    return messages[last + 1 :]


def _texts(messages: Sequence[Mapping[str, Any]], role: str) -> str:
    """All text of the messages of `role`, one line after the other."""
    texts: list[str] = []
    for message in messages:
        content = message.get("content") if message.get("role") == role else None
        parts = content if isinstance(content, list) else [{"text": content}]
        texts += [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "\n".join(texts)


def _quoted(words: str) -> str:
    return json.dumps(_short(words), ensure_ascii=False)


def _short(words: str) -> str:
    line = " ".join(words.split())
    return line if len(line) <= _MOST_SHOWN else line[: _MOST_SHOWN - 1] + "…"


def _printable(words: str) -> str:
    """Without control characters: words out of an image or a file name must not move the cursor."""
    return "".join(char if char.isprintable() else " " for char in words)


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1000:.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"
