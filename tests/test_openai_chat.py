"""Chat Completions as servers really write it, read; as every client can read it, written; and asked again."""

# ruff: noqa: E501 (lines of servers stay in one piece)

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import BadRequest, UpstreamBroken
from router.protocol.chat.dialect import OpenAIChat
from router.protocol.chat.format import tool_object
from router.protocol.chat.reader import ChunkReader, CompletionReader
from router.protocol.chat.writer import ChunkWriter, CompletionWriter, error_body
from router.protocol.events import Complete, Fail
from router.protocol.going_on import LEAST_TOKENS
from router.protocol.mended import mended
from router.protocol.parts import ErrorFrame, Finish, Head, Opaque, Part, Reasoning, Text, ToolArgs, ToolStart, Usage
from router.protocol.pieces import Pieces
from router.protocol.profiles import PROFILES
from router.protocol.sse import MAX_EVENT_BYTES
from router.protocol.turn import CallInTurn, Turn
from tests.playbook import REQUEST, client_ids, owning
from tests.pure_splice import FALLBACK, byte_by_byte, minting, read_stream, somewhere, splice
from tests.wire_fixtures import DONE, call, chunk, completion, data
from tools.call import ToolCall, ToolResult
from tools.definition import ToolDefinition


def read(stream: bytes, pieces: Iterable[bytes] | None = None) -> tuple[list[Part], bool]:
    reader = ChunkReader(minting())
    parts = [part for piece in (pieces if pieces is not None else [stream]) for part in reader.feed(piece)]
    return [*parts, *reader.close()], reader.clean


def said(stream: bytes) -> list[Part]:
    """The parts without the head."""
    parts, _ = read(stream)
    return [part for part in parts if not isinstance(part, Head)]


# Reading chunks: each server's shapes

SHAPES: dict[str, tuple[bytes, list[Part], bool]] = {
    "vllm": (
        b'data: {"id":"chatcmpl-a1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}\n\n'
        b'data: {"id":"chatcmpl-a1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,"delta":{"reasoning":"Hm"},"logprobs":null,"finish_reason":null,"token_ids":null}],"kv_transfer_params":null}\n\n'
        b'data: {"id":"chatcmpl-a1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,"delta":{"tool_calls":[{"id":"chatcmpl-tool-1","type":"function","index":0,"function":{"name":"analyzeImage"}}]},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
        b'data: {"id":"chatcmpl-a1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\\"image\\": \\"1"}}]},"logprobs":null,"finish_reason":null}]}\n\n'
        b'data: {"id":"chatcmpl-a1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\\"}"}}]},"logprobs":null,"finish_reason":"tool_calls","stop_reason":null,"token_ids":null,"weight_versions":null}],"kv_transfer_params":null}\n\n'
        b'data: {"id":"chatcmpl-a1","object":"chat.completion.chunk","created":1,"model":"qwen","choices":[],"usage":{"prompt_tokens":10,"total_tokens":15,"completion_tokens":5}}\n\n'
        b"data: [DONE]\n\n",
        [
            Head("chatcmpl-a1", 1),
            Reasoning("Hm"),
            ToolStart(0, "chatcmpl-tool-1", "analyzeImage"),
            ToolArgs(0, '{"image": "1'),
            ToolArgs(0, '"}'),
            Finish("tool_calls"),
            Usage({"prompt_tokens": 10, "total_tokens": 15, "completion_tokens": 5}),
        ],
        True,
    ),
    "vllm 0.20, everything in one delta": (
        chunk(
            {
                "reasoning": "Hm",
                "content": "I look.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "index": 0, "function": {"name": "a", "arguments": "{}"}},
                    {"id": "c2", "type": "function", "index": 1, "function": {"name": "b", "arguments": ""}},
                ],
            },
            "tool_calls",
            usage={"prompt_tokens": 1},
        )
        + DONE,
        [
            Head("u1", 1),
            Reasoning("Hm"),
            Text("I look."),
            ToolStart(0, "c1", "a"),
            ToolArgs(0, "{}"),
            ToolStart(1, "c2", "b"),
            Finish("tool_calls"),
            Usage({"prompt_tokens": 1}),
        ],
        True,
    ),
    "vllm 0.13, both reasoning fields": (
        chunk({"reasoning": "Hm", "reasoning_content": "Hm"}),
        [Head("u1", 1), Reasoning("Hm")],
        False,
    ),
    "vllm, an error and then [DONE]": (
        b'data: {"error":{"message":"list index out of range","type":"BadRequestError","param":null,"code":400}}\n\n'
        b"data: [DONE]\n\n",
        [ErrorFrame("list index out of range", 400)],
        True,
    ),
    "vllm, log-probabilities while the parser holds the text back": (
        chunk({}, logprobs={"content": []}) + chunk({"content": "a"}),
        [Head("u1", 1), Text("a")],
        False,
    ),
    "sglang": (
        b'data: {"id":"abc","object":"chat.completion.chunk","created":1,"model":"q","choices":[{"index":0,"delta":{"reasoning_content":null,"role":"assistant","content":""},"logprobs":null,"finish_reason":null,"matched_stop":null}]}\n\n'
        b'data: {"id":"abc","choices":[{"index":0,"delta":{"reasoning_content":"Hm"},"logprobs":null,"finish_reason":null}]}\n\n'
        b'data: {"id":"abc","choices":[{"index":0,"delta":{"reasoning_content":null,"content":"Hi"},"finish_reason":null}]}\n\n'
        b'data: {"id":"abc","choices":[{"index":0,"delta":{"role":null,"content":null,"reasoning_content":null,"tool_calls":[{"id":"call_1","index":0,"type":"function","function":{"name":"analyzeImage","arguments":""}}]},"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}\n\n'
        b'data: {"id":"abc","choices":[{"index":0,"delta":{"role":null,"content":null,"reasoning_content":null,"tool_calls":[{"id":null,"index":0,"type":"function","function":{"name":null,"arguments":"{"}}]},"finish_reason":null}]}\n\n'
        b'data: {"id":"abc","choices":[{"index":0,"delta":{"role":null,"content":null,"reasoning_content":null,"tool_calls":[{"id":null,"index":0,"type":"function","function":{"name":null,"arguments":"}"}}]},"finish_reason":null}]}\n\n'
        b'data: {"id":"abc","choices":[{"index":0,"delta":{"reasoning_content":null},"logprobs":null,"finish_reason":"tool_calls","matched_stop":null}]}\n\n'
        b"data: [DONE]\n\n",
        [
            Head("abc", 1),
            Reasoning("Hm"),
            Text("Hi"),
            ToolStart(0, "call_1", "analyzeImage"),
            ToolArgs(0, "{"),
            ToolArgs(0, "}"),
            Finish("tool_calls"),
        ],
        True,
    ),
    "sglang, a named event": (
        b'event: sglext_ids\ndata: {"id":"abc","choices":[],"sglext":{}}\n\n' + chunk({"content": "a"}),
        [Head("abc"), Text("a")],
        False,
    ),
    "llama.cpp, several roles and pings": (
        b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1,"id":"c","model":"m","system_fingerprint":"b1","object":"chat.completion.chunk","prompt_progress":{"total":9}}\n\n'
        b":\n\n"
        b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":2,"id":"c","model":"m","system_fingerprint":"b1","object":"chat.completion.chunk"}\n\n'
        b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"tool_calls":[{"index":0,"id":"x","type":"function","function":{"name":"f","arguments":""}}]}}],"created":3,"id":"c","model":"m"}\n\n'
        b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}],"created":3,"id":"c","model":"m"}\n\n'
        b'data: {"choices":[{"finish_reason":"tool_calls","index":0,"delta":{}}],"created":4,"id":"c","model":"m"}\n\n'
        b'data: {"choices":[],"created":4,"id":"c","model":"m","usage":{"completion_tokens":2,"prompt_tokens":85,"total_tokens":87},"timings":{"cache_n":81}}\n\n'
        b"data: [DONE]\n\n",
        [
            Head("c", 1, {"system_fingerprint": "b1"}),
            ToolStart(0, "x", "f"),
            ToolArgs(0, "{}"),
            Finish("tool_calls"),
            Usage({"completion_tokens": 2, "prompt_tokens": 85, "total_tokens": 87}),
        ],
        True,
    ),
    "llama.cpp, an error and then nothing": (
        chunk({"content": "a"}) + b'data: {"error":{"code":500,"message":"no slot","type":"server_error"}}\n\n',
        [Head("u1", 1), Text("a"), ErrorFrame("no slot", 500)],
        False,
    ),
    "llama-cpp-python, id, name and both ways in every fragment": (
        b"".join(
            chunk(
                {
                    "role": None,
                    "content": None,
                    "function_call": {"name": "analyzeImage", "arguments": piece},
                    "tool_calls": [
                        {
                            "index": 0,
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "analyzeImage", "arguments": piece},
                        }
                    ],
                }
            )
            for piece in ("", "{", "}", "")
        )
        + chunk({"role": None, "content": None, "function_call": None, "tool_calls": None}, "tool_calls")
        + DONE,
        [
            Head("u1", 1),
            ToolStart(0, "c1", "analyzeImage"),
            ToolArgs(0, "{"),
            ToolArgs(0, "}"),
            Finish("tool_calls"),
        ],
        True,
    ),
    "ollama, parallel calls with one index": (
        chunk(
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "call_a", "index": 0, "type": "function", "function": {"name": "f", "arguments": '{"n":1}'}}
                ],
            }
        )
        + chunk(
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "call_b", "index": 0, "type": "function", "function": {"name": "f", "arguments": '{"n":2}'}}
                ],
            },
            "tool_calls",
            system_fingerprint="fp_ollama",
        ),
        [
            Head("u1", 1),
            ToolStart(0, "call_a", "f"),
            ToolArgs(0, '{"n":1}'),
            ToolStart(1, "call_b", "f"),
            ToolArgs(1, '{"n":2}'),
            Finish("tool_calls"),
        ],
        False,
    ),
    "ollama, silent death": (
        chunk({"content": "a"})
        + b'data: {"id":"u1","object":"chat.completion.chunk","created":1,"model":"","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n',
        [Head("u1", 1), Text("a")],
        False,
    ),
    "ollama, an error that is a string": (
        b'data: {"error":"model runner has unexpectedly stopped"}\n\n',
        [ErrorFrame("model runner has unexpectedly stopped")],
        False,
    ),
    "openai": (
        b'data: {"id":"chatcmpl-o","object":"chat.completion.chunk","created":5,"model":"gpt","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"x7"}\n\n'
        b'data: {"id":"chatcmpl-o","object":"chat.completion.chunk","created":5,"model":"gpt","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"Zq"}\n\n'
        b'data: {"id":"chatcmpl-o","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n'
        b'data: {"id":"chatcmpl-o","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}\n\n'
        b"data: [DONE]\n\n",
        [
            Head("chatcmpl-o", 5, {"system_fingerprint": "fp_1", "service_tier": "default"}),
            Text("Hi"),
            Finish("stop"),
            Usage({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}),
        ],
        True,
    ),
    "openai, a refusal": (
        chunk({"refusal": "I"}) + chunk({"refusal": " can't"}),
        [Head("u1", 1), Opaque({"refusal": "I"}), Opaque({"refusal": " can't"})],
        False,
    ),
    "openai, functions of the old kind": (
        chunk({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}})
        + chunk({"function_call": {"arguments": "{}"}})
        + chunk({}, "function_call"),
        [
            Head("u1", 1),
            Opaque({"function_call": {"name": "f", "arguments": ""}}),
            Opaque({"function_call": {"arguments": "{}"}}),
            Finish("function_call"),
        ],
        False,
    ),
    "azure, chunks without choices": (
        b'data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0}]}\n\n'
        + chunk({"content": "Hi"}),
        [Head(), Text("Hi")],
        False,
    ),
    "openrouter, an error that looks like a chunk": (
        b": OPENROUTER PROCESSING\n\n"
        b'data: {"id":"gen-x","choices":[],"error":{"code":429,"message":"Provider returned error","metadata":{"x":1}}}\n\n',
        [ErrorFrame("Provider returned error", 429)],
        False,
    ),
    "openrouter, an error that is a finish reason": (
        chunk({"content": ""}, "error"),
        [Head("u1", 1), ErrorFrame("the text model's server reported an error and gave no words for it")],
        False,
    ),
    "openrouter, reasoning details": (
        chunk(
            {"role": "assistant", "content": "", "reasoning": "Hm", "reasoning_details": [{"text": "Hm"}]}, provider="X"
        ),
        [Head("u1", 1, {"provider": "X"}), Reasoning("Hm"), Opaque({"reasoning_details": [{"text": "Hm"}]})],
        False,
    ),
    "junk in data lines": (
        b"data: : OPENROUTER PROCESSING\n\ndata: keepalive\n\ndata:\n\ndata: 7\n\ndata: []\n\ndata: null\n\n"
        + chunk({"content": "a"})
        + b"data:  [DONE] \n\n",
        [Head("u1", 1), Text("a")],
        True,
    ),
    "deepseek, usage in the finish chunk": (
        chunk({"content": ""}, "stop", usage={"prompt_tokens": 3}),
        [Head("u1", 1), Finish("stop"), Usage({"prompt_tokens": 3})],
        False,
    ),
    "choices null or missing": (
        b'data: {"id":"u1","choices":null,"usage":{"prompt_tokens":1}}\n\ndata: {"id":"u1","usage":{"prompt_tokens":2}}\n\n',
        [Head("u1"), Usage({"prompt_tokens": 1}), Usage({"prompt_tokens": 2})],
        False,
    ),
    "tgi, calls as an object and empty ids": (
        chunk({"tool_calls": {"index": 0, "id": "", "type": "function", "function": {"name": "f", "arguments": "{"}}})
        + chunk({"tool_calls": {"index": 0, "id": "", "type": "function", "function": {"name": "", "arguments": "}"}}}),
        [Head("u1", 1), ToolStart(0, "call_0001", "f"), ToolArgs(0, "{"), ToolArgs(0, "}")],
        False,
    ),
    "transformers, line ends inside an error": (
        b'data: {"error": "json parser could not parse region as JSON.\nContent: \'\n<function=f>\n\'\nError: Expecting value"}\n\n',
        [ErrorFrame('{"error": "json parser could not parse region as JSON.')],
        False,
    ),
    "transformers, line ends inside an error that nothing follows": (
        b'data: {"error": "no\nContent',
        [ErrorFrame('{"error": "no')],
        False,
    ),
    "an event that is not JSON": (
        chunk({"content": "a"}) + b'data: {"id": oops}\n\n',
        [Head("u1", 1), Text("a"), ErrorFrame("the text model's server sent an event that is not JSON")],
        False,
    ),
    "an event cut in half by the end": (
        chunk({"content": "a"}) + b'data: {"id":"u1","choices":[{"ind',
        [Head("u1", 1), Text("a")],
        False,
    ),
    "a last event without its empty line": (
        chunk({"content": "a"}) + b"data: [DONE]",
        [Head("u1", 1), Text("a")],
        True,
    ),
    "what follows [DONE] is nothing": (
        chunk({"content": "a"}) + DONE + chunk({"content": "b"}),
        [Head("u1", 1), Text("a")],
        True,
    ),
    "mistral, content in parts": (
        chunk({"content": [{"type": "text", "text": "a"}, {"type": "x"}, {"type": "text", "text": "b"}]}),
        [Head("u1", 1), Text("ab")],
        False,
    ),
    "other choices": (
        data(
            {"id": "u1", "choices": [{"index": 1, "delta": {"content": "B"}}, {"index": 0, "delta": {"content": "A"}}]}
        ),
        [Head("u1"), Opaque(choice={"index": 1, "delta": {"content": "B"}}), Text("A")],
        False,
    ),
    "log-probabilities": (
        data(
            {
                "id": "u1",
                "choices": [{"index": 0, "delta": {"content": "A"}, "logprobs": {"content": [{"token": "A"}]}}],
            }
        ),
        [Head("u1"), Text("A", {"content": [{"token": "A"}]})],
        False,
    ),
    "numbers that JSON does not have": (
        b'data: {"id":"u1","choices":[{"index":0,"delta":{"content":"A"},"logprobs":{"content":[{"logprob":-Infinity,"top":NaN}]}}]}\n\n',
        [Head("u1"), Text("A", {"content": [{"logprob": None, "top": None}]})],
        False,
    ),
    "half of a surrogate pair": (
        b'data: {"id":"u1","choices":[{"index":0,"delta":{"content":"A\\ud83d"}}]}\n\n'
        b'data: {"id":"u1","choices":[{"index":0,"delta":{"content":"\\ude00B"}}]}\n\n',
        [Head("u1"), Text("A\ufffd"), Text("\ufffdB")],
        False,
    ),
    "half of a character": (
        b'data: {"id":"u1","choices":[{"index":0,"delta":{"content":"A\xf0\x9f"}}]}\n\n',
        [Head("u1"), Text("A\ufffd")],
        False,
    ),
}


@pytest.mark.parametrize(("stream", "parts", "clean"), SHAPES.values(), ids=SHAPES.keys())
def test_every_shape_of_a_chunk_is_read_however_it_is_cut(stream: bytes, parts: list[Part], clean: bool) -> None:
    assert read(stream) == (parts, clean)
    assert read(stream, byte_by_byte(stream)) == (parts, clean)
    for seed in range(10):
        assert read(stream, somewhere(seed)(stream)) == (parts, clean)
    crlf = stream.replace(b"\n", b"\r\n")
    assert read(crlf, somewhere(0)(crlf)) == (parts, clean)


# Reading chunks: which fragment belongs to which call


def merged(stream: bytes) -> list[tuple[str, str, str]]:
    """Id, name and arguments of each call, as an exchange would put them together."""
    calls: dict[int, tuple[str, str, str]] = {}
    for part in said(stream):
        match part:
            case ToolStart(slot, id_, name):
                assert slot not in calls
                calls[slot] = (id_, name, "")
            case ToolArgs(slot, text):
                id_, name, before = calls[slot]
                calls[slot] = (id_, name, before + text)
            case _:
                raise AssertionError(part)
    return list(calls.values())


FRAGMENTS: dict[str, tuple[bytes, list[tuple[str, str, str]]]] = {
    "as it should be, interleaved": (
        call(index=0, id="a", name="f", arguments="")
        + call(index=1, id="b", name="g", arguments="")
        + call(index=0, arguments='{"n":')
        + call(index=1, arguments='{"m":')
        + call(index=0, arguments="1}")
        + call(index=1, arguments="2}"),
        [("a", "f", '{"n":1}'), ("b", "g", '{"m":2}')],
    ),
    "indexes that do not begin with 0": (
        call(index=3, id="a", name="f")
        + call(index=3, arguments="{}")
        + call(index=7, id="b", name="g", arguments="{}"),
        [("a", "f", "{}"), ("b", "g", "{}")],
    ),
    "no index": (
        call(id="a", name="f", arguments='{"n":1}') + call(id="b", name="f", arguments='{"n":') + call(arguments="2}"),
        [("a", "f", '{"n":1}'), ("b", "f", '{"n":2}')],
    ),
    "no index and no id": (
        call(name="f", arguments='{"n":') + call(arguments="1}") + call(name="f", arguments='{"n":2}') + call(name="g"),
        [("call_0001", "f", '{"n":1}'), ("call_0002", "f", '{"n":2}'), ("call_0003", "g", "")],
    ),
    "one index, ids of their own, in pieces": (
        call(index=0, id="a", name="f", arguments='{"n":')
        + call(index=0, arguments="1}")
        + call(index=0, id="b", name="f", arguments="")
        + call(index=0, arguments='{"n":2}'),
        [("a", "f", '{"n":1}'), ("b", "f", '{"n":2}')],
    ),
    "one index, ids of their own and repeated, interleaved": (
        call(index=0, id="a", name="f", arguments="")
        + call(index=0, id="b", name="g", arguments="")
        + call(index=0, id="a", name="f", arguments='{"n":1}')
        + call(index=0, id="b", name="g", arguments='{"m":2}'),
        [("a", "f", '{"n":1}'), ("b", "g", '{"m":2}')],
    ),
    "one index and no ids": (
        call(index=0, name="f", arguments='{"n":1}') + call(index=0, name="g", arguments='{"m":2}'),
        [("call_0001", "f", '{"n":1}'), ("call_0002", "g", '{"m":2}')],
    ),
    "one index and empty names": (
        call(index=0, id="a", name="f", arguments="")
        + call(index=0, name="", arguments='{"n":1}')
        + call(index=0, name="", arguments='{"n":2}'),
        [("a", "f", '{"n":1}'), ("call_0001", "f", '{"n":2}')],
    ),
    "the name in every fragment": (
        b"".join(call(index=0, name="f", arguments=piece) for piece in ("", '{"a":{', '"b":"}"', "}", "}", "")),
        [("call_0001", "f", '{"a":{"b":"}"}}')],
    ),
    "id and name in every fragment of two calls": (
        b"".join(
            call(index=index, id=f"c{index}", name="f", arguments=piece)
            for index in (0, 1)
            for piece in ('{"n":', "1", "}", "")
        ),
        [("c0", "f", '{"n":1}'), ("c1", "f", '{"n":1}')],
    ),
    "another id in every fragment": (
        call(index=0, id="a1", name="f", arguments="")
        + call(index=0, id="a2", arguments='{"n":')
        + call(index=0, id="a3", arguments="1}")
        + call(index=1, id="b1", name="g", arguments="")
        + call(index=1, id="b2", arguments="{}"),
        [("a1", "f", '{"n":1}'), ("b1", "g", "{}")],
    ),
    "another index in every fragment": (
        call(index=0, id="a", name="f", arguments="")
        + call(index=1, arguments='{"n":')
        + call(index=2, arguments="1}")
        + call(index=3, id="b", name="g", arguments="{}"),
        [("a", "f", '{"n":1}'), ("b", "g", "{}")],
    ),
    "one id for several calls": (
        call(index=0, id="same", name="f", arguments="")
        + call(index=0, arguments='{"n":1}')
        + call(index=1, id="same", name="f", arguments="")
        + call(index=1, arguments='{"n":2}'),
        [("same", "f", '{"n":1}'), ("call_0001", "f", '{"n":2}')],
    ),
    "one id for several calls, repeated": (
        b"".join(call(index=index, id="same", name="f", arguments=piece) for index in (0, 1) for piece in ("{", "}")),
        [("same", "f", "{}"), ("call_0001", "f", "{}")],
    ),
    "the id late": (
        call(index=0, name="f", arguments="{") + call(index=0, id="a", arguments="}") + call(index=0, id="b", name="g"),
        [("call_0001", "f", "{}"), ("b", "g", "")],
    ),
    "the id before the name": (
        call(index=0, id="a") + call(index=0, name="f", arguments="{}"),
        [("a", "f", "{}")],
    ),
    "arguments before the name": (
        call(index=0, id="a", arguments='{"n":')
        + call(index=0, arguments="1")
        + call(index=0, name="f", arguments="}"),
        [("a", "f", '{"n":1}')],
    ),
    "arguments before the name, with nothing to tell calls by": (
        call(arguments='{"n":') + call(name="f", arguments="1}"),
        [("call_0001", "f", '{"n":1}')],
    ),
    "no name at all": (call(index=0, id="a", arguments="{}"), []),
    "arguments that are an object": (
        call(index=0, id="a", name="f", arguments={"n": [1]}) + call(index=1, id="b", name="g", arguments=[]),
        [("a", "f", '{"n":[1]}'), ("b", "g", "[]")],
    ),
    "arguments that are null": (
        call(index=0, id="a", name="f", arguments=None) + call(index=0, name=None, arguments=None),
        [("a", "f", "")],
    ),
    "things that are no calls": (
        chunk({"tool_calls": "x"})
        + chunk({"tool_calls": [None, 7, "x", [], {}]})
        + chunk({"tool_calls": [{"function": "f"}]}),
        [],
    ),
}


@pytest.mark.parametrize(("stream", "calls"), FRAGMENTS.values(), ids=FRAGMENTS.keys())
def test_fragments_find_their_call(stream: bytes, calls: list[tuple[str, str, str]]) -> None:
    assert merged(stream) == calls


def test_text_that_looks_like_an_end_does_not_split_a_call() -> None:
    pieces = ['{"code":"', "}", "{", "}}", "{{", '}"', "}"]
    stream = call(index=0, id="a", name="f") + b"".join(call(index=0, arguments=piece) for piece in pieces)
    assert merged(stream) == [("a", "f", "".join(pieces))]


def test_a_call_without_number_or_id_that_came_in_pieces_is_over_when_they_make_an_object() -> None:
    stream = call(name="f", arguments='{"a":') + call(arguments="1}") + call(arguments='{"b":2}')
    assert said(stream) == [
        ToolStart(0, "call_0001", "f"),
        ToolArgs(0, '{"a":'),
        ToolArgs(0, "1}"),
        ToolStart(1, "call_0002", "f"),
        ToolArgs(1, '{"b":2}'),
    ]


@pytest.mark.parametrize("nothing_called", [None, [], {}, "", 0])
def test_calls_that_are_none_do_not_count(nothing_called: Any) -> None:
    stream = chunk({"tool_calls": nothing_called}) + call(id="c", name="f", arguments="{}")
    assert said(stream) == [ToolStart(0, "c", "f"), ToolArgs(0, "{}")]


def test_garbage_without_end_is_an_error_and_no_crash() -> None:
    reader = ChunkReader(minting())
    assert reader.feed(b"x" * (MAX_EVENT_BYTES + 2)) == [
        ErrorFrame(f"the text model's server sent garbage: an event of more than {MAX_EVENT_BYTES} bytes did not end")
    ]


# Reading whole completions


def read_whole(body: bytes, pieces: Iterable[bytes] | None = None) -> tuple[list[Part], bool]:
    reader = CompletionReader(minting())
    for piece in pieces if pieces is not None else [body]:
        assert reader.feed(piece) == ()
    return list(reader.close()), reader.clean


def test_a_completion_is_read_as_the_parts_of_a_stream() -> None:
    body = completion(
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning": "Hm",
            "reasoning_content": "Hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"n":1}'}},
                {"id": "", "type": "function", "function": {"name": "g", "arguments": {"m": 2}}},
            ],
        },
        "tool_calls",
        usage={"prompt_tokens": 3},
        system_fingerprint="fp",
    )
    parts = [
        Head("u1", 1, {"system_fingerprint": "fp"}),
        Reasoning("Hm"),
        Text("I look."),
        ToolStart(0, "c1", "f"),
        ToolArgs(0, '{"n":1}'),
        ToolStart(1, "call_0001", "g"),
        ToolArgs(1, '{"m":2}'),
        Finish("tool_calls"),
        Usage({"prompt_tokens": 3}),
    ]
    assert read_whole(body) == (parts, True)
    assert read_whole(body, byte_by_byte(body)) == (parts, True)


def test_blank_lines_before_a_completion_are_skipped() -> None:
    assert read_whole(b"\n\n\n" + completion({"content": "Hi"}) + b"\n") == (
        [Head("u1", 1), Text("Hi"), Finish("stop")],
        True,
    )


def test_several_calls_with_one_id_stay_several() -> None:
    same = {"id": "same", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    parts, _ = read_whole(completion({"content": None, "tool_calls": [same, same]}))
    assert [part.id for part in parts if isinstance(part, ToolStart)] == ["same", "call_0001"]


@pytest.mark.parametrize(
    ("body", "words", "code"),
    [
        (b"", "is not JSON", None),
        (b"<html>", "is not JSON", None),
        (b"[" * 100_000, "is not JSON", None),
        (b"[]", "is not a completion", None),
        (b'{"error":{"message":"no memory","code":500}}', "no memory", 500),
        (b'{"error":"no memory"}', "no memory", None),
        (b'{"error":{"code":"x"}}', '{"code":"x"}', None),
        (b'{"choices":[]}', "without a choice", None),
        (b'{"choices":[{"message":null}]}', "without a choice", None),
        (b'{"choices":null}', "without a choice", None),
    ],
)
def test_what_is_no_completion_is_an_error(body: bytes, words: str, code: int | None) -> None:
    ((error,), clean) = read_whole(body)
    assert isinstance(error, ErrorFrame)
    assert words in error.message
    assert error.code == code
    assert not clean


def test_a_completion_that_finished_with_an_error_is_one() -> None:
    parts, _ = read_whole(completion({"content": ""}, "error"))
    assert isinstance(parts[-1], ErrorFrame)


# Anything at all

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["{", "{}", "f"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FUNCTION = st.fixed_dictionaries({}, optional={"name": JSON | st.just("f"), "arguments": JSON})
RAW_CALL = st.fixed_dictionaries(
    {}, optional={"index": JSON | st.integers(0, 2), "id": JSON | st.just("a"), "function": JSON | FUNCTION}
)
SAID = st.fixed_dictionaries(
    {},
    optional={
        "content": JSON,
        "reasoning": JSON,
        "reasoning_content": JSON,
        "role": JSON,
        "x": JSON,
        "function_call": JSON,
        "tool_calls": JSON | st.lists(RAW_CALL | JSON, max_size=3),
    },
)
CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "index": JSON | st.just(0),
        "delta": JSON | SAID,
        "message": JSON | SAID,
        "finish_reason": JSON | st.sampled_from(["stop", "error"]),
        "logprobs": JSON,
    },
)
BODY = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON,
        "created": JSON,
        "system_fingerprint": JSON,
        "choices": JSON | st.lists(CHOICE | JSON, max_size=2),
        "usage": JSON
        | st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens", "completion_tokens_details"]), JSON),
        "error": st.none() | JSON,
    },
)


def as_servers_write(value: object) -> bytes:
    """As Python does it, NaN and all."""
    return json.dumps(value).encode()


@settings(max_examples=400, deadline=None)
@given(st.lists(BODY, max_size=4), st.booleans())
def test_no_stream_of_any_shape_breaks_the_reader_or_the_clients_stream(bodies: Sequence[object], done: bool) -> None:
    stream = b"".join(b"data: " + as_servers_write(body) + b"\n\n" for body in bodies) + (DONE if done else b"")
    assert read(stream) == read(stream, byte_by_byte(stream))
    spliced = splice([stream], own=owning(), include_usage=True)
    assert isinstance(spliced.outcome, Complete | Fail)
    parts, _ = read(stream)
    if not any(isinstance(part, Opaque) for part in parts):  # what we do not understand may be anything
        read_stream(spliced.client, include_usage=True)


@settings(max_examples=200, deadline=None)
@given(BODY)
def test_no_completion_of_any_shape_breaks_the_reader_or_the_clients_answer(body: object) -> None:
    spliced = splice([as_servers_write(body)], own=owning(), stream=False)
    answer = orjson.loads(spliced.client)
    assert bool(answer.get("error")) == isinstance(spliced.outcome, Fail)
    if not answer.get("error"):
        assert answer["object"] == "chat.completion"
        assert answer["choices"][0]["message"]["role"] == "assistant"
        assert isinstance(answer["choices"][0]["finish_reason"], str)


# Writing chunks


def writer(*, include_usage: bool = False, reasoning_fields: Sequence[str] = ("reasoning_content",)) -> ChunkWriter:
    return ChunkWriter(fallback=FALLBACK, include_usage=include_usage, reasoning_fields=reasoning_fields)


BEFORE = b'data: {"id":"u1","object":"chat.completion.chunk","created":5,"model":"brain","system_fingerprint":"fp","choices":['
HEAD = Head("u1", 5, {"system_fingerprint": "fp"})


def opened(**how: Any) -> ChunkWriter:
    chunks = writer(**how)
    assert chunks.write(HEAD) == (
        BEFORE + b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n'
    )
    return chunks


WRITTEN: dict[str, tuple[Part, bytes]] = {
    "text": (
        Text('a"\n\u2028🐱'),
        '{"index":0,"delta":{"content":"a\\"\\n\u2028🐱"},"logprobs":null,"finish_reason":null}]}'.encode(),
    ),
    "text with log-probabilities": (
        Text("a", {"content": [{"token": "a"}]}),
        b'{"index":0,"delta":{"content":"a"},"logprobs":{"content":[{"token":"a"}]},"finish_reason":null}]}',
    ),
    "thoughts": (
        Reasoning("Hm"),
        b'{"index":0,"delta":{"reasoning_content":"Hm"},"logprobs":null,"finish_reason":null}]}',
    ),
    "the beginning of a call": (
        ToolStart(1, "c1", "bash"),
        b'{"index":0,"delta":{"tool_calls":[{"index":1,"id":"c1","type":"function","function":{"name":"bash","arguments":""}}]},"logprobs":null,"finish_reason":null}]}',
    ),
    "more of a call": (
        ToolArgs(1, '{"a":'),
        b'{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"{\\"a\\":"}}]},"logprobs":null,"finish_reason":null}]}',
    ),
    "unknown fields": (
        Opaque({"refusal": "No", "n": [1]}),
        b'{"index":0,"delta":{"refusal":"No","n":[1]},"logprobs":null,"finish_reason":null}]}',
    ),
    "another choice": (
        Opaque(choice={"index": 1, "delta": {"content": "B"}, "finish_reason": "stop"}),
        b'{"index":1,"delta":{"content":"B"},"finish_reason":"stop"}]}',
    ),
}


@pytest.mark.parametrize(("part", "written"), WRITTEN.values(), ids=WRITTEN.keys())
def test_a_part_is_written_as_one_canonical_chunk(part: Part, written: bytes) -> None:
    assert opened().write(part) == BEFORE + written + b"\n\n"


@pytest.mark.parametrize("part", [Finish("stop"), Usage({"prompt_tokens": 1}), ErrorFrame("x"), Head("second")])
def test_what_the_exchange_decides_itself_is_not_written(part: Part) -> None:
    assert opened().write(part) == b""


def test_thoughts_can_be_written_under_both_names() -> None:
    chunks = opened(reasoning_fields=("reasoning", "reasoning_content"))
    assert chunks.write(Reasoning("Hm")) == (
        BEFORE
        + b'{"index":0,"delta":{"reasoning":"Hm","reasoning_content":"Hm"},"logprobs":null,"finish_reason":null}]}\n\n'
    )


FINISH = b'{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop"}]'
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
USAGE_JSON = b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n'


def test_usage_stands_in_a_last_chunk_for_a_client_that_asked() -> None:
    assert opened(include_usage=True).complete("stop", USAGE) == (
        BEFORE + FINISH + b"}\n\n" + BEFORE + b"]," + USAGE_JSON + DONE
    )


def test_usage_stands_with_the_finish_reason_for_a_client_that_did_not_ask() -> None:
    assert opened().complete("stop", USAGE) == BEFORE + FINISH + b"," + USAGE_JSON + DONE


@pytest.mark.parametrize("include_usage", [True, False])
def test_without_usage_there_is_no_usage_chunk(include_usage: bool) -> None:
    assert opened(include_usage=include_usage).complete("stop", None) == BEFORE + FINISH + b"}\n\n" + DONE


def test_an_answer_that_never_began_is_still_whole() -> None:
    answer = read_stream(writer().complete("stop", None))
    assert (answer.id, answer.created, answer.model, answer.finish) == ("chatcmpl-ours", 1700000000, "brain", "stop")


def test_the_role_is_written_once_whatever_comes_first() -> None:
    for part in (Text("a"), Reasoning("a"), ToolStart(0, "c", "f"), Opaque({"x": "y"})):
        chunks = writer()
        stream = (
            chunks.write(part) + chunks.write(Head("late")) + chunks.write(Text("")) + chunks.complete("stop", None)
        )
        assert stream.count(b'"role"') == 1
        assert read_stream(stream).id == "chatcmpl-ours"


def test_a_server_without_an_id_gets_one_of_ours() -> None:
    assert b'"id":"chatcmpl-ours","object":"chat.completion.chunk","created":1700000000,' in writer().write(Head("", 0))


def test_an_error_is_the_last_thing_said_and_has_no_finish_reason() -> None:
    chunks = opened()
    assert chunks.fail(UpstreamBroken("the brain is gone")) == (
        b'data: {"error":{"message":"the brain is gone","type":"upstream_error","param":null,"code":"upstream_error"}}\n\n'
        b"data: [DONE]\n\n"
    )


def test_a_heartbeat_is_a_comment_and_an_empty_chunk_says_nothing() -> None:
    chunks = writer()
    assert chunks.heartbeat() == b": keep-alive\n\n"
    stream = chunks.empty_chunk() + chunks.empty_chunk() + chunks.write(Text("a")) + chunks.complete("stop", None)
    answer = read_stream(stream)
    assert (answer.text, answer.order) == ("a", ["text"])
    assert stream.count(b'"delta":{}') == 2


def test_the_body_of_an_error_names_its_place() -> None:
    assert error_body(BadRequest("no", param="messages")) == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "messages", "code": None}
    }


# Writing whole completions


def test_a_completion_of_one_turn_keeps_what_we_do_not_understand() -> None:
    body = orjson.loads(completion({"role": "assistant", "content": "Hi", "refusal": None, "annotations": [1]}))
    body |= {"usage": USAGE, "service_tier": "x", "prompt_logprobs": None}
    body["choices"][0] |= {"stop_reason": None, "logprobs": {"content": []}}
    answer = orjson.loads(splice([orjson.dumps(body)], stream=False).client)
    assert answer.pop("usage") == {
        **USAGE,
        "chiasm": {
            "turns": 1,
            "vision_calls": 0,
            "vision_prompt_tokens": 0,
            "vision_completion_tokens": 0,
            "billed_prompt_tokens": 1,
        },
    }
    body.pop("usage")
    assert answer == {**body, "model": "brain"}


LOOKING: Mapping[str, Any] = {
    "id": "l1",
    "type": "function",
    "function": {"name": "analyzeImage", "arguments": '{"image":"1"}'},
}
BASH: Mapping[str, Any] = {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": "{}"}}


def test_a_completion_of_several_turns_is_one_answer() -> None:
    first = completion(
        {"role": "assistant", "content": "I look.\n\n", "reasoning": "Hm", "tool_calls": [LOOKING]}, "tool_calls"
    )
    last = completion(
        {"role": "assistant", "content": "\n\nA cat.", "reasoning": "Oh", "tool_calls": []}, id="u2", created=9
    )
    spliced = splice([first, last], stream=False)
    answer = orjson.loads(spliced.client)
    assert (answer["id"], answer["created"], answer["model"]) == ("u1", 1, "brain")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "I look.\n\nA cat.", "reasoning_content": "Hm\n\nOh"},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert "usage" not in answer
    assert spliced.calls == [(ToolCall("l1", "analyzeImage", '{"image":"1"}'),)]


def test_a_completion_of_a_mixed_turn_holds_the_clients_calls_only() -> None:
    body = completion(
        {
            "content": "Both.",
            "function_call": LOOKING["function"],  # llama-cpp-python says every call in both ways
            "tool_calls": [LOOKING, BASH],
        },
        "tool_calls",
    )
    spliced = splice([body], stream=False)
    (choice,) = orjson.loads(spliced.client)["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Both.", "tool_calls": [BASH]}
    assert choice["finish_reason"] == "tool_calls"
    assert b"analyzeImage" not in spliced.client
    assert spliced.deferred is not None
    assert client_ids(spliced.deferred) == ("c1",)


def test_a_completion_with_calls_and_no_words_has_null_content_and_one_with_neither_an_empty_one() -> None:
    only_calls = orjson.loads(splice([completion({"content": None, "tool_calls": [BASH]})], stream=False).client)
    assert only_calls["choices"][0]["message"]["content"] is None
    neither = orjson.loads(splice([completion({"content": None})], stream=False).client)
    assert neither["choices"][0]["message"]["content"] == ""


def test_a_function_call_of_the_old_kind_rides_along() -> None:
    old = {"name": "f", "arguments": "{}"}
    body = completion({"role": "assistant", "content": None, "function_call": old}, "function_call")
    (choice,) = orjson.loads(splice([body], stream=False).client)["choices"]
    assert (choice["message"]["function_call"], choice["finish_reason"]) == (old, "function_call")


def test_other_choices_of_a_completion_ride_along() -> None:
    body = orjson.loads(completion({"role": "assistant", "content": "A"}))
    body["choices"].append({"index": 1, "message": {"role": "assistant", "content": "B"}, "finish_reason": "stop"})
    answer = orjson.loads(splice([orjson.dumps(body)], stream=False).client)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["A", "B"]


def test_a_completion_that_failed_is_an_error_body() -> None:
    spliced = splice([b'{"error":{"message":"no memory","code":500}}'], stream=False)
    assert orjson.loads(spliced.client) == {
        "error": {"message": "no memory", "type": "upstream_error", "param": None, "code": "500"}
    }


def test_a_completion_is_not_written_before_its_end() -> None:
    whole_answer = CompletionWriter(fallback=FALLBACK, last_raw=dict)
    assert whole_answer.heartbeat() == b""
    for part in (HEAD, Text("a"), Reasoning("b"), ToolStart(0, "c", "f"), ToolArgs(0, "{}"), Finish("stop"), Usage({})):
        assert whole_answer.write(part) == b""


def test_the_usage_of_one_turn_does_not_pass_for_that_of_the_answer() -> None:
    raw = {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 7}}
    answer = CompletionWriter(fallback=FALLBACK, last_raw=lambda: raw)
    assert "usage" not in orjson.loads(answer.complete("stop", None))


# Asking again


def turn(
    *,
    content: str = "",
    reasoning: str = "",
    calls: Sequence[tuple[str, str]] = (),
    usage: Mapping[str, Any] | None = None,
) -> Turn:
    """A turn whose calls are ids and arguments of `f`."""
    made = Turn(
        1,
        content_pieces=Pieces([content]),
        reasoning_pieces=Pieces([reasoning]),
        usage=None if usage is None else Usage(usage),
    )
    for slot, (id_, arguments) in enumerate(calls):
        made.calls[slot] = CallInTurn(slot, id_, "f", True, Pieces([arguments]))
    return made


@pytest.mark.parametrize(
    ("engine", "fields"),
    [
        ("vllm", {"reasoning": "Hm", "reasoning_content": "Hm"}),
        ("sglang", {"reasoning_content": "Hm"}),
        ("llamacpp", {"reasoning_content": "Hm"}),
        ("ollama", {"reasoning": "Hm"}),
        ("openrouter", {"reasoning": "Hm"}),
        ("deepseek", {"reasoning_content": "Hm"}),
        ("openai", {}),
    ],
)
def test_thoughts_go_back_where_the_server_takes_them(engine: str, fields: dict[str, str]) -> None:
    message = OpenAIChat(PROFILES[engine]).assistant_message(turn(content="a", reasoning="Hm"))
    assert message == {"role": "assistant", "content": "a", **fields}


def test_deepseek_gets_empty_thoughts_with_calls_and_nobody_else_does() -> None:
    silent = turn(calls=[("c1", "{}")])
    assert OpenAIChat(PROFILES["deepseek"]).assistant_message(silent)["reasoning_content"] == ""
    assert "reasoning_content" not in OpenAIChat(PROFILES["deepseek"]).assistant_message(turn(content="a"))
    assert "reasoning_content" not in OpenAIChat(PROFILES["vllm"]).assistant_message(silent)


def test_content_is_null_only_beside_calls() -> None:
    dialect = OpenAIChat(PROFILES["vllm"])  # Ollama refuses null without calls
    assert dialect.assistant_message(turn())["content"] == ""
    assert dialect.assistant_message(turn(calls=[("c1", "{}")]))["content"] is None


def test_arguments_go_back_to_the_letter() -> None:
    odd = '{ "task":"wh\\u0061t",\n "image": "1" , "a":[1,2.50]}'
    message = OpenAIChat(PROFILES["vllm"]).assistant_message(turn(content="x\n\n", calls=[("c1", odd)]))
    assert message == {
        "role": "assistant",
        "content": "x\n\n",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": odd}}],
    }


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        *((nothing, "{}") for nothing in ("", " ", "{", "[]", "null", '"{}"', "7", '{"a":"\\ud800"', "x" * 70_000)),
        ('"image":"1"}', '{"image":"1"}'),
        ('{"a":1}{"b":2}', '{"a":1}'),
        ("{'a':1}", "{}"),  # guessing takes too long for what anyone may send
        ('{"path":"a.py","text":"cut o', '{"path":"a.py","text":"cut o"}'),
    ],
)
def test_arguments_that_a_server_could_not_parse_are_mended_in_a_history(arguments: str, mend: str) -> None:
    assert mended(arguments) == mend


@pytest.mark.parametrize("arguments", ["{}", ' {"a":1} \n', '{"a":{"b":[null]}}'])
def test_arguments_that_are_an_object_stay_as_they_are(arguments: str) -> None:
    assert mended(arguments) == arguments


def test_a_follow_up_leaves_the_request_as_it_is() -> None:
    request = {**REQUEST, "stream": True}
    before = orjson.dumps(request)
    result = ToolResult("c1", "a cat")
    following = OpenAIChat(PROFILES["vllm"]).follow_up(request, turn(calls=[("c1", "{}")]), [result])
    assert orjson.dumps(request) == before
    assert following is not None
    assert list(following) == ["model", "messages", "stream"]
    assert following["messages"][-1] == {"role": "tool", "tool_call_id": "c1", "content": "a cat"}


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"max_tokens": 100}, {"max_tokens": 60}),
        ({"max_completion_tokens": 100}, {"max_completion_tokens": 60}),
        ({"max_tokens": 100, "max_completion_tokens": 90}, {"max_tokens": 60, "max_completion_tokens": 50}),
        ({"max_tokens": 40 + LEAST_TOKENS}, {"max_tokens": LEAST_TOKENS}),
        ({"max_tokens": 40 + LEAST_TOKENS - 1}, None),
        ({"max_tokens": 1000, "max_completion_tokens": 41}, None),
        ({"max_tokens": None}, {"max_tokens": None}),
        ({}, {}),
    ],
)
def test_a_follow_up_gets_what_is_left_of_the_clients_limit(
    limits: dict[str, Any], left: dict[str, Any] | None
) -> None:
    said_so_far = turn(calls=[("c1", "{}")], usage={"completion_tokens": 40})
    following = OpenAIChat(PROFILES["vllm"]).follow_up({**REQUEST, **limits}, said_so_far, [ToolResult("c1", "a cat")])
    if left is None:
        assert following is None
    else:
        assert following is not None
        assert {key: following[key] for key in following if key.startswith("max")} == left


def test_usage_keeps_what_the_server_said_of_the_last_turn() -> None:
    turns = [
        turn(usage={"prompt_tokens": 10, "completion_tokens": 2, "cost": 0.5}),
        turn(
            usage={
                "prompt_tokens": 30,
                "completion_tokens": 4,
                "cost": 0.25,
                "prompt_tokens_details": {"cached_tokens": 10},
            }
        ),
    ]
    assert OpenAIChat(PROFILES["vllm"]).usage(turns, {"turns": 2}) == {
        "prompt_tokens": 30,
        "completion_tokens": 6,
        "total_tokens": 36,
        "cost": 0.25,
        "prompt_tokens_details": {"cached_tokens": 10},
        "chiasm": {"turns": 2, "billed_prompt_tokens": 40},
    }
    assert OpenAIChat(PROFILES["vllm"]).usage([turn(), turn()], {}) is None


def test_a_tool_is_declared_as_a_function() -> None:
    parameters = {"type": "object", "properties": {}}
    assert tool_object(ToolDefinition("look", "Looks.", parameters)) == {
        "type": "function",
        "function": {"name": "look", "description": "Looks.", "parameters": parameters},
    }
