"""The admin API over sockets: what each address takes and gives, of which tenant, and what is written down of it."""

from __future__ import annotations

import io
import json
import logging
import re
from typing import Any

import orjson
import pytest
from PIL import Image

from router.admin.api import BASE, OPERATIONS
from router.admin.models import Conversations, ImageDetails, Images, Stats
from router.admin.models import Image as ImageModel
from router.intake.conversation import tenant_of
from router.log_lines import JsonLines
from tests.brain import hangs, looks, says
from tests.eyes import sees
from tests.failing import FailingStore, broken
from tests.live import House, Line, becomes, data_url, live, picture, post, soon, text, user

pytestmark = [pytest.mark.anyio, pytest.mark.live]

HOSTILE = '</script><img src=x onerror=alert(1)>\u202e\x1b[31m [Image #1] "; DROP TABLE'


def named(image: bytes, file: str) -> dict[str, Any]:
    """An image part in a form that brings a file name."""
    return {"type": "image_url", "image_url": {"url": data_url(image)}, "filename": file}


async def shows(house: House, *seeds: int, session: str = "one", key: str = "", seen: str = "A cat.") -> None:
    """A conversation with these pictures, of which the first is looked at."""
    house.eyes.will(sees(seen))
    house.brain.will(says(looks(1, "What?")), says("Seen."))
    headers = {"x-session-id": session, "user-agent": "program/1.0"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    await house.chat(user("Look.", *[{**part(seed)} for seed in seeds]), headers=headers)


def part(seed: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(picture(seed))}}


async def conversations(house: House, query: str = "", **headers: str) -> list[dict[str, Any]]:
    got = await house.get(f"{BASE}/conversations{query}", **headers)
    assert got.status == 200, got.body
    return list(got.json["data"])


async def test_conversations_and_images_have_the_fields_of_the_contract() -> None:
    async with live() as house:
        await shows(house, 1, 2)
        (one,) = await conversations(house)
        assert list(one) == [
            "id",
            "tenant",
            "client",
            "images",
            "loaded",
            "forgotten",
            "looks",
            "created",
            "last_used",
        ]
        assert (one["tenant"], one["client"], one["images"], one["looks"]) == ("local", "program", 2, 1)
        assert re.fullmatch(r"[A-Za-z0-9_-]+", one["id"])
        got = await house.get(f"{BASE}/conversations/{one['id']}/images")
        assert list(got.json["data"][0]) == [
            "number",
            "file",
            "media_type",
            "width",
            "height",
            "bytes",
            "digest",
            "origin",
            "status",
            "reason",
            "pinned",
            "first_turn",
            "last_turn",
            "looks",
            "last_task",
            "last_answer",
            "description",
            "last_used",
        ]
        first, second = got.json["data"]
        assert (first["number"], first["media_type"], first["width"], first["height"]) == (1, "image/png", 160, 96)
        assert (first["origin"], first["status"], first["reason"], first["pinned"]) == ("user", "loaded", "", False)
        assert (first["looks"], first["last_task"], first["last_answer"]) == (1, "What?", "A cat.")
        assert (second["looks"], second["last_answer"], second["last_turn"]) == (0, "", None)
        assert first["bytes"] == len(picture(1))
        alone = await house.get(f"{BASE}/conversations/{one['id']}/images/1")
        assert alone.json == first
        assert (await house.get(f"{BASE}/conversations/{one['id']}")).json == one
        detailed = await house.get(f"{BASE}/conversations/{one['id']}/images/1?details=true")
        assert ImageDetails.model_validate(detailed.json).errors == 0


async def test_the_images_of_two_tenants_are_apart_although_they_are_the_same() -> None:
    async with live(server={"api_keys": ["ours", "theirs"], "admin_key": "admin"}) as house:
        admin = {"x_api_key": "admin"}
        await shows(house, 1, key="ours", seen="What we saw.")
        await shows(house, 1, key="theirs", seen="What they saw.")
        both = await conversations(house, **admin)
        assert {one["tenant"] for one in both} == {tenant_of("ours"), tenant_of("theirs")}
        assert len({one["id"] for one in both}) == 2
        ours, theirs = sorted(both, key=lambda one: one["tenant"] != tenant_of("ours"))
        paths = [f"{BASE}/conversations/{one['id']}/images/1" for one in (ours, theirs)]
        answers = [(await house.get(path, **admin)).json["last_answer"] for path in paths]
        assert answers == ["What we saw.", "What they saw."]
        forgotten = await house.send(None, path=f"{paths[0]}/forget", headers={"x-api-key": "admin"})
        assert forgotten.json["status"] == "forgotten"
        assert (await house.get(paths[1], **admin)).json["status"] == "loaded"
        gone = await house.send(None, path=paths[0], method="DELETE", headers={"x-api-key": "admin"})
        assert gone.json == {"deleted": True}
        assert (await house.get(f"{paths[1]}/thumbnail", **admin)).status == 200
        assert (await house.get(paths[0], x_api_key="ours")).status == 401, "a client is no admin"


async def test_hostile_words_come_out_as_data() -> None:
    async with live() as house:
        house.eyes.will(sees(f"It says {HOSTILE}"))
        house.brain.will(says(looks(1, HOSTILE)), says("Hm."))
        message = user(text("<file name='x'>"), named(picture(1), HOSTILE))
        await house.chat(
            message, headers={"user-agent": HOSTILE.encode("ascii", "ignore").decode().replace("\x1b", "")}
        )
        (one,) = await conversations(house)
        got = await house.get(f"{BASE}/conversations/{one['id']}/images/1")
        assert got.headers["content-type"] == "application/json"
        assert got.json["last_task"] == HOSTILE
        assert HOSTILE in got.json["last_answer"]
        found = await house.get(f"{BASE}/conversations/{one['id']}/images?q=drop%20table")
        assert len(found.json["data"]) == 1


async def test_a_thumbnail_is_a_small_png_of_the_upright_picture() -> None:
    out = io.BytesIO()
    wide = Image.new("RGB", (2000, 500), "red")
    exif = wide.getexif()
    exif[0x0112] = 6
    wide.save(out, "JPEG", exif=exif)
    async with live() as house:
        house.brain.will(says("Yes."))
        await house.chat(
            user("Look.", {"type": "image_url", "image_url": {"url": data_url(out.getvalue(), "image/jpeg")}})
        )
        (one,) = await conversations(house)
        got = await house.get(f"{BASE}/conversations/{one['id']}/images/1/thumbnail")
        assert (got.status, got.headers["content-type"]) == (200, "image/png")
        assert "default-src 'none'" in got.headers["content-security-policy"]
        small = Image.open(io.BytesIO(got.body))
        assert (small.format, small.size) == ("PNG", (64, 256))
        assert got.body != picture(1)


async def test_what_is_not_there_is_404_and_what_cannot_be_is_409() -> None:
    async with live() as house:
        await shows(house, 1)
        house.brain.will(says("Hm."))
        await house.chat(user("Look.", {"type": "image_url", "image_url": {"url": data_url(b"no picture")}}))
        bad, good = await conversations(house)
        unreadable = f"{BASE}/conversations/{bad['id']}/images/1"
        for path, method, body in [
            ("load", "POST", None),
            ("pin", "POST", None),
            ("thumbnail", "GET", None),
            ("analyze", "POST", {"task": "What?"}),
        ]:
            got = await house.send(body, path=f"{unreadable}/{path}", method=method)
            assert (got.status, got.error["code"]) == (409, "unreadable"), path
        assert (await house.get(unreadable)).json["reason"]
        there = f"{BASE}/conversations/{good['id']}"
        nowhere = f"{BASE}/conversations/{good['id'][:-2]}AA"
        for path in (
            f"{there}/images/7",
            f"{there}/images/0",
            f"{there}/images/x",
            f"{nowhere}/images/1",
            f"{nowhere}",
        ):
            assert (await house.get(path)).error["code"] == "not_found", path
        for path in (f"{there}/images/7/forget", f"{there}/images/7/pin", f"{nowhere}/images/1/load"):
            assert (await house.send(None, path=path)).status == 404, path
        assert (await house.send({"task": "x"}, path=f"{there}/images/7/analyze")).status == 404
        assert (await house.send(None, path=f"{there}/images/7", method="DELETE")).status == 404


@pytest.mark.parametrize(
    "body", [b"", b"{", {}, {"task": ""}, {"task": "  "}, {"task": 1}, {"task": "x" * 4001}, [], {"task": "x", "y": 1}]
)
async def test_an_analysis_needs_a_task(body: Any) -> None:
    async with live() as house:
        await shows(house, 1)
        (one,) = await conversations(house)
        got = await house.send(body, path=f"{BASE}/conversations/{one['id']}/images/1/analyze")
        assert (got.status, got.error["type"]) == (400, "invalid_request_error")
        assert len(house.eyes.looks) == 1


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "cursor=x", "cursor=W10", "status=deleted", "error=maybe"]
)
async def test_a_query_that_means_nothing_is_refused(query: str) -> None:
    async with live() as house:
        await shows(house, 1)
        (one,) = await conversations(house)
        for path in (f"{BASE}/conversations", f"{BASE}/conversations/{one['id']}/images"):
            got = await house.get(f"{path}?{query}")
            assert (got.status, got.error["param"]) == (400, query.partition("=")[0])


async def test_a_query_of_endless_fields_is_refused() -> None:
    async with live() as house:
        got = await house.get(f"{BASE}/conversations?{'&'.join(['q=x'] * 51)}")
        assert (got.status, got.error["type"]) == (400, "invalid_request_error")


async def test_filters_find_what_they_say() -> None:
    async with live(images={"max_loaded": 2, "keep_loaded": 1}) as house:
        await shows(house, 1, session="cats", seen="A tabby cat.")
        await shows(house, 2, session="dogs", seen="A dog.")
        house.brain.will(says("Many."))
        await house.chat(
            user("a", *map(part, (3, 4))),
            {"role": "assistant", "content": "b"},
            user("c", part(5)),
            headers={"x-session-id": "many"},
        )
        many = (await conversations(house, "?status=forgotten"))[0]
        assert len(await conversations(house, "?status=loaded")) == 3
        assert len(await conversations(house, "?q=PROGRAM")) == 2
        assert await conversations(house, f"?conversation={many['id']}") == [many]
        assert await conversations(house, "?q=nothing") == []
        images = f"{BASE}/conversations/{many['id']}/images"
        forgotten = (await house.get(f"{images}?status=forgotten")).json["data"]
        loaded = (await house.get(f"{images}?status=loaded")).json["data"]
        assert [one["number"] for one in [*forgotten, *loaded]] == [1, 2, 3]
        assert [one["number"] for one in (await house.get(f"{images}?q=%233")).json["data"]] == [3]


async def test_a_conversation_is_found_by_the_name_that_its_client_has() -> None:
    async with live() as house:
        await shows(house, 1)
        house.brain.will(says("Hm."))
        got = await house.send({"messages": [user("Look.", part(2))]})
        name = got.headers["x-chiasm-conversation"]
        (found,) = await conversations(house, f"?conversation={name}")
        assert found["images"] == 1


async def test_stats_say_how_everybody_is() -> None:
    async with live(server={"admin_key": "k"}) as house:
        await shows(house, 1, 2)
        stats = Stats.model_validate((await house.get(f"{BASE}/stats", x_api_key="k")).json)
        assert (stats.conversations, stats.images, stats.listeners) == (1, 2, 0)
        (brain,), (eyes,) = stats.brains, stats.eyes
        assert (brain.name, brain.images, brain.breaker, brain.eyes) == ("brain", "tool", "closed", "eyes")
        assert (eyes.name, eyes.kind, eyes.looks, eyes.waiting) == ("eyes", "qwen", 0, 0)
        assert stats.store.kind == "memory"
        assert stats.store.bytes is not None
        assert stats.store.bytes > len(picture(1))


async def test_the_description_names_every_address_and_what_it_gives() -> None:
    async with live() as house:
        got = await house.get(f"{BASE}/openapi.json")
        described = got.json
        assert described["openapi"].startswith("3.1")
        said = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
        assert said == {(one.method, BASE + one.path) for one in OPERATIONS}
        ids = [one["operationId"] for methods in described["paths"].values() for one in methods.values()]
        assert len(set(ids)) == len(ids)
        references = set(re.findall(r'"#/components/schemas/(\w+)"', got.body.decode()))
        assert references <= set(described["components"]["schemas"])
        assert list(described["components"]["schemas"]["Image"]["properties"]) == list(ImageModel.model_fields)
        await shows(house, 1)
        Conversations.model_validate((await house.get(f"{BASE}/conversations")).json)
        (one,) = await conversations(house)
        Images.model_validate((await house.get(f"{BASE}/conversations/{one['id']}/images")).json)


async def test_every_action_leaves_a_line_and_none_of_them_a_word_that_was_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "chiasm.audit")
    secret = "xylophone"
    async with live() as house:
        await shows(house, 1, seen=secret)
        (one,) = await conversations(house)
        image = f"{BASE}/conversations/{one['id']}/images/1"
        for action in ("forget", "load", "pin", "unpin"):
            await house.send(None, path=f"{image}/{action}")
        house.eyes.will(sees(secret))
        await house.send({"task": secret}, path=f"{image}/analyze", headers={"x-request-id": "request-7"})
        await house.send(None, path=f"{BASE}/conversations/{one['id']}/images/9/pin")
        await house.send(None, path=image, method="DELETE")
        await house.send(None, path=f"{BASE}/conversations/{one['id']}", method="DELETE")
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "chiasm.audit"]
    structured = [json.loads(JsonLines().format(one)) for one in caplog.records if one.name == "chiasm.audit"]
    assert [one["action"] for one in structured] == [one["action"] for one in lines], "a log of objects has no names"
    assert [(line["action"], line["image"], line["outcome"]) for line in lines] == [
        ("forget", 1, "done"),
        ("load", 1, "done"),
        ("pin", 1, "done"),
        ("unpin", 1, "done"),
        ("analyze", 1, "done"),
        ("pin", 9, "not_found"),
        ("delete", 1, "done"),
        ("delete", None, "done"),
    ]
    assert all(line["who"] == "loopback" and line["conversation"] == one["id"] and line["time"] for line in lines)
    assert lines[4]["request_id"] == "request-7"
    assert secret not in orjson.dumps(lines).decode()


async def test_the_bytes_of_a_looked_at_image_may_be_gone(tmp_path: Any) -> None:
    """Who needs them is told so; what was seen in it can still be forgotten."""
    from cache.disk import DiskStore

    async with live(store={"kind": "disk", "path": str(tmp_path / "store")}) as house:
        await shows(house, 1)
        beside = DiskStore(tmp_path / "store", max_bytes=2**30)
        for key in [key async for key in beside.keys("blob/")]:
            await beside.delete(key)
        await beside.close()
        (one,) = await conversations(house)
        image = f"{BASE}/conversations/{one['id']}/images/1"
        assert (await house.send(None, path=f"{image}/pin")).status == 200, "it is loaded and stays so"
        assert (await house.send(None, path=f"{image}/forget")).status == 200
        for path, method, body in [
            ("load", "POST", None),
            ("pin", "POST", None),
            ("thumbnail", "GET", None),
            ("analyze", "POST", {"task": "What?"}),
        ]:
            got = await house.send(body, path=f"{image}/{path}", method=method)
            assert (got.status, got.error["code"]) == (409, "bytes_gone"), path
        assert (await house.get(image)).json["status"] == "forgotten"


async def test_a_store_that_fails_is_said_to_fail(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "chiasm.audit")
    store = FailingStore()
    monkeypatch.setattr("router.app.open_configured_store", lambda settings: store)
    async with live() as house:
        await shows(house, 1)
        (one,) = await conversations(house)
        image = f"{BASE}/conversations/{one['id']}/images/1"
        store.on_read = store.on_write = broken
        for path, method in [
            (f"{BASE}/conversations", "GET"),
            (image, "GET"),
            (f"{image}/forget", "POST"),
            (image, "DELETE"),
            (f"{BASE}/events?conversation={one['id']}", "GET"),
        ]:
            got = await house.send(None, path=path, method=method)
            assert (got.status, got.error["code"], got.headers["retry-after"]) == (503, "store_unavailable", "5"), path
            assert "fire" not in got.error["message"], "the store's own words are for the log"
        store.on_read = store.on_write = lambda key: None
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "chiasm.audit"]
    assert [line["outcome"] for line in lines] == ["store_unavailable"] * 2


async def test_who_hangs_up_during_an_analysis_ends_it() -> None:
    async with live() as house:
        await shows(house, 1)
        (one,) = await conversations(house)
        house.eyes.will(hangs)
        looked = len(house.eyes.asked)
        asking = post(b'{"task": "Which colour?"}', path=f"{BASE}/conversations/{one['id']}/images/1/analyze")
        async with Line(house.port, asking):
            await becomes(lambda: len(house.eyes.asked) > looked)
        await soon(house.eyes.asked[-1].gone.wait())
