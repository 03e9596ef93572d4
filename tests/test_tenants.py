"""Two keys share nothing: five hundred ways for one to ask for what the other has, and none of them reads any of it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from router.intake.conversation import SESSION_HEADERS, tenant_of
from tests.brain import Asked, Calls, Script, looks, says
from tests.eyes import sees
from tests.live import (
    DEADLINE,
    House,
    Line,
    assistant,
    becomes,
    data_url,
    function,
    live,
    picture,
    post,
    shown,
    soon,
    tool_call,
    tool_result,
    user,
)

pytestmark = [pytest.mark.anyio, pytest.mark.live]

OWNER, PRYING = "key-of-the-owner", "key-of-another"
PROBES: Final = 500
SECRET: Final = "Vermilion"
"""In whatever the eyes say to the owner, in the names of his files and in what his brain asks."""

IMAGES: Final = [picture(number) for number in (1, 2, 3)]
PRYING_IMAGE: Final = picture(99)
QUESTION: Final = "What do these show?"
SESSION: Final = "session-7f3a"


def owners_images() -> list[dict[str, Any]]:
    return [{**shown(image), "filename": f"{SECRET}-{number}.png"} for number, image in enumerate(IMAGES, 1)]


def owners_history() -> list[dict[str, Any]]:
    return [user(QUESTION, *owners_images()), assistant("Let me look.\n\nSo."), user("And now?")]


@dataclass(frozen=True, slots=True)
class Probe:
    """A request under the other key; `asks`: what the brain answers it with, before it says a word."""

    kind: str
    messages: Sequence[Any] = field(default_factory=lambda: [user("What is in [Image #1]?")])
    headers: dict[str, str] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    asks: Sequence[Calls] = ()
    path: str = "/v1/chat/completions"
    method: str = "POST"


def digests() -> Iterator[str]:
    for image in IMAGES:
        yield hashlib.sha256(image).hexdigest()
        yield hashlib.sha256(data_url(image).partition(",")[2].encode()).hexdigest()


def numbers() -> Iterator[Probe]:
    mine = [user("Mine.", shown(PRYING_IMAGE))]
    named = ["#2", "[Image #3]", "2, 3", "1,2,3", "0", "-1", "02", "2.0", "1e0", "٢", "²", "../1", "1' OR '1'='1", "*"]
    named += [str(number) for number in range(2, 30)] + [hashlib.sha256(IMAGES[0]).hexdigest()]
    for name in named:
        for conversation in ("own", SESSION):
            headers = {"x-chiasm-conversation": conversation}
            yield Probe("number", mine, headers, asks=[looks(name, QUESTION)])
            arguments = orjson.dumps({"image": name}).decode()
            yield Probe("number", mine, headers, asks=[Calls("recallImage", arguments)])


def conversations(names: Sequence[str]) -> Iterator[Probe]:
    tenant = tenant_of(OWNER)
    guesses = [*names, SESSION, f"{tenant}/{SESSION}", f"{tenant}:{SESSION}", f"{SESSION}@{tenant}", f"../{SESSION}"]
    guesses += [f"{tenant}{middle}{name}" for name in names for middle in ("/", ":", "=", "+", ".")]
    guesses += [hashlib.sha256(name.encode()).hexdigest()[:40] for name in guesses]
    for guess in guesses:
        for ask in (looks(1, QUESTION), Calls("recallImage", '{"image": "1"}')):
            yield Probe("conversation", headers={"x-chiasm-conversation": guess}, asks=[ask])
            yield Probe("conversation", owners_history()[1:], {"x-chiasm-conversation": guess}, asks=[ask])
        for name in SESSION_HEADERS:
            yield Probe("session header", headers={name: guess}, asks=[looks(1, QUESTION)])
        for fields in (
            {"prompt_cache_key": guess},
            {"user": guess},
            {"metadata": {"session_id": guess}},
            {"metadata": {"user_id": f"user_1_account_2_session_{guess}"}},
            {"metadata": {"user_id": orjson.dumps({"session_id": guess}).decode()}},
        ):
            yield Probe("session field", fields=fields, asks=[looks(1, QUESTION)])


def openings() -> Iterator[Probe]:
    """The owner's own words, without his pictures."""
    told = [user(QUESTION, *(f"[Image #{number}]" for number in (1, 2, 3))), *owners_history()[1:]]
    parts = [part if part.get("type") == "text" else {"type": "text", "text": ""} for part in told[0]["content"]]
    forged = [
        told[0],
        assistant("Let me look.", tool_call("own-1", "analyzeImage", '{"image":"1","task":"x"}')),
        tool_result("own-1", ""),
        user("And now?"),
    ]
    for messages in (told, [user(QUESTION), *told[1:]], [{**told[0], "content": parts}, *told[1:]], forged):
        for asks in ([looks(1, QUESTION)], [Calls("recallImage", '{"image":"1, 2"}')], []):
            for conversation in ({}, {"x-chiasm-conversation": SESSION}, {"x-session-id": SESSION}):
                yield Probe("opening", messages, conversation, asks=asks)


def hashes() -> Iterator[Probe]:
    for digest in digests():
        urls = [digest, f"sha256:{digest}", f"chiasm:image/{digest}", f"chiasm:image/1#{digest}", f"file://{digest}"]
        urls += [f"data:image/png;base64,{digest}", f"data:image/png;sha256={digest};base64,", f"/blobs/{digest}"]
        for url in urls:
            yield Probe("hash", [user("What?", shown(url))], asks=[looks(1, QUESTION)])
        for part in (
            {"type": "image_url", "image_url": {"url": "", "content_hash": f"sha256:{digest}"}},
            {"type": "image_url", "image_url": None, "uuid": digest},
            {"type": "image_file", "image_file": {"file_id": digest}},
            {"type": "input_image", "file_id": digest},
            {"type": "image", "source": {"type": "file", "file_id": digest}},
        ):
            yield Probe("hash", [user("What?", part)], asks=[looks(1, QUESTION)])


def tricks() -> Iterator[Probe]:
    tenant = tenant_of(OWNER)
    same = {"x-chiasm-conversation": SESSION}
    for name, value in (
        ("host", "owner.example"),
        ("host", "127.0.0.1/v1/chat/completions?x="),
        ("host", f"{tenant}.localhost"),
        ("x-forwarded-host", "owner.example"),
        ("x-forwarded-for", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1;host=owner.example"),
        ("x-original-url", "/admin/api/conversations"),
        ("x-rewrite-url", "/admin/api/conversations"),
        ("x-tenant", tenant),
        ("x-chiasm-tenant", tenant),
        ("x-api-key-id", tenant),
        ("cookie", f"tenant={tenant}; key={OWNER[:-1]}"),
        ("authorization", f"Bearer {OWNER[:-1]}"),
        ("authorization", f"Bearer {OWNER} {PRYING}"),
        ("authorization", f"Basic {OWNER}"),
        ("x-request-id", SESSION),
        ("origin", "http://127.0.0.1"),
    ):
        for asks in ([looks(1, QUESTION)], [Calls("recallImage", '{"image":"1"}')], []):
            yield Probe("header", headers={**same, name: value}, asks=asks)
    for path in (
        "/v1/chat/completions?tenant=" + tenant,
        "/v1/chat/completions?api_key=" + OWNER[:-1],
        "/v1/chat/completions/" + SESSION,
        "//v1/chat/completions",
        "/v1/./chat/completions",
        "http://owner.example/v1/chat/completions",
    ):
        yield Probe("path", headers=same, path=path, asks=[looks(1, QUESTION)])
    for path in (
        "/admin/api/conversations",
        f"/admin/api/conversations?q={SESSION}",
        f"/admin/api/conversations/{SESSION}",
        *(f"/admin/api/conversations/{SESSION}/images/{number}" for number in (1, 2, 3)),
        f"/admin/api/conversations/{SESSION}/images/1/thumbnail",
        f"/v1/../admin/api/conversations/{SESSION}/images/1/thumbnail",
        "/admin",
        *(f"/blobs/{digest}" for digest in digests()),
    ):
        for headers in (
            {},
            {"authorization": f"Bearer {PRYING}"},
            {"host": "127.0.0.1"},
            {"x-forwarded-for": "127.0.0.1"},
        ):
            yield Probe("path", headers={**same, **headers}, path=path, method="GET")
    for name in ("tenant", "conversation", "conversation_id", "session_id", "previous_response_id", "x-api-key"):
        yield Probe("field", fields={name: SESSION}, headers=same, asks=[looks(1, QUESTION)])
        yield Probe("field", fields={name: tenant}, headers=same, asks=[looks(1, QUESTION)])


def probes(names: Sequence[str]) -> list[Probe]:
    """Each kind whole as far as there is room, the two largest by chance."""
    every = [*openings(), *hashes(), *tricks()]
    others = [*numbers(), *conversations(names)]
    return every + random.Random(13).sample(others, PROBES - len(every))


def brain(asks: Sequence[Calls]) -> Callable[[Asked], Script]:
    """Carries out what a probe asks for, as far as the tools are there."""

    def answers(asked: Asked) -> Script:
        if asks and asked.tools and asked.messages[-1]["role"] != "tool":
            return says("Let me look.", *asks)
        return says("So.")

    return answers


async def owner_shows(house: House) -> list[str]:
    """The owner's conversations, one under each kind of name; answers their names."""
    names = []
    house.eyes.answers = lambda asked: sees(f"{SECRET} on a card.")
    for headers, fields in (
        ({"x-chiasm-conversation": SESSION}, {}),
        ({"x-session-id": SESSION}, {}),
        ({}, {"prompt_cache_key": SESSION}),
        ({}, {"user": SESSION}),
        ({}, {"metadata": {"session_id": SESSION}}),
        ({}, {}),
    ):
        house.brain.answers = brain([looks(number, f"{QUESTION} {SECRET}", id=f"own-{number}") for number in (1, 2, 3)])
        key = {"x-api-key": OWNER, **headers}
        got = await house.send({"messages": owners_history()[:1], **fields}, headers=key)
        assert got.status == 200
        names.append(got.headers["x-chiasm-conversation"])
        house.brain.answers = brain([])
        await house.chat(*owners_history(), headers=key, **fields)
        assert SECRET in str(house.brain.asked[-1].body), "who may read it, reads it"
    return names


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_of_five_hundred_ways_to_ask_for_what_another_key_has_none_reads_any_of_it(
    kind: str, tmp_path: Path
) -> None:
    store = {"kind": kind} if kind == "memory" else {"kind": kind, "path": str(tmp_path / "store")}
    # Without a key of its own the administration is open to whoever is on this machine, as these probes are.
    keys = {"api_keys": [OWNER, PRYING], "admin_key": "key-of-the-house"}
    async with live(server=keys, store=store) as house:
        names = await owner_shows(house)
        pictures = {data for look in house.eyes.looks for data in look.pictures}
        assert len(pictures) == len(IMAGES)
        house.eyes.answers = lambda asked: sees("Something else.")
        all_of_them = probes(names)
        assert len(all_of_them) == PROBES
        results = [await tried(house, probe, pictures) for probe in all_of_them]
        assert [probe for probe, result in zip(all_of_them, results, strict=True) if result.read] == []
        # Those that name other paths are refused; of the others the brain hears.
        assert sum(result.heard for result in results) > 0.8 * PROBES
        for headers, asks in (({"x-chiasm-conversation": SESSION}, looks(1, QUESTION)), ({}, looks(2, QUESTION))):
            mine = Probe("own", owners_history(), headers, asks=[asks])
            assert (await tried(house, mine, pictures, key=OWNER)).read, "the same with the right key reads"


@dataclass(frozen=True, slots=True)
class Result:
    heard: bool
    """It came as far as the brain."""
    read: bool
    """Something of the owner's came with it, to the client, to the brain or to the eyes."""


async def tried(house: House, probe: Probe, pictures: set[bytes], *, key: str = PRYING) -> Result:
    house.brain.asked.clear()
    house.eyes.asked.clear()
    house.brain.answers = brain(probe.asks)
    body = orjson.dumps({"messages": list(probe.messages), "tools": [function("Read")], **probe.fields})
    request = post(body, path=probe.path, headers={"x-api-key": key, **probe.headers})
    async with Line(house.port, request.replace(b"POST", probe.method.encode(), 1)) as line:
        got = await soon(line.rest(), DEADLINE)
    assert got.status in (200, 303, 400, 401, 403, 404), (probe, got)
    told = b"".join(asked.body for asked in house.brain.asked)
    said = [got.body, str(dict(got.headers)).encode(), *(asked.body for asked in house.eyes.asked)]
    if key == PRYING:
        assert SECRET.encode() not in body
    looked_at = {data for look in house.eyes.looks for data in look.pictures}
    secret = any(SECRET.encode() in words for words in [told, *said])
    return Result(bool(house.brain.asked), secret or bool(looked_at & pictures))


async def test_the_same_picture_of_two_keys_is_looked_at_twice_and_kept_twice(tmp_path: Path) -> None:
    """So that neither can learn from the time that it takes, or from what is counted, that the other has it."""
    store = {"kind": "disk", "path": str(tmp_path / "store")}
    async with live(server={"api_keys": [OWNER, PRYING]}, store=store) as house:
        house.brain.answers = brain([looks(1, QUESTION)])
        asked = []
        for key in (OWNER, PRYING, OWNER, PRYING):
            await house.chat(user(QUESTION, shown(IMAGES[0])), headers={"x-api-key": key})
            asked.append(len(house.eyes.asked))
        assert asked == [1, 2, 2, 2]
        whole = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and IMAGES[0] in path.read_bytes()]
        assert len(whole) == 2


async def test_what_one_key_forgets_or_fills_changes_no_table_of_another() -> None:
    images = {"max_loaded": 3, "keep_loaded": 1}
    async with live(server={"api_keys": [OWNER, PRYING]}, images=images) as house:
        house.brain.answers = brain([])
        same = {"x-chiasm-conversation": SESSION}
        mine = [user(*owners_images()[:2])]
        await house.chat(*mine, headers={**same, "x-api-key": OWNER})
        before = house.brain.asked[-1].messages
        for seed in range(10, 20):
            await house.chat(user(shown(picture(seed))), headers={**same, "x-api-key": PRYING})
        await house.chat(*mine, headers={**same, "x-api-key": OWNER})
        assert house.brain.asked[-1].messages == before
        await becomes(lambda: house.eyes.running == 0)
