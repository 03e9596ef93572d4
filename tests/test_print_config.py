"""`chiasm print-config`: text that each client can read, about the service as it is configured.

Whether the clients know the options is asked of the clients themselves, which are configured by nothing else
(`tests/clients`).
"""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from typer.testing import CliRunner, Result

from router.cli import app
from router.print_config import SOME_MODEL, VARIABLE, NoSuchClient, Service, clients, find, remarks, snippet
from tests.live import live

HERE = "http://127.0.0.1:8090"
ONE = Service(HERE, ["zai-org/GLM-5"])
TWO = Service(HERE, ["glm-5", "qwen"], asks_for_a_key=True, context=20_000)
AWKWARD = Service(HERE, ['a "quoted" \\ näme'])

Json = Any


def env_file(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


def shell(text: str) -> list[str]:
    """The words of the script, if a shell takes it."""
    subprocess.run(["sh", "-n", "-c", text], check=True)
    return shlex.split(text)


READ: dict[str, Callable[[str], Json]] = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": yaml.safe_load,
    ".env": env_file,
    ".sh": shell,
}


def read(name: str, service: Service = ONE) -> Json:
    client = find(name)
    return READ[Path(client.template).suffix](snippet(client, service))


# Every client


@pytest.mark.parametrize("name", clients())
@pytest.mark.parametrize("service", [ONE, TWO], ids=["one model", "two models and keys"])
def test_each_text_can_be_read_and_has_no_blank_left(name: str, service: Service) -> None:
    text = snippet(find(name), service)
    assert text.endswith("\n")
    assert read(name, service)
    assert f"{HERE}/v1" in text
    assert "@" not in text.replace("@ai-sdk", "")
    assert service.models[0] in text or name == "openwebui"


@pytest.mark.parametrize("name", [name for name in clients() if not find(name).template.endswith((".sh", ".env"))])
def test_an_awkward_name_stays_one_string(name: str) -> None:
    assert AWKWARD.models[0] in json.dumps(read(name, AWKWARD), ensure_ascii=False).replace("\\\\", "\\").replace(
        '\\"', '"'
    )


@pytest.mark.parametrize("name", clients())
def test_a_key_is_never_printed_but_the_variable_that_holds_it_where_one_is_asked_for(name: str) -> None:
    assert VARIABLE in snippet(find(name), TWO) or name == "llm"  # which keeps keys itself
    assert f"before: export {VARIABLE}=…, one of [server] api_keys" in list(remarks(find(name), TWO))
    if not find(name).needs_variable:
        assert VARIABLE not in snippet(find(name), ONE)


def test_the_clients_of_the_documentation_are_those_that_there_are() -> None:
    wanted = {"ccr", "opencode", "openwebui", "pi", "qwen-code", "codex", "llm", "aider"}
    assert wanted <= clients().keys()
    page = (Path(__file__).parents[1] / "docs" / "clients.md").read_text()
    for name in clients():
        assert f"chiasm print-config {name}" in page


def test_a_name_that_is_not_there_gets_the_nearest() -> None:
    with pytest.raises(NoSuchClient, match="did you mean 'opencode'"):
        find("open-code")


# What is in them


def test_the_router_passes_messages_on() -> None:
    config = read("ccr")
    (provider,) = config["Providers"]
    assert provider["api_base_url"] == f"{HERE}/v1/messages"
    assert provider["transformer"] == {"use": ["Anthropic"]}
    assert config["Router"] == {"default": "chiasm,zai-org/GLM-5"}, "an `image` in here would take the pictures away"


def test_the_router_can_translate_instead() -> None:
    (provider,) = read("ccr-chat")["Providers"]
    assert provider["api_base_url"] == f"{HERE}/v1/chat/completions"
    assert "transformer" not in provider


def test_each_model_is_listed_and_the_first_is_chosen() -> None:
    router = read("ccr", TWO)
    assert [len(router["Providers"]), router["Providers"][0]["models"]] == [1, ["glm-5", "qwen"]]
    assert router["Router"]["default"] == "chiasm,glm-5"
    opencode = read("opencode", TWO)
    assert list(opencode["provider"]["chiasm"]["models"]) == ["glm-5", "qwen"]
    assert opencode["model"] == "chiasm/glm-5"
    assert [model["id"] for model in read("pi", TWO)["providers"]["chiasm"]["models"]] == ["glm-5", "qwen"]
    assert [model["id"] for model in read("qwen-code", TWO)["modelProviders"]["openai"]] == ["glm-5", "qwen"]
    assert [model["model_name"] for model in read("llm", TWO)] == ["glm-5", "qwen"]
    assert read("codex", TWO)["model"] == "glm-5"


@pytest.mark.parametrize(
    ("name", "says_so"),
    [
        ("opencode", lambda c: c["provider"]["chiasm"]["models"]["zai-org/GLM-5"]["modalities"]["input"][1] == "image"),
        ("pi", lambda c: c["providers"]["chiasm"]["models"][0]["input"] == ["text", "image"]),
        ("qwen-code", lambda c: c["modelProviders"]["openai"][0]["generationConfig"]["modalities"]["image"]),
        ("llm", lambda c: c[0]["vision"]),
        ("aider", lambda words: '"supports_vision": true' in snippet(find("aider"), ONE)),
    ],
)
def test_clients_that_want_to_be_told_so_are_told_that_the_model_sees(
    name: str, says_so: Callable[[Json], bool]
) -> None:
    assert says_so(read(name))


def test_the_context_is_a_number() -> None:
    limit = read("opencode", TWO)["provider"]["chiasm"]["models"]["qwen"]["limit"]
    assert limit == {"context": 20_000, "output": 10_000}
    assert read("codex", TWO)["model_context_window"] == 20_000


# The command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["print-config", *arguments])


def test_the_command_goes_by_the_configuration(folder: Path) -> None:
    (folder / "config.toml").write_text("""
        [server]
        host = "0.0.0.0"
        port = 9000
        api_keys = ["very-secret"]
        [[text]]
        name = "glm-5"
        base_url = "http://127.0.0.1:8000/v1"
        images = "off"
    """)
    result = run("ccr")
    assert result.exit_code == 0, result.output
    (provider,) = json.loads(result.stdout)["Providers"]
    assert provider["api_base_url"] == "http://127.0.0.1:9000/v1/messages"
    assert (provider["models"], provider["api_key"]) == (["glm-5"], f"${VARIABLE}")
    assert "very-secret" not in result.output
    assert "into: ~/.claude-code-router/config.json" in result.stderr
    elsewhere = run("ccr", "--url", "http://box.example:1234/v1/")
    assert json.loads(elsewhere.stdout)["Providers"][0]["api_base_url"] == "http://box.example:1234/v1/messages"


def test_without_a_configuration_and_a_service_there_is_something_to_fill_in(folder: Path) -> None:
    result = run("opencode", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"] == f"chiasm/{SOME_MODEL}"
    assert f"put the model's name for {SOME_MODEL}" in result.stderr


def test_without_a_name_all_clients_are_listed(folder: Path) -> None:
    lines = run().stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(clients())


def test_an_unknown_client_is_one_line_and_exit_code_2(folder: Path) -> None:
    result = run("emacs")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("chiasm: there is nothing for 'emacs'")


@pytest.mark.live
@pytest.mark.anyio
async def test_names_that_nobody_configured_are_asked_of_the_running_service(folder: Path) -> None:
    async with live() as house:
        result = await asyncio.to_thread(run, "llm", "--url", f"http://127.0.0.1:{house.port}")
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(result.stdout)[0]["model_name"] == "brain"


@pytest.mark.parametrize("name", ["$(reboot)", "`id`", 'a"b', "a b"])
def test_a_name_from_the_network_that_a_shell_would_act_on_is_not_printed(
    name: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def answer(url: str, **_: Any) -> httpx.Response:
        return httpx.Response(200, json={"data": [{"id": name}]}, request=httpx.Request("GET", url))

    monkeypatch.setattr("router.print_config.httpx.get", answer)
    result = run("cline")
    assert name not in result.stdout
    assert SOME_MODEL in result.stdout
