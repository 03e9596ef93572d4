"""Which engine answers is found out from what it says of itself."""

from __future__ import annotations

from typing import get_args

import pytest

from router.config.options import Engine
from router.protocol.profiles import PROFILES, recognise


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
        ("api.minimax.io", "", "", "minimax"),
        ("dashscope-intl.aliyuncs.com", "", "", "qwencloud"),
        ("notopenrouter.ai", "", "", "auto"),
        ("openrouter.ai.example.org", "", "", "auto"),
    ],
)
def test_servers_are_recognised(host: str, owner: str, server: str, engine: str) -> None:
    assert recognise(host, owner, server) == engine
