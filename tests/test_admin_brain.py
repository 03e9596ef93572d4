"""After an action the brain sees it, with its next request: through the live application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from router.protocol.image_list import HEADER
from tests.brain import Script, looks, refuses, says
from tests.conversing import recalls
from tests.eyes import sees
from tests.live import Got, House, live, picture, shown, user

pytestmark = [pytest.mark.anyio, pytest.mark.live]

API = "/admin/api"


@dataclass
class Talk:
    """A client that sends its whole history each time."""

    house: House
    history: list[dict[str, Any]] = field(default_factory=list)
    session: str = "one"

    async def ask(self, message: dict[str, Any], *scripts: Script) -> list[dict[str, Any]]:
        """The messages of the first prompt that the brain got."""
        self.house.brain.will(*scripts)
        before = len(self.house.brain.asked)
        self.history.append(message)
        answer = await self.house.chat(*self.history, headers={"x-session-id": self.session})
        self.history.append({"role": "assistant", "content": answer.text})
        return list(self.house.brain.asked[before].messages)

    async def id(self) -> str:
        (one,) = (await self.house.get(f"{API}/conversations")).json["data"]
        return str(one["id"])

    async def do(self, action: str, number: int = 1, body: Any = None, *, method: str = "POST") -> Got:
        path = f"{API}/conversations/{await self.id()}/images/{number}{action and '/' + action}"
        return await self.house.send(body, path=path, method=method)

    async def image(self, number: int = 1) -> dict[str, Any]:
        got = await self.house.get(f"{API}/conversations/{await self.id()}/images/{number}?details=true")
        assert got.status == 200, got.body
        return dict(got.json)


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    async with live(images={"max_loaded": 3, "keep_loaded": 2}) as house:
        yield Talk(house)


async def looked_at(talk: Talk, seen: str = "A tabby cat.") -> None:
    """An image, #1, and a look at it."""
    talk.house.eyes.will(sees(seen))
    await talk.ask(user("What is it?", shown(picture(1))), says(looks(1, "What?")), says("A cat."))


def words(messages: list[dict[str, Any]]) -> str:
    return orjson.dumps(messages).decode()


def rows_of(message: dict[str, Any]) -> list[str]:
    """The rows of the image table at the end of a message."""
    content = message["content"]
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    return [line for line in text.partition(HEADER)[2].splitlines() if line.startswith("| #")]


async def test_what_was_seen_in_a_forgotten_image_leaves_the_prompt(talk: Talk) -> None:
    await looked_at(talk)
    assert "tabby" in words(await talk.ask(user("Sure?"), says("Yes.")))
    got = await talk.do("forget")
    assert (got.status, got.json["status"]) == (200, "forgotten")
    told = await talk.ask(user("Still?"), says("Hm."))
    assert "tabby" not in words(told[:-1])
    assert rows_of(told[-1]) == ["| #1 | - | A tabby cat | forgotten |"]


async def test_all_that_was_seen_in_a_loaded_image_stands_in_the_prompt_again(talk: Talk) -> None:
    await looked_at(talk)
    first = await talk.ask(user("Sure?"), says("Yes."))
    await talk.do("forget")
    await talk.ask(user("Still?"), says("Hm."))
    got = await talk.do("load")
    assert (got.status, got.json["status"]) == (200, "loaded")
    told = await talk.ask(user("And now?"), says("Hm."))
    assert told[: len(first)] == first, "where it stood before"
    assert rows_of(told[-1]) == ["| #1 | - | A tabby cat | loaded |"]


async def test_what_was_recalled_and_forgotten_comes_back_by_loading(talk: Talk) -> None:
    await looked_at(talk)
    await talk.do("forget")
    await talk.ask(user("Again."), says(recalls(1)), says("Back."))
    await talk.do("forget")
    assert "is back" not in words(await talk.ask(user("Gone?"), says("Gone.")))
    await talk.do("load")
    told = words(await talk.ask(user("Back?"), says("Back.")))
    assert "Image #1 is back" in told


async def test_a_pinned_image_outlives_a_forgetting(talk: Talk) -> None:
    await looked_at(talk)
    got = await talk.do("pin")
    assert (got.json["status"], got.json["pinned"]) == ("loaded", True)
    for seed in (2, 3, 4, 5):
        told = await talk.ask(user("Next.", shown(picture(seed))), says("Seen."))
    assert "tabby" in words(told[:3])
    assert (await talk.image(1))["status"] == "loaded"
    assert (await talk.image(2))["status"] == "forgotten"
    assert (await talk.do("unpin")).json["pinned"] is False
    for seed in (6, 7, 8):
        told = await talk.ask(user("Next.", shown(picture(seed))), says("Seen."))
    assert (await talk.image(1))["status"] == "forgotten"
    assert "tabby" not in words(told[:3])


async def test_a_pin_loads_what_was_forgotten(talk: Talk) -> None:
    await looked_at(talk)
    await talk.do("forget")
    got = await talk.do("pin")
    assert (got.json["status"], got.json["pinned"]) == ("loaded", True)
    assert "tabby" in words((await talk.ask(user("Well?"), says("Well.")))[:-1])


async def test_an_explicit_forgetting_ends_a_pin(talk: Talk) -> None:
    await looked_at(talk)
    await talk.do("pin")
    got = await talk.do("forget")
    assert (got.json["status"], got.json["pinned"]) == ("forgotten", False)


async def test_what_is_asked_for_twice_is_as_good_as_once(talk: Talk) -> None:
    await looked_at(talk)
    for action in ("load", "pin", "pin", "unpin", "unpin", "forget", "forget", "load", "load"):
        got = await talk.do(action)
        assert got.status == 200, (action, got.body)
    told = await talk.ask(user("Well?"), says("Well."))
    assert "tabby" in words(told)


async def test_an_analysis_is_made_now_and_remembered_for_the_brain(talk: Talk) -> None:
    await talk.ask(user("Look.", shown(picture(1))), says("I shall."))
    talk.house.eyes.will(sees("A red square. It says K7QX."))
    got = await talk.do("analyze", body={"task": "What does it say?"})
    assert (got.status, got.json) == (200, {"answer": "A red square. It says K7QX."})
    assert len(talk.house.eyes.looks) == 1
    image = await talk.image()
    assert (image["looks"], image["last_task"], image["last_answer"], image["description"]) == (
        1,
        "What does it say?",
        "A red square. It says K7QX.",
        "A red square",
    )
    assert image["seconds"] > 0
    told = await talk.ask(user("So?"), says(looks(1, "What does it say?")), says("K7QX."))
    assert rows_of(told[-1]) == ["| #1 | - | A red square | loaded |"]
    follow_up = talk.house.brain.asked[-1].messages
    assert "K7QX" in words(follow_up), "and the same question is not put to the eyes again"
    assert len(talk.house.eyes.looks) == 1


async def test_an_analysis_brings_a_forgotten_image_back(talk: Talk) -> None:
    await looked_at(talk)
    await talk.do("forget")
    assert (await talk.do("analyze", body={"task": "Colour?"})).status == 200
    told = await talk.ask(user("Well?"), says("Well."))
    assert "tabby" in words(told[:-1])
    assert rows_of(told[-1]) == ["| #1 | - | A tabby cat | loaded |"]


async def test_a_deleted_image_is_gone_for_the_brain(talk: Talk) -> None:
    await looked_at(talk)
    got = await talk.do("", method="DELETE")
    assert (got.status, got.json) == (200, {"deleted": True})
    told = await talk.ask(user("Well?"), says(looks(1, "What?")), says("Gone."))
    assert "tabby" not in words(told)
    assert "deleted" in words(talk.house.brain.asked[-1].messages)
    assert (await talk.do("", method="DELETE")).json == {"deleted": False}
    for action in ("forget", "load", "pin", "unpin", "thumbnail"):
        got = await talk.do(action, method="GET" if action == "thumbnail" else "POST")
        assert (got.status, got.error["code"]) == (404, "not_found")


async def test_a_deleted_conversation_begins_anew(talk: Talk) -> None:
    await looked_at(talk)
    id_ = await talk.id()
    got = await talk.house.send(None, path=f"{API}/conversations/{id_}", method="DELETE")
    assert (got.status, got.json) == (200, {"deleted": True})
    again = await talk.house.send(None, path=f"{API}/conversations/{id_}", method="DELETE")
    assert again.status == 404
    assert (await talk.house.get(f"{API}/conversations")).json == {"data": [], "next_cursor": None}
    told = await talk.ask(user("Well?"), says("Well."))
    assert "tabby" not in words(told)
    assert await talk.id() == id_, "the same name of a new conversation"


async def test_a_failed_look_is_noted_with_its_image(talk: Talk) -> None:
    talk.house.eyes.will(refuses(400, "SECRET words of the server"))
    await talk.ask(user("What is it?", shown(picture(1))), says(looks(1, "What?")), says("No idea."))
    image = await talk.image()
    assert (image["errors"], image["looks"]) == (1, 0)
    assert image["last_error"]
    assert "SECRET" not in image["last_error"]


async def test_an_analysis_that_fails_says_so(talk: Talk) -> None:
    await talk.ask(user("Look.", shown(picture(1))), says("I shall."))
    talk.house.eyes.will(refuses(400, "no"))
    got = await talk.do("analyze", body={"task": "What?"})
    assert (got.status, got.error["code"]) == (502, "eyes_failed")
    assert (await talk.image())["errors"] == 1


async def test_the_turn_of_the_last_look_is_known(talk: Talk) -> None:
    await looked_at(talk)
    assert (await talk.image())["last_turn"] == 1
    await talk.ask(user("More."), says("Hm."))
    await talk.ask(user("More."), says(looks(1, "Colour?")), says("Grey."))
    assert (await talk.image())["last_turn"] == 3


async def test_a_brain_with_eyes_sees_and_does_not_see_the_pixels() -> None:
    async with live(text={"images": "native"}) as house:
        house.brain.may_see_pictures = True
        talk = Talk(house)
        first = await talk.ask(user("What is it?", shown(picture(1))), says("A card."))
        assert "data:image/png" in words(first)
        await talk.do("forget")
        assert "data:image/png" not in words(await talk.ask(user("And?"), says("Hm.")))
        await talk.do("load")
        told = await talk.ask(user("And?"), says("Hm."))
        assert "data:image/png" in words(told[:1])


async def test_what_a_request_changes_is_seen_at_once(talk: Talk) -> None:
    await looked_at(talk)
    one = (await talk.house.get(f"{API}/conversations/{await talk.id()}")).json
    assert (one["images"], one["loaded"], one["forgotten"], one["looks"]) == (1, 1, 0, 1)
    assert one["tenant"] == "local"


async def test_the_turn_in_which_an_image_came_is_told_and_stays(talk: Talk) -> None:
    await talk.ask(user("Hello."), says("Hi."))
    await talk.ask(user("Look.", shown(picture(7))), says("Red."))
    await talk.ask(user("And now?"), says("Still."))
    assert (await talk.image())["first_turn"] == 2
