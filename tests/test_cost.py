"""What answers and looks cost by the configured prices: in metrics, in the log, in the image table."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from router.log_lines import JsonLines
from tests.brain import looks, says
from tests.eyes import sees
from tests.live import House, live, picture, shown, user
from tests.metrics_reading import scrape
from tests.speakers.speaker import Speaker

pytestmark = [pytest.mark.anyio, pytest.mark.live]

CAT, DOG = picture(1), picture(2)
TEXT = {"price_input": 2.0, "price_output": 10.0}
EYES = {"price_input": 0.5, "price_output": 1.0}


async def table(house: House) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (conversation,) = (await house.get("/admin/api/conversations")).json["data"]
    images = await house.get(f"/admin/api/conversations/{conversation['id']}/images?details=true")
    assert images.status == 200, images.body
    return conversation, images.json["data"]


async def test_an_exchange_costs_its_tokens_and_its_looks(speaker: Speaker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chiasm")
    async with live(text=TEXT, vision=EYES, server={"currency": "EUR"}) as house:
        house.brain.will(says(looks(1, "What?"), usage=(100_000, 1000)), says("A cat.", usage=(200_000, 2000)))
        house.eyes.will(sees("a cat", usage=(10_000, 1000)))
        await house.chat(user("What?", shown(CAT)))
        got = await scrape(house)
        conversation, (image,) = await table(house)
    of_brain, of_eyes = 0.3 * 2 + 0.003 * 10, 0.01 * 0.5 + 0.001 * 1
    assert got("chiasm_cost_total", role="brain", gen_ai_request_model="brain", currency="EUR") == pytest.approx(
        of_brain
    )
    assert got("chiasm_cost_total", role="eyes", gen_ai_request_model="eyes", currency="EUR") == pytest.approx(of_eyes)
    (line,) = [json.loads(JsonLines().format(one)) for one in caplog.records if one.getMessage().startswith("exchange")]
    assert line["cost"] == pytest.approx(of_brain + of_eyes)
    told = {"prompt_tokens": 10_000, "completion_tokens": 1000, "amount": pytest.approx(of_eyes)}
    assert image["cost"] == conversation["cost"] == told


async def test_looking_at_two_images_at_once_is_shared_by_them() -> None:
    async with live(vision=EYES) as house:
        house.brain.will(says(looks("1, 2", "Compare.")), says("Alike."))
        house.eyes.will(sees("alike", usage=(2_000_000, 0)))
        await house.chat(user("Compare.", shown(CAT), shown(DOG)))
        conversation, images = await table(house)
    assert [image["cost"]["amount"] for image in images] == [pytest.approx(0.5)] * 2
    assert [image["cost"]["prompt_tokens"] for image in images] == [1_000_000] * 2
    assert conversation["cost"]["amount"] == pytest.approx(1.0)


async def test_a_remembered_look_costs_nothing_more() -> None:
    async with live(vision=EYES) as house:
        for _ in range(2):
            house.brain.will(says(looks(1, "What?")), says("A cat."))
            await house.chat(user("What?", shown(CAT)), headers={"x-chiasm-conversation": "c"})
        _, (image,) = await table(house)
        got = await scrape(house)
    assert got("chiasm_looks_total", outcome="remembered") == 1
    assert (image["looks"], image["cost"]["prompt_tokens"]) == (2, 50)


async def test_what_a_person_asks_of_an_image_is_paid_too() -> None:
    async with live(vision=EYES) as house:
        house.brain.will(says("Hm."))
        await house.chat(user("Look.", shown(CAT)))
        conversation, _ = await table(house)
        path = f"/admin/api/conversations/{conversation['id']}/images/1/analyze"
        assert (await house.send(b'{"task": "What?"}', path=path)).status == 200
        conversation, (image,) = await table(house)
    assert image["cost"] == conversation["cost"]
    assert image["cost"]["prompt_tokens"] == 50


async def test_an_image_described_for_a_brain_without_tools_is_paid_once() -> None:
    async with live(vision=EYES, text={"images": "caption"}) as house:
        house.brain.answers = lambda _: says("Hm.")
        for _ in range(2):
            await house.chat(user("Look.", shown(CAT)))
        conversation, (image,) = await table(house)
    assert image["cost"] == conversation["cost"]
    assert image["cost"]["prompt_tokens"] == 50


async def test_without_prices_there_is_no_word_of_cost(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chiasm")
    async with live() as house:
        house.brain.will(says(looks(1, "What?")), says("A cat."))
        await house.chat(user("What?", shown(CAT)))
        got = await scrape(house)
        conversation, (image,) = await table(house)
    assert "cost" not in conversation
    assert "cost" not in image
    assert "chiasm_cost_total" not in got.names
    assert "cost=" not in caplog.text
