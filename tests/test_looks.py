"""What was seen is remembered, and the same question at the same time is put to the eyes once."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import unicodedata
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cache.composed import composed
from cache.disk import DiskStore
from cache.looks import MOST_KEPT, Look, Looks, Seen, Told
from cache.memory import MemoryStore
from cache.store import StoreError
from tools.vision import ocr
from tools.vision import question as wording
from tools.vision.backend import VisionError, VisionImage, VisionQuery
from tools.vision.openai import OPENAI, EyesProfile, OpenAIEyes
from tools.vision.qwen import QWEN

pytestmark = pytest.mark.anyio

ONE = Look(("d1",), (1,), "What is it?", "a zoo", (None,), "eyes", "v1")
TWO = replace(ONE, digests=("d1", "d2"), numbers=(1, 2), regions=(None, None))


def memory() -> MemoryStore:
    return MemoryStore(max_bytes=2**20)


@pytest.fixture
def store() -> MemoryStore:
    return memory()


async def all_keys(store: MemoryStore) -> list[str]:
    keys = store.keys()
    return [key async for key in keys]


class Sight:
    """What is behind the memory: counts how often it was asked, and says what it is told."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.calls = 0

    async def __call__(self) -> Seen[str]:
        self.calls += 1
        await asyncio.sleep(0)
        text = self.answers[min(self.calls, len(self.answers)) - 1]
        return Seen(f"outcome {self.calls}", text)


async def told(looks: Looks, look: Look = ONE, sight: Sight | None = None, tenant: str = "t") -> Told[str]:
    return await looks.ask(tenant, look, sight or Sight("a cat"))


async def unknown(looks: Looks, look: Look, tenant: str = "t") -> bool:
    sight = Sight(None)
    await looks.ask(tenant, look, sight)
    return sight.calls == 1


# What is the same


async def test_what_was_seen_is_told_again_and_nothing_is_looked_at(store: MemoryStore) -> None:
    looks, sight = Looks(store), Sight("a cat\n  on\u2028a mat \ud83d", "a dog")
    assert await told(looks, sight=sight) == Told("outcome 1", sight.answers[0], pays=True)
    assert await told(looks, sight=sight) == Told(None, sight.answers[0], pays=False)
    assert sight.calls == 1


OTHERS = {
    "image": replace(ONE, digests=("d2",)),
    "task": replace(ONE, task="What colour is it?"),
    "case": replace(ONE, task="What is IT?"),
    "context": replace(ONE, context="a farm"),
    "no context": replace(ONE, context=""),
    "task and context the other way round": replace(ONE, task=ONE.context, context=ONE.task),
    "words moved over from the context": replace(ONE, task=f"{ONE.task} a", context="zoo"),
    "region": replace(ONE, regions=((0, 0, 10, 10),)),
    "eyes": replace(ONE, eyes="other eyes"),
    "wording": replace(ONE, wording="v2"),
    "one image more": TWO,
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_another_question_is_another_look(store: MemoryStore, other: Look) -> None:
    looks = Looks(store)
    await told(looks)
    assert await unknown(looks, other)
    assert not await unknown(looks, ONE)


async def test_several_images_in_another_order_are_another_question(store: MemoryStore) -> None:
    looks = Looks(store)
    await told(looks, TWO)
    assert await unknown(looks, replace(TWO, digests=("d2", "d1")))


async def test_white_space_does_not_make_another_question(store: MemoryStore) -> None:
    looks = Looks(store)
    await told(looks)
    assert not await unknown(looks, replace(ONE, task="  What \n\t is\u00a0it? ", context="a\r\nzoo\n"))


async def test_how_accents_are_composed_does_not_make_another_question(store: MemoryStore) -> None:
    looks = Looks(store)
    composed = "Où est l'été?"
    await told(looks, replace(ONE, task=composed))
    assert not await unknown(looks, replace(ONE, task=unicodedata.normalize("NFD", composed)))


@pytest.mark.parametrize(("one", "other"), [("x²", "x2"), ("Polish", "polish"), ("ﬁ", "fi"), ("ß", "ss"), ("①", "1")])
def test_what_can_be_the_very_question_is_not_evened_out(one: str, other: str) -> None:
    assert composed(one) != composed(other)


@given(st.text())
def test_evening_out_twice_changes_no_more(words: str) -> None:
    assert composed(composed(words)) == composed(words)


@given(st.text(st.characters(codec=None), max_size=20))
async def test_any_text_can_be_asked(words: str) -> None:
    looks = Looks(memory())
    await told(looks, replace(ONE, task=words, context=words))
    assert not await unknown(looks, replace(ONE, task=words, context=words))


# Whose it is


async def test_nobody_is_told_what_another_tenant_saw(store: MemoryStore) -> None:
    looks = Looks(store)
    await told(looks, tenant="a")
    assert await unknown(looks, ONE, tenant="b")
    assert not await unknown(looks, ONE, tenant="a")


async def test_tenants_do_not_share_a_running_look(store: MemoryStore) -> None:
    looks, sight = Looks(store), Sight("a cat")
    await asyncio.gather(told(looks, sight=sight, tenant="a"), told(looks, sight=sight, tenant="b"))
    assert sight.calls == 2


async def test_the_tenant_stands_in_the_key_and_the_question_does_not(store: MemoryStore) -> None:
    await told(Looks(store), tenant="somebody")
    (key,) = await all_keys(store)
    kind, tenant, images, digest = key.split("/")
    assert (kind, tenant) == ("look", "somebody")
    assert images
    assert len(digest) == 64


@pytest.mark.parametrize("tenant", ["", "a/b"])
async def test_a_tenant_that_is_no_word_is_refused(store: MemoryStore, tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        await told(Looks(store), tenant=tenant)


# Numbers


async def test_an_answer_that_names_no_image_holds_whatever_the_images_number(store: MemoryStore) -> None:
    looks = Looks(store)
    await told(looks, sight=Sight("a cat"))
    assert (await told(looks, replace(ONE, numbers=(4,)), Sight("a dog"))).text == "a cat"


@pytest.mark.parametrize("named", ["[Image #1]: 3 lines", "Picture # 1 shows a cat"])
async def test_an_answer_that_names_its_image_holds_for_that_number_only(store: MemoryStore, named: str) -> None:
    looks, fourth = Looks(store), replace(ONE, numbers=(4,))
    await told(looks, sight=Sight(named))
    assert (await told(looks, fourth, Sight("[Image #4]: 3 lines"))).text == "[Image #4]: 3 lines"
    assert (await told(looks, ONE)).text == named
    assert (await told(looks, fourth)).text == "[Image #4]: 3 lines"


async def test_what_was_told_under_a_number_stays_when_another_conversation_gets_a_general_answer(
    store: MemoryStore,
) -> None:
    looks = Looks(store)
    await told(looks, sight=Sight("#1 is a cat"))
    await told(looks, replace(ONE, numbers=(4,)), Sight("a tom cat"))
    assert (await told(looks, ONE)).text == "#1 is a cat"


async def test_of_several_images_the_numbers_always_count(store: MemoryStore) -> None:
    looks = Looks(store)
    await told(looks, TWO, Sight("the first is larger"))
    assert await unknown(looks, replace(TWO, numbers=(3, 4)))
    assert not await unknown(looks, TWO)


# What is kept


async def test_what_may_not_be_told_again_is_not_kept(store: MemoryStore) -> None:
    looks = Looks(store)
    for nothing in (None, ""):
        assert await told(looks, sight=Sight(nothing)) == Told("outcome 1", None, pays=True)
        assert await all_keys(store) == []


async def test_a_giant_answer_is_told_and_not_kept(store: MemoryStore) -> None:
    looks = Looks(store)
    giant = "x" * MOST_KEPT
    assert (await told(looks, sight=Sight(giant))).text == giant
    assert await unknown(looks, ONE)


async def test_it_is_forgotten_in_time() -> None:
    now = 0.0
    store = MemoryStore(max_bytes=2**20, clock=lambda: now)
    looks = Looks(store, ttl=100)
    await told(looks)
    now = 99
    assert not await unknown(looks, ONE)
    now = 101
    assert await unknown(looks, ONE)


async def test_it_outlives_the_process(tmp_path: Path) -> None:
    for sight in (Sight("a cat"), Sight("a dog")):
        store = DiskStore(tmp_path / "store", max_bytes=2**24)
        try:
            assert (await told(Looks(store, ttl=3600), sight=sight)).text == "a cat"
        finally:
            await store.close()


async def test_of_two_processes_that_looked_both_tell_what_was_kept_first(store: MemoryStore) -> None:
    first, second = Looks(store), Looks(store)
    one, other = await asyncio.gather(told(first, sight=Sight("a cat")), told(second, sight=Sight("a tom")))
    assert one.text == other.text == "a cat"
    assert one.pays
    assert other.pays


DAMAGE: dict[str, bytes] = {
    "another version": b'{"version": 2, "text": "from the future"}',
    "no version": b'{"text": "a dog"}',
    "no text": b'{"version": 1}',
    "an empty text": b'{"version": 1, "text": ""}',
    "text of another kind": b'{"version": 1, "text": ["a dog"]}',
    "no object": b'["a dog"]',
    "cut": b'{"version": 1, "text": "a d',
    "no text at all": b"\xff\xfe\x00",
    "nothing": b"",
    "a pit": b"[" * 60_000,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_what_cannot_be_read_is_unknown_and_replaced_by_the_next_answer(
    store: MemoryStore, damage: bytes
) -> None:
    looks = Looks(store)
    await told(looks)
    (key,) = await all_keys(store)
    await store.put(key, damage)
    assert await told(looks, sight=Sight("a tom")) == Told("outcome 1", "a tom", pays=True)
    assert not await unknown(looks, ONE)
    assert json.loads(await store.get(key) or b"")["version"] == 1


class Failing(MemoryStore):
    """Fails in what it is told to fail in."""

    def __init__(self, *failing: str) -> None:
        super().__init__(max_bytes=2**20)
        self.failing = failing

    async def get(self, key: str) -> bytes | None:
        self._perhaps("get")
        return await super().get(key)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        self._perhaps("get")
        return await super().get_many(keys)

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        self._perhaps("add")
        return await super().add(key, value, ttl=ttl)

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        self._perhaps("put")
        await super().put(key, value, ttl=ttl)

    def _perhaps(self, method: str) -> None:
        if method in self.failing:
            raise StoreError("the disk is full")


@pytest.mark.parametrize("failing", [("get",), ("add", "put"), ("get", "add", "put")])
async def test_a_store_that_fails_costs_a_look_and_nothing_else(
    caplog: pytest.LogCaptureFixture, failing: tuple[str, ...]
) -> None:
    caplog.set_level(logging.DEBUG)
    looks = Looks(Failing(*failing))
    for _ in range(2):
        assert (await told(looks, sight=Sight("a cat"))).text == "a cat"
    assert "the disk is full" in caplog.text


async def test_nothing_of_a_question_or_an_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    damaged = Failing("add")
    await told(Looks(damaged))
    damaged.failing = ()
    looks = Looks(damaged)
    await told(looks)
    (key,) = await all_keys(damaged)
    await damaged.put(key, b'{"version": 1, "text": ["a cat"]}')
    await told(looks)
    assert len(caplog.records) >= 2
    assert not any(words in caplog.text for words in ("What is it", "zoo", "a cat"))


# Who asks at the same time


class Stage:
    """A look that lasts until it is told how it ends, and those who ask for it."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.looks = Looks(store or memory())
        self.running: list[asyncio.Future[Seen[int]]] = []
        self.begun = 0
        self.cancelled = 0
        self.ended: list[int] = []

    async def see(self) -> Seen[int]:
        self.begun += 1
        end: asyncio.Future[Seen[int]] = asyncio.get_running_loop().create_future()
        self.running.append(end)
        mine = self.begun
        try:
            seen = await end
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running.remove(end)
            if end.done() and not end.cancelled():
                self.ended.append(mine)
        return seen

    def asks(self, look: Look = ONE) -> asyncio.Task[Told[int]]:
        return asyncio.create_task(self.looks.ask("t", look, self.see))

    def answers(self, text: str | None = "a cat") -> None:
        (end,) = self.running
        end.set_result(Seen(self.begun, text))

    def breaks(self) -> None:
        (end,) = self.running
        end.set_exception(RuntimeError("bug"))


async def settled() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


async def test_two_who_ask_at_once_share_one_look_and_one_pays() -> None:
    stage = Stage()
    first, second = stage.asks(), stage.asks()
    await settled()
    third = stage.asks(replace(ONE, task=" What  is it?"))
    await settled()
    stage.answers()
    assert list(await asyncio.gather(first, second, third)) == [
        Told(1, "a cat", pays=True),
        Told(1, "a cat", pays=False),
        Told(1, "a cat", pays=False),
    ]
    assert stage.begun == 1


async def test_who_asks_something_else_does_not_wait() -> None:
    stage = Stage()
    first, second = stage.asks(), stage.asks(replace(ONE, task="another"))
    await settled()
    stage.running[1].set_result(Seen(2, "a dog"))
    assert (await second).text == "a dog"
    assert not first.done()
    stage.answers()
    await first


async def test_a_failure_is_given_to_all_who_wait_and_the_next_one_tries_again() -> None:
    stage = Stage()
    asking = [stage.asks() for _ in range(3)]
    await settled()
    stage.answers(None)
    assert [(one.outcome, one.text, one.pays) for one in await asyncio.gather(*asking)] == [
        (1, None, True),
        (1, None, False),
        (1, None, False),
    ]
    again = stage.asks()
    await settled()
    stage.answers()
    assert await again == Told(2, "a cat", pays=True)


async def test_a_fault_is_given_to_all_who_wait_and_the_next_one_tries_again() -> None:
    stage = Stage()
    asking = [stage.asks() for _ in range(2)]
    await settled()
    stage.breaks()
    assert [str(fault) for fault in await asyncio.gather(*asking, return_exceptions=True)] == ["bug", "bug"]
    again = stage.asks()
    await settled()
    stage.answers()
    assert (await again).text == "a cat"


async def test_who_asks_in_the_moment_after_a_failure_does_not_get_it() -> None:
    stage = Stage()
    first = stage.asks()
    await settled()
    stage.answers(None)
    late = [stage.asks(), stage.asks()]  # they come when the look has just ended and nothing has been cleared away
    await settled()
    assert first.result().outcome == 1
    later = stage.asks()
    await settled()
    stage.answers()
    assert [one.outcome for one in await asyncio.gather(*late, later)] == [2, 2, 2]
    assert stage.begun == 2


async def test_a_fault_while_a_look_is_being_ended_bothers_nobody() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

    async def clumsy() -> Seen[int]:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise RuntimeError("bug")

    only = asyncio.create_task(Looks(memory()).ask("t", ONE, clumsy))
    await settled()
    only.cancel()
    await asyncio.wait({only})
    assert only.cancelled()
    await settled()
    del only  # its traceback holds what a task that nobody asked about would complain from, once it is collected
    gc.collect()
    assert not complaints


async def test_one_who_hangs_up_does_not_end_the_look_of_another_and_is_not_charged() -> None:
    stage = Stage()
    first, second = stage.asks(), stage.asks()
    await settled()
    first.cancel()
    await settled()
    assert first.cancelled()
    assert stage.cancelled == 0
    stage.answers()
    assert await second == Told(1, "a cat", pays=True)


async def test_the_last_one_who_hangs_up_ends_the_look() -> None:
    stage = Stage()
    first, second = stage.asks(), stage.asks()
    await settled()
    first.cancel()
    second.cancel()
    await asyncio.wait({first, second})
    assert (stage.begun, stage.cancelled, stage.running) == (1, 1, []), "ended before the last one is gone"
    assert repr(stage.looks) == "<Looks 0 in flight>"


async def test_who_asks_while_a_look_is_being_ended_has_one_of_his_own() -> None:
    stage = Stage()
    ending = asyncio.Event()

    async def lingering() -> Seen[int]:
        try:
            return await stage.see()
        except asyncio.CancelledError:
            await ending.wait()
            raise

    first = asyncio.create_task(stage.looks.ask("t", ONE, lingering))
    await settled()
    first.cancel()
    await settled()
    second = stage.asks()
    await settled()
    assert not first.done(), "he leaves when the look has ended, so that nothing is left running behind him"
    ending.set()
    await settled()
    assert first.cancelled()
    stage.answers()
    assert await second == Told(2, "a cat", pays=True)
    assert not await unknown(stage.looks, ONE)


async def test_an_answer_that_came_before_the_last_one_left_is_kept() -> None:
    class Slow(MemoryStore):
        async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
            await go_on.wait()
            return await super().add(key, value, ttl=ttl)

    go_on = asyncio.Event()
    stage = Stage(Slow(max_bytes=2**20))
    only = stage.asks()
    await settled()
    stage.answers()
    await settled()
    only.cancel()
    await settled()
    joined = stage.asks()
    await settled()
    go_on.set()
    async with asyncio.timeout(30):
        assert await joined == Told(1, "a cat", pays=True), "nobody else was there to pay"
        await asyncio.wait({only})
    assert only.cancelled()
    assert not await unknown(stage.looks, ONE)


async def test_who_is_cancelled_with_the_answer_on_its_way_to_him_is_not_charged() -> None:
    late = set()
    for turns in range(12):  # of the loop, between the eyes' answer and the moment in which he is cancelled
        stage = Stage()
        first, second = stage.asks(), stage.asks()
        await settled()
        stage.answers()
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first, second})
        late.add(first.cancelled())
        assert second.result().pays is first.cancelled()
        assert stage.cancelled == 0
    assert late == {True, False}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "leave", "answer", "decline", "break"]),
        st.integers(0, 5),
        st.sampled_from([0, 1, 2, 12]),
    ),
    max_size=30,
)
"""What happens, to whom (of those who wait), and how many turns of the loop pass before the next thing does."""


@given(steps=STEPS)
def test_however_they_come_and_go_one_look_runs_while_somebody_waits_and_one_of_them_pays(
    steps: list[tuple[str, int, int]],
) -> None:
    asyncio.run(_come_and_go(steps))


async def _come_and_go(steps: list[tuple[str, int, int]]) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    stage = Stage()
    everybody: list[asyncio.Task[Told[int]]] = []
    left: set[asyncio.Task[Told[int]]] = set()
    for step, who, turns in steps:
        waiting = [asker for asker in everybody if not asker.done() and asker not in left]
        undecided = [end for end in stage.running if not end.done()]
        match step:
            case "ask":
                everybody.append(stage.asks())
            case "leave" if waiting:
                asker = waiting[who % len(waiting)]
                asker.cancel()
                left.add(asker)
            case "answer" if undecided:
                undecided[0].set_result(Seen(stage.begun, f"answer {stage.begun}"))
            case "decline" if undecided:
                undecided[0].set_result(Seen(stage.begun, None))
            case "break" if undecided:
                undecided[0].set_exception(RuntimeError("bug"))
        for _ in range(turns):
            await asyncio.sleep(0)
        # One that is being ended may still be there beside its successor, but it is not waited for.
        assert len([end for end in stage.running if not end.done()]) <= 1
        if turns == 12:
            waiting = [asker for asker in everybody if not asker.done()]
            assert bool(waiting) == bool(stage.running), "a look runs exactly while somebody waits"
    await settled()
    for end in stage.running:
        end.set_result(Seen(stage.begun, "the end"))
    await settled()

    assert all(asker.done() for asker in everybody)
    assert repr(stage.looks) == "<Looks 0 in flight>"
    assert not complaints
    stayed = [asker for asker in everybody if asker not in left]
    assert not any(asker.cancelled() for asker in stayed)
    tales = [asker.result() for asker in everybody if not asker.cancelled() and asker.exception() is None]
    assert len({tale.text for tale in tales if tale.text is not None}) <= 1, "all are told the same"
    for looked in stage.ended:
        of_this = [tale for tale in tales if tale.outcome == looked]
        assert sum(tale.pays for tale in of_this) == bool(of_this), "exactly one of those who are told pays"
    assert all(not tale.pays for tale in tales if tale.outcome is None)


# Who looks


def eyes(*, url: str = "http://127.0.0.1:9/v1", **options: Any) -> OpenAIEyes:
    options = {"name": "eyes", "model": "m", **options}
    return OpenAIEyes(httpx.AsyncClient(transport=httpx.MockTransport(_says)), url, **options)


def _says(request: httpx.Request) -> httpx.Response:
    if request.method == "GET":
        return httpx.Response(200, json={"data": [{"id": "listed"}]})
    return httpx.Response(200, json=_REPLY)


_REPLY: dict[str, Any] = {"choices": [{"message": {"content": "a cat"}, "finish_reason": "stop"}]}


async def test_eyes_with_the_same_settings_are_the_same() -> None:
    assert await eyes().identity() == await eyes().identity()


async def test_where_a_server_stands_and_how_long_it_may_take_changes_no_answer() -> None:
    other = eyes(url="http://127.0.0.1:8/v1", api_key="secret", timeout_seconds=5, max_concurrency=1)
    assert await other.identity() == await eyes().identity()
    assert "secret" not in await other.identity()


OTHER_EYES: dict[str, Callable[[], OpenAIEyes]] = {
    "name": lambda: eyes(name="other"),
    "model": lambda: eyes(model="other"),
    "thinking": lambda: eyes(thinking=True),
    "budget": lambda: eyes(max_tokens=100),
    "kind": lambda: eyes(profile=QWEN),
    "engine": lambda: eyes(profile=_profile(switch={False: {"think": False}})),
    "sampling": lambda: eyes(profile=_profile(answering={"temperature": 1})),
    "size": lambda: eyes(profile=_profile(max_pixels=1)),
}


def _profile(**changes: Any) -> EyesProfile:
    return replace(OPENAI, **changes)


@pytest.mark.parametrize("other", OTHER_EYES.values(), ids=OTHER_EYES)
async def test_eyes_that_may_see_differently_are_others(other: Callable[[], OpenAIEyes]) -> None:
    assert await other().identity() != await eyes().identity()


async def test_a_model_that_is_not_configured_is_asked_for() -> None:
    assert await eyes(model=None).identity() == await eyes(model="listed").identity()


async def test_eyes_whose_model_cannot_be_had_are_not_known() -> None:
    nobody = OpenAIEyes(
        httpx.AsyncClient(transport=httpx.MockTransport(lambda request: httpx.Response(404))),
        "http://127.0.0.1:9/v1",
        name="eyes",
    )
    with pytest.raises(VisionError):
        await nobody.identity()


async def test_a_model_that_is_asked_for_in_vain_does_not_hold_up_the_look() -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        return await asyncio.Future()

    silent = OpenAIEyes(
        httpx.AsyncClient(transport=httpx.MockTransport(never)), "http://127.0.0.1:9/v1", name="e", timeout_seconds=0.01
    )
    async with asyncio.timeout(30):
        with pytest.raises(VisionError):
            await silent.identity()


@pytest.fixture
async def reader(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ocr.OcrEyes]:
    monkeypatch.setattr(ocr, "_models", lambda: {"Det": Path("/x/a.onnx"), "Rec": Path("/x/b.onnx")})
    made = ocr.OcrEyes()
    yield made
    await made.close()


async def test_eyes_that_read_are_known_by_their_models(reader: ocr.OcrEyes, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await reader.identity()
    assert before == await reader.identity()
    assert "/x/" not in before
    for other in (ocr.OcrEyes(name="other"), _reader_with("c.onnx", monkeypatch)):
        assert await other.identity() != before
        await other.close()


def _reader_with(model: str, monkeypatch: pytest.MonkeyPatch) -> ocr.OcrEyes:
    monkeypatch.setattr(ocr, "_models", lambda: {"Det": Path("/x") / model})
    return ocr.OcrEyes()


async def test_a_copy_of_the_reader_without_metadata_still_has_an_identity(
    reader: ocr.OcrEyes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(ocr, "version", absent)
    assert await reader.identity()


@pytest.mark.parametrize(
    ("finish", "refusal", "whole"),
    [("stop", None, True), (None, None, True), ("length", None, False), ("stop", "no", False)],
)
async def test_an_answer_that_was_cut_or_declined_is_not_whole(
    monkeypatch: pytest.MonkeyPatch, finish: str | None, refusal: str | None, whole: bool
) -> None:
    message = {"content": "a cat", "refusal": refusal}
    monkeypatch.setitem(_REPLY, "choices", [{"message": message, "finish_reason": finish}])
    looking = eyes()
    answer = await looking.look(VisionQuery((VisionImage(1, png(64, 48)),), "What?"))
    await looking.close()
    assert answer.text.startswith("a cat")
    assert answer.whole is whole


def png(width: int, height: int) -> bytes:
    out = BytesIO()
    Image.new("RGB", (width, height)).save(out, "PNG")
    return out.getvalue()


# How it is asked


def _reworded(old: str, new: str) -> str:
    """The version of the wording with one piece of its source exchanged."""
    source = Path(wording.__file__).read_text()
    assert source.count(old) >= 1
    module = ModuleType("reworded")
    sys.modules["reworded"] = module
    try:
        exec(compile(source.replace(old, new), "reworded", "exec"), module.__dict__)
    finally:
        del sys.modules["reworded"]
    return str(module.PROMPT_VERSION)


def test_the_version_of_the_wording_is_the_same_in_every_process() -> None:
    assert _reworded("Task:", "Task:") == wording.PROMPT_VERSION


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("You look at pictures", "You look at images"),
        ("Pictures, in order: ", "Pictures: "),
        ("Task: ", "Question: "),
        ("Describe the picture, with all text in it.", "Describe the picture."),
        ("Context: ", "Background: "),
        ("({facts}; {picture.note})", "({facts}, {picture.note})"),
        ('(f"[Image #{picture.number}] ({facts})")', '(f"[Image #{picture.number}]")'),
        ("{picture.width}x{picture.height}", "{picture.height}x{picture.width}"),
        ('f"[Image #{picture.number}]: {picture.note}"', "picture.note"),
        ('"\\n".join(lines)', '"\\n\\n".join(lines)'),
        ("len(shown) > 1 or any(picture.note for picture in shown)", "True"),
        ("neutralise(query.task).strip()", "query.task.strip()"),
        ("neutralise(query.context).strip()", "query.context.strip()"),
        ("if context:", "if True:"),
    ],
)
def test_every_change_of_the_wording_changes_its_version(old: str, new: str) -> None:
    assert _reworded(old, new) != wording.PROMPT_VERSION
