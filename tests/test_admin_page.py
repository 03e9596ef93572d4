"""The admin page over HTTP, without a browser and so without JavaScript: every view, every form, and what strangers
wrote."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from PIL import Image

from router.admin.page import assets, render
from router.admin.page.sign_in import ours
from router.admin.page.spreadsheet import cell
from router.intake.conversation import tenant_of
from tests.admin_scene import part
from tests.brain import looks, refuses, says
from tests.eyes import sees
from tests.failing import FailingStore, broken
from tests.live import House, live, picture, shown, user
from tests.page_reader import Visitor, checked

pytestmark = [pytest.mark.anyio, pytest.mark.live]

HOSTILE = "</td></script><img src=x onerror=alert(1)>'\"`{{7*7}}\u202egnp.exe"
KEY = "the-admin-key"


async def shows(house: House, *parts: Any, session: str = "one", seen: str = "A cat.", task: str = "What?") -> str:
    """A conversation with these pictures, of which the first is looked at; its id."""
    house.eyes.answers = lambda asked: sees(seen)
    house.brain.will(says(looks(1, task)), says("Seen."))
    headers = {"x-session-id": session, "user-agent": "program/1.0"}
    await house.chat(user("Look at this.", *parts), headers=headers)
    return str((await house.get("/admin/api/conversations")).json["data"][0]["id"])


@pytest.fixture
async def visitor() -> AsyncIterator[Visitor]:
    async with live(images={"max_loaded": 3, "keep_loaded": 2}) as house:
        yield Visitor(house)


# What is shown


async def test_an_empty_house_says_what_to_do(visitor: Visitor) -> None:
    page = await visitor.page("/admin")
    assert "No conversation has brought an image yet" in page.words
    assert "breaker closed" in page.words


async def test_every_view_shows_what_the_table_holds(visitor: Visitor) -> None:
    id_ = await shows(
        visitor.house, part(picture(1), "cat.png"), shown(picture(2)), shown("data:image/png;base64,AAAA")
    )
    there = f"/admin/conversations/{id_}"
    page = await visitor.page("/admin")
    assert there in page.links
    assert "program" in page.words
    page = await visitor.page(there)
    for words in ("cat.png", "160×96", "from the user", "A cat.", "What?", "3 images", "unreadable"):
        assert words in page.words, words
    assert f"{there}/images/1/picture" in [one["src"] for one in page.all("img")]
    assert all(one.get("loading") == "lazy" for one in page.all("img") if "picture" in one["src"])
    page = await visitor.page(f"{there}/images/1")
    for words in ("cat.png", "the user put it there", "A cat.", "What?", "SHA-256"):
        assert words in page.words, words
    for path in (f"{there}/images/1/delete", f"{there}/delete"):
        assert "cannot be undone" in (await visitor.page(path)).words
    page = await visitor.page(f"{there}/prompt")
    assert "[picture #1]" in page.words
    assert "(attached PNG, 160x96, not visible;" in page.words


async def test_what_cannot_be_read_is_not_called_forgotten(visitor: Visitor) -> None:
    id_ = await shows(visitor.house, part(picture(1), "cat.png"), shown("data:image/png;base64,AAAA"))
    for path, said in (("/admin", "1 of 2"), (f"/admin/conversations/{id_}", "2 images, 1 loaded")):
        words = (await visitor.page(path)).words
        assert said in words, path
        assert "1 forgotten" not in words, path


async def test_the_pages_can_be_walked_by_their_links_alone(visitor: Visitor) -> None:
    await shows(visitor.house, part(picture(1), "cat.png"), shown(picture(2)))
    found, ahead = set(), ["/admin"]
    while ahead:
        path = ahead.pop()
        if path in found or path.startswith("#"):
            continue
        found.add(path)
        got = await visitor.get(path)
        if got.headers["content-type"].startswith("text/html"):
            page = checked(got)
            ahead += page.links
            ahead += [one["src"] for one in page.all("img")]
            ahead += [form.action for form in page.forms if form.method == "get"]
    assert {path.rpartition("/")[2] for path in found} >= {"prompt", "prompt.json", "1", "2", "delete", "images.csv"}


async def test_filters_stand_in_the_address_and_in_the_form(visitor: Visitor) -> None:
    id_ = await shows(visitor.house, part(picture(1), "cat.png"), part(picture(2), "dog.png"))
    there = f"/admin/conversations/{id_}"
    page = await visitor.page(f"{there}?q=dog&status=loaded&error=")
    assert "dog.png" in page.words
    assert "cat.png" not in page.words
    assert page.forms[0].fields["q"] == "dog"
    assert [one["value"] for one in page.all("option") if "selected" in one] == ["loaded", ""]
    assert f"{there}/images.csv?q=dog&status=loaded" in page.links
    assert "No image fits" in (await visitor.page(f"{there}?q=bird")).words
    assert (await visitor.page(f"{there}?status=nonsense", 400)).words.startswith("400")
    page = await visitor.page("/admin?q=nobody")
    assert "No conversation fits" in page.words
    assert there in (await visitor.page("/admin?q=program&status=loaded&error=false")).links


async def test_a_long_table_comes_in_pages_that_keep_the_filters(visitor: Visitor) -> None:
    visitor.house.brain.will(says("Many."))
    await visitor.house.chat(user("Look.", *[part(picture(seed), f"shot-{seed}.png") for seed in range(1, 61)]))
    ((one,),) = [(await visitor.house.get("/admin/api/conversations")).json["data"]]
    seen: list[str] = []
    path = f"/admin/conversations/{one['id']}?q=shot"
    while path:
        page = await visitor.page(path)
        seen += re.findall(r"shot-(\d+)\.png", page.text)
        following = [link["href"] for link in page.all("a") if link.get("rel") == "next"]
        path = following[0] if following else ""
        assert "q=shot" in path or not path
    assert list(dict.fromkeys(map(int, seen))) == list(range(1, 61))


async def test_a_picture_that_cannot_be_shown_is_a_drawing_and_no_fault(visitor: Visitor) -> None:
    id_ = await shows(visitor.house, shown(picture(1)), shown("data:image/png;base64,AAAA"))
    there = f"/admin/conversations/{id_}/images"
    small, large = await visitor.get(f"{there}/1/picture"), await visitor.get(f"{there}/1/picture?size=large")
    assert {small.headers["content-type"], large.headers["content-type"]} == {"image/png"}
    assert Image.open(io.BytesIO(small.body)).size == (160, 96)
    assert (await visitor.get(f"{there}/2/picture")).headers["content-type"] == "image/svg+xml"


# What the brain saw


async def test_what_the_brain_saw_marks_placeholders_the_ledger_and_the_table(visitor: Visitor) -> None:
    house = visitor.house
    history = [user("First.", shown(picture(1)))]
    house.eyes.answers = lambda asked: sees("A cat.")
    house.brain.will(says(looks(1, "What is it?")), says("A cat."))
    history.append({"role": "assistant", "content": (await house.chat(*history)).text})
    history.append(user("More, and is [Image #1] one?", *[shown(picture(seed)) for seed in (2, 3, 4)]))
    house.brain.will(says("Many."))
    await house.chat(*history, headers={"x-request-id": "the-last-one"})
    ((one,),) = [(await house.get("/admin/api/conversations")).json["data"]]
    page = await visitor.page(f"/admin/conversations/{one['id']}/prompt")
    marks = [
        element.attributes["class"].removeprefix("mark ")
        for element in page.elements
        if element.attributes.get("class", "").startswith("mark ")
    ]
    legend = 6
    assert marks[legend:] == [
        *("picture", "placeholder", "own-call"),
        *("marker", "picture", "picture", "picture", "marker", "placeholder", "placeholder", "placeholder", "table"),
    ]
    for words in ("the-last-one", "was forgotten to save room", "hidden turn", "table added", "as it was said"):
        assert words in page.words, words
    changed = await visitor.page(f"/admin/conversations/{one['id']}/prompt?show=changed")
    assert "the same" not in changed.words.replace("the same, written by somebody", "")


async def test_of_a_long_prompt_the_end_is_shown_and_the_rest_in_pages(visitor: Visitor) -> None:
    house = visitor.house
    history = [user("Look.", shown(picture(1)))]
    for number in range(75):
        history += [{"role": "assistant", "content": f"answer {number}."}, user(f"question {number}.")]
    house.brain.will(says("Well."))
    await house.chat(*history)
    ((one,),) = [(await house.get("/admin/api/conversations")).json["data"]]
    path = f"/admin/conversations/{one['id']}/prompt"
    page = await visitor.page(path)
    assert "question 74." in page.words
    assert "question 10." not in page.words
    assert "60 of 151 messages" in page.words
    seen = set(re.findall(r"question (\d+)\.", page.text))
    while earlier := [link for link in page.links if "end=" in link]:
        page = await visitor.page(earlier[0])
        new = set(re.findall(r"question (\d+)\.", page.text))
        if new <= seen:
            break
        seen |= new
    assert len(seen) == 75
    assert "[picture #1]" in page.words


async def test_a_process_that_has_sent_nothing_says_so(visitor: Visitor) -> None:
    house = visitor.house
    id_ = await shows(house, shown(picture(1)), shown(picture(2)))
    await house.send(None, path=f"/admin/api/conversations/{id_}/images/2", method="DELETE")
    page = await visitor.page(f"/admin/conversations/{id_}/prompt")
    assert "has not sent a prompt of this conversation lately" in page.words
    assert (await visitor.get(f"/admin/conversations/{id_}/prompt.json", 409)).body


# What is done


async def test_forms_forget_load_pin_and_unpin_and_lead_back(visitor: Visitor) -> None:
    id_ = await shows(visitor.house, part(picture(1), "cat.png"))
    at = f"/admin/conversations/{id_}?q=cat"
    page = await visitor.submit(at, "/images/1/forget")
    assert "Image #1 is forgotten" in page.words
    assert page.forms[0].fields["q"] == "cat" or page.form(id_).fields["q"] == "cat"
    assert "forgotten" in page.words
    page = await visitor.submit(at, "/images/1/load")
    assert "Image #1 is loaded" in page.words
    page = await visitor.submit(at, "/images/1/pin")
    assert "pinned" in page.words
    page = await visitor.submit(f"/admin/conversations/{id_}/images/1", "/images/1/unpin")
    assert "no longer pinned" in page.words
    assert (await visitor.page(at)).words.count("pinned") == 0


async def test_the_eyes_can_be_asked_again(visitor: Visitor) -> None:
    id_ = await shows(visitor.house, shown(picture(1)))
    there = f"/admin/conversations/{id_}"
    form = (await visitor.page(there)).form("/analyze")
    assert form.fields["task"] == "What?"
    visitor.house.eyes.answers = lambda asked: sees("Seven whiskers.")
    page = await visitor.submit(there, "/analyze", task="How many\r\nwhiskers?")
    assert "The eyes looked at image #1." in page.words
    assert "Seven whiskers." in page.words
    assert "How many whiskers?" in page.words
    visitor.house.eyes.answers = lambda asked: refuses(500, "Broken.")
    form = (await visitor.page(there)).form("/analyze")
    got = await visitor.send(form.action, form.body(task="And now?"), 502)
    refused = checked(got)
    assert "could not be done" in refused.words
    assert f"{there}/images/1" in refused.links
    await visitor.send(form.action, form.body(task="  "), 400)


async def test_an_image_and_a_conversation_are_deleted_after_a_question(visitor: Visitor) -> None:
    id_ = await shows(visitor.house, part(picture(1), "cat.png"), shown(picture(2)))
    there = f"/admin/conversations/{id_}"
    page = await visitor.submit(f"{there}/images/1/delete", "/images/1/delete")
    assert "Image #1 is deleted." in page.words
    assert "cat.png" not in page.words
    assert (await visitor.page(f"{there}/images/1", 404)).words.startswith("404")
    page = await visitor.submit(f"{there}/delete", f"{id_}/delete")
    assert "The conversation is deleted" in page.words
    await visitor.page(there, 404)


ACTIONS = ("forget", "load", "pin", "unpin", "analyze", "delete")


async def test_no_form_does_anything_without_its_token_or_from_elsewhere(visitor: Visitor) -> None:
    id_ = await shows(visitor.house, shown(picture(1)))
    there = f"/admin/conversations/{id_}"
    good = (await visitor.page(there)).form("/forget").fields["csrf"]
    before = (await visitor.house.get(f"/admin/api/conversations/{id_}/images/1?details=true")).json
    looked = len(visitor.house.eyes.asked)
    for path in (*(f"{there}/images/1/{action}" for action in ACTIONS), f"{there}/delete"):
        for body in (b"", b"csrf=", b"csrf=" + b"0" * 64, b"task=x"):
            got = await visitor.send(path, body, 403)
            assert "forged" in checked(got).words
        body = f"csrf={good}&task=x".encode()
        await visitor.send(path, body, 403, origin="http://evil.test", **{"sec-fetch-site": "cross-site"})
        stranger = Visitor(visitor.house)
        await stranger.send(path, body, 403)
        assert (await visitor.house.send(body, path=path, headers={"content-type": "text/plain"})).status == 400
        assert (await visitor.get(path, 405 if not path.endswith("delete") else 200)).headers
    assert (await visitor.house.get(f"/admin/api/conversations/{id_}/images/1?details=true")).json == before
    assert len(visitor.house.eyes.asked) == looked


@pytest.mark.parametrize(
    "back",
    [
        "//evil.test",
        "https://evil.test/admin",
        "/admin/../x",
        "javascript:alert(1)",
        "/admin\r\nx: y",
        "/other",
        "/admin/%",
    ],
)
async def test_nobody_is_led_anywhere_else(back: str) -> None:
    assert ours(back, "/admin/there") == "/admin/there"


def test_an_address_of_ours_is_gone_to() -> None:
    for back in ("/admin", "/admin?q=a+b%20c", "/admin/conversations/aB-_9/images/3?status=loaded"):
        assert ours(back) == back


async def test_an_action_leaves_a_line_in_the_audit_log(visitor: Visitor, caplog: pytest.LogCaptureFixture) -> None:
    id_ = await shows(visitor.house, shown(picture(1)))
    with caplog.at_level("INFO", "chiasm.audit"):
        await visitor.submit(f"/admin/conversations/{id_}", "/forget")
    (line,) = [record.getMessage() for record in caplog.records if record.name == "chiasm.audit"]
    assert '"action":"forget"' in line
    assert '"outcome":"done"' in line


# Strangers' words


async def test_what_strangers_wrote_is_text_on_every_page(visitor: Visitor) -> None:
    id_ = await shows(visitor.house, part(picture(1), HOSTILE), seen=HOSTILE, task=HOSTILE)
    history = [user(HOSTILE, part(picture(1), HOSTILE)), {"role": "assistant", "content": HOSTILE}, user(HOSTILE)]
    visitor.house.brain.will(says("Well."))
    await visitor.house.chat(*history, headers={"x-session-id": "one"})
    there = f"/admin/conversations/{id_}"
    for path in ("/admin", there, f"{there}/images/1", f"{there}/images/1/delete", f"{there}/prompt"):
        got = await visitor.get(path)
        page = checked(got)
        assert b"<img src=x" not in got.body
        assert "49" not in page.words.replace("&#39;", "") or "{{7*7}}" in page.words
        assert not [one for one in page.all("img") if one["src"] == "x"]
        assert "\u202e" not in got.body.decode()
    assert "<img src=x onerror=alert(1)>" in (await visitor.page(there)).text


async def test_addresses_that_were_made_up_show_no_more_than_is_there(visitor: Visitor) -> None:
    for query in ("?done=forget&image=<b>", "?done=<script>", "?q=<script>alert(1)</script>", "?done=forget&image=1"):
        got = await visitor.get(f"/admin{query}")
        checked(got)
        assert b"<script>alert" not in got.body
        assert b"<b>" not in got.body
    for path in ("/admin/<script>", "/admin/conversations/%3Cscript%3E", "/admin/conversations/x/images/<b>"):
        checked(await visitor.get(path, 404))


async def test_half_a_character_and_those_that_nobody_sees_do_no_harm(visitor: Visitor) -> None:
    id_ = await shows(visitor.house, shown(picture(1)), seen="a\x00b\x1b[31m \u2066c")
    assert "a�b�[31m �c" in (await visitor.page(f"/admin/conversations/{id_}/images/1")).text
    assert render.html("error.html", status=1, message="\ud800", code="x")


# Spreadsheets and scripts


async def test_the_csv_is_the_whole_table_and_runs_nothing_in_a_spreadsheet(visitor: Visitor) -> None:
    house = visitor.house
    house.brain.will(says("Many."))
    await house.chat(user("Look.", *[part(picture(seed), f"=cmd{seed}.png") for seed in range(1, 4)]))
    ((one,),) = [(await house.get("/admin/api/conversations")).json["data"]]
    got = await visitor.get(f"/admin/conversations/{one['id']}/images.csv")
    assert got.headers["content-type"] == "text/csv; charset=utf-8"
    assert got.headers["content-disposition"] == 'attachment; filename="images.csv"'
    rows = list(csv.DictReader(io.StringIO(got.body.decode())))
    assert [row["number"] for row in rows] == ["1", "2", "3"]
    assert [row["file"][:2] for row in rows] == ["'="] * 3
    assert (await visitor.get(f"/admin/conversations/{one['id']}/images.csv?q=nothing")).body.count(b"\r\n") == 1
    got = await visitor.get("/admin/conversations.csv")
    assert [row["id"] for row in csv.DictReader(io.StringIO(got.body.decode()))] == [one["id"]]
    await visitor.page("/admin/conversations/none/images.csv", 404)


@pytest.mark.parametrize("words", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1"])
def test_a_cell_that_a_spreadsheet_would_run_is_text(words: str) -> None:
    assert cell(words) == f"'{words}"


@pytest.mark.parametrize("between", [";", "; ", ",", "\t", "|", "\n", "\r\n", '";"', "\n  "])
def test_nor_does_a_part_of_a_cell_run_where_the_spreadsheet_goes_by_another_separator(between: str) -> None:
    assert cell(f"a dog{between}=HYPERLINK(1)") == f"a dog{between}'=HYPERLINK(1)"


def test_other_cells_stay_as_they_are() -> None:
    assert [cell(one) for one in ("a=1, b-2", "", 3, -1.5, None, True)] == ["a=1, b-2", "", 3, -1.5, None, "yes"]


async def test_scripts_get_json_where_people_get_pages(visitor: Visitor) -> None:
    got = await visitor.house.get("/admin/conversations/none")
    assert (got.status, got.headers["content-type"]) == (404, "application/json")
    assert got.error["code"] == "not_found"
    assert (await visitor.page("/admin/conversations/none", 404)).words.startswith("404")


# Who may come in


async def test_who_has_no_key_finds_the_form_and_then_what_he_wanted() -> None:
    async with live(server={"admin_key": KEY, "api_keys": ["client"]}) as house:
        visitor = Visitor(house)
        page = await visitor.page("/admin?q=cat&done=forget", 401)
        form = page.form("/admin/sign-in")
        assert form.fields["next"] == "/admin?q=cat"
        wrong = checked(await visitor.send("/admin/sign-in", form.body(key="wrong"), 401))
        assert "This is not the key." in wrong.words
        got = await visitor.send("/admin/sign-in", form.body(key=KEY))
        assert got.headers["location"] == "/admin?q=cat"
        page = await visitor.page("/admin?q=cat")
        assert KEY not in page.text
        out = page.form("/admin/sign-out")
        await visitor.send("/admin/sign-out", b"", 403)
        await visitor.send("/admin/sign-out", out.body())
        await visitor.page("/admin", 401)
        got = await visitor.send("/admin/sign-in", form.body(key=KEY, next="https://evil.test"))
        assert got.headers["location"] == "/admin"


async def test_a_form_of_an_old_session_does_nothing() -> None:
    async with live(server={"admin_key": KEY}) as house:
        visitor = Visitor(house)
        await visitor.send("/admin/sign-in", f"key={KEY}".encode())
        token = (await visitor.page("/admin")).form("/admin/sign-out").fields["csrf"]
        await visitor.send("/admin/sign-in", f"key={KEY}".encode())
        await visitor.send("/admin/sign-out", f"csrf={token}".encode(), 403)


async def test_without_a_key_another_name_of_this_machine_opens_no_page() -> None:
    async with live() as house:
        got = await house.get("/admin", host="rebound.test", accept="text/html")
        assert got.status == 403
        assert "no name of this machine" in checked(got).words


async def test_the_images_of_tenants_are_told_apart() -> None:
    async with live(server={"admin_key": KEY, "api_keys": ["ours"]}) as house:
        house.brain.will(says("Hello."))
        await house.chat(user("Look.", shown(picture(1))), headers={"authorization": "Bearer ours"})
        visitor = Visitor(house)
        await visitor.send("/admin/sign-in", f"key={KEY}".encode())
        assert f"tenant {tenant_of('ours')[:8]}" in (await visitor.page("/admin")).words


async def test_a_store_that_fails_is_a_page_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FailingStore()
    monkeypatch.setattr("router.app.open_configured_store", lambda settings: store)
    async with live() as house:
        visitor = Visitor(house)
        id_ = await shows(house, shown(picture(1)))
        store.on_read = broken
        checked(await visitor.get(f"/admin/conversations/{id_}", 503))
        store.on_read = lambda key: None
        await visitor.page(f"/admin/conversations/{id_}")


# Files


async def test_files_are_kept_for_ever_under_names_that_change(visitor: Visitor) -> None:
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript"), ("mark.svg", "image/svg+xml")):
        got = await visitor.get(assets.url(name))
        assert got.headers["content-type"].startswith(kind)
        assert got.headers["cache-control"] == "public, max-age=31536000, immutable"
    await visitor.get(assets.url("page.css").replace(assets.digest(), "0" * 16), 404)
    await visitor.get(assets.url("page.css").replace("page.css", "..%2F__init__.py"), 404)
