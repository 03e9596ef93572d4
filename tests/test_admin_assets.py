"""The admin page's files: they ask nobody else for anything, are in the wheel, and can be read in both themes; and how
sizes and times are written."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from router.admin.page import assets, wording


@pytest.mark.parametrize("name", ["page.css", "page.js"])
def test_files_name_nobody_elses(name: str) -> None:
    text = assets.data(name).decode()
    assert not re.search(r"https?:|//[a-z]+\.[a-z]|@import|url\(|innerHTML|eval\(|document\.write", text)


def test_the_wheel_holds_the_templates_and_the_files() -> None:
    root = Path(__file__).parent.parent
    built = {one.distribution_path for one in WheelBuilder(str(root)).recurse_included_files()}
    wanted = [
        f"router/admin/page/{folder}/{one.name}"
        for folder in ("templates", "static")
        for one in (files("router.admin.page") / folder).iterdir()
    ]
    assert len(wanted) > 12
    assert set(wanted) <= {path.replace("\\", "/") for path in built}


# Colours

INK = ["ink", "muted", "accent", "bad", "good", "hidden"]
PAIRS = [
    *[(ink, ground) for ink in INK for ground in ("ground", "surface", "raised")],
    *[(name, f"{name}-soft") for name in ("accent", "good", "dim", "bad", "warm", "hidden", "thought")],
    ("on-accent", "accent"),
]


def themes() -> dict[str, dict[str, str]]:
    light, _, dark = assets.data("page.css").decode().partition("@media (prefers-color-scheme: dark)")
    dark = dark.partition("*, ::before")[0]

    def colours(text: str) -> dict[str, str]:
        return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", text))

    return {"light": colours(light), "dark": {**colours(light), **colours(dark)}}


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), PAIRS)
def test_words_can_be_read_on_their_ground(theme: str, ink: str, ground: str) -> None:
    colours = themes()[theme]
    bright, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_both_themes_name_every_colour() -> None:
    css = assets.data("page.css").decode()
    dark = css.partition("@media (prefers-color-scheme: dark)")[2].partition("*, ::before")[0]
    used = set(re.findall(r"var\(--([a-z-]+)\)", css))
    assert used <= {*themes()["light"], "sans", "mono", "shadow"}
    assert set(themes()["light"]) == set(re.findall(r"--([a-z-]+): #", dark))


# Words


@pytest.mark.parametrize(
    ("bytes_", "said"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (90_000, "87.9 KiB"), (5 * 2**40, "5.0 TiB")]
)
def test_sizes(bytes_: int, said: str) -> None:
    assert wording.size(bytes_) == said


@pytest.mark.parametrize(
    ("passed", "said"),
    [(0, "just now"), (59, "59 s ago"), (61, "1 min ago"), (7200, "2 h ago"), (200_000, "2 days ago")],
)
def test_times(passed: float, said: str) -> None:
    assert wording.ago(1000.0, 1000.0 + passed) == said
    assert wording.ago(0.0) == "never"


@pytest.mark.parametrize(
    ("amount", "said"),
    [(0.0, "0"), (0.0000070, "0.000007"), (0.00123, "0.0012"), (0.5, "0.50"), (12.345, "12.35"), (1234.5, "1,234.50")],
)
def test_money(amount: float, said: str) -> None:
    assert wording.money(amount) == said
