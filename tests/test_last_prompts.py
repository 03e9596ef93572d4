"""What the client sent beside what the brain got, as it is held for people: true, bounded, without pictures, and gone
with what was deleted."""

from __future__ import annotations

import base64
import time
from typing import Any

import orjson
import pytest

from cache.table import ImageTable
from router.admin.page.side_by_side import MOST_SHOWN, Compared, _marked, compared
from router.intake.last_prompts import LONGEST, PIXELS, LastPrompt, LastPrompts, written
from router.protocol.image_list import HEADER
from router.protocol.ledger import KeptTable, with_table
from tests.brain import looks, says, whole
from tests.eyes import sees
from tests.live import House, assistant, live, picture, shown, user
from tests.speakers.speaker import Speaker

TABLE = ImageTable(generation="g")


def body_of(
    client: list[Any], history: list[Any] | None = None, sent: list[Any] | None = None, **changed: Any
) -> bytes:
    history = client if history is None else history
    given: dict[str, Any] = {
        "came": client,
        "pictures": {},
        "picture_bytes": 0,
        "answers": (),
        "tables": {},
        "tools": ("analyzeImage",),
    }
    return written(client, history, history if sent is None else sent, **{**given, **changed})


def noted(prompts: LastPrompts, key: str, body: bytes = b"{}", table: ImageTable = TABLE) -> None:
    prompts.note("t", key, table, lambda: body, request_id="r", brain="b", wire="chat")


def read(body: bytes) -> Compared:
    held = LastPrompt(1.0, "r", "b", "chat", "g", 0, body).read()
    assert held is not None
    return compared(held)


# The room


def test_no_more_are_held_than_there_is_room_for_and_the_oldest_go() -> None:
    prompts = LastPrompts(most=2)
    for key in ("a", "b", "a", "c"):
        noted(prompts, key)
    assert [key for key in "abc" if prompts.of("t", key, TABLE)] == ["a", "c"]


def test_no_more_bytes_are_held_than_there_is_room_for() -> None:
    prompts = LastPrompts(most_bytes=100)
    for key in "abcdef":
        noted(prompts, key, b"x" * 40)
        assert prompts.bytes_held <= 100
    assert len(prompts) == 2
    noted(prompts, "f", b"x" * 90)
    assert (len(prompts), prompts.bytes_held) == (1, 90)
    prompts.drop("t", "f")
    prompts.drop("t", "f")
    assert (len(prompts), prompts.bytes_held) == (0, 0)


def test_a_prompt_that_is_too_long_is_known_and_not_held() -> None:
    prompts = LastPrompts()
    noted(prompts, "a", body_of([user("x" * LONGEST)]))
    held = prompts.of("t", "a", TABLE)
    assert held is not None
    assert held.read() is None


@pytest.mark.parametrize("words", ["\ud800", 2**70, float("nan")])
def test_what_no_json_can_say_is_no_fault(words: Any) -> None:
    body = body_of([{"role": "user", "content": [{"type": "text", "text": words}]}])
    assert body == b"" or read(body).client.messages == 1


def test_a_prompt_goes_with_its_conversation_and_with_each_image_that_is_deleted() -> None:
    prompts = LastPrompts()
    noted(prompts, "a")
    assert prompts.of("t", "a", ImageTable(generation="another")) is None
    assert len(prompts) == 0
    noted(prompts, "a")
    deleted = ImageTable(generation="g")
    deleted.deleted = [1]
    assert prompts.of("t", "a", deleted) is None
    assert len(prompts) == 0


def test_a_conversation_without_a_table_in_the_store_is_not_held() -> None:
    prompts = LastPrompts()
    noted(prompts, "a", table=ImageTable(generation="g", kept=False))
    assert len(prompts) == 0


def test_no_picture_is_held_on_either_side() -> None:
    data = shown(picture(1))
    came, seen = user("Look.", data), user("[Image #1]", data)
    body = body_of([came], [seen], [seen, user(data)])
    assert b"base64" not in body
    both = read(body)
    assert both.rows[0].client is not None
    assert both.rows[0].client.pieces[-1].text == PIXELS
    assert [card.pieces[-1].kind for card in both.rows[0].brain] == ["pixels", "pixels"]


# Side by side


def test_hidden_turns_stand_in_the_row_of_the_answer_that_hid_them() -> None:
    came = [user("What is it?"), assistant("A cat."), user("Sure?")]
    call = {"id": "c", "type": "function", "function": {"name": "analyzeImage", "arguments": "{}"}}
    sent = [
        came[0],
        assistant(None, call),
        {"role": "tool", "tool_call_id": "c", "content": "> A cat."},
        assistant("A cat."),
        came[2],
    ]
    both = read(body_of(came, sent=sent, answers=[1]))
    assert [row.same for row in both.rows] == [True, False, True]
    assert [card.note for card in both.rows[1].brain] == ["hidden turn", "what was seen", "as it was said"]
    assert [piece.kind for piece in both.rows[1].brain[0].pieces] == ["own-call"]
    assert both.hidden == 2


def test_results_of_ours_stand_with_the_clients_results_of_a_mixed_turn() -> None:
    theirs = {"id": "t", "type": "function", "function": {"name": "screenshot", "arguments": "{}"}}
    ours = {"id": "o", "type": "function", "function": {"name": "analyzeImage", "arguments": "{}"}}
    result = {"role": "tool", "tool_call_id": "t", "content": "done"}
    came = [user("Look."), assistant(None, theirs), result]
    sent = [
        came[0],
        assistant(None, ours, theirs),
        {"role": "tool", "tool_call_id": "o", "content": "(What was seen in image #1 was forgotten"},
        result,
    ]
    both = read(body_of(came, sent=sent, answers=[1]))
    assert [[card.role for card in row.brain] for row in both.rows] == [["user"], ["assistant", "tool"], ["tool"]]
    assert both.forgotten == 1


def test_the_table_is_found_at_the_end_of_the_message_that_has_it() -> None:
    table = KeptTable(f"Images.\n\n{HEADER}\n| #1 | a.png | - | loaded |", 3)
    came = [user("One."), user("Two.")]
    both = read(body_of(came, sent=[came[0], with_table(came[1], table.text)], tables={1: table}))
    (card,) = both.rows[1].brain
    assert (card.note, card.pieces[-1].kind, card.pieces[-1].text) == ("table added", "table", table.text)
    assert both.tables == 1


def test_words_like_ours_are_ours_only_where_that_image_stands() -> None:
    came = [user("Is [Image #2] there? [picture #9]")]
    history = [user("[Image #1] (attached PNG, 1x1, not visible) Is [Image #2] there? [picture #9]")]
    (row,) = read(body_of(came, history, pictures={0: [1]})).rows
    assert row.client is not None
    assert [piece.kind for piece in row.client.pieces] == ["text", "marker", "text", "text"]
    assert [(piece.kind, piece.number) for piece in row.brain[0].pieces if piece.number] == [
        ("placeholder", 1),
        ("marker", 2),
    ]


def test_a_long_message_is_cut_and_says_how_much_is_missing() -> None:
    long = "äb" * MOST_SHOWN
    (row,) = read(body_of([user(long)])).rows
    assert row.client is not None
    shown_ = sum(len(piece.text) for piece in [*row.client.pieces, *row.client.rest])
    assert shown_ + row.client.left_out == row.client.characters == len(long)
    assert row.client.size == len(long.encode())


# Through the application


async def last(house: House) -> dict[str, Any]:
    (one,) = (await house.get("/admin/api/conversations")).json["data"]
    got = await house.get(f"/admin/conversations/{one['id']}/prompt.json")
    assert got.status == 200, got.body
    return dict(got.json)


@pytest.mark.anyio
@pytest.mark.live
async def test_in_every_format_the_last_prompt_is_held_as_the_brain_got_it(speaker: Speaker) -> None:
    async with live() as house:
        house.eyes.will(sees("A cat."))
        history = [user("What is it?", shown(picture(1)))]
        house.brain.will(says(looks(1, "What?")), says("A cat."))
        answer = await house.chat(*history, headers={"x-session-id": "one"})
        history += [assistant(answer.text), user("Sure?")]
        house.brain.will(says("Quite."))
        await house.chat(*history, headers={"x-session-id": "one", "x-request-id": "the-second"})
        held = await last(house)
        data = base64.b64encode(picture(1))[:60]
        assert data not in orjson.dumps(held)
        assert [message["role"] for message in held["client"]] == ["user", "assistant", "user"]
        assert "[picture #1]" in orjson.dumps(held["client"][0]).decode()
        both = read(orjson.dumps(held))
        assert [len(row.brain) for row in both.rows] == [1, 3, 1]
        assert [card.note for card in both.rows[1].brain] == ["hidden turn", "what was seen", "as it was said"]
        assert [piece.kind for piece in both.rows[0].brain[0].pieces if piece.number] == ["placeholder"]
        assert (both.pictures, both.picture_bytes) == (1, len(picture(1)))


@pytest.mark.anyio
@pytest.mark.live
async def test_a_brain_with_eyes_got_pixels_of_which_none_are_held() -> None:
    async with live(text={"images": "native"}) as house:
        house.brain.may_see_pictures = True
        house.brain.will(says("A cat."))
        await house.chat(user("What is it?", shown(picture(1))))
        held = await last(house)
        assert base64.b64encode(picture(1))[:60] not in orjson.dumps(held)
        assert PIXELS in orjson.dumps(held).decode()


@pytest.mark.anyio
@pytest.mark.live
async def test_a_deleted_image_takes_the_prompt_with_it() -> None:
    async with live() as house:
        house.brain.will(says("Two."))
        await house.chat(user("How many?", shown(picture(1)), shown(picture(2))))
        (one,) = (await house.get("/admin/api/conversations")).json["data"]
        await last(house)
        gone = await house.send(None, path=f"/admin/api/conversations/{one['id']}/images/1", method="DELETE")
        assert gone.status == 200
        got = await house.get(f"/admin/conversations/{one['id']}/prompt.json")
        assert got.error["code"] == "no_prompt"


@pytest.mark.anyio
@pytest.mark.live
@pytest.mark.formats("messages")
async def test_what_was_only_counted_was_sent_to_nobody(speaker: Speaker) -> None:
    async with live() as house:
        house.brain.will(says("A cat."), whole({"input_tokens": 1}))
        asked = user("What is it?", shown(picture(1)))
        await house.chat(asked, headers={"x-session-id": "one"})
        body = speaker.request({"messages": [asked, assistant("A cat."), user("Sure?")]})
        path = "/v1/messages/count_tokens"
        assert (await house.send(body, path=path, headers={"x-session-id": "one"})).status == 200
        assert len((await last(house))["client"]) == 1


@pytest.mark.parametrize("beginning", ["[Image #1] (attached ", "[Image #1: "])
def test_hostile_words_take_linear_time(beginning: str) -> None:
    begun = time.process_time()
    pieces = list(_marked(beginning * 20_000, [1]))
    assert time.process_time() - begun < 5  # a square would take minutes
    assert "".join(piece.text for piece in pieces) == beginning * 20_000
