"""Recipes: every command that is printed fits the machine it is for, every configuration can be used, every fact says
who says so, and the pages in docs/recipes are what the catalogue says now."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.config import load_settings
from router.recipes.catalogue import NoSuchRecipe, catalogue
from router.recipes.choice import Recipe, Server, fitting, recipe_for
from router.recipes.pages import written
from router.recipes.render import command, configuration, facts, whole
from tests.engines.engines import ENGINES
from tools.analyze_image import _MOST_IMAGES
from tools.vision.qwen import QWEN

KNOWN = catalogue()
PAGES = Path("docs/recipes")


def everything() -> Iterator[Recipe]:
    for machine in KNOWN.machines.values():
        for engine in machine.engines:
            yield recipe_for(KNOWN, machine.name, engine=engine)
            yield from fitting(KNOWN, machine.name, engine)


def named(recipe: Recipe) -> str:
    brain = recipe.brain.model.name if recipe.brain else "hosted"
    return f"{recipe.machine.name}-{recipe.engine}-{brain}-{recipe.looking}"


ALL = list({named(recipe): recipe for recipe in everything()}.values())
each = pytest.mark.parametrize("recipe", ALL, ids=named)


@each
def test_no_gpu_is_given_away_twice_and_each_model_has_the_memory_it_needs(recipe: Recipe) -> None:
    taken: Counter[int] = Counter()
    for server in recipe.servers:
        place = server.place
        assert place.gpus in server.model.gpus
        assert place.gpus * place.share * recipe.machine.gb >= server.model.gb
        for gpu in range(place.first, place.first + place.gpus):
            assert gpu < recipe.machine.gpus
            taken[gpu] += round(100 * place.share)
    assert all(percent <= 100 * recipe.machine.share for percent in taken.values()), taken


@each
def test_the_configuration_is_one_that_chiasm_takes_and_points_at_the_servers(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(configuration(recipe))
    loaded = load_settings(file, environ={"OPENROUTER_API_KEY": "k"}, cwd=tmp_path, home=tmp_path)
    assert loaded.notes == ()
    assert len({entry.base_url for entry in (*loaded.settings.text, *loaded.settings.vision) if entry.base_url}) == (
        len(recipe.servers) + (recipe.brain is None)
    )
    for server, entry in ((recipe.brain, loaded.settings.text[0]), (recipe.eyes, loaded.settings.vision[0])):
        if server is not None:
            words = shlex.split(command(recipe, server).replace("\\\n", " "))
            assert entry.base_url == f"http://127.0.0.1:{words[words.index('--port') + 1]}/v1"
            assert entry.model in words
            assert entry.engine == recipe.engine


@each
def test_what_looks_can_read_the_largest_look(recipe: Recipe) -> None:
    largest = _MOST_IMAGES * QWEN.max_pixels // 32**2 + 2048 + 1024
    for server in recipe.servers:
        if server.looks:
            slots = int(option(recipe, server, "-np") or 1)
            assert server.model.context // slots >= largest


@each
def test_commands_are_words_of_a_shell_and_brains_call_tools(recipe: Recipe) -> None:
    for server in recipe.servers:
        words = shlex.split(command(recipe, server).replace("\\\n", " "))
        assert not any(word.strip("\n") == "" for word in words)
        parser = {"vllm": "--tool-call-parser", "sglang": "--tool-call-parser", "llamacpp": "--jinja"}[recipe.engine]
        assert (parser in words) == server.calls_tools
        assert not any("speculative" in word for word in words), "none, for the sake of tool calls"


def option(recipe: Recipe, server: Server, name: str) -> str | None:
    words = shlex.split(command(recipe, server).replace("\\\n", " "))
    return words[words.index(name) + 1] if name in words else None


@pytest.mark.parametrize("recipe", [recipe for recipe in ALL if recipe.engine in ENGINES], ids=named)
def test_parsers_and_switches_are_those_that_real_engines_were_run_with(recipe: Recipe) -> None:
    """For Qwen3.5, which is what tests/engines serves."""
    run = [word for model in ("brain", "eyes") for word in ENGINES[recipe.engine].command(model, 1)]
    for server in recipe.servers:
        if server.model.name.startswith("qwen3.5"):
            words = shlex.split(command(recipe, server).replace("\\\n", " "))
            for name in ("--reasoning-parser", "--tool-call-parser"):
                if name in words:
                    assert words[words.index(name) + 1] == run[run.index(name) + 1]
            for switch in ("--jinja", "--enable-auto-tool-choice", "--enable-prompt-tokens-details"):
                assert switch in run or switch not in words


def test_every_fact_says_who_says_so_and_when_and_is_told_somewhere() -> None:
    told = {fact.name for recipe in ALL for fact in facts(recipe, KNOWN)}
    told |= {name for model in KNOWN.models.values() for name in model.facts}
    assert told == set(KNOWN.facts)
    for fact in KNOWN.facts.values():
        assert re.fullmatch(r"20\d\d-\d\d", fact.date)
        assert len(fact.source) > 10
        assert "http" not in fact.source
    for model in KNOWN.models.values():
        assert model.source


def test_every_recipe_says_that_it_was_not_run() -> None:
    for recipe in ALL:
        assert "Not run by us" in whole(recipe, KNOWN).replace("\n# ", " ")


def test_the_pages_are_what_the_catalogue_says() -> None:
    for name, text in written(KNOWN).items():
        assert (PAGES / name).read_text() == text, "run: .venv/bin/python -m router.recipes.pages docs/recipes"
    assert {path.name for path in PAGES.iterdir()} == set(written(KNOWN))


def test_recipe_lists_and_prints_and_takes_wishes() -> None:
    run = CliRunner().invoke
    listed = run(app, ["recipe"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in (*KNOWN.machines, *KNOWN.models))
    printed = run(app, ["recipe", "rtx-pro-6000", "--model", "minimax-m2.5-nvfp4", "--engine", "sglang"])
    assert "CUDA_VISIBLE_DEVICES=0,1 python -m sglang.launch_server" in printed.output
    assert "CUDA_VISIBLE_DEVICES=2 python -m sglang.launch_server" in printed.output
    alone = run(app, ["recipe", "24gb", "--gpus", "2x48", "--model", "qwen3.5-122b-int4", "--eyes", "ocr", "--toml"])
    tables = tomllib.loads(alone.output)
    assert tables["vision"] == [{"kind": "ocr"}]


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (["rtx-pro"], "did you mean 'rtx-pro-6000'"),
        (["laptop", "--engine", "vllm"], "it has llamacpp"),
        (["laptop", "--model", "qwen3.5-9b"], "qwen3.5-9b-gguf"),
        (["rtx-pro-6000", "--model", "qwen3.5-397b-fp8"], "needs 477 GB over 8 GPUs"),
        (["rtx-pro-6000", "--model", "glm-4.7"], "did you mean 'glm-4.7-nvfp4'"),
        (["24gb", "--gpus", "many"], "write 4, or 2x48"),
        (["24gb", "--eyes", "same"], "a hosted brain has no server here"),
        (["laptop", "--model", "glm-4.7-flash-gguf"], "cannot see: give it --eyes ocr, or one of qwen3.5-9b-gguf"),
        (["rtx-pro-6000", "--eyes", "glm-4.7-nvfp4"], "cannot see"),
    ],
)
def test_what_cannot_be_given_is_refused_with_what_can(wishes: list[str], words: str) -> None:
    refused = CliRunner().invoke(app, ["recipe", *wishes])
    assert refused.exit_code == 2
    assert words in refused.output
    assert refused.output.count("\n") == 1


def test_a_model_that_fits_nowhere_is_an_error_not_a_command() -> None:
    with pytest.raises(NoSuchRecipe, match="do not hold that"):
        recipe_for(KNOWN, "24gb", model="minimax-m2.5-nvfp4", eyes="ocr", gpus="2")
