"""Commands for a shell, a configuration for Chiasm, and what is known about both, as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from router.recipes.catalogue import OCR, SAME, Catalogue, Fact
from router.recipes.choice import Recipe, Server

WIDTH = 110
NOT_RUN = (
    "Not run by us on such a machine. Flags are those of the sources named below; memory is counted, not measured. "
    "Ask `chiasm doctor` before you believe it."
)

# As many as one look compares; video is nothing that Chiasm sends.
_VLLM_IMAGES = """--limit-mm-per-prompt '{"image": 8, "video": 0}'"""
_SGLANG_IMAGES = """--limit-mm-data-per-request '{"image": 8, "video": 0}'"""

_HOSTED = {
    "name": "glm-4.7",
    "base_url": "https://openrouter.ai/api/v1",
    "model": "z-ai/glm-4.7",
    "api_key": "${OPENROUTER_API_KEY}",
    "engine": "openrouter",
}
_HOSTED_CONTEXT = 202_752

_SLOTS = 2
"""Of llama.cpp, which share its context: one for the conversation, one for the looks."""


def listing(known: Catalogue) -> str:
    """One line for each recipe."""
    width = max(map(len, known.machines))
    lines = [
        f"  {machine.name:<{width}}  {machine.title}; {' or '.join(machine.engines)}"
        for machine in known.machines.values()
    ]
    models = ", ".join(known.models)
    return "\n".join(
        [
            "recipes:",
            *lines,
            "",
            *textwrap.wrap(f"models: {models}", WIDTH, subsequent_indent="        ", break_on_hyphens=False),
            "eyes:   any model that sees; same (the brain's server, if it sees); ocr (no GPU)",
            "",
            "chiasm recipe NAME prints one.",
        ]
    )


def whole(recipe: Recipe, known: Catalogue) -> str:
    """Everything about a recipe: a shell reads it up to the configuration, a person to the end."""
    blocks = [
        "\n".join([f"# {recipe.machine.name}, {recipe.engine}: {recipe.machine.title}", *_comment(NOT_RUN, "# ", "# ")])
    ]
    blocks += [f"{_about(recipe, server)}\n{command(recipe, server)}" for server in recipe.servers]
    blocks.append(f"# config.toml\n{configuration(recipe)}")
    blocks.append("# then\nchiasm doctor --config config.toml --repeat 20\nchiasm serve --config config.toml")
    blocks.append("\n".join(["# What is known", *_known(facts(recipe, known))]))
    return "\n\n".join(blocks)


def facts(recipe: Recipe, known: Catalogue) -> list[Fact]:
    """About the machine first, then about its models."""
    names = [*recipe.machine.facts, *(name for server in recipe.servers for name in server.model.facts)]
    return [known.facts[name] for name in dict.fromkeys(names)]


def command(recipe: Recipe, server: Server) -> str:
    """For a POSIX shell, one option a line."""
    start, *options = {"vllm": _vllm, "sglang": _sglang, "llamacpp": _llamacpp}[recipe.engine](recipe, server)
    return " \\\n  ".join([start, *options])


def configuration(recipe: Recipe) -> str:
    """A whole configuration file, as TOML."""
    brain, context = recipe.brain, _HOSTED_CONTEXT
    lines = ["[[text]]"]
    if brain is None:
        lines += [f'{key} = "{value}"' for key, value in _HOSTED.items()]
    else:
        lines += _upstream(recipe, brain)
        context = brain.model.context // (_SLOTS if recipe.engine == "llamacpp" else 1)
    lines += ["", "[[vision]]"]
    if recipe.eyes is not None:
        lines += [*_upstream(recipe, recipe.eyes), "max_concurrency = 8"]
    elif recipe.looking == OCR:
        lines.append('kind = "ocr"')
    else:
        assert brain is not None
        assert recipe.looking == SAME
        lines += _upstream(recipe, brain)
    # A third of what the brain can read, as config.example.toml says; the default where there is more.
    lines += ["", "[images]", f"max_loaded_tokens = {min(60_000, context // 3)}"]
    return "\n".join(lines)


def _upstream(recipe: Recipe, server: Server) -> list[str]:
    model = server.model.name if recipe.engine == "llamacpp" else server.model.repository
    return [
        f'name = "{server.model.name}"',
        f'base_url = "{server.base_url}"',
        f'model = "{model}"',
        f'engine = "{recipe.engine}"',
    ]


def _vllm(recipe: Recipe, server: Server) -> Iterator[str]:
    model, place = server.model, server.place
    yield f"CUDA_VISIBLE_DEVICES={place.devices} vllm serve {model.repository}"
    yield f"--host 127.0.0.1 --port {server.port}"
    if place.gpus > 1:
        yield f"--tensor-parallel-size {place.gpus}"
    yield f"--gpu-memory-utilization {place.share:.2f}"
    yield f"--max-model-len {model.context}"
    yield from model.arguments["vllm"]
    if server.calls_tools:
        yield from model.calls["vllm"]
    if server.looks:
        yield _VLLM_IMAGES
    elif model.sees:
        yield "--language-model-only"
    yield "--enable-prompt-tokens-details"


def _sglang(recipe: Recipe, server: Server) -> Iterator[str]:
    model, place = server.model, server.place
    yield f"CUDA_VISIBLE_DEVICES={place.devices} python -m sglang.launch_server --model-path {model.repository}"
    yield f"--host 127.0.0.1 --port {server.port}"
    if place.gpus > 1:
        yield f"--tp-size {place.gpus}"
    yield f"--mem-fraction-static {place.share:.2f}"
    yield f"--context-length {model.context}"
    yield from model.arguments["sglang"]
    if server.calls_tools:
        yield from model.calls["sglang"]
    if server.looks:
        yield _SGLANG_IMAGES
    yield "--enable-cache-report"


def _llamacpp(recipe: Recipe, server: Server) -> Iterator[str]:
    model = server.model
    yield f"llama-server -hf {model.repository}"
    yield f"--alias {model.name} --host 127.0.0.1 --port {server.port}"
    yield f"-c {model.context} -np {_SLOTS}"
    yield from model.arguments["llamacpp"]
    if server.calls_tools:
        yield from model.calls["llamacpp"]
    if server.looks:
        yield "--image-max-tokens 4096"
    elif model.sees:
        yield "--no-mmproj"


def _about(recipe: Recipe, server: Server) -> str:
    model, place = server.model, server.place
    role = (
        "brain and eyes" if server.calls_tools and server.looks else "the brain" if server.calls_tools else "the eyes"
    )
    where = "" if recipe.engine == "llamacpp" else f" on GPU{'s' if place.gpus > 1 else ''} {place.devices}"
    return "\n".join(_comment(f"{role}: {model.name}{where}; {model.gb:g} GB ({model.source})", "# ", "#   "))


def _known(found: Sequence[Fact]) -> Iterator[str]:
    for fact in found:
        yield from _comment(f"{fact.text} [{fact.source}; {fact.date}]", "# * ", "#   ")


def _comment(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )
