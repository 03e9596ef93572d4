"""`chiasm images`: the table in the terminal, against a running service."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from router.admin.api import BASE
from router.admin.terminal import CannotShow, Service, Wish, show
from router.cli import app
from tests.brain import looks, says
from tests.eyes import sees
from tests.live import House, live, picture, shown, user

pytestmark = [pytest.mark.anyio, pytest.mark.live]

HOSTILE = "\x1b[2J\x07[red]bold[/red] \u202etxt.exe\r\n| #9 | forged"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with live(server={"admin_key": "k"}) as house:
        house.eyes.will(sees(f"A tabby {HOSTILE}"))
        house.brain.will(says(looks(1, "What?")), says("Seen."))
        await house.chat(user("Look.", shown(picture(1)), shown(picture(2))), headers={"x-chiasm-conversation": "mine"})
        yield house


def printed(
    house: House,
    named: str | None = None,
    wish: Wish | None = None,
    *,
    key: str = "k",
    as_json: bool = False,
    width: int = 200,
) -> str:
    """As a terminal gets it.  Blocks."""
    out = io.StringIO()
    with Service(f"http://127.0.0.1:{house.port}/v1", key) as service:
        show(service, named, wish, as_json=as_json, console=Console(file=out, width=width))
    return out.getvalue()


async def test_the_conversations_are_listed(house: House) -> None:
    words = await asyncio.to_thread(printed, house)
    (one,) = (await house.get(f"{BASE}/conversations", x_api_key="k")).json["data"]
    assert one["id"] in words
    assert "python-httpx" in words


async def test_an_id_can_be_copied_from_a_narrow_terminal(house: House) -> None:
    words = await asyncio.to_thread(printed, house, width=80)
    (one,) = (await house.get(f"{BASE}/conversations", x_api_key="k")).json["data"]
    assert one["id"] in words
    assert "2 of 2" in words
    assert max(map(len, words.splitlines())) <= 80


async def test_what_cannot_be_read_is_called_so(house: House) -> None:
    house.brain.will(says("Hm."))
    await house.chat(user(shown("data:image/png;base64,AAAA")), headers={"x-chiasm-conversation": "bad"})
    (row,) = (line for line in (await asyncio.to_thread(printed, house, "bad")).splitlines() if "#1" in line)
    assert "unreadable" in row
    assert "forgotten" not in row
    assert "1 of 1" not in await asyncio.to_thread(printed, house)


async def test_the_images_of_a_conversation_are_listed_by_its_name_its_id_or_its_beginning(house: House) -> None:
    (one,) = (await house.get(f"{BASE}/conversations", x_api_key="k")).json["data"]
    tables = {await asyncio.to_thread(printed, house, name) for name in ("mine", one["id"], one["id"][:6])}
    (table,) = tables
    rows = [line for line in table.splitlines() if "#1" in line or "#2" in line]
    assert ["A tabby" in row for row in rows] == [True, False]
    assert "160x96" in table


async def test_hostile_words_are_shown_and_not_obeyed(house: House) -> None:
    table = await asyncio.to_thread(printed, house, "mine")
    assert "[red]bold[/red]" in table
    assert not {character for character in table if ord(character) < 32} - {"\n"}
    assert "\u202e" not in table
    told = await asyncio.to_thread(printed, house, "mine", as_json=True)
    assert told.isascii()
    assert HOSTILE in json.loads(told)["data"][0]["last_answer"]
    assert "\x1b" not in told


async def test_an_image_is_forgotten_loaded_and_pinned(house: House) -> None:
    for action, status, pinned in [
        ("forget", "forgotten", False),
        ("load", "loaded", False),
        ("pin", "loaded", True),
        ("unpin", "loaded", False),
    ]:
        words = await asyncio.to_thread(printed, house, "mine", Wish(action, 1), as_json=True)  # type: ignore[arg-type]
        (image,) = json.loads(words)["data"]
        assert (image["number"], image["status"], image["pinned"]) == (1, status, pinned)


async def refused(house: House, *wanted: Any, **how: Any) -> str:
    with pytest.raises(CannotShow) as found:
        await asyncio.to_thread(printed, house, *wanted, **how)
    return str(found.value)


async def test_what_cannot_be_shown_is_one_clear_sentence(house: House) -> None:
    assert "there is no conversation 'nobody'" in await refused(house, "nobody")
    assert "there is no image #7" in await refused(house, "mine", Wish("pin", 7))
    assert "the admin key is wrong" in await refused(house, key="no")
    assert "the admin key is missing" in await refused(house, key="")


async def test_all_pages_are_shown(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.admin.terminal.MOST_LISTED", 1)
    told = json.loads(await asyncio.to_thread(printed, house, "mine", as_json=True))
    assert [one["number"] for one in told["data"]] == [1, 2]


# The command


def command(folder: Path, *arguments: str, **variables: str) -> Any:
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "PATH": os.environ["PATH"]}
    before = Path.cwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(app, ["images", *arguments], env={**home, **variables})
    finally:
        os.chdir(before)


async def test_the_command_finds_the_service_by_its_configuration(house: House, tmp_path: Path) -> None:
    config = tmp_path / "chiasm.toml"
    config.write_text(
        f'[server]\nport = {house.port}\nadmin_key = "k"\n'
        '[[text]]\nbase_url = "http://127.0.0.1:1/v1"\nimages = "off"\n'
    )
    ran = await asyncio.to_thread(command, tmp_path, "mine", "--json", "--config", str(config))
    assert ran.exit_code == 0, ran.output
    assert [one["number"] for one in json.loads(ran.output)["data"]] == [1, 2]
    ran = await asyncio.to_thread(command, tmp_path, "mine", "--forget", "2", "--json", "-c", str(config))
    assert json.loads(ran.output)["data"][0]["status"] == "forgotten"


async def test_without_a_file_the_url_and_a_variable_are_enough(house: House, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{house.port}"
    ran = await asyncio.to_thread(command, tmp_path, "--url", url, CHIASM_SERVER__ADMIN_KEY="k")
    assert ran.exit_code == 0, ran.output
    assert "last used" in ran.output


async def test_a_service_that_does_not_run_is_one_clear_sentence(tmp_path: Path) -> None:
    ran = await asyncio.to_thread(command, tmp_path, "--url", "http://127.0.0.1:9")
    assert ran.exit_code == 1
    assert ran.output.startswith("chiasm: nothing answers at http://127.0.0.1:9 ")
    assert "chiasm serve" in ran.output


@pytest.mark.parametrize("arguments", [["--forget", "1"], ["c", "--forget", "1", "--pin", "2"]])
async def test_a_wish_is_for_one_image_of_a_conversation(tmp_path: Path, arguments: list[str]) -> None:
    ran = await asyncio.to_thread(command, tmp_path, *arguments)
    assert ran.exit_code == 2
    assert "at a time" in ran.output
