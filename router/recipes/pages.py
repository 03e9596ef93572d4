"""Writes docs/recipes from the catalogue:

.venv/bin/python -m router.recipes.pages docs/recipes
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from router.recipes.catalogue import HOSTED, Catalogue, Fact, Machine, Model, catalogue
from router.recipes.choice import Recipe, fitting, recipe_for
from router.recipes.render import NOT_RUN, command, configuration, facts

MADE = "<!-- Made by `python -m router.recipes.pages docs/recipes`; change router/recipes/*.toml instead. -->"

_ENGINE_NAMES = {"vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp"}

_INTRODUCTION = """\
Launch commands for brain and eyes, with the configuration that goes with them. The same is printed, for other models
and other GPUs too, by

```sh
chiasm recipe
chiasm recipe rtx-pro-6000 --model glm-4.7-nvfp4 --engine sglang
chiasm recipe 24gb --gpus 2 --model qwen3.5-35b-a3b-fp8 --eyes same
chiasm recipe laptop --toml
```

**No command here was run by us on a GPU.** Each comes from what its source says, with the source beside it; figures are
other people's, on their machines. What was run by us is said under *What was run*. Memory is counted from the number
of parameters, so take it as a beginning, and let [`chiasm doctor`](../doctor.md) have the last word.
"""

_READING = """\
## Choosing

**Eyes.** A look is a small picture and a short answer, so small eyes are enough for most: {eyes} By default they do not
think. A brain that sees (Qwen3.5, Qwen3.6) can be its own eyes, `--eyes same`: the pictures still stay out of the
conversation's prompt, which is the point. With `images = "native"` it would see them there.

**Parsers.** A wrong one looks like a model that never calls tools, or thinks aloud.

| model | calls: vLLM | calls: SGLang | thoughts: vLLM | thoughts: SGLang |
|---|---|---|---|---|
| Qwen3.5 | `qwen3_coder` | `qwen3_coder` | `qwen3` | `qwen3` |
| Qwen3.6 | `qwen3_xml` | `qwen3_coder` | `qwen3` | `qwen3` |
| GLM-4.7, GLM-5 | `glm47` | `glm47` | `glm45` | `glm45` |
| MiniMax-M2.5 | `minimax_m2` | `minimax-m2` | `minimax_m2` | `minimax` |

llama.cpp finds both in the model's own template (`--jinja`).

**Speculative tokens.** They make one client's answer faster, and are where streamed calls break. None are in the
commands. Add them last, one or two, and run `chiasm doctor --repeat 20` before and after.

**Thinking.** Chiasm sends the switch where the configuration asks for it (`thinking` in `[[text]]` and `[[vision]]`),
as `chat_template_kwargs.enable_thinking` to these three engines. Servers need no flag for it.

**Pictures and video.** One look compares at most eight pictures, so the eyes must take eight in a request
(`--limit-mm-per-prompt`, `--limit-mm-data-per-request`). Chiasm makes pictures smaller itself, to 4,096 visual tokens
(32×32 pixels each) at most, and sends no settings for that. Video is nothing it sends, so its limit is 0, which saves
the memory that a server would set aside for it.
"""

_RUN = """\
## What was run

* llama-server (of `llama-cpp-python` 0.3.36), vLLM 0.32.0 on the CPU, and `transformers serve` 5.23.0, each as brain
  and as eyes, with models of one million parameters of the Qwen3.5 architecture: `make test-engines`. That shows that
  the flags for parsers, pictures and calls are taken and do what is said here. It shows nothing about memory or speed.
* SGLang was not run: it needs a GPU. Its flags are those of its documentation.
* Every configuration here is read by `chiasm check-config` in a test, and every sum of shares is counted there.
"""


def written(known: Catalogue) -> dict[str, str]:
    """File names, and what belongs in them."""
    pages = {f"{machine.name}.md": _page(machine, known) for machine in known.machines.values()}
    return {"README.md": _index(known), **pages}


def _index(known: Catalogue) -> str:
    listed = "\n".join(
        f"| [{machine.name}]({machine.name}.md) | {machine.title} | {_names(machine.engines)} "
        f"| {machine.brain} | {machine.eyes} |"
        for machine in known.machines.values()
    )
    table = f"| recipe | machine | engines | brain unless said | eyes unless said |\n|---|---|---|---|---|\n{listed}\n"
    models = "\n".join(_row(model) for model in known.models.values())
    table_of_models = (
        "## Models\n\n| `--model`, `--eyes` | what is fetched | sees | GB | engines |\n|---|---|---|---|---|\n"
        f"{models}\n\nGB, where from:\n\n" + "\n".join(f"* {m.name}: {m.source}" for m in known.models.values()) + "\n"
    )
    reading = _READING.format(eyes=known.facts["eyes-scores"].text.partition(". ")[2].partition(" 9B is")[0])
    return "\n".join([MADE, "", "# Recipes", "", _INTRODUCTION, table, reading, table_of_models, _RUN])


def _row(model: Model) -> str:
    sees = "yes" if model.sees else "no"
    return f"| {model.name} | `{model.repository}` | {sees} | {model.gb:g} | {_names(tuple(model.arguments))} |"


def _page(machine: Machine, known: Catalogue) -> str:
    told: list[Fact] = []
    sections: list[str] = []
    for engine in machine.engines:
        recipe = recipe_for(known, machine.name, engine=engine)
        sections.append(_section(recipe))
        others = [other for other in fitting(known, machine.name, engine) if _differs(other, recipe)]
        if others:
            sections.append(
                "\n".join([f"Also fits, by the same count ({_ENGINE_NAMES[engine]}):", "", *_others(others)])
            )
        told += [fact for other in (recipe, *others) for fact in facts(other, known)]
    head = [
        MADE,
        "",
        f"# {machine.name}: {machine.title}",
        "",
        NOT_RUN,
        "",
        f"```sh\nchiasm recipe {machine.name}\n```",
    ]
    return "\n".join([*head, "", "\n\n".join(sections), "", "## What is known", "", *_told(told)]) + "\n"


def _section(recipe: Recipe) -> str:
    brain = recipe.machine.brain
    who = "a brain that somebody else serves" if brain == HOSTED else f"`{brain}`"
    looking = {"same": "its own eyes", "ocr": "embedded eyes"}.get(recipe.looking, f"`{recipe.looking}` for eyes")
    parts = [f"## {_ENGINE_NAMES[recipe.engine]}", "", f"{who[0].upper() + who[1:]}, {looking}:", ""]
    for server in recipe.servers:
        parts += ["```sh", command(recipe, server), "```", ""]
    parts += ["```toml", configuration(recipe), "```"]
    return "\n".join(parts)


def _others(recipes: Sequence[Recipe]) -> Iterator[str]:
    yield "| brain | eyes | GPUs of the brain (share of memory) | of the eyes |"
    yield "|---|---|---|---|"
    for recipe in recipes:
        assert recipe.brain is not None
        eyes = "–" if recipe.eyes is None else f"{recipe.eyes.place.devices} ({recipe.eyes.place.share:.0%})"
        brain = f"{recipe.brain.place.devices} ({recipe.brain.place.share:.0%})"
        yield f"| {recipe.brain.model.name} | {recipe.looking} | {brain} | {eyes} |"


def _told(told: Sequence[Fact]) -> Iterator[str]:
    for fact in dict.fromkeys(told):
        yield f"* {fact.text} *({fact.source}; {fact.date})*"


def _differs(one: Recipe, other: Recipe) -> bool:
    return (one.brain, one.eyes, one.looking) != (other.brain, other.eyes, other.looking) and one.looking != "ocr"


def _names(engines: Sequence[str]) -> str:
    return ", ".join(_ENGINE_NAMES[engine] for engine in engines)


def main() -> None:
    """Write the pages into the folder that the first argument names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in written(catalogue()).items():
        (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
