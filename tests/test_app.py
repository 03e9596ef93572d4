"""What is refused or said at start, before anything listens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from router.app import without_effect
from router.config import Settings


def settings(**tables: Any) -> Settings:
    text = {"name": "m", "base_url": "http://127.0.0.1:1/v1", **tables.pop("text", {})}
    vision = {"kind": "ocr", **tables.pop("vision", {})}
    return Settings.model_validate({"text": [text], "vision": [vision], **tables})


def test_an_ordinary_configuration_is_not_remarked_on() -> None:
    assert without_effect(settings()) == []


@pytest.mark.parametrize(
    ("tables", "name"),
    [
        ({"vision": {"engine": "vllm"}}, "[[vision]] #1 engine"),
    ],
)
def test_an_option_without_effect_is_named(tables: dict[str, Any], name: str) -> None:
    assert without_effect(settings(**tables)) == [f"{name} has no effect in this version"]


def test_a_store_that_cannot_be_opened_is_one_clear_line_and_nothing_listens(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    folder.chmod(0o777)
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "router.cli",
            "serve",
            "--text",
            "http://127.0.0.1:1/v1",
            "--vision",
            "http://127.0.0.1:1/v1",
        ],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "CHIASM_STORE__PATH": str(folder),
            "CHIASM_SERVER__PORT": "0",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert "[store]" in run.stderr
    assert "Traceback" not in run.stderr
