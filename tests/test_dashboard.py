"""The dashboard in `deploy/` and the page on operating, held against what the service really tells."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.brain import looks, refuses, says
from tests.live import live, picture, shown, user
from tests.metrics_reading import scrape

pytestmark = [pytest.mark.anyio]

ROOT = Path(__file__).parents[1]
METRIC = re.compile(r"\b(?:chiasm|gen_ai)_[a-z_]+\b")
PART = re.compile(r"_(?:bucket|sum|count)$")
LABELS = {"gen_ai_request_model", "gen_ai_operation_name", "gen_ai_token_type", "gen_ai_provider_name"}


def dashboard() -> dict[str, Any]:
    read = json.loads((ROOT / "deploy/grafana-chiasm.json").read_text())
    assert isinstance(read, dict)
    return read


def asked() -> set[str]:
    panels = dashboard()["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    queries += [one["query"]["query"] for one in dashboard()["templating"]["list"] if one["type"] == "query"]
    assert len(queries) > 20
    return {name for query in queries for name in METRIC.findall(query)} - LABELS


async def told() -> set[str]:
    """The names of all metrics, also of those that have no value yet."""
    async with live(text={"price_input": 1}) as house:
        house.brain.will(says(looks(1, "What?")), says("A cat."), refuses(400, "no"))
        await house.chat(user("What?", shown(picture(1))), stream=True)
        await house.send({"messages": [user("Hi.")]})
        families = (await house.get("/metrics")).body.decode()
        samples = await scrape(house)
    return {*re.findall(r"^# TYPE (\S+)", families, re.MULTILINE), *samples.names}


@pytest.mark.live
async def test_each_query_asks_for_metrics_that_there_are() -> None:
    assert asked() - await told() == set()


@pytest.mark.live
async def test_the_page_on_operating_names_each_metric_and_no_other() -> None:
    page = (ROOT / "docs/operating.md").read_text()
    rows = set(re.findall(r"^\| `((?:chiasm|gen_ai)_[a-z_]+)`", page, re.MULTILINE))
    assert rows == {PART.sub("", name) for name in await told()}


def test_each_panel_has_a_place_of_its_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
