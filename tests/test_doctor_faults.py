"""Each fault of a server, scripted, is found by `chiasm doctor` and named with its remedy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from router.doctor.verdict import Verdict
from tests.brain import (
    Asked,
    Calls,
    Fails,
    Script,
    Sends,
    Thinks,
    Waits,
    Wire,
    bytes_of,
    chunk,
    event,
    hangs,
    looks,
    nobody,
    refuses,
    resets,
    says,
    whole,
)
from tests.eyes import sees
from tests.patients import (
    VLLM,
    Cards,
    Ill,
    WellBrain,
    WellEyes,
    anything,
    calls,
    calls_beside,
    calls_two,
    checkup,
    counts,
    drawn,
    eye_test,
    forces,
    has_result,
    is_large,
    long,
    pictures_of,
    several_systems,
    streamed_calls,
    sums,
    thinks,
)

pytestmark = pytest.mark.anyio

GOOD = '{"image": "1", "task": "What is the code word?"}'


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cards]:
    with drawn(monkeypatch) as cards:
        yield cards


def assert_named(verdict: Verdict, level: str, seen: str, change: str) -> None:
    assert verdict.level == level, verdict
    assert seen in verdict.seen, verdict
    assert change in verdict.change, verdict


def call(arguments: str, name: str = "analyzeImage") -> Script:
    return says(Calls(name, arguments), usage=(400, 40))


def also(*wheres: Ill) -> Ill:
    return lambda asked: all(where(asked) for where in wheres)


def silent(where: Ill) -> Ill:
    return lambda asked: where(asked) and not thinks(asked)


# Is it there

WEB_PAGE = bytes_of(b"<!doctype html><title>Welcome to nginx!</title>", content_type="text/html")


@pytest.mark.parametrize(
    ("models", "check", "seen", "change"),
    [
        (hangs, "reachable", "said nothing", "loading its model"),
        (resets, "reachable", "nobody answers", "start the server"),
        (refuses(404, "Not Found"), "reachable", "HTTP 404", "base_url in [[text]] #1 is wrong"),
        (refuses(503, "Loading model"), "reachable", "Loading model", "wait until the server has loaded"),
        (WEB_PAGE, "reachable", "no list of models (text/html)", "something else listens there"),
        (refuses(401, "Unauthorized"), "key", "HTTP 401", "set api_key in [[text]] #1"),
        (whole({"object": "list", "data": []}), "model", "lists no model", "set model in [[text]] #1"),
    ],
)
async def test_a_server_that_is_not_as_it_should_be(models: Script, check: str, seen: str, change: str) -> None:
    async with WellBrain() as brain:
        brain.models = models
        found = await checkup(brain)
    assert_named(found[check], "fail", seen, change)


async def test_a_chiasm_in_the_place_of_a_models_server_is_told() -> None:
    async with WellBrain({**VLLM, "owned_by": "chiasm"}) as brain:
        found = await checkup(brain)
    assert_named(found["reachable"], "warn", "a Chiasm", "base_url in [[text]] #1")


async def test_a_base_url_without_its_end_is_given_one() -> None:
    async with WellBrain() as brain:
        found = await checkup(brain, url=brain.url.removesuffix("/v1"))
    assert_named(found["reachable"], "fail", "HTTP 404", f"base_url = '{brain.url}'")


async def test_an_address_that_is_none_is_told_with_its_reason() -> None:
    async with nobody() as url, WellBrain() as brain:
        refused = await checkup(brain, url=url)
        nameless = await checkup(brain, url="http://no-such-host.invalid/v1")
    assert_named(refused["reachable"], "fail", "Connect call failed", "start the server")
    assert_named(nameless["reachable"], "fail", "no-such-host.invalid", "no machine of that name")


async def test_a_server_with_a_broken_list_of_models_works_for_who_knows_the_model() -> None:
    async with WellBrain() as brain:
        brain.models = refuses(500, "no cache")
        found = await checkup(brain, model="brain-7b", engine="vllm")
    assert found["reachable"].level == "ok"
    assert found["tool call"].level == "ok"


async def test_a_key_that_is_only_asked_for_by_completions() -> None:
    async with WellBrain() as brain:
        brain.ill(anything, refuses(403, "wrong key"))
        found = await checkup(brain, api_key="sk-other")
    assert_named(found["key"], "fail", "HTTP 403: wrong key", "correct it")


async def test_a_model_that_is_not_there_brings_up_the_nearest() -> None:
    async with WellBrain({**VLLM, "id": "zai-org/GLM-5"}) as brain:
        brain.ill(anything, refuses(404, "The model `glm-5` does not exist."))
        found = await checkup(brain, model="glm-5")
    assert_named(found["model"], "fail", "there is no 'glm-5'", "set model = 'zai-org/GLM-5'")
    assert found["answers"].level == "skipped"


async def test_a_model_that_is_answered_and_not_listed() -> None:
    async with WellBrain() as brain:
        found = await checkup(brain, model="brain-8b")
    assert_named(found["model"], "warn", "not listed", "'brain-7b'")


async def test_the_first_of_several_models_is_no_choice() -> None:
    async with WellBrain() as brain:
        brain.models = whole({"object": "list", "data": [VLLM, {**VLLM, "id": "embeddings"}]})
        found = await checkup(brain)
    assert_named(found["model"], "warn", "the first of 2", "set model in [[text]] #1")


@pytest.mark.parametrize(
    ("row", "seen", "change"),
    [
        ({"max_model_len": 4096}, "4096 tokens", "--max-model-len"),
        ({"max_model_len": 65_536}, "images may fill 60000", "max_loaded_tokens = 16384"),
        ({"owned_by": "library", "max_model_len": None}, "Ollama does not say", "OLLAMA_CONTEXT_LENGTH"),
    ],
)
async def test_a_context_that_is_too_short(row: dict[str, Any], seen: str, change: str) -> None:
    async with WellBrain({**VLLM, **row}) as brain:
        found = await checkup(brain)
    assert_named(found["context length"], "warn", seen, change)


# Streams

WORDS = [f"{number} " for number in range(30)]


@pytest.mark.parametrize(
    ("script", "check", "level", "seen", "change"),
    [
        (says(Waits(0.5), "x" * 10, *WORDS), "streams", "fail", "came at once after 0.5 s", "buffering off"),
        (
            says(Waits(0.5), *WORDS, headers={"server": "nginx"}),
            "streams",
            "fail",
            "came at once",
            "nginx holds the stream back: set 'proxy_buffering off;'",
        ),
        (
            whole({"id": "c", "choices": [{"index": 0, "message": {"content": "one two"}, "finish_reason": "stop"}]}),
            "streams",
            "fail",
            "although a stream was asked for",
            "'stream: true'",
        ),
        (
            bytes_of(b"".join(chunk("c", {"content": word}) for word in WORDS)),
            "streams",
            "warn",
            "without a finish reason",
            "update the server",
        ),
        (says(*WORDS, usage=None), "usage in stream", "warn", "none came", "--enable-force-include-usage"),
        (says(*WORDS, headers={"content-encoding": "gzip"}), "answers", "fail", "compressed", "compression off"),
        (hangs, "answers", "fail", "no word within", "first_byte_seconds"),
        (says("one ", Waits(5.0)), "answers", "fail", "stopped in its middle", "overloaded or hangs"),
        (resets, "answers", "fail", "nobody answers", "log"),
        (says("one", Fails("CUDA out of memory")), "answers", "fail", "CUDA out of memory", "log"),
        (refuses(500, "EngineCore died"), "answers", "fail", "HTTP 500: EngineCore died", "log"),
        (refuses(429, "quota"), "answers", "fail", "quota", "limit is used up"),
    ],
)
async def test_an_answer_that_does_not_stream_as_it_should(
    script: Script, check: str, level: str, seen: str, change: str
) -> None:
    async with WellBrain() as brain:
        brain.ill(counts, script)
        found = await checkup(brain)
    assert_named(found[check], level, seen, change)


async def test_a_server_that_is_slow_once_is_not_held_back() -> None:
    async with WellBrain() as brain:
        slow = [True]
        brain.ill(lambda asked: counts(asked) and slow.pop() if slow else False, says(Waits(0.5), *WORDS))
        found = await checkup(brain)
    assert found["streams"].level == "ok", found["streams"]


async def test_a_field_that_is_refused_is_left_out_and_the_rest_is_checked() -> None:
    def refused(asked: Any) -> bool:
        return "stream_options" in asked.json

    async with WellBrain() as brain:
        brain.ill(refused, refuses(400, "stream_options: not supported"))
        found = await checkup(brain)
    assert "without stream_options" in found["answers"].seen
    assert_named(found["usage in stream"], "warn", "stream_options is refused", "set engine in [[text]] #1")
    assert found["tool call"].level == "ok"


# Thoughts


async def test_text_that_starts_inside_the_thought_is_no_reasoning_parser() -> None:
    async with WellBrain({**VLLM, "id": "Qwen/Qwen3.5-9B"}) as brain:
        brain.ill(also(sums, thinks), says("They want a sum.\n</think>\n\n42"))
        found = await checkup(brain)
    assert_named(found["reasoning field"], "fail", "the text starts inside the thought", "--reasoning-parser qwen3")


async def test_thoughts_that_never_end_among_the_words() -> None:
    async with WellBrain() as brain:
        brain.ill(also(sums, thinks), says("They want a sum, so let me see", finish="length"))
        found = await checkup(brain)
    assert_named(found["reasoning field"], "warn", "no thoughts are told apart", "--reasoning-parser")


async def test_an_answer_that_comes_as_a_thought() -> None:
    async with WellBrain() as brain:
        brain.ill(silent(sums), says(Thinks("42")))
        found = await checkup(brain)
    assert_named(found["reasoning field"], "fail", "the whole answer comes as a thought", "update the server")


@pytest.mark.parametrize(("thinking", "level"), [("client", "warn"), ("off", "fail")])
async def test_a_switch_that_is_not_obeyed(thinking: str, level: str) -> None:
    async with WellBrain() as brain:
        brain.ill(silent(sums), says(Thinks("I think all the same."), "42"))
        found = await checkup(brain, thinking=thinking)
    assert_named(found["thinking switch"], level, "thinks although the switch is off", "set engine in [[text]] #1")


async def test_a_switch_that_is_refused_is_left_out_of_the_other_checks() -> None:
    def switched(asked: Any) -> bool:
        return "chat_template_kwargs" in asked.json

    async with WellBrain() as brain:
        brain.ill(switched, refuses(422, "Unexpected fields in the request: {'chat_template_kwargs'}"))
        found = await checkup(brain)
    assert_named(found["thinking switch"], "warn", "is not taken", "thinking = 'client'")
    assert found["tool call"].level == "ok"


async def test_a_switch_that_fails_leaves_the_field_of_thoughts_judged() -> None:
    async with WellBrain() as brain:
        brain.ill(silent(sums), says(Thinks("I think all the same."), "42"))
        found = await checkup(brain, thinking="off")
    assert (found["thinking switch"].level, found["reasoning field"].level) == ("fail", "ok")


async def test_a_brain_that_thinks_whatever_it_is_told_is_given_room_for_its_thoughts() -> None:
    async with WellBrain() as brain:
        brain.ill(silent(sums), says(Thinks("I think all the same."), "42"))
        await checkup(brain)
        always = max(asked.json["max_tokens"] for asked in brain.asked if streamed_calls(asked) and not thinks(asked))
    async with WellBrain() as brain:
        await checkup(brain)
        at_once = max(asked.json["max_tokens"] for asked in brain.asked if streamed_calls(asked) and not thinks(asked))
    assert always > at_once


# Calls

INDEX_ERROR = "list index out of range"


@pytest.mark.parametrize(
    ("script", "seen"),
    [
        (call('"image": "1", "task": "What is the code word?"}'), "lack their opening brace"),
        (call('{"image": "1", "task": "What is the co'), "end in the middle"),
        (call('{"image": "1"}'), "a parameter is missing"),
        (call("{}"), "the arguments are empty"),
        (call("{"), "the arguments are empty"),
        (call(GOOD + '"{\\"image\\": \\"1\\"}"'), "something follows the arguments"),
        (call(GOOD + "}"), "something follows the arguments"),
        (call('{"image=1": "", "task": "x"}'), "mixed up"),
        (call(GOOD, name='analyzeImage image="1"'), "mixed up"),
        (says(Calls("analyzeImage", GOOD), Fails(INDEX_ERROR, 400)), INDEX_ERROR),
        (says("\n\n", finish="stop", usage=(400, 44)), "44 tokens"),
        (says("\n\n", finish="tool_calls", usage=(400, 4)), "neither a call nor words"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_call_that_breaks_in_the_stream_is_the_sign_of_speculative_decoding(script: Script, seen: str) -> None:
    async with WellBrain(version="0.16.0") as brain:
        brain.ill(streamed_calls, script)
        found = await checkup(brain)
    for check in ("tool call", "tool call, thinking"):
        assert_named(found[check], "fail", seen, "num_speculative_tokens to 2 or less")
        assert "2 of 2 broken" in found[check].seen
        assert "vLLM to 0.24 or later" in found[check].change


async def test_a_call_that_is_whole_when_it_is_not_streamed_is_said_to_be() -> None:
    async with WellBrain() as brain:
        brain.ill(streamed_calls, call('{"image": "1"'))
        found = await checkup(brain)
    assert "not streamed, has its call" in found["tool call"].seen
    assert "update vLLM" not in found["tool call"].change, "0.33 is new enough"


async def test_one_broken_call_of_several_is_found() -> None:
    async with WellBrain() as brain:
        turn = iter(range(100))
        brain.ill(lambda asked: streamed_calls(asked) and next(turn) == 3, call('{"image": "1"'))
        found = await checkup(brain, repeat=5)
    assert "1 of 5 broken" in found["tool call"].seen


async def test_an_empty_stream_whose_call_is_there_without_streaming_is_a_lost_call() -> None:
    async with WellBrain() as brain:
        brain.ill(streamed_calls, says(finish="stop", usage=None))
        found = await checkup(brain)
    assert_named(found["tool call"], "fail", "neither a call nor words", "num_speculative_tokens")


QWEN_CALL = "<tool_call>\n<function=analyzeImage>\n<parameter=image>\n1\n</parameter>\n</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("script", "level", "seen", "change"),
    [
        (says(QWEN_CALL), "fail", "as text among the words", "--tool-call-parser qwen3_coder"),
        (says('{"name": "analyzeImage", "arguments": {"image": "1"}}'), "fail", "as text", "--tool-call-parser"),
        (says(Thinks(QWEN_CALL)), "fail", "inside the thoughts", "0.20 or later"),
        (says("<tool_call>\n", looks(1, "What?")), "warn", "markup left among the words", "--tool-call-parser"),
        (says("I cannot see images."), "warn", "words, and no call", "nothing is broken on the wire"),
        (says(finish="stop", usage=(400, 1)), "warn", "said nothing", "nothing is broken on the wire"),
        (call("{}", name="lookAtImage"), "warn", "a tool that there is not", "nothing is broken on the wire"),
        (says(Thinks("Hm. " * 50), finish="length"), "warn", "token limit", "max_tokens"),
        (hangs, "fail", "no word within", "log"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_other_ways_of_a_call_to_go_wrong(script: Script, level: str, seen: str, change: str) -> None:
    async with WellBrain({**VLLM, "id": "Qwen/Qwen3.5-9B"}) as brain:
        brain.ill(calls, script)
        found = await checkup(brain, repeat=1)
    assert_named(found["tool call"], level, seen, change)


@pytest.mark.parametrize(
    ("row", "words", "change"),
    [
        (VLLM, '"auto" tool choice requires --enable-auto-tool-choice', "--enable-auto-tool-choice"),
        ({"owned_by": "llamacpp"}, "tools param requires --jinja flag", "llama-server with --jinja"),
        ({"owned_by": "library"}, "does not support tools", "tagged 'tools'"),
        ({"owned_by": "sglang"}, "no parser", "start SGLang with --tool-call-parser"),
        ({}, "no tools", "images = 'caption' in [[text]] #1"),
    ],
)
async def test_tools_that_are_refused_are_told_once(row: dict[str, Any], words: str, change: str) -> None:
    async with WellBrain({"id": "Qwen/Qwen3.5-9B", **row}) as brain:
        brain.ill(lambda asked: bool(asked.tools), refuses(400, words))
        found = await checkup(brain)
    assert_named(found["tools"], "fail", words, change)
    assert [name for name, verdict in found.items() if verdict.level == "fail"] == ["tools"]


async def test_a_parameter_that_is_missing_either_way_was_left_out_by_the_model() -> None:
    async with WellBrain() as brain:
        brain.ill(calls, call('{"image": "1"}'))
        found = await checkup(brain)
    assert_named(found["tool call"], "warn", "left a parameter out", "nothing is broken on the wire")


async def test_a_call_that_breaks_beside_another_tool_only() -> None:
    async with WellBrain() as brain:
        brain.ill(calls_beside, call('"image": "1", "task": "x"}'))
        found = await checkup(brain)
    assert found["tool call"].level == "ok"
    assert_named(found["tool call beside another tool"], "fail", "opening brace", "num_speculative_tokens")


async def test_a_second_call_that_loses_its_arguments() -> None:
    async with WellBrain() as brain:
        brain.ill(calls_two, says(Calls("analyzeImage", GOOD), Calls("analyzeImage", "{}", id="call_2")))
        found = await checkup(brain)
    # Asked again without a stream, the same comes back: then it is the model's doing.
    assert_named(found["two tool calls at once"], "warn", "left a parameter out", "nothing is broken")


async def test_a_second_call_that_loses_its_arguments_in_the_stream() -> None:
    async with WellBrain() as brain:
        broken = says(Calls("analyzeImage", GOOD), Calls("analyzeImage", "{}", id="call_2"))
        brain.ill(lambda asked: calls_two(asked) and bool(asked.json["stream"]), broken)
        found = await checkup(brain)
    assert_named(found["two tool calls at once"], "fail", "arguments are empty", "num_speculative_tokens")


@pytest.mark.parametrize(
    ("script", "level", "seen", "change"),
    [
        (refuses(500, "grammar rejected tokens"), "fail", "grammar", "--speculative-config"),
        (says(Fails("xgrammar: Grammar error")), "fail", "Grammar", "--speculative-config"),
        (bytes_of(b""), "fail", "an empty stream", "do not force tools"),
        (says("You said: read it."), "warn", "required is not obeyed", "clients that force a tool"),
        (refuses(400, "tool_choice must be auto"), "warn", "required is refused", "clients that force a tool"),
        (says(Calls("Read", '"notes.txt"')), "fail", "mixed up", "num_speculative_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_forced_tools(script: Script, level: str, seen: str, change: str) -> None:
    async with WellBrain() as brain:
        brain.ill(forces, script)
        found = await checkup(brain)
    assert_named(found["tool_choice"], level, seen, change)


@pytest.mark.parametrize(
    ("script", "level", "seen", "change"),
    [
        (refuses(400, "reasoning_content is not supported"), "fail", "reasoning_content", "set engine in [[text]] #1"),
        (refuses(500, "jinja: tool role"), "fail", "jinja", "log"),
        (says("A nice picture."), "warn", "not used in the answer", "weak model"),
        (says(looks(1, "Again?")), "warn", "called again", "weak model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_results_that_are_not_taken_back(script: Script, level: str, seen: str, change: str) -> None:
    async with WellBrain() as brain:
        brain.ill(has_result, script)
        found = await checkup(brain)
    assert_named(found["tool result"], level, seen, change)


async def test_system_messages_that_are_refused_are_no_fault_where_chiasm_makes_them_one() -> None:
    async with WellBrain() as brain:
        brain.ill(several_systems, refuses(400, "System message must be at the beginning."))
        found = await checkup(brain)
        wrong = await checkup(brain, engine="openai")
    assert found["several system messages"].level == "ok"
    assert_named(wrong["several system messages"], "fail", "System message must be", "engine = 'auto'")


def cached(tokens: int | None) -> Script:
    details = {} if tokens is None else {"prompt_tokens_details": {"cached_tokens": tokens}}
    usage = {"prompt_tokens": 2010, "completion_tokens": 2, "total_tokens": 2012, **details}
    return says("The gate's.", Sends(event({"choices": [], "usage": usage})), usage=None)


@pytest.mark.parametrize(
    ("tokens", "seen", "change"),
    [
        (0, "0 of 2010 tokens", "--no-enable-prefix-caching"),
        (400, "only 400 of 2010", "528 to 2096"),
        (None, "does not say", "--enable-prompt-tokens-details"),
    ],
)
async def test_a_prefix_cache_that_is_off_or_not_told(tokens: int | None, seen: str, change: str) -> None:
    async with WellBrain() as brain:
        brain.ill(long, cached(tokens))
        found = await checkup(brain)
    assert_named(found["prefix cache"], "warn", seen, change)


async def test_thoughts_that_are_counted_and_not_shown_are_no_batches() -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 120}}
    usage = {"prompt_tokens": 30, "completion_tokens": 150, "total_tokens": 180, **details}
    pieces = [piece for word in WORDS for piece in (word, Waits(0.002))]
    async with WellBrain() as brain:
        brain.ill(counts, says(*pieces, Sends(event({"choices": [], "usage": usage})), usage=None))
        found = await checkup(brain)
    assert "tokens an event" not in found["streams"].seen


async def test_one_refusal_among_several_calls_is_not_called_a_lack_of_tools() -> None:
    async with WellBrain() as brain:
        turn = iter(range(100))
        brain.ill(lambda asked: streamed_calls(asked) and next(turn) == 1, refuses(500, "EngineCore died"))
        found = await checkup(brain, repeat=3)
    assert_named(found["tool call"], "fail", "1 of 3 broken: HTTP 500: EngineCore died", "log")


async def test_tokens_that_leave_in_batches_are_named_beside_a_broken_call() -> None:
    async with WellBrain() as brain:
        brain.ill(counts, says(*(piece for word in WORDS for piece in (word, Waits(0.002))), usage=(30, 150)))
        brain.ill(streamed_calls, call('{"image": "1"'))
        found = await checkup(brain)
    assert "about 5 tokens an event" in found["streams"].seen
    assert "about 5 tokens an event" in found["tool call"].seen


async def test_a_brain_that_needs_no_tools_is_not_asked_for_calls() -> None:
    async with WellBrain() as brain:
        brain.ill(calls, refuses(400, "does not support tools"))
        found = await checkup(brain, images="caption")
    assert {found[name].level for name in ("tool call", "tool result", "tool_choice")} == {"skipped"}


# Eyes

NO_PICTURES = "eyes is not a multimodal model"


@pytest.mark.parametrize(
    ("where", "script", "check", "level", "seen", "change"),
    [
        (anything, refuses(400, NO_PICTURES), "reads a small card", "fail", NO_PICTURES, "--limit-mm-per-prompt"),
        (anything, sees("I see none.", usage=(40, 4)), "reads a small card", "fail", "was dropped", "vision model"),
        (anything, sees("ZZZZ", usage=(140, 4)), "reads a small card", "fail", "'ZZZZ' was said", "vision model"),
        (anything, refuses(429, "slow down"), "reads a small card", "fail", "slow down", "limit is used up"),
        (is_large, sees("blurred", usage=(300, 4)), "reads a large card", "warn", "makes pictures smaller", "kwargs"),
        (is_large, sees("ABCD", usage=(2100, 4)), "reads a large card", "warn", "'ABCD' was said", "larger vision"),
        (is_large, refuses(400, "maximum context length is 1024"), "reads a large card", "fail", "fit", "--max-model"),
        (is_large, refuses(500, "CUDA out of memory"), "reads a large card", "fail", "CUDA", "memory"),
        (
            pictures_of(8),
            refuses(400, "At most 2 image(s) may be provided in one prompt."),
            "limits",
            "warn",
            "at most 2",
            "--limit-mm-per-prompt '{\"image\": 8}'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_eyes_that_do_not_see_as_they_should(
    cards: Cards, where: Ill, script: Script, check: str, level: str, seen: str, change: str
) -> None:
    async with WellEyes(cards) as eyes:
        eyes.ill(where, script)
        found = await eye_test(eyes)
    assert_named(found[check], level, seen, change)


async def test_settings_per_request_that_are_refused_are_no_fault(cards: Cards) -> None:
    def own_settings(asked: Any) -> bool:
        return "mm_processor_kwargs" in asked.json

    async with WellEyes(cards) as eyes:
        eyes.ill(own_settings, refuses(400, "Per-request mm_processor_kwargs are disabled by default"))
        found = await eye_test(eyes)
    assert found["limits"].level == "ok"
    assert "refused, and Chiasm sends none" in found["limits"].seen


def thought(text: str, reasoning: str) -> Script:
    message = {"role": "assistant", "content": text, "reasoning": reasoning}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return whole({"id": "c", "object": "chat.completion", "choices": [choice]})


@pytest.mark.parametrize(
    ("before", "reasoning", "level", "seen", "change"),
    [
        ("", "A card. Let me read it.", "warn", "thinks before it looks", "kind = 'qwen' in [[vision]] #1"),
        ("<think>A card.</think> ", "", "fail", "thoughts among the words", "--reasoning-parser"),
    ],
)
async def test_eyes_that_think_although_told_not_to(
    cards: Cards, before: str, reasoning: str, level: str, seen: str, change: str
) -> None:
    async with WellEyes(cards) as eyes:

        async def thinking(asked: Asked, wire: Wire) -> None:
            await thought(before + eyes.word(asked), reasoning)(asked, wire)

        eyes.ill(pictures_of(1), thinking)
        found = await eye_test(eyes)
        allowed = await eye_test(eyes, thinking=True)
    assert_named(found["thinking off"], level, seen, change)
    assert allowed["thinking off"].level == "ok"


async def test_eyes_that_only_think(cards: Cards) -> None:
    async with WellEyes(cards) as eyes:
        eyes.ill(anything, thought("", "A card. Let me read it."))
        found = await eye_test(eyes)
    assert_named(found["reads a small card"], "fail", "nothing but thoughts", "kind = 'qwen'")


async def test_eyes_that_are_too_slow_for_their_time_limit(cards: Cards) -> None:
    async with WellEyes(cards) as eyes:

        async def slow(asked: Asked, wire: Wire) -> None:
            await asyncio.sleep(0.3)
            await eyes.well(asked)(asked, wire)

        eyes.ill(anything, slow)
        found = await eye_test(eyes, timeout_seconds=0.5)
    assert_named(found["latency"], "fail", "of 0.5 s allowed", "raise timeout_seconds in [[vision]] #1")
