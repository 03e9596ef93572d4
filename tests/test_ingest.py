"""Images out of a request, into the cache, under a number."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from cache.blobs import Blobs
from cache.forgetting import LoadLimits
from cache.image import ImageLimits
from cache.memory import MemoryStore
from cache.rows import Rows
from cache.store import StoreError
from cache.table import ImageTable
from cache.tables import Tables, place
from router.errors import BadRequest, BodyTooLarge
from router.intake.ingest import Ingest, Ingested
from router.protocol.cuts import Cuts, cut
from router.protocol.image_parts import MOST_INSIDE, UNSEEN
from router.protocol.placeholders import placeholder

pytestmark = pytest.mark.anyio


def png(colour: str = "red", size: tuple[int, int] = (30, 20)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return data.getvalue()


def noise(seed: int) -> bytes:
    """Large enough to be cut out of the body."""
    import random

    data = io.BytesIO()
    Image.frombytes("RGB", (64, 64), random.Random(seed).randbytes(64 * 64 * 3)).save(data, "PNG")
    return data.getvalue()


def part(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]}


class Room:
    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore(max_bytes=10**8)
        self.blobs, self.tables, self.rows = Blobs(self.store), Tables(self.store), Rows(self.store)
        self.ingest = Ingest(
            blobs=self.blobs,
            tables=self.tables,
            rows=self.rows,
            limits=ImageLimits(max_bytes=2**20, max_pixels=10**6),
            load_limits=LoadLimits(max_loaded=4, keep_loaded=2, max_tokens=10**6),
        )

    async def take(self, *messages: Any, tenant: str = "t", session: str = "s", cuts: Cuts | None = None) -> Ingested:
        headers = {"x-session-id": session}
        return await self.ingest.take({"messages": list(messages)}, tenant=tenant, headers=headers, cuts=cuts)


@pytest.fixture
def room() -> Room:
    return Room()


def texts(taken: Ingested) -> list[str]:
    """All text of the history, placeholders as the brain sees them."""
    words = []
    for message in taken.messages(lambda record, called: placeholder(record, "analyzeImage", called)):
        content = message["content"]
        words += [content] if isinstance(content, str) else [one["text"] for one in content]
    return words


async def test_an_image_becomes_a_placeholder_and_its_bytes_are_kept(room: Room) -> None:
    taken = await room.take(user("what is it?", part(png())))
    question, stands = texts(taken)
    assert question == "what is it?"
    assert stands.startswith("[Image #1] (attached PNG, 30x20, ")
    (record,) = taken.images
    assert (record.number, record.media_type, record.width, record.height) == (1, "image/png", 30, 20)
    assert (record.origin, record.bytes) == ("user", len(png()))
    assert await room.blobs.get("t", record.digest) == png()


async def test_the_same_history_gives_the_same_words_again(room: Room) -> None:
    history = [user("a", part(png("red"))), user("b", part(png("blue"))), user(part(png("red")))]
    first = texts(await room.take(*history))
    assert texts(await room.take(*history)) == first
    assert texts(await room.take(*history, user("c", part(png("green")))))[: len(first)] == first
    assert [text[:10] for text in first if text.startswith("[")] == ["[Image #1]", "[Image #2]", "[Image #1]"]


async def test_numbers_survive_a_trimmed_history_and_a_restart(room: Room) -> None:
    await room.take(user(part(png("red"))), user(part(png("blue"))))
    again = Room(room.store)
    taken = await again.take(user(part(png("blue"))), user(part(png("green"))))
    assert [record.number for record in taken.images] == [2, 3]


async def test_conversations_and_tenants_have_numbers_of_their_own(room: Room) -> None:
    await room.take(user(part(png("red"))))
    assert (await room.take(user(part(png("blue"))), session="other")).images[0].number == 1
    assert (await room.take(user(part(png("blue"))), tenant="u")).images[0].number == 1
    assert await room.blobs.get("u", (await room.take(user(part(png("red"))))).images[0].digest) is None


async def test_the_clients_own_marker_gives_the_number(room: Room) -> None:
    taken = await room.take(user("[Image #4] what is it?", part(png())))
    assert taken.images[0].number == 4
    assert texts(taken)[0] == "[Image #4] what is it?"


async def test_a_marker_whose_number_is_taken_is_rewritten(room: Room) -> None:
    await room.take(user("[Image #1]", part(png("red"))))
    taken = await room.take(user("[Image #1] and after /compact", part(png("blue"))))
    assert taken.images[0].number == 2
    assert texts(taken)[0] == "[Image #2] and after /compact"


async def test_the_clients_number_means_the_same_image_in_what_the_person_says_later(room: Room) -> None:
    await room.take(user("[Image #1]", part(png("red"))))
    taken = await room.take(
        user("[Image #1] as you said before"),
        user("[Image #1] after /compact", part(png("blue"))),
        {"role": "assistant", "content": "[Image #1] it is"},
        user("what of [Image #1]?"),
    )
    before, after, stands, answer, later = texts(taken)
    assert before == "[Image #1] as you said before"
    assert after == "[Image #2] after /compact"
    assert "the user's image 1" in stands
    assert answer == "[Image #1] it is", "the brain's own words are in the server's cache"
    assert later == "what of [Image #2]?"


@pytest.mark.parametrize("moved", [False, True])
async def test_a_tools_words_do_not_change_what_the_person_means(room: Room, moved: bool) -> None:
    shot = [{"type": "text", "text": "See [Image #1] below"}, part(png("blue"))]
    result: dict[str, Any] = {"role": "tool", "tool_call_id": "c", "content": "ok" if moved else shot}
    taken = await room.take(
        user("[Image #1] my invoice", part(png("red"))),
        {"role": "assistant", "content": "ok"},
        result,
        *([{"role": "user", "content": shot}] if moved else []),
        user("Pay the amount in [Image #1]"),
    )
    assert [record.number for record in taken.images] == [1, 2]
    assert texts(taken)[-1] == "Pay the amount in [Image #1]"
    assert "the user's image" not in str(texts(taken))


async def test_markers_of_several_images_are_told_apart(room: Room) -> None:
    taken = await room.take(user("[Image #2] over [Image #1]", part(png("red")), part(png("blue"))))
    assert [record.number for record in taken.images] == [2, 1]


async def test_a_new_image_beside_which_an_old_one_is_spoken_of_has_its_own_marker(room: Room) -> None:
    shot = {"role": "tool", "tool_call_id": "c", "content": [part(png("green"))]}
    taken = await room.take(
        shot,
        {"role": "assistant", "content": "There it is."},
        user("[Image #1] is mine", part(png("red"))),
        user("[Image #2] is unlike [Image #1]", part(png("blue"))),
    )
    assert [record.number for record in taken.images] == [1, 2, 3]
    assert [words for words in texts(taken) if "mine" in words] == ["[Image #2] is mine"]
    assert [words for words in texts(taken) if "unlike" in words] == ["[Image #3] is unlike [Image #2]"]


async def test_more_markers_than_images_name_none(room: Room) -> None:
    taken = await room.take(user("[Image #7] as in [Image #3]", part(png())))
    assert taken.images[0].number == 1
    assert texts(taken)[0] == "[Image #7] as in [Image #3]"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (png()[:40], "truncated PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"not a picture at all", "not an image"),
        (b"", "empty"),
    ],
)
async def test_a_bad_image_is_a_placeholder_that_says_so(room: Room, payload: bytes, reason: str) -> None:
    taken = await room.take(user("look", part(payload)), user(part(png())))
    assert texts(taken)[1].startswith("[Image #1: unreadable, ")
    assert reason in texts(taken)[1]
    assert texts(taken)[2].startswith("[Image #2] (attached PNG")


async def test_junk_base64_is_a_bad_image(room: Room) -> None:
    bad = {"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%%not base64%%%%"}}
    assert "unreadable, " in texts(await room.take(user(bad)))[0]


async def test_base64_of_any_alphabet_and_folding_is_read(room: Room) -> None:
    encoded = base64.urlsafe_b64encode(png()).decode().rstrip("=")
    folded = "\n".join(encoded[i : i + 60] for i in range(0, len(encoded), 60))
    odd = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{folded}"}}
    taken = await room.take(user(odd), user(part(png())))
    assert [record.number for record in taken.images] == [1, 1]


async def test_too_large_an_image_is_refused_before_it_is_decoded(room: Room) -> None:
    taken = await room.take(user(part(b"\x89PNG" + bytes(2**20 + 100))))
    assert "too large" in texts(taken)[0]


@pytest.mark.parametrize("pictures", [0, 1])
async def test_what_the_brains_server_would_fetch_becomes_words_with_and_without_an_image(
    room: Room, pictures: int
) -> None:
    video = {"type": "video_url", "video_url": {"url": "http://10.0.0.1/v.mp4"}}
    taken = await room.take(user("see", video), *[user(part(png()))] * pictures)
    assert UNSEEN in texts(taken)
    assert "10.0.0.1" not in str(taken.messages(lambda record, called: ""))


async def test_an_image_by_address_is_not_fetched(room: Room) -> None:
    taken = await room.take(user({"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}))
    assert "URL" in texts(taken)[0]
    assert taken.images[0].origin == "url"


async def test_images_cut_out_of_the_body_are_taken_from_there(room: Room) -> None:
    blocks = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": None}}]
    blocks[0]["source"]["data"] = base64.b64encode(noise(1)).decode()  # type: ignore[index]
    tool = {"role": "tool", "tool_call_id": "t", "content": json.dumps(blocks)}
    body = bytearray(json.dumps({"messages": [user("a", part(noise(2))), tool]}).encode())
    skeleton, cuts = cut(body, "chiasm0123x")
    assert len(cuts.spans) == 2
    taken = await room.take(*json.loads(skeleton)["messages"], cuts=cuts)
    assert [record.bytes for record in taken.images] == [len(noise(2)), len(noise(1))]
    assert [record.origin for record in taken.images] == ["user", "tool"]
    assert "chiasm0123x" not in str(texts(taken))


async def test_picture_data_outside_the_messages_is_refused(room: Room) -> None:
    with pytest.raises(BadRequest, match="metadata"):
        await room.ingest.take(
            {"messages": [user("a")], "metadata": {"x": part(png())}}, tenant="t", headers={}, cuts=None
        )


async def test_an_image_seen_before_is_not_opened_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    await room.take(user(part(png())))

    def never(*_: object) -> Any:
        raise AssertionError("opened again")

    monkeypatch.setattr("router.intake.admission._open", never)
    assert (await room.take(user(part(png())), session="another")).images[0].width == 30


async def test_a_store_that_fails_does_not_fail_the_request() -> None:
    class Full(MemoryStore):
        async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
            raise StoreError("no space left")

    taken = await Room(Full(max_bytes=1)).take(user(part(png())))
    assert texts(taken)[0].startswith("[Image #1] (attached PNG")


async def test_more_images_than_any_history_holds_are_refused(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.intake.ingest.MOST_IMAGES", 2)
    await room.take(*asked("red", "green"))
    with pytest.raises(BodyTooLarge, match="more than 2 images"):
        await room.take(*asked("red", "green", "red"))


async def test_endless_json_around_an_image_in_what_tools_say_is_refused(room: Room) -> None:
    def result(many: int) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": "1", "content": json.dumps([part(png()), *[{}] * many])}

    taken = await room.take(user("x"), result(MOST_INSIDE // 4), result(MOST_INSIDE // 4))
    assert len(taken.table) == 1
    with pytest.raises(BodyTooLarge, match="lists and objects"):
        await room.take(user("x"), result(MOST_INSIDE // 2), result(MOST_INSIDE // 2))


async def test_a_number_typed_by_somebody_adds_nothing_to_the_table(room: Room) -> None:
    taken = await room.take(user("[Image #9] is what I mean"), {"role": "tool", "content": "[Image #3]"})
    assert len(taken.table) == 0


# Loaded and forgotten


def asked(*names: str) -> list[dict[str, Any]]:
    """A question about each of these pictures, answered."""
    return [message for name in names for message in (user(part(png(name))), {"role": "assistant", "content": "ok"})]


COLOURS = ("red", "green", "blue", "black", "white")


async def test_an_image_is_loaded_from_its_arrival(room: Room) -> None:
    assert list((await room.take(*asked("red", "green"))).table.loaded) == [1, 2]


async def test_one_too_many_forgets_at_once_and_down_to_the_lower_mark(room: Room) -> None:
    assert list((await room.take(*asked(*COLOURS[:4]))).table.loaded) == [1, 2, 3, 4]
    taken = await room.take(*asked(*COLOURS))
    assert list(taken.table.loaded) == [4, 5]
    assert taken.table.forgot == taken.table.stamp > 0


async def test_the_newest_turns_images_are_not_forgotten(room: Room) -> None:
    taken = await room.take(*[user(part(png(name))) for name in COLOURS])
    assert list(taken.table.loaded) == [1, 2, 3, 4, 5]
    history = [user(part(png(name))) for name in COLOURS]
    later = await room.take(*history, {"role": "assistant", "content": "ok"}, user("?"))
    assert list(later.table.loaded) == [4, 5], "but as soon as they are not the newest any more"


async def test_a_forgotten_image_that_is_sent_again_is_loaded(room: Room) -> None:
    await room.take(*asked(*COLOURS))
    assert 1 in (await room.take(*asked(*COLOURS), user(part(png("red"))))).table.loaded


async def test_a_history_sent_again_loads_nothing(room: Room) -> None:
    await room.take(*asked(*COLOURS))
    assert list((await room.take(*asked(*COLOURS), user("and?"))).table.loaded) == [4, 5]


async def test_what_was_looked_at_since_is_forgotten_by_a_request_without_images(room: Room) -> None:
    taken = await room.take(*asked(*COLOURS))

    def look_at_all(table: ImageTable) -> None:
        for number in range(1, 6):
            table.use(number)

    await room.tables.change("t", taken.conversation.key, look_at_all)
    assert list((await room.take(user("and?"))).table.loaded) == [4, 5]


async def test_what_cannot_be_looked_at_is_not_loaded(room: Room) -> None:
    assert list((await room.take(user(part(b"no picture")), user(part(png())))).table.loaded) == [2]


async def test_images_that_a_router_moved_out_of_a_tools_result_are_the_tools(room: Room) -> None:
    history = [user("go"), {"role": "tool", "tool_call_id": "c", "content": "ok"}, user(part(png("red")))]
    taken = await room.take(*history, {"role": "assistant", "content": "ok"}, user(part(png("blue"))))
    assert [record.origin for record in taken.images] == ["tool", "user"]
    assert [image.tool for image in taken.table.loaded.values()] == [True, False]


async def test_every_image_has_a_row_with_what_is_known_of_it(room: Room) -> None:
    taken = await room.take(user(part(png("red"))))
    rows = await room.rows.get_many(place("t", taken.conversation.key, taken.table), [1])
    assert rows[1] == taken.images[0]


async def test_a_deleted_image_stays_deleted_however_often_it_is_sent(room: Room) -> None:
    taken = await room.take(*asked("red", "green"))
    await room.tables.change("t", taken.conversation.key, lambda table: table.delete(1))
    again = await room.take(*asked("red", "green", "blue"))
    assert texts(again)[0] == "[Image #1: unreadable, deleted]\n"
    assert list(again.table.loaded) == [2, 3]


# Hostile payloads


async def test_a_payload_of_backslashes_is_a_bad_image_and_soon_known_as_one(room: Room) -> None:
    """Once a thousand times slower with a thousand times more of them, while nobody else was served."""
    odd = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "\\" * 300_000}}
    assert "unreadable" in texts(await room.take(user(odd)))[0]


# What it costs


async def test_many_new_images_cost_no_more_calls_of_the_store_than_one_but_for_their_bytes() -> None:
    class Counting(MemoryStore):
        calls = 0

        async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
            self.calls += 1
            return await super().get_many(keys)

        async def get(self, key: str) -> bytes | None:
            self.calls += 1
            return await super().get(key)

        async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
            self.calls += 1
            await super().put(key, value, ttl=ttl)

        async def add_many(self, values: Sequence[tuple[str, bytes]], *, ttl: float | None = None) -> list[bool]:
            self.calls += 1
            return await super().add_many(values, ttl=ttl)

    async def calls(images: int) -> int:
        store = Counting(max_bytes=10**8)
        await Room(store).take(*[user(part(noise(seed))) for seed in range(images)])
        return store.calls

    assert await calls(20) == await calls(1)


async def test_few_images_of_a_request_are_in_memory_at_once() -> None:
    class Slow(MemoryStore):
        at_once = most = 0

        async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
            if key.startswith("blob/"):
                self.at_once += 1
                self.most = max(self.most, self.at_once)
                await asyncio.sleep(0.01)
                self.at_once -= 1
            return await super().add(key, value, ttl=ttl)

    store = Slow(max_bytes=10**8)
    taken = await Room(store).take(*[user(part(noise(seed))) for seed in range(12)])
    assert [record.problem for record in taken.images] == [""] * 12
    assert store.most <= 4
