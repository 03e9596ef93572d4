"""Which engine answers is found out from what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import orjson
import pytest

from router.config import TextSettings
from router.config.options import Engine
from router.protocol.added import as_sent
from router.protocol.chat.dialect import OpenAIChat
from router.protocol.chat.history import fit
from router.protocol.chat.reader import ChunkReader, CompletionReader
from router.protocol.parts import ErrorFrame, Finish, Part
from router.protocol.pieces import Pieces
from router.protocol.profiles import _SIGNS, PROFILES, recognise, recognise_answer
from router.protocol.turn import CallInTurn, Turn
from tests.configured import with_settings


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
    assert as_sent(with_settings({}, on, PROFILES[engine])) == switch[0]
    assert as_sent(with_settings({}, off, PROFILES[engine])) == switch[1]


@pytest.mark.parametrize(("thinking", "temperature", "top_p"), [("on", 1.0, 0.95), ("off", 0.7, 0.8)])
def test_the_preset_is_what_the_model_card_says(thinking: Any, temperature: float, top_p: float) -> None:
    text = TextSettings(name="m", base_url="http://127.0.0.1:1/v1", thinking=thinking, sampling="preset")
    assert as_sent(with_settings({}, text, PROFILES["qwencloud"])) == {
        "enable_thinking": thinking == "on",
        "temperature": temperature,
        "top_p": top_p,
        "top_k": 20,
        "min_p": 0.0,
        "presence_penalty": 1.5,
    }


def said(engine: str, *, thought: str, called: bool = False) -> dict[str, Any]:
    """What the brain said, as this engine reads it in a history."""
    turn = Turn(1, content_pieces=Pieces(["words"]), reasoning_pieces=Pieces([thought]))
    if called:
        turn.calls[0] = CallInTurn(0, "c", "f", True, Pieces(["{}"]))
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


# Signs in answers


def recorded(name: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The headers and the first object of a recorded answer."""
    raw = (Path(__file__).parent / "transcripts" / name).read_bytes().split(b"\n", 2)[2]
    head, body = raw.split(b"\r\n\r\n", 1)
    pairs = [line.partition(": ") for line in head.decode().split("\r\n")[1:]]
    first = next(line for line in body.splitlines() if line.strip()).removeprefix(b"data: ")
    return {name.lower(): value for name, _, value in pairs}, orjson.loads(first)


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("vllm/plain_stream.txt", "vllm"),
        ("vllm/plain_nonstream.txt", "vllm"),
        ("llamacpp/plain_stream.txt", "llamacpp"),
        ("llamacpp/plain_nonstream.txt", "llamacpp"),
        ("hf/plain_stream.txt", "auto"),
        ("hf/plain_nonstream.txt", "auto"),
        ("llama-cpp-python/plain_stream.txt", "auto"),
        ("llama-cpp-python/plain_stream_usage.txt", "auto"),
    ],
)
def test_real_servers_are_recognised_by_their_answers(name: str, engine: str) -> None:
    headers, first = recorded(name)
    assert recognise_answer(headers, first) == engine


def test_llama_cpp_is_recognised_behind_a_gateway_that_takes_its_name_off() -> None:
    _, streamed = recorded("llamacpp/plain_stream.txt")
    assert recognise_answer({"server": "nginx"}, streamed) == "llamacpp"
    _, whole = recorded("llamacpp/plain_nonstream.txt")
    assert recognise_answer({}, {"timings": whole["timings"]}) == "llamacpp"


@pytest.mark.parametrize(
    ("headers", "first", "engine"),
    [
        ({}, {"system_fingerprint": "fp_ollama"}, "ollama"),
        ({}, {"id": "7f3a", "choices": [{"index": 0, "delta": {}, "matched_stop": None}]}, "sglang"),
        ({}, {"id": "gen-1757-x", "provider": "DeepInfra"}, "openrouter"),
        ({}, {"id": "gen-1757-x"}, "auto"),
        ({}, {"system_fingerprint": "fp_3a5770e1b4_prod0225"}, "deepseek"),
        ({}, {"system_fingerprint": "fp_3a5770e1b4"}, "auto"),
        ({"openai-version": "2020-10-01", "openai-organization": "user-x"}, {"id": "chatcmpl-x"}, "openai"),
        ({"openai-processing-ms": "13"}, {"id": "chatcmpl-x"}, "auto"),
        ({}, {"id": "chatcmpl-x", "x_groq": {"id": "req_1"}}, "openai"),
        ({}, {"x_groq": None, "timings": None, "choices": [3], "system_fingerprint": None}, "auto"),
        # Fields that engines share tell nothing.
        ({}, {"choices": [{"delta": {"reasoning": "Hm", "reasoning_content": "Hm"}}]}, "auto"),
        ({}, {"choices": None}, "auto"),
        ({}, {}, "auto"),
    ],
)
def test_only_what_one_engine_alone_says_is_a_sign(headers: Any, first: Any, engine: str) -> None:
    assert recognise_answer(headers, first) == engine


def test_every_sign_leads_to_a_profile() -> None:
    assert {engine for engine, _ in _SIGNS} <= PROFILES.keys()


# Finish reasons


def ended(reason: str) -> list[Part]:
    """What a chunk with this finish reason says, streamed; a whole answer must say the same."""
    choice = {"index": 0, "delta": {}, "finish_reason": reason}
    streamed = ChunkReader(str).feed(b"data: " + orjson.dumps({"id": "x", "choices": [choice]}) + b"\n\n")
    reader = CompletionReader(str)
    reader.feed(orjson.dumps({"id": "x", "choices": [{"message": {}, "finish_reason": reason}]}))
    assert list(reader.close()) == list(streamed)
    return list(streamed)[1:]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("sensitive", "content_filter"),
        ("model_context_window_exceeded", "length"),
        ("stop", "stop"),
        ("tool_calls", "tool_calls"),
        ("abort", "abort"),
    ],
)
def test_finish_reasons_are_told_in_the_clients_words(reason: str, told: str) -> None:
    assert ended(reason) == [Finish(told)]


@pytest.mark.parametrize("reason", ["network_error", "insufficient_system_resource"])
def test_a_finish_reason_of_a_broken_answer_breaks_the_stream(reason: str) -> None:
    assert ended(reason) == [ErrorFrame(f"the text model's server broke its answer off ({reason})")]


def test_fields_that_a_server_refused_hold_no_thoughts_any_more() -> None:
    vllm, deepseek = PROFILES["vllm"], PROFILES["deepseek"]
    assert vllm.without_thoughts_in(set()) is vllm
    assert vllm.without_thoughts_in({"reasoning_content", "other"}).history_reasoning == ("reasoning",)
    assert not deepseek.without_thoughts_in({"reasoning_content"}).empty_reasoning
    assert deepseek.without_thoughts_in({"reasoning"}).empty_reasoning
