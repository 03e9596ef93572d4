"""Which engine answers is found out from what it says of itself."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from router.chat_request import with_settings
from router.config import TextSettings
from router.config.options import Engine
from router.protocol.history import fit
from router.protocol.openai_chat import OpenAIChat
from router.protocol.profiles import PROFILES, recognise
from router.protocol.turn import CallInTurn, Turn


def test_every_engine_that_can_be_configured_has_a_profile() -> None:
    assert set(get_args(Engine)) == set(PROFILES)


@pytest.mark.parametrize(
    ("host", "owner", "server", "engine"),
    [
        ("127.0.0.1", "vllm", "uvicorn", "vllm"),
        ("127.0.0.1", "sglang", "uvicorn", "sglang"),
        ("127.0.0.1", "llamacpp", "llama.cpp", "llamacpp"),
        ("127.0.0.1", "", "llama.cpp", "llamacpp"),
        ("127.0.0.1", "library", "", "ollama"),
        ("127.0.0.1", "somebody", "uvicorn", "auto"),
        ("api.openai.com", "system", "cloudflare", "openai"),
        ("mine.openai.azure.com", "", "", "openai"),
        ("openrouter.ai", "", "", "openrouter"),
        ("api.deepseek.com", "deepseek", "", "deepseek"),
        ("api.z.ai", "", "", "zai"),
        ("open.bigmodel.cn", "", "", "zai"),
        ("api.moonshot.ai", "", "", "kimi"),
        ("api.moonshot.cn", "", "", "kimi"),
        ("api.minimax.io", "", "", "minimax"),
        ("api.minimaxi.com", "", "", "minimax"),
        ("dashscope-intl.aliyuncs.com", "", "", "qwencloud"),
        ("notopenrouter.ai", "", "", "auto"),
        ("openrouter.ai.example.org", "", "", "auto"),
    ],
)
def test_servers_are_recognised(host: str, owner: str, server: str, engine: str) -> None:
    assert recognise(host, owner, server) == engine


# What each engine is sent; the facts stand in `router.protocol.profiles` with their sources.

TEMPLATE = tuple({"chat_template_kwargs": {"enable_thinking": on}} for on in (True, False))
TYPE: tuple[dict[str, Any], ...] = ({"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}})
EFFORT: tuple[dict[str, Any], ...] = ({}, {"reasoning_effort": "none"})


@pytest.mark.parametrize(
    ("engine", "switch"),
    [
        ("auto", TEMPLATE),
        ("vllm", TEMPLATE),
        ("sglang", TEMPLATE),
        ("llamacpp", TEMPLATE),
        ("minimax", TEMPLATE),
        ("ollama", EFFORT),
        ("openai", EFFORT),
        ("openrouter", ({"reasoning": {"enabled": True}}, {"reasoning": {"enabled": False}})),
        ("deepseek", TYPE),
        ("zai", TYPE),
        ("kimi", TYPE),
        ("qwencloud", ({"enable_thinking": True}, {"enable_thinking": False})),
    ],
)
def test_thinking_is_switched_with_the_engines_own_fields(engine: str, switch: tuple[dict[str, Any], ...]) -> None:
    on = TextSettings(name="m", base_url="http://127.0.0.1:1/v1", thinking="on")
    off = TextSettings(name="m", base_url="http://127.0.0.1:1/v1", thinking="off")
    assert with_settings({}, on, PROFILES[engine]) == switch[0]
    assert with_settings({}, off, PROFILES[engine]) == switch[1]


@pytest.mark.parametrize(("thinking", "temperature", "top_p"), [("on", 1.0, 0.95), ("off", 0.7, 0.8)])
def test_the_preset_is_what_the_model_card_says(thinking: Any, temperature: float, top_p: float) -> None:
    text = TextSettings(name="m", base_url="http://127.0.0.1:1/v1", thinking=thinking, sampling="preset")
    assert with_settings({}, text, PROFILES["qwencloud"]) == {
        "enable_thinking": thinking == "on",
        "temperature": temperature,
        "top_p": top_p,
        "top_k": 20,
        "min_p": 0.0,
        "presence_penalty": 1.5,
    }


def said(engine: str, *, thought: str, called: bool = False) -> dict[str, Any]:
    """What the brain said, as this engine reads it in a history."""
    turn = Turn(1, content_pieces=["words"], reasoning_pieces=[thought])
    if called:
        turn.calls[0] = CallInTurn(0, "c", "f", True, ["{}"])
    return OpenAIChat(PROFILES[engine]).assistant_message(turn)


BOTH = {"reasoning", "reasoning_content"}
CONTENT = {"reasoning_content"}


@pytest.mark.parametrize(
    ("engine", "fields"),
    [
        ("auto", BOTH),
        ("vllm", BOTH),
        ("sglang", CONTENT),
        ("llamacpp", CONTENT),
        ("ollama", {"reasoning"}),
        ("openai", set()),
        ("openrouter", {"reasoning"}),
        ("deepseek", CONTENT),
        ("zai", CONTENT),
        ("kimi", CONTENT),
        ("minimax", CONTENT),
        ("qwencloud", CONTENT),
    ],
)
def test_thoughts_go_back_in_the_fields_that_the_engine_reads(engine: str, fields: set[str]) -> None:
    message = said(engine, thought="hm")
    assert message.keys() - {"role", "content"} == fields
    assert all(message[field] == "hm" for field in fields)


def test_only_engines_that_insist_get_an_empty_thought_with_a_call() -> None:
    insisting = {engine for engine in PROFILES if "reasoning_content" in said(engine, thought="", called=True)}
    assert insisting == {"deepseek", "kimi"}
    assert not any("reasoning_content" in said(engine, thought="") for engine in PROFILES)


def request_as_sent(engine: str, **fields: Any) -> dict[str, Any]:
    return fit({"messages": [{"role": "user", "content": "u"}], **fields}, PROFILES[engine])


def test_system_messages_are_joined_where_templates_take_only_one() -> None:
    system = [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}]
    joining = {engine for engine in PROFILES if len(request_as_sent(engine, messages=system)["messages"]) == 1}
    assert joining == {"auto", "vllm", "sglang", "llamacpp", "ollama", "minimax", "qwencloud"}


def test_the_developer_stays_one_where_the_role_is_known() -> None:
    developer = [{"role": "developer", "content": "a"}]
    knowing = {
        engine
        for engine in PROFILES
        if request_as_sent(engine, messages=developer)["messages"][0]["role"] == "developer"
    }
    assert knowing == {"openai", "openrouter"}


def test_only_z_ai_is_spared_what_it_refuses() -> None:
    text = TextSettings(name="m", base_url="http://127.0.0.1:1/v1")
    for engine, profile in PROFILES.items():
        sent = request_as_sent(engine, tool_choice="required", max_completion_tokens=50)
        assert ("tool_choice" not in sent) == (engine == "zai")
        assert sent.get("max_tokens") == (50 if engine == "zai" else None)
        assert sent.get("max_completion_tokens") == (None if engine == "zai" else 50)
        assert ("stream_options" in with_settings({"stream": True}, text, profile)) == (engine != "zai")
    assert request_as_sent("zai", tool_choice="auto")["tool_choice"] == "auto"
    assert request_as_sent("zai", max_tokens=7, max_completion_tokens=50)["max_tokens"] == 7
