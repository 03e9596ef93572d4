"""What is counted, read as Prometheus reads it, of a service that runs."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from cache.breaker import FAILURES
from cache.memory import MemoryStore
from cache.table import ImageTable
from cache.tables import Moved, Tables
from router.config import Settings
from router.telemetry.metrics import ERRORS, Metrics, kind_of
from router.telemetry.prefixes import MOST_CONVERSATIONS, Prefixes
from tests.brain import Brain, Calls, Fails, Hangs, looks, refuses, resets, says, whole
from tests.eyes import Eyes, sees
from tests.live import (
    DEADLINE,
    Options,
    assistant,
    becomes,
    children_of,
    function,
    live,
    picture,
    service_process,
    shown,
    soon,
    tool_result,
    user,
)
from tests.metrics_reading import Scraped, scrape, scraped_until
from tests.speakers.speaker import Speaker

pytestmark = [pytest.mark.anyio, pytest.mark.live]

CAT, DOG = picture(1), picture(2)
MODEL = {"gen_ai_request_model": "brain"}
MARK = "Kumquat"


async def test_an_exchange_with_a_look_is_counted_once_in_every_respect(speaker: Speaker) -> None:
    async with live() as house:
        house.brain.will(says("Let me look.", looks(1, "What?"), usage=(100, 10)), says("A cat.", usage=(150, 4)))
        house.eyes.will(sees("a cat", usage=(70, 6)))
        await house.chat(user("What?", shown(CAT)), stream=True)
        got = await scrape(house)
    about = {**MODEL, "format": speaker.name}
    assert got("chiasm_exchanges_total", **about, outcome="stop") == got("chiasm_exchanges_total") == 1
    assert got("gen_ai_server_request_duration_seconds_count", **about, error_type="") == 1
    assert got("gen_ai_server_time_to_first_token_seconds_count", **about) == 1
    assert got("chiasm_chunks_total", **MODEL) >= 2
    assert got("chiasm_turns_per_exchange_sum", **MODEL) == 2
    assert got("chiasm_turns_per_exchange_count", **MODEL) == 1
    assert got("gen_ai_client_operation_duration_seconds_count", role="brain", error_type="") == 2
    assert got("gen_ai_client_operation_time_to_first_chunk_seconds_count", **MODEL) == 2
    assert got("gen_ai_client_operation_duration_seconds_count", role="eyes", gen_ai_request_model="eyes") == 1
    tokens = "gen_ai_client_token_usage_sum"
    assert got(tokens, role="brain", gen_ai_token_type="input") == 250
    assert got(tokens, role="brain", gen_ai_token_type="output") == 14
    assert got(tokens, role="eyes", gen_ai_token_type="input") == 70
    assert got(tokens, role="eyes", gen_ai_token_type="output") == 6
    assert got("chiasm_looks_total", eyes="eyes", outcome="answered") == got("chiasm_looks_total") == 1
    assert got("chiasm_images_total") == got("chiasm_images_loaded_total", reason="new") == 1
    assert got("chiasm_store_bytes", kind="memory") > len(CAT)
    assert got("chiasm_breaker_open", **MODEL) == 0
    for gauge in ("chiasm_exchanges_in_progress", "chiasm_looks_in_progress", "chiasm_looks_waiting"):
        assert got(gauge) == 0
    assert got("chiasm_cost_total") == 0


async def test_a_whole_answer_has_no_first_chunk() -> None:
    async with live() as house:
        house.brain.will(says("Hello."))
        await house.chat(user("Hi."))
        got = await scrape(house)
    assert got("chiasm_exchanges_total", outcome="stop") == 1
    assert got("gen_ai_server_time_to_first_token_seconds_count") == got("chiasm_chunks_total") == 0


async def test_a_look_that_is_remembered_costs_nothing_and_is_counted_as_such() -> None:
    async with live() as house:
        for conversation in ("one", "two"):
            house.brain.will(says(looks(1, "What?")), says("A cat."))
            await house.chat(user("What?", shown(CAT)), headers={"x-chiasm-conversation": conversation})
        got = await scrape(house)
    assert got("chiasm_looks_total", outcome="answered") == got("chiasm_looks_total", outcome="remembered") == 1
    assert got("gen_ai_client_token_usage_count", role="eyes", gen_ai_token_type="input") == 1
    assert got("gen_ai_client_operation_duration_seconds_count", role="eyes") == 1


async def test_of_those_who_ask_the_same_at_once_one_is_answered_and_the_others_share_it() -> None:
    async with live() as house:
        may = asyncio.Event()
        house.eyes.answers = lambda _: sees("a cat", after=may)
        house.brain.answers = lambda asked: says("Yes.") if len(asked.messages) > 1 else says(looks(1, "What?"))
        asking = [
            asyncio.create_task(house.chat(user("What?", shown(CAT)), headers={"x-chiasm-conversation": name}))
            for name in ("one", "two", "three")
        ]
        await soon(house.eyes.came())
        await soon(house.brain.came(3))
        now = await scrape(house)
        assert now("chiasm_exchanges_in_progress") == 3
        may.set()
        await soon(asyncio.gather(*asking))
        got = await scrape(house)
    assert now("chiasm_looks_in_progress", eyes="eyes") == 1
    assert got("chiasm_looks_total", outcome="answered") == 1
    assert got("chiasm_looks_total") == 3


async def test_looks_that_wait_for_a_place_are_seen_waiting() -> None:
    async with live(vision={"max_concurrency": 1}) as house:
        may = asyncio.Event()
        house.eyes.answers = lambda _: sees("a cat", after=may)
        house.brain.answers = lambda asked: says("Yes.") if len(asked.messages) > 1 else says(looks(1, "What?"))
        asking = [asyncio.create_task(house.chat(user("What?", shown(picture(n))))) for n in (1, 2, 3)]
        await scraped_until(house, lambda got: got("chiasm_looks_waiting", eyes="eyes") == 2)
        may.set()
        await soon(asyncio.gather(*asking))


async def test_eyes_that_fail_and_images_that_are_gone_are_counted_by_kind() -> None:
    async with live() as house:
        house.eyes.answers = lambda _: refuses(400, "no")
        house.brain.will(says(looks(1, "What?")), says("I cannot see it."))
        await house.chat(user("What?", shown(CAT)))
        got = await scrape(house)
    assert got("chiasm_looks_total", outcome="failed") == got("chiasm_looks_total") == 1
    assert got("gen_ai_client_operation_duration_seconds_count", role="eyes", error_type="failed") == 1


async def test_a_mixed_turn_is_one_answer_and_its_look_is_counted_when_it_is_made() -> None:
    async with live() as house:
        said = says(looks(1, "What?"), Calls("Read", '{"path": "a"}', id="call_r"))
        house.brain.will(said, says("A cat."))
        answer = await house.chat(user("Both.", shown(CAT)), tools=[function("Read")])
        assert answer.finish == "tool_calls"
        (call,) = answer.calls
        history = [
            user("Both.", shown(CAT)),
            assistant(
                None,
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}},
            ),
            tool_result(call.id, "text"),
        ]
        await house.chat(*history, tools=[function("Read")])
        got = await scrape(house)
    assert got("chiasm_exchanges_total", outcome="tool_calls") == got("chiasm_exchanges_total", outcome="stop") == 1
    assert got("chiasm_looks_total", outcome="answered") == got("chiasm_looks_total") == 1
    assert got("chiasm_turns_per_exchange_sum") == 2


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (refuses(429, "slow down", code="my_own_code"), "upstream_refused"),
        (refuses(400, "too long"), "upstream_refused"),
        (resets, "upstream_unreachable"),
        (says("Half an ans", Fails("broken")), "upstream_error"),
    ],
    ids=["429", "400", "resets", "fails"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_answers_that_fail_are_counted_by_codes_of_ours(script: Any, outcome: str, stream: bool) -> None:
    async with live() as house:
        house.brain.answers = lambda _: script
        await house.send({"messages": [user("Hi.")], "stream": stream})
        got = await scrape(house)
    found = got.values("chiasm_exchanges_total", "outcome")
    assert len(found) == 1
    assert found == {outcome}
    assert got("gen_ai_server_request_duration_seconds_count", error_type=outcome) == 1
    assert got("gen_ai_client_operation_duration_seconds_count", role="brain", error_type=outcome) == 1


async def test_a_client_that_leaves_is_counted_as_one() -> None:
    async with live() as house:
        house.brain.will(says("Half", Hangs()))
        async with house.line(user("Hi."), stream=True) as line:
            await line.until(b"Half")
        got = await scraped_until(house, lambda got: bool(got("chiasm_exchanges_total")))
    assert got.values("chiasm_exchanges_total", "outcome") == {"cancelled"}
    assert got("chiasm_chunks_total") >= 1


async def test_refusals_at_the_door_are_counted_by_their_status() -> None:
    async with live() as house:
        await house.send(b"{", path="/v1/chat/completions")
        await house.send({"messages": [user("Hi.")], "model": MARK})
        await house.get(f"/{MARK}")
        got = await scrape(house)
    assert got("chiasm_refused_requests_total", status="400") == 1
    assert got("chiasm_refused_requests_total", status="404") == 2
    assert got("chiasm_exchanges_total") == 0
    assert not any(MARK in word for word in got.words)


async def test_bad_images_are_counted_by_kind_and_once() -> None:
    broken = CAT[: len(CAT) // 2]
    async with live() as house:
        house.brain.answers = lambda _: says("Hm.")
        for _ in range(2):
            await house.chat(user("Look.", shown(broken), shown(b"hello"), shown("https://example.org/a.png")))
        got = await scrape(house)
    assert {
        kind: got("chiasm_bad_images_total", kind=kind) for kind in got.values("chiasm_bad_images_total", "kind")
    } == {
        "truncated": 1,
        "no_image": 1,
        "url": 1,
    }
    assert got("chiasm_images_total") == 3
    assert got("chiasm_images_loaded_total") == 0


async def test_images_that_are_forgotten_and_come_back_are_counted() -> None:
    async with live(images={"max_loaded": 2, "keep_loaded": 1}) as house:
        house.brain.answers = lambda _: says("Hm.")
        messages: list[Any] = []
        for number in (1, 2, 3):
            messages += [user(f"Look {number}.", shown(picture(number)))]
            answer = await house.chat(*messages)
            messages += [assistant(answer.text)]
        forgotten = (await scrape(house))("chiasm_images_forgotten_total")
        house.brain.answers = None
        house.brain.will(says(Calls("recallImage", '{"image": "1"}')), says("Ah."))
        await house.chat(*messages, user("The first?"))
        got = await scrape(house)
    assert forgotten == 2
    assert got("chiasm_images_loaded_total", reason="new") == 3
    assert got("chiasm_images_loaded_total", reason="back") == 1


async def test_a_table_tells_what_a_change_has_moved_and_a_deletion_is_no_forgetting() -> None:
    told: list[Moved] = []
    tables = Tables(MemoryStore(max_bytes=2**20), moved=told.append)

    def arrive(table: ImageTable, numbers: list[int], new: set[int]) -> None:
        for number in new:
            table.arrive(number, tool=False, tokens=1)

    wanted: list[tuple[str, int | None]] = [("a" * 64, 7), ("b" * 64, None), ("c" * 64, None)]
    await tables.number("t", "c", wanted, arrive)
    await tables.number("t", "c", [("d" * 64, 3)], arrive)  # into a gap
    await tables.change("t", "c", lambda table: table.forget([3, 7]))
    await tables.change("t", "c", lambda table: table.delete(8))
    await tables.change("t", "c", lambda table: table.use(3))
    await tables.change("t", "c", lambda table: None)
    assert told == [Moved(3, 3, 0, 0), Moved(1, 1, 0, 0), Moved(0, 0, 0, 2), Moved(0, 0, 1, 0)]


async def test_a_brain_that_is_left_alone_is_seen_so() -> None:
    async with live() as house:
        await house.brain.stop_listening()
        for _ in range(FAILURES):
            await house.send({"messages": [user("Hi.")]})
        got = await scrape(house)
    assert got("chiasm_breaker_open", **MODEL) == 1
    failed = [got("chiasm_exchanges_total", outcome=f"upstream_{how}") for how in ("unreachable", "unavailable")]
    assert sum(failed) == FAILURES
    assert all(failed)


def test_each_code_that_our_errors_have_is_one_of_the_outcomes() -> None:
    written = "\n".join(path.read_text() for path in (Path(__file__).parents[1] / "router").glob("*.py"))
    codes = set(re.findall(r"code=\"(upstream_[a-z_]+)\"", written))
    assert len(codes) > 3
    assert codes <= ERRORS


async def test_what_a_server_reads_from_its_cache_is_counted_in_every_format(speaker: Speaker) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "chat": {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 90, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 64}},
        },
        "messages": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": "Hi."}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 26, "cache_read_input_tokens": 64, "output_tokens": 2},
        },
        "responses": {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "model": "m",
            "output": [
                {
                    "id": "msg_1",
                    "type": "message",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": "Hi.", "annotations": []}],
                }
            ],
            "usage": {
                "input_tokens": 90,
                "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 0},
                "output_tokens": 2,
                "total_tokens": 92,
            },
        },
    }
    async with live() as house:
        house.brain.will(whole(bodies[speaker.name]))
        await house.chat(user("Hi."))
        got = await scrape(house)
    assert got("chiasm_cached_input_tokens_total", **MODEL) == 64
    assert got("gen_ai_client_token_usage_sum", gen_ai_token_type="input") == 90


async def test_a_prompt_that_goes_on_from_the_one_before_is_counted_as_reused() -> None:
    async with live() as house:
        house.brain.answers = lambda _: says("Yes.")
        opening = user("What is it? " + "word " * 500, shown(CAT))
        await house.chat(opening)
        first = await scrape(house)
        await house.chat(opening, assistant("Yes."), user("And now?"))
        second = await scrape(house)
        await house.chat(user("Else."), headers={"x-chiasm-conversation": "another"})
        third = await scrape(house)
    reused, total = "chiasm_prompt_bytes_reused_total", "chiasm_prompt_bytes_total"
    assert first(reused) == 0
    assert first(total) > 2500
    assert second(reused) == first(total)
    assert second(total) - first(total) > first(total)
    assert third(reused) == second(reused)


def test_a_prompt_that_is_changed_at_its_head_is_not_reused() -> None:
    prefixes = Prefixes()
    messages = [{"role": "user", "content": "a" * 1000}, {"role": "user", "content": "b" * 1000}]
    for conversation in ("c", "d"):
        prefixes.compare(conversation, [{"messages": messages}])
    assert prefixes.compare("c", [{"messages": messages, "tools": [{"name": "x"}]}])[1] == 0
    total, reused = prefixes.compare("d", [{"messages": [{"role": "user", "content": "new"}, *messages]}])
    assert reused == len(b"null") < total


def test_follow_ups_count_as_prompts_and_strange_words_are_no_fault() -> None:
    prefixes = Prefixes()
    first = {"messages": [{"role": "user", "content": "\ud800" + "a" * 1000}, {"n": 2**70}]}
    follow = {"messages": [*first["messages"], {"role": "tool", "content": "x"}]}
    total, reused = prefixes.compare("c", [first, follow])
    assert total > 2000
    assert 1000 < reused < total / 2


def test_of_many_conversations_only_the_last_are_known() -> None:
    prefixes = Prefixes()
    prompt = {"messages": [{"role": "user", "content": "a" * 100}]}
    for number in range(MOST_CONVERSATIONS + 1):
        prefixes.compare(f"c{number}", [prompt])
    assert prefixes.compare("c0", [prompt])[1] == 0
    assert prefixes.compare(f"c{MOST_CONVERSATIONS}", [prompt])[1] > 100


async def test_nothing_that_a_client_sends_becomes_a_label_and_no_words_are_told(speaker: Speaker) -> None:
    async with live() as house:
        strange = MARK.lower() if speaker.name == "chat" else None  # the others have a list of reasons
        house.brain.will(says(f"{MARK}.", looks(1, MARK)), says(MARK, finish=strange))
        house.eyes.will(sees(MARK))
        fields = {"user": MARK, "metadata": {"user_id": MARK}, "stop": [MARK]}
        headers = {"x-request-id": MARK, "x-chiasm-conversation": MARK, "user-agent": MARK}
        await house.send({"messages": [user(MARK, shown(CAT))], **fields}, headers=headers)
        for number in range(30):
            await house.send({"messages": [user("Hi.")], "model": f"{MARK}-{number}"}, headers=headers)
        got = await scrape(house)
    assert not any(MARK.lower() in word.lower() for word in got.words)
    assert got.values("chiasm_exchanges_total", "gen_ai_request_model") == {"brain"}
    for _, labels, _ in got.samples:
        assert labels.keys() <= {
            "gen_ai_operation_name",
            "gen_ai_request_model",
            "gen_ai_token_type",
            "error_type",
            "eyes",
            "format",
            "kind",
            "le",
            "outcome",
            "reason",
            "role",
            "status",
        }


async def test_metrics_are_open_where_only_this_machine_can_ask() -> None:
    async with live(server={"api_keys": ["sesame"]}) as house:
        assert (await house.get("/metrics")).status == 200


async def test_elsewhere_any_key_opens_metrics_and_none_does_not() -> None:
    async with live(server={"api_keys": ["sesame"], "admin_key": "hazel", "host": "0.0.0.0"}) as house:
        assert (await house.get("/metrics")).status == 401
        assert (await house.get("/metrics", x_api_key="wrong")).status == 401
        for key in ("sesame", "hazel"):
            assert (await house.get("/metrics", authorization=f"Bearer {key}")).status == 200
        assert (await house.get("/v1/models", authorization="Bearer hazel")).status == 401


async def test_two_applications_in_one_process_count_apart() -> None:
    async with live() as one, live() as other:
        one.brain.will(says("Hello."))
        await one.chat(user("Hi."))
        assert (await scrape(one))("chiasm_exchanges_total") == 1
        assert (await scrape(other))("chiasm_exchanges_total") == 0


def test_the_file_of_a_worker_that_just_begins_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    code = (
        "import asyncio\nfrom router.config import Settings\nfrom router.telemetry.metrics import Metrics\n"
        "metrics = Metrics(Settings.model_validate({'text': [{'base_url': 'http://a/v1', 'images': 'off'}]}))\n"
        "metrics.running(3)\nopen('counter_1.db', 'wb').close()\n"
        "print(asyncio.run(metrics.exposed(''))[0].decode())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=DEADLINE
    )
    assert run.stderr == ""
    assert " 3.0" in run.stdout


async def test_whichever_worker_is_asked_answers_for_all_of_them(tmp_path: Path) -> None:
    async with Brain() as brain, Eyes() as eyes:
        brain.answers = lambda _: says("Hello.")
        tables = Options().tables(brain.url, eyes.url)
        async with service_process(tmp_path, tables, "--workers", "2") as service:
            limits = httpx.Limits(max_keepalive_connections=0)
            url = f"http://127.0.0.1:{service.port}"
            try:
                async with httpx.AsyncClient(base_url=url, timeout=DEADLINE, limits=limits, trust_env=False) as client:

                    async def say(_: int) -> None:
                        body = {"model": "brain", "messages": [user("Hi.")]}
                        (await client.post("/v1/chat/completions", json=body)).raise_for_status()

                    async def count() -> float:
                        got = Scraped.read((await client.get("/metrics")).text)
                        return got("chiasm_exchanges_total", outcome="stop")

                    await asyncio.gather(*map(say, range(20)))
                    assert {await count() for _ in range(10)} == {20}
                    killed = min(_workers(service.process.pid))
                    os.kill(killed, signal.SIGKILL)
                    await becomes(lambda: killed not in _workers(service.process.pid))
                    await asyncio.gather(*map(say, range(4)))
                    assert {await count() for _ in range(10)} == {24}, "what it has counted stays"
            finally:
                service.terminate()
                await service.ended()


def _workers(parent: int) -> list[int]:
    return [pid for pid in children_of(parent) if "spawn_main" in _command(pid)]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ("truncated PNG", "truncated"),
        ("damaged, its decoder failed", "damaged"),
        ("too large: 21 MiB, limit 20", "too_large"),
        ("too costly to decode", "too_large"),
        ("larger than 20 MiB", "too_large"),
        ("not valid base64", "base64"),
        ("not an image but an HTML page", "no_image"),
        ("unsupported format HEIC (install pillow-heif to have it read)", "unsupported"),
        ("images by URL are not fetched here, send the image itself", "url"),
        ("its server answered 404", "url"),
        ("it redirects more than 3 times", "url"),
        ("something new", "other"),
    ],
)
def test_what_is_wrong_with_an_image_is_one_of_few_kinds(problem: str, kind: str) -> None:
    assert kind_of(problem) == kind


def test_a_model_without_a_name_has_a_label_of_ours() -> None:
    settings = Settings.model_validate({"text": [{"base_url": "http://127.0.0.1:1/v1", "images": "off"}]})
    metrics = Metrics(settings)
    assert metrics.price("brain", "default").input == 0
