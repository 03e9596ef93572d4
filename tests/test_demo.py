"""`chiasm demo`: the stand-in brain on the wire, the sample, the proof at the end, the command as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI
from PIL import Image, ImageChops, ImageDraw, ImageFont

from cache.record import ImageRecord
from router.demo.brain import Asked, Called, Doing, Finished, Said, StandIn, Thought, reply
from router.demo.draw_sample import SAMPLE, WORDS, draw
from router.demo.run import CannotRun, demo, loopback_socket, running
from router.demo.show import Answered, DemoConsole, Heard, Picture, Sent, Show, Step
from router.http_client import http_client
from router.protocol.chat.reader import ChunkReader, CompletionReader
from router.protocol.parts import Finish, Head, Part, Reasoning, Text, ToolArgs, ToolStart, Usage
from router.protocol.placeholders import captioned, placeholder
from tools.quotation import quoted

LONG = 120
"""Seconds after which a process that should have ended long ago counts as hanging."""

RECORD = ImageRecord(number=1, digest="d", media_type="image/png", width=960, height=600, bytes=9, origin="user")
PLACEHOLDER = placeholder(RECORD, "analyzeImage")
TOOL = {"type": "function", "function": {"name": "analyzeImage", "parameters": {"type": "object"}}}
READ = quoted([1], "3 lines\n10,20,30,12: Photos\n80,22,30,10: 41.8 GB\n10,60,90,12: Error 507: no space")


def asking(*texts: str, tools: Sequence[Any] = (TOOL,), **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": text} for text in texts]
    return {"model": "stand-in", "messages": [{"role": "user", "content": content}], "tools": list(tools), **more}


def following(request: dict[str, Any], *results: str) -> dict[str, Any]:
    """The request for the next turn, as an agent loop would build it."""
    calls = reply(request).calls
    said = [
        {"id": f"c{index}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for index, (name, arguments) in enumerate(calls)
    ]
    told = [{"role": "tool", "tool_call_id": f"c{index}", "content": text} for index, text in enumerate(results)]
    history = [*request["messages"], {"role": "assistant", "content": None, "tool_calls": said}, *told]
    return {**request, "messages": history}


# What the stand-in says


def test_it_asks_for_a_look_with_the_users_own_words() -> None:
    answer = reply(asking("What went wrong?", PLACEHOLDER))
    assert answer.calls == (("analyzeImage", {"image": "1", "task": "What went wrong?"}),)
    assert answer.finish_reason == "tool_calls"
    assert "[Image #1]" in answer.content


def test_several_images_get_a_call_each_and_a_comparison_gets_one_call() -> None:
    two = "[Image #1] (PNG, 8x8) and [Image #12]"
    assert [arguments["image"] for _, arguments in reply(asking("Read these.", two)).calls] == ["1", "12"]
    assert [arguments["image"] for _, arguments in reply(asking("Compare these.", two)).calls] == ["1, 12"]


def test_it_calls_the_tool_by_the_name_that_stands_beside_the_image() -> None:
    renamed = {"type": "function", "function": {"name": "chiasm_analyzeImage"}}
    beside = placeholder(RECORD, "chiasm_analyzeImage")
    ((name, _),) = reply(asking("What?", beside, tools=[TOOL, renamed])).calls
    assert name == "chiasm_analyzeImage"


def test_it_answers_with_what_was_read_rows_together_and_what_fits_first() -> None:
    answer = reply(following(asking("What went wrong?", PLACEHOLDER), READ))
    assert answer.calls == ()
    assert "stand-in" in answer.content
    fitting, everything = answer.content.split("All that was read:")
    assert "> Error 507: no space" in fitting
    assert "Photos" not in fitting
    assert everything.split("\n\n")[1] == "> Photos | 41.8 GB\n> Error 507: no space"


def test_lines_count_whether_they_are_quoted_or_not() -> None:
    answer = reply(following(asking("What?", PLACEHOLDER), "1,2,30,9: bare\n> 1,20,30,9: quoted"))
    assert "> bare\n> quoted" in answer.content


def test_a_question_beside_a_marker_of_the_clients_own_is_kept() -> None:
    ((_, arguments),) = reply(asking("[Image #1] What does it say?")).calls
    assert arguments == {"image": "1", "task": "What does it say?"}


def test_it_repeats_an_answer_in_any_other_form_as_it_came() -> None:
    answer = reply(following(asking("What?", PLACEHOLDER), "There is no image #7."))
    assert "> There is no image #7." in answer.content


def test_every_result_of_several_is_in_the_answer() -> None:
    answer = reply(following(asking("Read.", "[Image #1] [Image #2]"), "1,1,9,9: first", "1,1,9,9: second"))
    assert "> first" in answer.content
    assert "> second" in answer.content


def test_an_image_of_an_earlier_message_is_not_looked_at_again() -> None:
    request = following(asking("What?", PLACEHOLDER), READ)
    request["messages"] += [{"role": "assistant", "content": "…"}, {"role": "user", "content": "And why?"}]
    answer = reply(request)
    assert answer.calls == ()
    assert '"And why?"' in answer.content
    assert "[Image #1]" in answer.content  # how to have it looked at again


def test_an_unreadable_image_is_named_and_not_looked_at() -> None:
    answer = reply(asking("What?", "[Image #4: unreadable, truncated PNG]"))
    assert answer.calls == ()
    assert "[Image #4] cannot be looked at: unreadable, truncated PNG." in answer.content


def test_without_the_tool_it_says_so_and_repeats_what_it_was_told() -> None:
    answer = reply(asking("What?", captioned(RECORD, "A red door."), tools=[]))
    assert answer.calls == ()
    assert "no tool to look" in answer.content
    assert "> A red door." in answer.content


def test_plain_words_get_an_honest_answer() -> None:
    answer = reply({"messages": [{"role": "user", "content": "Write me a poem."}]})
    assert "stand-in" in answer.content
    assert '"Write me a poem."' in answer.content


# The stand-in on the wire


@dataclass
class Brain:
    url: str
    doings: list[Doing] = field(default_factory=list)


@pytest.fixture
async def brain() -> AsyncIterator[Brain]:
    with loopback_socket() as listening:
        one = Brain(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
        async with running(StandIn(one.doings.append, pace=0).app, listening):
            yield one


async def ask(brain: Brain, request: Mapping[str, Any], **headers: str) -> httpx.Response:
    async with http_client() as client:
        return await client.post(f"{brain.url}/chat/completions", json=request, headers=headers)


def decoded(body: bytes, step: int) -> list[Part]:
    reader = ChunkReader(lambda: "minted")
    parts = [part for start in range(0, len(body), step) for part in reader.feed(body[start : start + step])]
    assert reader.clean
    return [*parts, *reader.close()]


@pytest.mark.live
@pytest.mark.anyio
async def test_a_stream_holds_thoughts_words_and_whole_calls_in_fragments(brain: Brain) -> None:
    request = asking("Read.", "[Image #1] [Image #2]", stream=True, stream_options={"include_usage": True})
    response = await ask(brain, request)
    assert response.headers["content-type"].startswith("text/event-stream")
    parts = decoded(response.content, len(response.content))
    assert parts == decoded(response.content, 1)
    expected = reply(request)
    assert isinstance(parts[0], Head)
    assert "".join(part.text for part in parts if isinstance(part, Reasoning)) == expected.reasoning
    assert "".join(part.text for part in parts if isinstance(part, Text)) == expected.content
    starts = [part for part in parts if isinstance(part, ToolStart)]
    assert [(part.slot, part.name) for part in starts] == [(0, "analyzeImage"), (1, "analyzeImage")]
    assert len({part.id for part in starts}) == 2
    for slot, (_, arguments) in enumerate(expected.calls):
        fragments = [part.text for part in parts if isinstance(part, ToolArgs) and part.slot == slot]
        assert len(fragments) > 1
        assert json.loads("".join(fragments)) == arguments
    assert [part.reason for part in parts if isinstance(part, Finish)] == ["tool_calls"]
    assert isinstance(parts[-1], Usage)


@pytest.mark.live
@pytest.mark.anyio
async def test_usage_comes_only_when_asked_for(brain: Brain) -> None:
    body = (await ask(brain, asking("Hello.", stream=True))).content
    assert not any(isinstance(part, Usage) for part in decoded(body, len(body)))


@pytest.mark.live
@pytest.mark.anyio
async def test_without_streaming_the_answer_is_the_same(brain: Brain) -> None:
    request = asking("What?", PLACEHOLDER)
    reader = CompletionReader(lambda: "minted")
    assert not reader.feed((await ask(brain, request)).content)
    parts = reader.close()
    expected = reply(request)
    assert Reasoning(expected.reasoning) in parts
    assert Text(expected.content) in parts
    (arguments,) = (part.text for part in parts if isinstance(part, ToolArgs))
    assert json.loads(arguments) == expected.calls[0][1]
    assert Finish("tool_calls") in parts


@pytest.mark.live
@pytest.mark.anyio
async def test_it_tells_what_it_does_under_the_request_id(brain: Brain) -> None:
    request = asking("What?", PLACEHOLDER, stream=True)
    sent = httpx.Request("POST", brain.url, json=request).content
    await ask(brain, request, **{"x-request-id": "r1"})
    kinds = [type(doing) for doing in brain.doings]
    assert kinds == [Asked, Thought, Said, Called, Finished]
    assert {doing.request_id for doing in brain.doings} == {"r1"}
    assert brain.doings[0] == Asked("r1", sent)
    assert brain.doings[-1] == Finished("r1", "tool_calls")


@pytest.mark.live
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (asking("Hi.") | {"model": "gpt"}, 404, "there is 'stand-in'"),
        (asking("Hi.", n=2), 400, "n must be 1"),
        (asking("Hi.", tool_choice="required"), 400, "tool_choice"),
        (asking("Hi.", response_format={"type": "json_object"}), 400, "response_format"),
        ({"model": "stand-in"}, 400, "messages"),
        (["a list"], 400, "object"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            400,
            "text model",
        ),
    ],
)
async def test_what_it_cannot_do_it_refuses_in_words(brain: Brain, request_: Any, status: int, words: str) -> None:
    response = await ask(brain, request_)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]


@pytest.mark.live
@pytest.mark.anyio
async def test_unknown_paths_and_broken_json_are_errors_too(brain: Brain) -> None:
    async with http_client() as client:
        missing = await client.post(f"{brain.url}/embeddings", json={})
        broken = await client.post(f"{brain.url}/chat/completions", content=b"{")
    assert missing.status_code == 404
    assert "/v1/embeddings" in missing.json()["error"]["message"]
    assert broken.status_code == 400


@pytest.mark.live
@pytest.mark.anyio
async def test_openai_python_talks_to_it(brain: Brain) -> None:
    async with AsyncOpenAI(base_url=brain.url, api_key="none", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == ["stand-in"]
        request = asking("What?", PLACEHOLDER)
        whole = await client.chat.completions.create(**request)
        calls = whole.choices[0].message.tool_calls
        assert calls
        assert json.loads(calls[0].function.arguments)["image"] == "1"
        text = ""
        stream = await client.chat.completions.create(**following(request, READ), stream=True)
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        assert "> Error 507: no space" in text


# The sample


def test_drawing_the_sample_again_gives_the_same_pixels() -> None:
    with Image.open(SAMPLE) as kept:
        assert kept.size == (960, 600)
        difference = ImageChops.difference(kept.convert("RGB"), draw().convert("RGB"))
    assert difference.getbbox() is None


# The proof at the end


def picture(data: bytes = b"\x89PNG" + bytes(range(256))) -> Picture:
    return Picture("some.png", "image/png", 8, 8, data, b64encode(data).decode())


def shown(*steps: Step, answered: Answered | None = None) -> tuple[bool, str]:
    """What a story looks like and whether it is found good."""
    answered = answered or Answered(2, 0, "stop")
    screen = StringIO()
    show = Show(DemoConsole(file=screen, width=100, highlight=False), picture(), "What?")
    for number, step in enumerate((*steps, answered)):
        show.tell(number / 10, step)
    return show.verdict(answered), screen.getvalue()


def body(*messages: Mapping[str, Any]) -> bytes:
    return json.dumps({"messages": messages}).encode()


QUESTION = {"role": "user", "content": f"What?\n{PLACEHOLDER}"}
LOOKED = [{"role": "assistant", "content": ""}, {"role": "tool", "content": READ}]
GOOD: list[Step] = [
    Sent("own", 5000),
    Asked("own", body(QUESTION)),
    Called("own", "analyzeImage", {"image": "1"}),
    Finished("own", "tool_calls"),
    Asked("own", body(QUESTION, *LOOKED)),
    Heard("It says Photos, ", reasoning=False),
    Heard("41.8 GB.", reasoning=False),
]


def test_a_good_story_is_found_good() -> None:
    good, screen = shown(*GOOD)
    assert good
    assert PLACEHOLDER[:60] in screen  # the line breaks somewhere behind it
    assert 'brain   calls analyzeImage(image="1")' in screen
    assert "looked for 0.1 s and read 3 lines of text" in screen
    assert "2 of the 3 lines in the image are in the answer" in screen


@pytest.mark.parametrize(
    ("steps", "answered"),
    [
        (GOOD[:-2], None),
        ([*GOOD[:-2], Heard("It says Photos.", reasoning=True)], None),
        ([*GOOD[:-3], Asked("own", body(QUESTION)), *GOOD[-2:]], None),
        ([*GOOD, Asked("own", body({"role": "user", "content": "data:image/png;base64," + picture().base64}))], None),
        (GOOD, Answered(2, 1, "stop")),
        (GOOD, Answered(2, 0, "length")),
        (GOOD, Answered(2, 0, "stop", "the stream ended without [DONE]")),
    ],
    ids=["no answer", "only thought of", "nothing read", "image data", "a call seen", "not finished", "broken"],
)
def test_a_story_that_does_not_hold_what_was_promised_is_not(steps: list[Step], answered: Answered | None) -> None:
    good, _ = shown(*steps, answered=answered)
    assert not good


def test_another_clients_requests_are_shown_but_prove_nothing() -> None:
    others: list[Step] = [
        Asked("other", body(QUESTION)),
        Thought("other", "Hm."),
        Finished("other", "tool_calls"),
        Asked("other", body(QUESTION, *LOOKED)),
        Finished("other", "gone"),
    ]
    good, screen = shown(Sent("own", 5000), *others, Heard("Photos", reasoning=False))
    assert not good
    assert "for a client" in screen
    assert "the client is gone" in screen


def test_words_of_an_image_cannot_move_the_cursor() -> None:
    _, screen = shown(*GOOD, Heard("\n\x1b[2Jgone\x07\n", reasoning=False))
    assert "gone" in screen
    assert "\x1b" not in screen
    assert "\x07" not in screen


# The command


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    # Whoever asked a proxy would get nowhere: everything is on this machine.
    return {**kept, "http_proxy": "http://127.0.0.1:9", "PYTHONUTF8": "1", **more}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "router.cli", "demo", *map(str, arguments)]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, encoding="utf-8", env=environment(), timeout=LONG, check=False
    )


@contextlib.contextmanager
def started(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment()
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=LONG)


@pytest.mark.ocr
def test_the_sample_is_read_in_plain_lines_without_anything_else() -> None:
    done = run()
    assert done.stderr == ""
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    answer = done.stdout.partition("What the client gets")[2]
    assert [words for words in WORDS if words not in answer] == []
    assert "chiasm serve --text URL --vision URL" in done.stdout
    assert all(line == line.rstrip() and len(line) <= 100 for line in done.stdout.splitlines())


@pytest.mark.ocr
def test_ones_own_image_is_read_with_ones_own_question(tmp_path: Path) -> None:
    image = Image.new("RGB", (520, 160), "white")
    pen = ImageDraw.Draw(image)
    pen.text((20, 30), "Invoice 2231", font=ImageFont.load_default(size=40), fill="black")
    pen.text((20, 100), "Total: 84.50 EUR", font=ImageFont.load_default(size=32), fill="navy")
    file = tmp_path / "my invoice.jpg"
    image.save(file, quality=92)
    done = run(file, "What is the total?")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sends my invoice.jpg (JPEG, 520x160" in done.stdout
    assert '"What is the total?"' in done.stdout
    assert "> Invoice 2231" in done.stdout
    assert done.stdout.count("> Total: 84.50 EUR") == 2  # it fits the question


@pytest.mark.ocr
def test_an_image_without_words_is_no_success(tmp_path: Path) -> None:
    file = tmp_path / "teal.png"
    Image.new("RGB", (200, 120), "teal").save(file)
    done = run(file)
    assert done.returncode == 1
    assert done.stderr == ""
    assert "no text was found in the image" in done.stdout


def test_a_path_that_is_no_image_is_one_clear_line(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("just words")
    cut = tmp_path / "cut.png"
    cut.write_bytes(SAMPLE.read_bytes()[:4000])
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(21 * 2**20)
    cases: list[tuple[Path, str]] = [
        (tmp_path / "missing.png", "there is no file"),
        (tmp_path, "is a folder"),
        (text, "not an image"),
        (cut, "truncated PNG"),
        (huge, "larger than 20 MiB"),
    ]
    for path, words in cases:
        with pytest.raises(CannotRun) as refused:
            demo(path, None, serve=False)
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)
    done = run(tmp_path / "missing.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("chiasm: there is no file")
    assert done.stderr.count("\n") == 1


def test_without_text_recognition_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(CannotRun, match=r"pip install 'chiasm\[ocr\]'"):
        demo(None, None, serve=False)


@pytest.mark.live
def test_a_reader_that_closes_early_ends_it_without_a_word() -> None:
    with started() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(LONG) == 141
        assert process.stderr.read() == ""
        process.stdout = None  # nothing to communicate with


@pytest.mark.ocr
def test_on_a_terminal_without_colours_there_are_none() -> None:
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        command(), stdout=terminal, stderr=terminal, env=environment(NO_COLOR="1", TERM="xterm-256color")
    )
    os.close(terminal)
    seen = b""
    with contextlib.suppress(OSError):  # how a terminal says that the other side is gone
        while data := os.read(screen, 65536):
            seen += data
    os.close(screen)
    assert process.wait(LONG) == 0
    assert b"not enough space on drive E:" in seen
    assert b"\x1b[" in seen  # bold and dim are no colours
    assert re.search(rb"\x1b\[(?:\d+;)*[349]\d", seen) is None


@pytest.mark.ocr
@pytest.mark.live
def test_it_stays_for_a_client_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with started("--serve") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines: list[str] = []
        while not (lines and "Ctrl-C ends it" in lines[-1]):
            lines.append(process.stdout.readline())
            assert lines[-1], "it ended"
        url = next(line.split()[-1] for line in lines if "base URL" in line)
        model = next(line.split()[-1] for line in lines if line.startswith("  model"))
        curl = next(line for line in lines if line.lstrip().startswith("curl "))

        posted = _what_a_shell_would_post(curl, tmp_path)
        assert posted["model"] == model
        data_url = posted["messages"][0]["content"][1]["image_url"]["url"]
        assert b64decode(data_url.partition(",")[2]) == SAMPLE.read_bytes()
        with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=LONG) as client:
            stream = client.chat.completions.create(**posted)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
            assert "Error 507: not enough space on drive E:" in text
            png = BytesIO()
            Image.new("RGB", (60, 40), "white").save(png, "PNG")
            bad = f"data:image/png;base64,{b64encode(png.getvalue()[:40]).decode()}"
            unreadable = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": bad}}]}],
            )
            assert "cannot be looked at" in (unreadable.choices[0].message.content or "")

        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=LONG)
        assert process.returncode == 0
        assert errors == ""
        assert "for a client" in rest
        assert "read 19 lines of text" in rest
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(url.removesuffix("/v1").rpartition(":")[2])))


def _what_a_shell_would_post(curl: str, folder: Path) -> Any:
    """Run the printed command with a curl that only keeps its last argument."""
    fake = folder / "curl"
    fake.write_text('#!/bin/sh\nfor last; do :; done\nprintf %s "$last"\n')
    fake.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", curl], capture_output=True, env={"PATH": path}, timeout=LONG, check=True)
    return json.loads(done.stdout)
