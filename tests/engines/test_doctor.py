"""`chiasm doctor` on a real engine with both tiny models: it is well, and nothing is called broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines.engines import EYES_VARIABLE, Engine

pytestmark = pytest.mark.engines

TOO_SMALL = {"context length", "reads a large card", "limits", "prefix cache", "tool_choice", "usage in stream"}
"""What tiny models, started with little memory, may be warned of."""


def examined(folder: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    (folder / "config.toml").write_text('[server]\nport = 0\n[store]\nkind = "memory"\n')
    command = [str(Path(sys.executable).with_name("chiasm")), "doctor", "--json", "--config", "config.toml", *flags]
    env = {name: value for name, value in os.environ.items() if not name.startswith("CHIASM_")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=600, check=False)
    return done.returncode, json.loads(done.stdout)


def found(told: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(one["subject"].split()[0], one["check"]): one["verdict"] for one in told["checks"]}


def models(engine: Engine) -> list[str]:
    return [] if engine.lists_models else ["--text-model", engine.ids["brain"], "--vision-model", engine.ids["eyes"]]


def test_a_well_engine_gets_no_failure(tmp_path: Path, engine: Engine, brain_url: str) -> None:
    eyes_url = os.environ[EYES_VARIABLE]
    code, told = examined(tmp_path, "--text", brain_url, "--vision", eyes_url, *models(engine))
    unwell = [one for one in told["checks"] if one["verdict"] != "ok" and one["check"] not in TOO_SMALL]
    assert unwell == []
    assert (code, told["ok"]) == (0, True)
    assert 0 < told["tokens"]["spent"] <= told["tokens"]["limit"]


def test_eyes_that_are_a_text_model_are_found(tmp_path: Path, engine: Engine, brain_url: str) -> None:
    ids = [] if engine.lists_models else ["--text-model", engine.ids["brain"], "--vision-model", engine.ids["brain"]]
    code, told = examined(tmp_path, "--text", brain_url, "--vision", brain_url, *ids, "--repeat", "1")
    verdicts = found(told)
    assert code == 1
    assert verdicts["eyes", "reads a small card"] == "fail"
    assert verdicts["brain", "tool call"] == "ok"
    assert verdicts["whole", "Chiasm"] == "skipped"
