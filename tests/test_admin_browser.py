"""The admin page in a real browser: what a person does with it, with and without JavaScript, on a phone, by keyboard.

Every test ends with nothing on the console, and nothing asked of anybody but the house (`tests.browser`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pytest
from playwright.async_api import Route, expect

from tests.admin_scene import part, scene
from tests.brain import Script, looks, nobody, says
from tests.browser import PHONE, Visit, browser
from tests.eyes import Eyes, sees
from tests.live import House, Options, live, picture, running, shown, user

pytestmark = [pytest.mark.anyio, pytest.mark.live]

HOSTILE = "</td></script><img src=x onerror=alert(1)><svg onload=alert(2)>\u202e{{7*7}}"
KEY = "the-admin-key"


@dataclass
class Room:
    """A house, a client that sends its whole history each time, and a browser on the admin page."""

    house: House
    visit: Visit
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def page(self) -> Any:
        return self.visit.page

    async def ask(self, message: dict[str, Any], *scripts: Script) -> str:
        """The first prompt that the brain got."""
        self.house.brain.will(*scripts)
        before = len(self.house.brain.asked)
        self.history.append(message)
        answer = await self.house.chat(*self.history, headers={"x-session-id": "one"})
        self.history.append({"role": "assistant", "content": answer.text})
        return orjson.dumps(self.house.brain.asked[before].messages).decode()

    async def there(self) -> str:
        (one,) = (await self.house.get("/admin/api/conversations")).json["data"]
        return f"/admin/conversations/{one['id']}"

    async def image(self, number: int = 1) -> dict[str, Any]:
        there = (await self.there()).replace("/admin/", "/admin/api/")
        return dict((await self.house.get(f"{there}/images/{number}")).json)


@asynccontextmanager
async def room(
    *, console_may_say: str = "", server: dict[str, Any] | None = None, **profile: Any
) -> AsyncIterator[Room]:
    async with (
        live(images={"max_loaded": 3, "keep_loaded": 2}, server=server) as house,
        browser() as chromium,
        chromium.visits(house.port, console_may_say=console_may_say, **profile) as visit,
    ):
        house.eyes.answers = lambda asked: sees("A tabby cat.")
        yield Room(house, visit)


async def cat_and_dog(room: Room) -> None:
    """#1 was looked at, #2 was not."""
    await room.ask(
        user("What is it?", part(picture(1), "cat.png"), part(picture(2), "dog.png")),
        says(looks(1, "What animal?")),
        says("A cat."),
    )


STICKS_OUT = """[...document.querySelectorAll(".list tbody tr")].flatMap((row) => {
    const edge = row.getBoundingClientRect().right + 1;
    return [...row.querySelectorAll("*")].filter((one) => one.getBoundingClientRect().right > edge)
        .map((one) => one.outerHTML.slice(0, 80));
})"""
"""What reaches over the edge of its row or card."""


async def wide(room: Room) -> int:
    """Pixels by which the page is wider than the window."""
    return int(await room.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


async def test_somebody_opens_the_page_and_finds_an_image_by_words() -> None:
    async with room() as here:
        await cat_and_dog(here)
        await here.visit.open("/admin")
        await here.page.locator("a.go").click()
        await expect(here.page.locator("tbody tr")).to_have_count(2)
        pictures = here.page.locator(".thumb img")
        await here.page.evaluate("Promise.all([...document.images].map((one) => one.decode()))")
        await expect(pictures).to_have_count(2)
        await here.page.keyboard.press("/")
        await here.page.keyboard.type("dog")
        await here.page.keyboard.press("Enter")
        await here.page.wait_for_url("**q=dog**")
        await expect(here.page.locator("tbody tr")).to_have_count(1)
        await here.page.get_by_label("Status").select_option("forgotten")
        await here.page.get_by_role("button", name="Filter").click()
        await expect(here.page.get_by_text("No image fits these filters.")).to_be_visible()
        await here.page.get_by_role("link", name="Clear").click()
        await expect(here.page.locator("tbody tr")).to_have_count(2)


async def test_what_somebody_forgets_and_loads_the_brain_sees_with_its_next_request() -> None:
    async with room() as here:
        await cat_and_dog(here)
        assert "A tabby cat." in await here.ask(user("Sure?"), says("Yes."))
        await here.visit.open(await here.there())
        await here.page.get_by_role("button", name="Forget image #1").click()
        await expect(here.page.get_by_text("Image #1 is forgotten")).to_be_visible()
        assert "done=" not in here.page.url
        prompt = await here.ask(user("And now?"), says("Hm."))
        assert "A tabby cat." not in prompt.replace("| A tabby cat", "")
        assert "was forgotten to save room" in prompt
        await here.page.get_by_role("button", name="Load image #1").click()
        await expect(here.page.get_by_text("Image #1 is loaded")).to_be_visible()
        assert "was forgotten to save room" not in await here.ask(user("And again?"), says("Yes."))


async def test_somebody_pins_an_image_and_it_outlives_a_forgetting() -> None:
    async with room() as here:
        await cat_and_dog(here)
        await here.visit.open(await here.there())
        await here.page.get_by_role("button", name="Pin image #1", exact=True).click()
        await expect(here.page.locator("#i-1 .badge.pinned")).to_be_visible()
        await here.ask(user("More.", *[shown(picture(seed)) for seed in (3, 4, 5)]), says("Many."))
        assert (await here.image())["status"] == "loaded"
        assert (await here.image(2))["status"] == "forgotten"


async def test_somebody_asks_the_eyes_again_and_reads_their_answer() -> None:
    async with room() as here:
        await cat_and_dog(here)
        await here.visit.open(await here.there())
        here.house.eyes.answers = lambda asked: sees("Seven whiskers.")
        row = here.page.locator("#i-2")
        await row.locator(".more > summary").click()
        await row.get_by_label("Question for the eyes").fill("How many whiskers?")
        await row.get_by_role("button", name="Analyze again").click()
        await expect(here.page.get_by_text("The eyes looked at image #2.")).to_be_visible()
        await expect(here.page.locator("#answer")).to_have_text("Seven whiskers.")
        assert (await here.image(2))["last_task"] == "How many whiskers?"


async def test_somebody_deletes_an_image_and_is_asked_first() -> None:
    async with room() as here:
        await cat_and_dog(here)
        await here.visit.open(await here.there())
        row = here.page.locator("#i-1")
        await row.locator(".more > summary").click()
        await row.get_by_role("link", name="Delete").click()
        await here.page.get_by_role("link", name="Keep it").click()
        await expect(here.page.locator("tbody tr")).to_have_count(2)
        await here.visit.open(f"{await here.there()}/images/1/delete")
        await here.page.locator("#yes").click()
        await expect(here.page.get_by_text("Image #1 is deleted.")).to_be_visible()
        await expect(here.page.locator("tbody tr")).to_have_count(1)
        assert "deleted" in await here.ask(user("And #1?"), says("Gone."))
        await here.page.get_by_role("link", name="Delete conversation").click()
        await here.page.locator("#yes").click()
        await expect(here.page.get_by_text("The conversation is deleted")).to_be_visible()


async def test_what_strangers_wrote_stays_text() -> None:
    async with room() as here:
        dialogs: list[str] = []
        here.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        here.house.eyes.answers = lambda asked: sees(HOSTILE)
        await here.ask(user(HOSTILE, part(picture(1), HOSTILE + ".png")), says(looks(1, HOSTILE)), says(HOSTILE))
        await here.ask(user(HOSTILE), says(HOSTILE))
        there = await here.there()
        for path in (there, f"{there}/images/1", f"{there}/prompt", f"{there}/images/1/delete"):
            await here.visit.open(path)
            assert await here.page.locator("img[src=x], svg, main script").count() == 0
        await here.visit.open(f"{there}/images/1")
        await expect(here.page.locator("#answer")).to_contain_text("<img src=x onerror=alert(1)>")
        await here.ask(user("Changed.", part(picture(2), HOSTILE + ".png")), says("Well."))
        await here.visit.open(there)
        await here.ask(user("Live.", part(picture(3), HOSTILE + ".png")), says("Well."))
        await expect(here.page.locator("tbody tr")).to_have_count(3)
        assert dialogs == []


async def test_the_page_keeps_itself_up_to_date_and_leaves_alone_what_somebody_does() -> None:
    async with room() as here:
        await cat_and_dog(here)
        await here.visit.open(await here.there())
        await expect(here.page.locator(".live-words")).to_have_text("live")
        await here.page.locator("#m-2 > summary").click()
        await here.page.locator("#task-2").fill("Half a quest")
        await here.ask(user("One more.", part(picture(3), "bird.png")), says("A bird."))
        await expect(here.page.locator("tbody tr")).to_have_count(3)
        await expect(here.page.locator("#task-2")).to_have_value("Half a quest")
        await expect(here.page.locator("#task-2")).to_be_focused()
        api = (await here.there()).replace("/admin/", "/admin/api/")
        await here.house.send(None, path=f"{api}/images/2/forget")
        await expect(here.page.locator("#i-2 .badge.forgotten")).to_be_visible()
        await expect(here.page.locator("#task-2")).to_have_value("Half a quest")
        await here.page.get_by_role("button", name="Pause").click()
        await expect(here.page.locator(".live-words")).to_have_text("paused")
        await here.house.send(None, path=f"{api}/images/1/forget")
        await here.page.wait_for_timeout(600)
        await expect(here.page.locator("#i-1 .badge.loaded")).to_be_visible()
        await here.page.get_by_role("button", name="Go on").click()
        await expect(here.page.locator("#i-1 .badge.forgotten")).to_be_visible()


async def test_the_head_of_a_page_follows_what_no_event_tells_of() -> None:
    async with (
        nobody() as nowhere,
        Eyes() as eyes,
        running(Options().settings(nowhere, eyes.url)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
        browser() as chromium,
        chromium.visits(port) as visit,
    ):
        await visit.page.clock.install()
        await visit.open("/admin")
        await expect(visit.page.locator(".live-words")).to_have_text("live")
        await expect(visit.page.get_by_text("breaker closed")).to_be_visible()
        for _ in range(4):
            await client.post("/v1/chat/completions", json={"messages": [user("Hi.")]})
        await visit.page.clock.run_for(31_000)
        await expect(visit.page.get_by_text("breaker open")).to_be_visible()


async def test_what_happens_between_the_page_and_its_first_event_is_shown() -> None:
    async with room() as here:
        await cat_and_dog(here)

        async def late(route: Route) -> None:
            await here.ask(user("One more.", part(picture(3), "bird.png")), says("A bird."))
            await route.continue_()

        await here.page.route("**/admin/api/events*", late, times=1)
        await here.visit.open(await here.there())
        await expect(here.page.locator("tbody tr")).to_have_count(3)


async def test_the_list_shows_a_conversation_that_begins() -> None:
    async with room() as here:
        await here.visit.open("/admin")
        await expect(here.page.locator(".live-words")).to_have_text("live")
        await expect(here.page.get_by_text("No conversation has brought an image yet.")).to_be_visible()
        await cat_and_dog(here)
        await expect(here.page.locator("tbody tr")).to_have_count(1)


async def test_what_the_brain_saw_is_marked_and_follows_the_conversation() -> None:
    async with room() as here:
        await cat_and_dog(here)
        await here.visit.open(f"{await here.there()}/prompt")
        await expect(here.page.locator(".text .mark.placeholder")).to_have_count(2)
        await expect(here.page.locator(".live-words")).to_have_text("live")
        await here.ask(user("More.", *[shown(picture(seed)) for seed in (3, 4, 5)]), says("Many."))
        await expect(here.page.locator(".text .mark.own-call")).to_have_count(1)
        await expect(here.page.locator(".text .mark.table")).to_have_count(1)
        await expect(here.page.locator(".message.forgotten")).to_have_count(1)
        await here.page.get_by_role("link", name="Only what differs").click()
        await here.page.locator(".text a.mark.placeholder").first.click()
        await expect(here.page.get_by_role("heading", level=1)).to_have_text("Image #1")


async def test_without_javascript_everything_can_be_done() -> None:
    async with room(java_script_enabled=False) as here:
        await cat_and_dog(here)
        await here.visit.open("/admin")
        await expect(here.page.locator(".live, .keys")).to_have_count(2)
        assert not await here.page.locator(".live").is_visible()
        await here.page.locator("a.go").click()
        await here.page.get_by_role("button", name="Forget image #1").click()
        await expect(here.page.locator("#i-1 .badge.forgotten")).to_be_visible()
        await here.page.get_by_role("button", name="Pin image #1", exact=True).click()
        await expect(here.page.locator("#i-1 .badge.pinned")).to_be_visible()
        await here.page.locator("#m-1 > summary").click()
        await here.page.locator("#analyze-1").click()
        await expect(here.page.locator("#answer")).to_have_text("A tabby cat.")
        await here.page.get_by_role("link", name="Delete…").click()
        await here.page.locator("#yes").click()
        await expect(here.page.locator("tbody tr")).to_have_count(1)
        await here.page.get_by_role("link", name="Reload").click()
        await expect(here.page.locator("tbody tr")).to_have_count(1)


async def test_everything_can_be_reached_by_keys() -> None:
    async with room() as here:
        await cat_and_dog(here)
        await here.visit.open("/admin")
        await here.page.keyboard.press("Tab")
        await expect(here.page.locator(".skip")).to_be_focused()
        await here.page.keyboard.press("Enter")
        await expect(here.page.locator("main")).to_be_focused()
        await here.page.keyboard.press("j")
        await expect(here.page.locator("a.go")).to_be_focused()
        outline = await here.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "nobody sees where he is"
        await here.page.keyboard.press("Enter")
        await expect(here.page.get_by_role("heading", level=1)).to_have_text("Images")
        for key, row in (("j", "#i-1"), ("j", "#i-2"), ("k", "#i-1")):
            await here.page.keyboard.press(key)
            await expect(here.page.locator(f"{row} a.go")).to_be_focused()
        for _ in range(12):
            await here.page.keyboard.press("Tab")
            if await here.page.evaluate("document.activeElement.id") == "forget-1":
                break
        await here.page.keyboard.press("Enter")
        await expect(here.page.locator("#i-1 .badge.forgotten")).to_be_visible()


async def test_on_a_phone_no_page_is_wider_than_the_window_in_light_and_in_dark() -> None:
    async with room(**PHONE, color_scheme="light", reduced_motion="reduce") as here:
        await here.ask(
            user("wä" * 250, part(picture(1), "nü" * 100 + ".png"), shown("data:image/png;base64,AAAA")),
            says(looks(1, "tö" * 200)),
            says("sä" * 250),
        )
        await here.ask(user("More."), says("Well."))
        there = await here.there()
        for path in ("/admin", there, f"{there}/images/1", f"{there}/prompt", f"{there}/delete", "/admin/sign-in"):
            await here.visit.open(path)
            assert await wide(here) <= 0, path
        await here.visit.open(there)
        head = await here.page.locator("thead").bounding_box()
        assert head is None or head["width"] <= 1, "the rows are no cards"
        for button in await here.page.locator("tbody button:visible").all():
            assert (await button.bounding_box())["height"] >= 44, "too small for a finger"
        assert await here.page.evaluate("getComputedStyle(document.querySelector('.pulse')).animationName") == "none"
        for scheme, colour in (("light", "rgb(245, 244, 240)"), ("dark", "rgb(17, 20, 26)")):
            await here.page.emulate_media(color_scheme=scheme)
            assert await here.page.evaluate("getComputedStyle(document.body).backgroundColor") == colour


async def test_between_a_phone_and_a_desk_no_page_is_wider_than_the_window() -> None:
    async with room() as here:
        await cat_and_dog(here)
        there = await here.there()
        for width in (360, 700, 701, 800, 1000, 1020, 1021):
            await here.page.set_viewport_size({"width": width, "height": 900})
            for path in ("/admin", there, f"{there}/images/1", f"{there}/prompt"):
                await here.visit.open(path)
                assert await wide(here) <= 0, (width, path)
                out = await here.page.evaluate(STICKS_OUT)
                assert out == [], (width, path, out)


async def test_who_has_the_key_signs_in_and_out() -> None:
    async with room(server={"admin_key": KEY}, console_may_say="401") as here:
        await here.visit.open("/admin?q=cat")
        await here.page.get_by_label("Admin key").fill("wrong")
        await here.page.keyboard.press("Enter")
        await expect(here.page.get_by_text("This is not the key.")).to_be_visible()
        await here.visit.open("/admin?q=cat")
        await here.page.get_by_label("Admin key").fill(KEY)
        await here.page.get_by_role("button", name="Sign in").click()
        await here.page.wait_for_url("**/admin?q=cat")
        await expect(here.page.locator(".live-words")).to_have_text("live")
        (cookie,) = await here.visit.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/admin")
        await here.page.get_by_role("button", name="Sign out").click()
        await expect(here.page.get_by_label("Admin key")).to_be_visible()


async def test_a_whole_session_with_tools_and_a_forgetting_is_shown_without_a_fault() -> None:
    async with room() as here:
        await scene(here.house)
        for one in (await here.house.get("/admin/api/conversations")).json["data"]:
            for path in ("", "/prompt", "/images/1"):
                await here.visit.open(f"/admin/conversations/{one['id']}{path}")
                assert await wide(here) <= 0, path
