"""What the table should know is found out while nobody waits for it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

import pytest
from PIL import Image

from cache.blobs import Blobs
from cache.memory import MemoryStore
from cache.pixels.pool import Pixels
from cache.record import ImageRecord
from cache.rows import Rows
from cache.table import UNLIKE, ImageTable
from cache.tables import Tables, place
from router.intake.afterwards import TASK, Afterwards
from router.intake.conversation import Conversation
from router.intake.images import ConversationImages
from tools.call import VisionUsage
from tools.vision.backend import VisionAnswer, VisionError, VisionQuery
from tools.vision.courteous import Courteous

pytestmark = pytest.mark.anyio


class Eyes:
    name = "eyes"

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.failing = False
        self.at_once = 0
        self.most_at_once = 0

    async def look(self, query: VisionQuery) -> VisionAnswer:
        assert query.task == TASK
        self.asked.append(query.images[0].number)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        if self.failing:
            raise VisionError("not now", retryable=True)
        return VisionAnswer(f"Picture {query.images[0].number}.", VisionUsage(1, 1, 1))

    async def identity(self) -> str:
        return "eyes"

    async def ready(self) -> str | None:
        return None

    async def close(self) -> None:
        pass


def picture(colour: int) -> bytes:
    data = io.BytesIO()
    Image.linear_gradient("L").rotate(colour).save(data, "PNG")
    return data.getvalue()


async def images(
    *, count: int, tool: bool = True, data: list[bytes] | None = None, key: str = "k"
) -> ConversationImages:
    store = MemoryStore(max_bytes=10**8)
    tables, rows, blobs = Tables(store), Rows(store), Blobs(store)
    digests = [await blobs.put("t", one) for one in data or [picture(45 * index) for index in range(count)]]

    def arrive(table: ImageTable, numbers: list[int], new: set[int]) -> None:
        for number in numbers:
            table.arrive(number, tool=tool, tokens=1)

    table, numbers, _ = await tables.number("t", key, [(digest, None) for digest in digests], arrive)
    for number, digest in zip(numbers, digests, strict=True):
        await rows.add(place("t", key, table), ImageRecord(number, digest, "image/png", 256, 256, 1))
    return ConversationImages(Conversation("t", key, "n"), table, {}, blobs=blobs, tables=tables, rows=rows)


async def finished(afterwards: Afterwards) -> None:
    while afterwards.busy:  # noqa: ASYNC110 (it tells nobody when it is done)
        await asyncio.sleep(0.01)


@pytest.fixture
async def afterwards() -> AsyncIterator[Afterwards]:
    pixels = Pixels()
    errands = Afterwards(near=3, pixels=pixels)
    yield errands
    await errands.close()
    pixels.close()


async def test_images_are_described_one_at_a_time_when_a_forgetting_comes_near(afterwards: Afterwards) -> None:
    these, eyes = await images(count=3), Eyes()
    afterwards.consider(these, Courteous(eyes))
    await finished(afterwards)
    rows = await these.records([1, 2, 3])
    assert [row.description for row in rows.values()] == ["Picture 1", "Picture 2", "Picture 3"]
    assert (eyes.asked, eyes.most_at_once) == ([1, 2, 3], 1)


async def test_nothing_is_asked_while_no_forgetting_is_near(afterwards: Afterwards) -> None:
    these, eyes = await images(count=2), Eyes()
    afterwards.consider(these, Courteous(eyes))
    await finished(afterwards)
    assert eyes.asked == []
    assert these.table.loaded[1].likeness == ""


async def test_what_is_known_is_not_asked_again(afterwards: Afterwards) -> None:
    these, eyes = await images(count=3), Eyes()
    await these.looked([2], "t", "Known already.", tokens=1)
    for _ in range(3):
        afterwards.consider(these, Courteous(eyes))
        await finished(afterwards)
    assert eyes.asked == [1, 3]
    assert (await these.records([2]))[2].description == "Known already"


async def test_screenshots_get_a_likeness_and_persons_pictures_do_not(afterwards: Afterwards) -> None:
    shots, pasted = await images(count=3), await images(count=3, tool=False)
    for these in (shots, pasted):
        afterwards.consider(these, None)
    await finished(afterwards)
    assert {len(image.likeness) for image in shots.table.loaded.values()} == {16}
    assert {image.likeness for image in pasted.table.loaded.values()} == {""}


async def test_what_cannot_be_decoded_is_tried_once(afterwards: Afterwards) -> None:
    these = await images(count=0, data=[b"a", b"b", b"c"])
    afterwards.consider(these, None)
    await finished(afterwards)
    assert {image.likeness for image in these.table.loaded.values()} == {UNLIKE}


async def test_what_was_dropped_from_a_full_list_can_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.intake.afterwards.MOST_WAITING", 3)
    pixels, eyes = Pixels(), Courteous(Eyes())
    errands = Afterwards(near=3, pixels=pixels)
    first, second = [await images(count=3, tool=False, key=key) for key in ("one", "two")]
    for these in (first, second, first):  # each drops the one before it
        errands.consider(these, eyes)
    await finished(errands)
    described = [[row.description != "" for row in (await of.records([1, 2, 3])).values()] for of in (first, second)]
    assert described == [[True] * 3, [False] * 3]
    await errands.close()
    pixels.close()


async def test_eyes_that_fail_are_left_alone(afterwards: Afterwards) -> None:
    these, eyes = await images(count=3), Eyes()
    eyes.failing = True
    afterwards.consider(these, Courteous(eyes))
    await finished(afterwards)
    assert eyes.asked == [1, 2, 3]
    assert {row.description for row in (await these.records([1, 2, 3])).values()} == {""}


async def test_closing_ends_what_runs() -> None:
    pixels = Pixels()
    these, eyes, afterwards = await images(count=3), Eyes(), Afterwards(near=3, pixels=pixels)
    afterwards.consider(these, Courteous(eyes))
    await asyncio.sleep(0)
    await afterwards.close()
    pixels.close()
    assert not afterwards.busy
