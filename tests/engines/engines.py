"""The engines that the tests can run, as data: how each serves a model of tests/models, and what Chiasm calls it.

Models load from this folder and nowhere else: HF_HUB_OFFLINE keeps every engine from the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

Model: TypeAlias = Literal["brain", "eyes"]

ENGINE_VARIABLE = "CHIASM_TEST_ENGINE"
BRAIN_VARIABLE = "CHIASM_TEST_BRAIN"
EYES_VARIABLE = "CHIASM_TEST_EYES"
"""Where the tests find the engine's name and the base URLs of its two servers, both ending in /v1."""

ROOT = Path(__file__).resolve().parents[2]
_ENGINES = ROOT / ".engines"
MODELS = "tests/models"
"""Relative to `ROOT`, where the servers run, because `transformers serve` makes a model's path its id."""


@dataclass(frozen=True, slots=True)
class Engine:
    name: str
    profile: str | None
    """What `engine` in Chiasm's configuration calls it; `None`: there is nothing but "auto" for it."""
    ids: Mapping[Model, str]
    """What it calls the models."""
    command: Callable[[Model, int], Sequence[str]]
    """Serves a model on a loopback port."""
    start_seconds: float
    pictures: int
    """For each question: enough that one slip of a tiny model is not a red test, few enough for a minute or two."""
    environment: Mapping[str, str] = field(default_factory=dict)
    lists_models: bool = True
    """Whether `GET /v1/models` names the model that it serves."""


def _llama_server(model: Model, port: int) -> list[str]:
    # One thread is as fast as two for models this small, and leaves the other core to the service under test.
    command = [str(_ENGINES / "llama-server"), "--host", "127.0.0.1", "--port", str(port), "--alias", model, "--jinja"]
    command += ["-t", "1", "-c", "8192", "-np", "2", "--no-warmup", "-m", f"{MODELS}/{model}.gguf"]
    return [*command, "--mmproj", f"{MODELS}/eyes-mmproj.gguf"] if model == "eyes" else command


def _transformers_serve(model: Model, port: int) -> list[str]:
    program = str(_ENGINES / "transformers" / "bin" / "transformers")
    return [program, "serve", f"{MODELS}/{model}", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]


def _vllm_serve(model: Model, port: int) -> list[str]:
    command = [str(_ENGINES / "vllm" / "bin" / "vllm"), "serve", f"{MODELS}/{model}", "--served-model-name", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "8192", "--max-num-seqs", "2"]
    command += ["--enforce-eager", "--dtype", "bfloat16", "--enable-prompt-tokens-details"]
    if model == "eyes":
        return [*command, "--limit-mm-per-prompt", '{"image":4,"video":0}', "--reasoning-parser", "qwen3"]
    return [*command, "--reasoning-parser", "qwen3", "--enable-auto-tool-choice", "--tool-call-parser", "qwen3_coder"]


_HUGGING_FACE = {
    "HF_HUB_OFFLINE": "1",
    # An empty one: what this machine has in its own must not change what the servers list.
    "HF_HOME": str(_ENGINES / "huggingface"),
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",
}
_OWN_NAMES: Mapping[Model, str] = {"brain": "brain", "eyes": "eyes"}

ENGINES = {
    engine.name: engine
    for engine in (
        Engine("llamacpp", "llamacpp", _OWN_NAMES, _llama_server, start_seconds=60, pictures=10),
        Engine(
            "transformers",
            None,
            {"brain": f"{MODELS}/brain", "eyes": f"{MODELS}/eyes"},
            _transformers_serve,
            start_seconds=180,  # up in 6 s, on a free machine
            pictures=4,  # two seconds each
            environment=_HUGGING_FACE,
            lists_models=False,  # it lists what is in the cache; where there is none, it answers 500
        ),
        Engine(
            "vllm",
            "vllm",
            _OWN_NAMES,
            _vllm_serve,
            start_seconds=600,  # up in 40 s
            pictures=4,
            environment={
                **_HUGGING_FACE,
                "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB, the smallest whole number that it takes
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "VLLM_NO_USAGE_STATS": "1",
            },
        ),
    )
}
