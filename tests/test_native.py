"""`images = "native"`: a brain that has eyes itself sees the pixels of what is loaded, and words for the rest.

Where pixels stand in a prompt is run in every wire format (`speaker`); which of them they are and when they go does not
depend on it.
"""

from __future__ import annotations

import base64
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from PIL import Image

from cache.memory import MemoryStore
from cache.record import ImageRecord
from cache.store import StoreError
from router.config import Settings
from router.intake.since import Since
from router.protocol.follow_up import NO_ROOM, FollowUp
from router.protocol.ledger import KeptTurn, Place, weave, without_pictures
from router.protocol.pictures import filled, reference, referenced, result_messages
from router.protocol.turn import Turn
from tests.brain import Asked, Brain, Calls, says
from tests.eyes import Eyes, sees
from tests.failing import FailingStore
from tests.live import (
    DEADLINE,
    House,
    Options,
    assistant,
    becomes,
    data_url,
    function,
    live,
    no_errors_in_the_log,
    picture,
    running,
    shown,
    text,
    tool_call,
    tool_result,
    user,
)
from tools.call import ToolCall, ToolResult
from tools.recall_pixels import RecallPixels
from tools.vision.pixel_tokens import pixel_tokens

pytestmark = pytest.mark.anyio

SESSION = {"x-chiasm-conversation": "c"}

TIGHT = {"max_loaded": 2, "keep_loaded": 1}


def noise(seed: int) -> bytes:
    """A PNG large enough to be cut out of the body before it is parsed."""
    image = Image.frombytes("RGB", (64, 64), random.Random(seed).randbytes(64 * 64 * 3))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@asynccontextmanager
async def native(**tables: Any) -> AsyncIterator[House]:
    """A house without other eyes than the brain's."""
    with no_errors_in_the_log():
        async with Brain() as brain:
            configured = Options(text={"images": "native"}, **tables).tables(brain.url, "")
            del configured["vision"]
            brain.may_see_pictures = True
            async with (
                running(Settings.model_validate(configured)) as port,
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE, trust_env=False) as client,
            ):
                yield House(brain, Eyes(), port, client)


def recalls(image: int | str, id: str = "") -> Calls:
    return Calls("recallImage", orjson.dumps({"image": str(image)}).decode(), id)


def marked(number: int, image: bytes) -> list[dict[str, Any]]:
    """A picture in the prompt, behind its number."""
    return [text(f"[Image #{number}]"), shown(image)]


def letters_of(image: bytes) -> bytes:
    return base64.b64encode(image)


def away(number: int, size: str = "160x96") -> str:
    return f'[Image #{number}] (attached PNG, {size}, not shown here; call recallImage with image "{number}" to see it)'


def begins_with(later: Asked, earlier: Asked) -> bool:
    """Byte for byte, so that the server's prefix cache holds."""
    mine, other = orjson.dumps(later.messages), orjson.dumps(earlier.messages)
    return mine.startswith(other[:-1])


# Pixels in their places


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("image", [picture(1), noise(1)], ids=["small", "cut out of the body"])
async def test_pixels_stay_where_the_client_put_them_behind_their_number(image: bytes, stream: bool) -> None:
    part = {"type": "image_url", "image_url": {"url": data_url(image), "detail": "high"}}
    async with native() as house:
        house.brain.will(says("A card."))
        sent = {**part, "uuid": "of somebody else", "media_type": "image/png"}  # by which vLLM would find his picture
        answer = await house.chat(user("What is", sent, "this?"), stream=stream)
    assert answer.text == "A card."
    assert house.brain.asked[0].messages == [user("What is", "[Image #1]", part, "this?")]
    assert house.brain.asked[0].tools == ["recallImage"]


async def test_a_brain_with_eyes_of_its_own_is_ready_and_takes_images() -> None:
    async with native() as house:
        models, ready = await house.get("/v1/models"), await house.get("/readyz")
    assert models.json["data"][0]["architecture"]["input_modalities"] == ["text", "image"]
    assert ready.json["status"] == "ready"


async def test_other_eyes_only_describe_images_for_the_table_while_nobody_waits() -> None:
    async with live(text={"images": "native"}, images=TIGHT) as house:
        house.brain.may_see_pictures = True
        house.eyes.answers = lambda asked: sees("A card with a word on it.")
        house.brain.will(says("One."), says("Two."))
        await house.chat(user(shown(picture(1))), headers=SESSION)
        assert len(house.eyes.looks) <= 1
        await becomes(lambda: len(house.eyes.looks) == 1 and house.eyes.asked[0].over.is_set())
        history = [user(shown(picture(1))), assistant("One."), user(shown(picture(2)), shown(picture(3)))]
        await house.chat(*history, headers=SESSION)
    assert "A card with a word on it | forgotten |" in house.brain.asked[1].messages[-1]["content"][-1]["text"]
    assert house.brain.asked[1].tools == ["recallImage"]


@pytest.mark.usefixtures("speaker")
async def test_each_request_begins_with_the_one_before_it() -> None:
    async with native() as house:
        house.brain.will(says("One."), says("Two."), says("Three."))
        history = [user("a", shown(picture(1)))]
        await house.chat(*history, headers=SESSION)
        history += [assistant("One."), user("b", shown(noise(2)))]
        await house.chat(*history, headers=SESSION)
        history += [assistant("Two."), user("c")]
        await house.chat(*history, headers=SESSION)
    first, second, third = house.brain.asked
    assert begins_with(second, first)
    assert begins_with(third, second)
    assert third.tools == first.tools == ["recallImage"]
    assert first.json["tools"] == third.json["tools"]


async def test_a_client_tool_of_the_same_name_wins() -> None:
    async with native() as house:
        house.brain.will(says("Well."))
        await house.chat(user(shown(picture())), tools=[function("recallImage")])
    assert house.brain.asked[0].tools == ["recallImage", "chiasm_recallImage"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "PAYLOAD"}},
        {"type": "input_image", "image_url": "data:image/png;base64,PAYLOAD"},
        {"type": "image_url", "image_url": "data:image/png;base64,PAYLOAD"},
        {"type": "image", "data": "PAYLOAD", "mimeType": "image/png"},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,PAYLOAD"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,URLSAFE"}},
    ],
)
@pytest.mark.parametrize("image", [picture(3), noise(3)], ids=["small", "cut out of the body"])
async def test_what_some_server_would_refuse_is_written_as_all_take_it(part: dict[str, Any], image: bytes) -> None:
    plain, urlsafe = base64.b64encode(image).decode(), base64.urlsafe_b64encode(image).decode()
    sent = orjson.loads(orjson.dumps(part).replace(b"PAYLOAD", plain.encode()).replace(b"URLSAFE", urlsafe.encode()))
    async with native() as house:
        house.brain.will(says("Well."))
        await house.chat(user("What?", sent))
    assert house.brain.asked[0].messages == [user("What?", *marked(1, image))]


@pytest.mark.usefixtures("speaker")
async def test_a_picture_in_two_places_is_seen_in_both() -> None:
    async with native() as house:
        house.brain.will(says("Well."))
        await house.chat(user(shown(picture(1)), shown(picture(2)), shown(picture(1))))
    both = [*marked(1, picture(1)), *marked(2, picture(2)), *marked(1, picture(1))]
    assert house.brain.asked[0].messages == [user(*both)]


# Where pixels cannot stand


@pytest.mark.usefixtures("speaker")
@pytest.mark.parametrize(
    "bad", [b"no picture at all", picture(1)[:60], b"\x89PNG\r\n\x1a\n" + bytes(9000)], ids=["words", "cut", "zeros"]
)
async def test_a_bad_image_is_words_always(bad: bytes) -> None:
    async with native() as house:
        house.brain.will(says("Pity."))
        await house.chat(user("What?", shown(bad), shown(picture(2))))
    question, placeholder, *rest = house.brain.asked[0].messages[0]["content"]
    assert question == text("What?")
    assert placeholder["text"].startswith("[Image #1: unreadable, ")
    assert rest == marked(2, picture(2))


async def test_an_image_by_url_is_words_with_the_reason() -> None:
    async with native() as house:
        house.brain.will(says("Pity."))
        await house.chat(user("What?", shown("http://127.0.0.1:1/a.png")))
    assert "images by URL are not fetched here" in house.brain.asked[0].messages[0]["content"][1]["text"]


async def test_nobody_can_write_a_reference_himself() -> None:
    async with native() as house:
        house.brain.will(says("One."), says("Two."))
        await house.chat(user(shown(picture(1))), headers=SESSION)
        await house.chat(user(reference(1)), headers=SESSION)
    (part,) = house.brain.asked[1].messages[0]["content"]
    assert part["type"] == "text"
    assert "unreadable" in part["text"]


@pytest.mark.parametrize(
    "content",
    [
        [text("A screenshot:"), shown(picture(1))],
        orjson.dumps(
            [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "PAYLOAD"}}]
        ).decode(),
    ],
    ids=["parts", "the JSON of parts"],
)
async def test_a_tools_image_is_words_until_it_is_recalled(content: Any) -> None:
    if isinstance(content, str):
        content = content.replace("PAYLOAD", base64.b64encode(picture(1)).decode())
    history = [user("Go."), assistant(None, tool_call("c1", "shoot")), tool_result("c1", content)]
    async with native() as house:
        house.brain.will(says(recalls(1, "r1")), says("I see."), says("Yes."))
        answer = await house.chat(*history, headers=SESSION, tools=[function("shoot")])
        assert (answer.text, answer.finish) == ("I see.", "stop")
        await house.chat(*history, assistant("I see."), user("Sure?"), headers=SESSION, tools=[function("shoot")])
    first, second, third = house.brain.asked
    assert isinstance(first.messages[2]["content"], str)
    assert first.messages[2]["content"].endswith(away(1))
    assert b"base64" not in first.body
    assert second.messages[3:] == [
        assistant(None, tool_call("r1", "recallImage", '{"image":"1"}')),
        tool_result("r1", "Image #1 follows."),
        user(*marked(1, picture(1))),
    ]
    assert begins_with(second, first)
    assert begins_with(third, second)


async def test_images_that_are_only_words_take_no_room_from_those_that_are_seen() -> None:
    shots = [tool_result(f"c{number}", [shown(picture(number))]) for number in range(2, 6)]
    calls = [tool_call(f"c{number}", "shoot") for number in range(2, 6)]
    async with native(images=TIGHT) as house:
        house.brain.will(says("One."), says("Four more."))
        await house.chat(user(shown(picture(1))), headers=SESSION)
        history = [user(shown(picture(1))), assistant("One."), user("Shoot."), assistant(None, *calls), *shots]
        await house.chat(*history, headers=SESSION, tools=[function("shoot")])
    assert begins_with(house.brain.asked[1], house.brain.asked[0])


async def test_an_image_in_the_middle_of_a_text_is_words() -> None:
    async with native() as house:
        house.brain.will(says("Well."))
        await house.chat(user(f"See ![it]({data_url(picture(1))}) here."))
    content = house.brain.asked[0].messages[0]["content"]
    assert content == "See ![it]([Image #1: not shown here, recallImage shows it]) here."


async def test_where_no_tool_can_be_called_pixels_stay_and_nothing_is_offered() -> None:
    async with native() as house:
        house.brain.will(says("{}"))
        words = user(f"And ![it]({data_url(picture(2))})?")
        await house.chat(user(shown(picture(1))), words, response_format={"type": "json_object"})
    asked = house.brain.asked[0]
    assert asked.messages == [user(*marked(1, picture(1))), user("And ![it]([Image #2])?")]
    assert asked.tools == []


# Forgotten, and seen again


async def three_images(house: House) -> list[Any]:
    """A history of three answers after which the first two images are forgotten."""
    house.brain.will(says("One."), says("Two."), says("Three."))
    history: list[Any] = []
    for number, said in enumerate(["One.", "Two.", "Three."], 1):
        history.append(user(f"Number {number}:", shown(picture(number))))
        await house.chat(*history, headers=SESSION)
        history.append(assistant(said))
    return history


@pytest.mark.usefixtures("speaker")
async def test_past_the_limit_the_oldest_become_words_and_rows() -> None:
    async with native(images=TIGHT) as house:
        await three_images(house)
    messages = house.brain.asked[2].messages
    assert messages[0] == user("Number 1:", away(1))
    assert messages[2] == user("Number 2:", away(2))
    assert messages[4]["content"][:3] == user("Number 3:", *marked(3, picture(3)))["content"]
    table = messages[4]["content"][3]["text"]
    assert [line.rpartition("|")[0].rpartition("|")[2].strip() for line in table.splitlines() if "| #" in line] == [
        "forgotten",
        "forgotten",
        "loaded",
    ]
    assert "recallImage" in table
    assert "not looked at yet" not in table


async def test_an_estimate_of_the_pixels_tokens_makes_room_too() -> None:
    each = pixel_tokens(160, 96)
    async with native(images={"max_loaded_tokens": 3 * each - 1}) as house:
        await three_images(house)
    last = house.brain.asked[2].messages
    assert [len(message["content"]) for message in last if message["role"] == "user"] == [2, 2, 4]


@pytest.mark.usefixtures("speaker")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_recalled_image_is_seen_in_a_message_behind_the_results(stream: bool) -> None:
    async with native(images=TIGHT) as house:
        history = await three_images(house)
        house.brain.will(says("Let me see.", recalls(1, "r1"), recalls(2, "r2")), says("A word."), says("Sure."))
        history.append(user("What was on the first two?"))
        answer = await house.chat(*history, headers=SESSION, stream=stream)
        assert answer.text == "Let me see.\n\nA word."
        assert (answer.calls, answer.finish) == ([], "stop")
        assert answer.usage is not None
        assert answer.usage["chiasm"]["vision_calls"] == 0
        history += [assistant(answer.text), user("Sure?")]
        await house.chat(*history, headers=SESSION, stream=stream)
    asked, followed = house.brain.asked[3:5]
    assert followed.messages[len(asked.messages) :] == [
        assistant(
            "Let me see.",
            tool_call("r1", "recallImage", '{"image":"1"}'),
            tool_call("r2", "recallImage", '{"image":"2"}'),
        ),
        tool_result("r1", "Image #1 follows."),
        tool_result("r2", "Image #2 follows."),
        user(*marked(1, picture(1)), *marked(2, picture(2))),
    ]
    assert begins_with(followed, asked)


@pytest.mark.usefixtures("speaker")
async def test_what_came_back_is_seen_where_it_came_back_and_nowhere_else() -> None:
    async with native(images={"max_loaded": 3, "keep_loaded": 2}) as house:
        house.brain.will(says("Four."), says(recalls(1)), says("A word."), says("Yes."), says("Still."))
        history = [user("These:", *(shown(picture(number)) for number in range(1, 5))), assistant("Four.")]
        await house.chat(*history[:1], headers=SESSION)
        history += [user("And?", shown(picture(5)))]
        await house.chat(*history, headers=SESSION)
        history += [assistant("A word."), user("Sure?")]
        await house.chat(*history, headers=SESSION)
        history += [assistant("Yes."), user("Still?")]
        await house.chat(*history, headers=SESSION)
    _, _, followed, third, last = house.brain.asked
    assert text(away(1)) in last.messages[0]["content"]
    assert last.body.count(letters_of(picture(1))) == 1
    assert begins_with(third, followed)
    assert begins_with(last, third)


async def test_what_is_in_view_is_not_shown_twice() -> None:
    async with native() as house:
        house.brain.will(says(recalls(1, "r1")), says("Yes."))
        await house.chat(user("Look.", shown(picture(1))), headers=SESSION)
    asked, followed = house.brain.asked
    assert followed.messages[len(asked.messages) + 1 :] == [
        tool_result("r1", "Image #1 is in view already, marked [Image #1].")
    ]


async def test_what_an_earlier_answer_recalled_is_in_view_still() -> None:
    async with native(images={"max_loaded": 2, "keep_loaded": 2}) as house:
        history = await three_images(house)
        house.brain.will(says(recalls(1, "r1")), says("A word."), says(recalls(1, "r2")), says("The same."))
        history.append(user("What was on the first?"))
        await house.chat(*history, headers=SESSION)
        history += [assistant("A word."), user("Look again.")]
        await house.chat(*history, headers=SESSION)
    last = house.brain.asked[6]
    assert last.messages[-1]["content"].startswith("Image #1 is in view already")
    assert last.body.count(letters_of(picture(1))) == 1


async def test_a_recalled_image_that_is_forgotten_again_leaves_words() -> None:
    async with native(images=TIGHT) as house:
        history = await three_images(house)
        house.brain.will(
            says(recalls(1, "r1")), says("A word."), says("Two more."), says(recalls(1, "r2")), says("It.")
        )
        history.append(user("What was on the first?"))
        await house.chat(*history, headers=SESSION)
        history += [assistant("A word."), user("New:", shown(picture(4)), shown(picture(5)))]
        await house.chat(*history, headers=SESSION)
        history += [assistant("Two more."), user("The first again?")]
        await house.chat(*history, headers=SESSION)
    forgot = house.brain.asked[5].messages
    assert data_url(picture(1)) not in orjson.dumps(forgot).decode()
    (result,) = [message for message in forgot if message["role"] == "tool"]
    assert result["content"].startswith("(What was seen in image #1 was forgotten to save room; call recallImage")
    assert [message["role"] for message in forgot[-5:]] == ["user", "assistant", "tool", "assistant", "user"]
    assert house.brain.asked[7].messages[-1] == user(*marked(1, picture(1)))
    assert house.brain.asked[7].body.count(letters_of(picture(1))) == 1


async def test_an_image_that_the_client_shows_again_is_seen_there_only() -> None:
    async with native(images=TIGHT) as house:
        history = await three_images(house)
        house.brain.will(says("Again."), says("Yes."))
        history.append(user("Once more:", shown(picture(1))))
        await house.chat(*history, headers=SESSION)
        history += [assistant("Again."), user("Clear?")]
        await house.chat(*history, headers=SESSION)
    again, later = house.brain.asked[3:]
    assert again.messages[0] == user("Number 1:", away(1))
    assert again.messages[-1]["content"][:3] == user("Once more:", *marked(1, picture(1)))["content"]
    assert begins_with(later, again)


@pytest.mark.usefixtures("speaker")
@pytest.mark.parametrize("order", ["ours first", "the client's first"])
@pytest.mark.parametrize("stream", [False, True])
async def test_in_a_mixed_turn_the_picture_stands_behind_all_results(order: str, stream: bool) -> None:
    ours, theirs = recalls(1, "r1"), Calls("read", '{"path":"a"}', "c1")
    called = (ours, theirs) if order == "ours first" else (theirs, ours)
    async with native(images=TIGHT) as house:
        history = await three_images(house)
        house.brain.will(says(*called), says("Both."), says("Yes."))
        history.append(user("Compare."))
        answer = await house.chat(*history, headers=SESSION, stream=stream, tools=[function("read")])
        assert [call.name for call in answer.calls] == ["read"]
        history += [assistant(None, tool_call("c1", "read", '{"path":"a"}')), tool_result("c1", "AAA")]
        await house.chat(*history, headers=SESSION, stream=stream, tools=[function("read")])
        history += [assistant("Both."), user("Sure?")]
        await house.chat(*history, headers=SESSION, stream=stream, tools=[function("read")])
    asked, completed, later = house.brain.asked[3:]
    said, *results, seen = completed.messages[len(asked.messages) :]
    ids = ["r1", "c1"] if order == "ours first" else ["c1", "r1"]
    assert [call["id"] for call in said["tool_calls"]] == ids
    assert [result["tool_call_id"] for result in results] == ids
    assert {result["tool_call_id"]: result["content"].partition("\n")[0] for result in results} == {
        "r1": "Image #1 follows.",
        "c1": "AAA",
    }
    assert seen == user(*marked(1, picture(1)))
    assert begins_with(completed, asked)
    assert begins_with(later, completed)


async def test_all_of_it_is_the_same_after_a_restart(tmp_path: Path) -> None:
    store = {"kind": "disk", "path": str(tmp_path / "store")}
    async with native(images=TIGHT, store=store) as house:
        history = await three_images(house)
        house.brain.will(says(recalls(1)), says("A word."), says("Yes."))
        history.append(user("What was on the first?"))
        await house.chat(*history, headers=SESSION)
        history += [assistant("A word."), user("Sure?")]
        await house.chat(*history, headers=SESSION)
        before = house.brain.asked[-1].messages
    async with native(images=TIGHT, store=store) as house:
        house.brain.will(says("Yes."))
        await house.chat(*history, headers=SESSION)
        assert house.brain.asked[0].messages == before
    kept = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*.db*"))
    assert b"chiasm:image/1" in kept
    assert base64.b64encode(picture(1))[:60] not in kept


# No pixels elsewhere


async def test_pictures_reach_the_brain_with_eyes_and_no_other() -> None:
    """One conversation, asked of two brains in turn; the script of the one without eyes minds picture data."""
    async with Brain() as blind, Brain() as seeing:
        seeing.may_see_pictures = True
        settings = Settings.model_validate(
            {
                "server": {"port": 0},
                "text": [
                    {"name": "seeing", "base_url": seeing.url, "images": "native"},
                    {"name": "blind", "base_url": blind.url},
                ],
                "vision": [{"kind": "ocr"}],
                "images": {"max_loaded": 1, "keep_loaded": 1},
                "store": {"kind": "memory"},
            }
        )
        seeing.will(says("One."), says("Two."), says(recalls(1)), says("Back."))
        blind.will(says("So."), says("And so."))
        async with (
            running(settings) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, headers=SESSION) as client,
        ):
            history: list[Any] = []

            async def ask(model: str, *parts: Any) -> None:
                history.append(user(*parts))
                body = {"model": model, "messages": history}
                answer = await client.post("/v1/chat/completions", json=body, timeout=DEADLINE)
                assert answer.status_code == 200, answer.content
                history.append(assistant(answer.json()["choices"][0]["message"]["content"]))

            await ask("seeing", "a", shown(picture(1)))
            await ask("seeing", "b", shown(picture(2)))
            await ask("seeing", "What was on the first?")
            await ask("blind", "And you?")
            await ask("blind", "And now?", shown(noise(3)))
    assert data_url(picture(1)).encode() in seeing.asked[-1].body
    assert "Image #1 follows." in blind.asked[0].body.decode(), "the hidden turn is in the history"
    assert all(b"chiasm:image" not in asked.body for asked in blind.asked)


def test_kept_pictures_are_left_out_for_a_brain_without_eyes() -> None:
    turn = KeptTurn([assistant(None), *result_messages([ToolResult("r", "w", pictures=(1,))]), assistant("x")])
    mixed = KeptTurn([assistant("x")], result_messages([ToolResult("r", "w", pictures=(1,))]))
    assert without_pictures(turn).said == [assistant(None), tool_result("r", "w"), assistant("x")]
    assert without_pictures(mixed).results == [tool_result("r", "w")]


# The parts


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        (256, 256, 64),
        (64, 64, 64),
        (1, 1, 64),
        (640, 480, 300),
        (1024, 768, 768),
        (1920, 1080, 2040),
        (4000, 3000, 11750),
        (1170, 2532, 2923),
    ],
)
def test_tokens_of_pixels_are_as_the_model_counts_them(width: int, height: int, tokens: int) -> None:
    assert pixel_tokens(width, height) == tokens + 2


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (50_000, 300), (8192, 8192)])
def test_no_picture_costs_more_than_the_model_takes(width: int, height: int) -> None:
    assert 14_000 < pixel_tokens(width, height) <= 16_386


def test_data_take_the_place_of_references_and_words_where_they_are_gone() -> None:
    messages = [user("a"), *result_messages([ToolResult("r", "w", pictures=(3, 4))])]
    assert referenced(messages) == [3, 4]
    assert filled(messages, {3: "data:x", 4: None})[2] == user(
        "[Image #3]", shown("data:x"), "[Image #4]", "(Image #4 is no longer available.)"
    )
    assert filled(messages, {3: "data:x", 4: None})[:2] == messages[:2]


def test_a_picture_goes_with_its_result_and_those_that_stand_stay() -> None:
    results = [
        ToolResult("r1", "one", images=(1, 2), pictures=(1, 2)),
        ToolResult("r2", "two", images=(3,), pictures=(3,)),
    ]
    turn = KeptTurn([assistant("?"), *result_messages(results), assistant("!")], looks=[(1, 2), (3,)], stamp=5)
    woven = weave([assistant("!")], {0: turn}, {}, stands=lambda numbers, stamp: 2 not in numbers)
    assert [message["content"][:9] for message in woven[1:3]] == ["(What was", "two"]
    assert woven[3] == user("[Image #3]", reference(3))
    none = weave([assistant("!")], {0: turn}, {}, stands=lambda numbers, stamp: False)
    assert [message["role"] for message in none] == ["assistant", "tool", "tool", "assistant"]


def test_a_picture_that_does_not_fit_any_more_is_words() -> None:
    results = (ToolResult("r", "Image #1 follows.", images=(1,), pictures=(1,)),)
    following = FollowUp({}, Turn(1), results).shortened()
    assert following is not None
    assert (following.results[0].text, following.results[0].pictures) == (NO_ROOM, ())
    assert following.shortened() is None


PLACES = {0: Place("a" * 40, "n"), 2: Place("b" * 40, "n")}


async def test_a_message_is_dated_once_by_whoever_sees_it_first() -> None:
    store = MemoryStore(max_bytes=2**20)
    since = Since(store)
    assert await since.stamps("w", {0: PLACES[0]}, 3) == {0: 3}
    assert await since.stamps("w", PLACES, 7) == {0: 3, 2: 7}
    assert await Since(store).stamps("w", PLACES, 9) == {0: 3, 2: 7}
    assert await Since(store).stamps("another", PLACES, 9) == {0: 9, 2: 9}


async def test_without_a_store_whatever_is_loaded_stands_and_nothing_is_decided() -> None:
    def fail(key: str) -> None:
        raise StoreError("out of reach")

    store = FailingStore()
    since = Since(store)
    store.on_read = fail
    assert await since.stamps("w", PLACES, 3) == {0: 3, 2: 3}
    store.on_read = lambda key: None
    assert await since.stamps("w", PLACES, 4) == {0: 4, 2: 4}


class Shelf:
    """Images 1 and 2, and 3 whose bytes are gone, and 4 that nobody can read."""

    def __init__(self) -> None:
        self.loaded: list[tuple[int, int]] = []

    async def records(self, numbers: Sequence[int]) -> Mapping[int, ImageRecord]:
        rows = [ImageRecord(number, "", "image/png", 256, 256) for number in (1, 2, 3)]
        rows.append(ImageRecord(4, "", problem="truncated PNG"))
        return {row.number: row for row in rows if row.number in numbers}

    async def data(self, number: int) -> bytes | None:
        return None if number == 3 else b"png"

    async def recalled(self, number: int, *, tokens: int) -> int:
        self.loaded.append((number, tokens))
        return 10 + number


async def recalled(arguments: str, in_view: set[int] | None = None) -> tuple[ToolResult, Shelf]:
    shelf = Shelf()
    tool = RecallPixels(images=shelf, in_view=in_view or set())
    return await tool.call(ToolCall("r", "recallImage", arguments)), shelf


async def test_several_are_shown_at_once_and_counted_as_pixels() -> None:
    result, shelf = await recalled('{"image": "1, 2"}')
    assert (result.pictures, result.images, result.stamp) == ((1, 2), (1, 2), 12)
    assert shelf.loaded == [(1, 66), (2, 66)]


async def test_what_cannot_be_shown_is_said_and_the_rest_is_shown() -> None:
    result, _ = await recalled('{"image": "1, 3, 4, 9"}')
    assert (result.pictures, result.images, result.failed) == ((1,), (1,), False)
    for words in ("#3 is no longer available", "#4 cannot be shown: truncated PNG", "no image #9"):
        assert words in result.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [("{}", "missing"), ('{"image": "3"}', "no longer available"), ('{"image": "1,2,3,4,5,6,7,8,9"}', "At most 8")],
)
async def test_where_nothing_can_be_shown_the_call_has_failed(arguments: str, words: str) -> None:
    result, shelf = await recalled(arguments)
    assert words in result.text
    assert (result.failed, result.pictures, shelf.loaded) == (True, (), [])


async def test_an_image_is_shown_once_in_an_answer() -> None:
    tool = RecallPixels(images=Shelf(), in_view=set())
    first = await tool.call(ToolCall("a", "recallImage", '{"image": "1"}'))
    second = await tool.call(ToolCall("b", "recallImage", '{"imageId": ["1"]}'))
    assert (first.pictures, second.pictures, second.images) == ((1,), (), (1,))
