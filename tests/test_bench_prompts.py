"""Prompts of exactly so many tokens, no two of which begin alike."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from router.bench.needle import QUESTION, fact
from router.bench.prompts import COUNT_ON, Composer, Prompt
from router.bench.tokens import Tokenizer
from router.http_client import http_client
from tests.brain import Asked, LoopbackServer, Script, refuses, whole

pytestmark = [pytest.mark.anyio, pytest.mark.live]


class Tokens:
    """A tokenizer by rule, that counts how often it was asked."""

    def __init__(self, rule: Callable[[str], int]) -> None:
        self.rule = rule
        self.asked = 0

    async def __call__(self, text: str) -> int:
        self.asked += 1
        return self.rule(text)


def word_each(text: str) -> int:
    return len(text.split()) + 12


def by_letters(text: str) -> int:
    """Words of unlike lengths, as with a tokenizer that knows few of them."""
    return sum(max(1, len(word) // 2) for word in text.split()) + 7


def five_each(text: str) -> int:
    return sum(1 if word == "." else 5 for word in text.split())


RULES = pytest.mark.parametrize("rule", [word_each, by_letters, five_each])


def composer(tokens: Tokens | None) -> Composer:
    return Composer(tokens, random.Random(7))


@RULES
@pytest.mark.parametrize("wanted", [100, 512, 5000])
async def test_a_prompt_has_exactly_the_tokens_that_were_wanted(rule: Callable[[str], int], wanted: int) -> None:
    made = await composer(Tokens(rule)).prompt(wanted)
    assert (rule(made.text), made.tokens, made.exact) == (wanted, wanted, True)


@RULES
async def test_further_prompts_of_a_length_take_few_counts(rule: Callable[[str], int]) -> None:
    tokens = Tokens(rule)
    one = composer(tokens)
    await one.prompt(600)
    tokens.asked = 0
    made = [await one.prompt(600) for _ in range(10)]
    assert all(prompt.exact for prompt in made)
    assert tokens.asked <= 40


async def test_no_two_prompts_begin_alike() -> None:
    one = composer(Tokens(word_each))
    heads = {" ".join((await one.prompt(300)).text.split()[:8]) for _ in range(50)}
    assert len(heads) == 50


async def test_a_template_that_the_count_leaves_out_is_learnt_from_usage() -> None:
    one = composer(Tokens(lambda text: len(text.split())))
    first = await one.prompt(200)
    one.learn(first, first.tokens + 31)
    made = await one.prompt(200)
    assert (len(made.text.split()), made.tokens, made.exact) == (169, 200, True)


async def test_without_a_tokenizer_lengths_are_estimated_and_learnt() -> None:
    one = composer(None)
    first = await one.prompt(400)
    assert not first.exact
    one.learn(first, by_letters(first.text))
    made = await one.prompt(400)
    assert not made.exact
    assert by_letters(made.text) == pytest.approx(400, rel=0.15)


async def test_a_length_that_cannot_be_made_is_told_with_the_nearest() -> None:
    made = await composer(Tokens(lambda text: 2 * word_each(text))).prompt(101)
    assert not made.exact
    assert made.tokens == pytest.approx(101, abs=2)


async def test_a_tokenizer_that_stops_counting_ends_in_no_loop() -> None:
    made = await composer(Tokens(lambda text: 0)).prompt(100)
    assert not made.exact


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
async def test_a_needle_stands_where_it_should_in_a_prompt_of_the_right_length(depth: float) -> None:
    made: Prompt = await composer(Tokens(word_each)).prompt(500, QUESTION, planted=fact("KTRWX"), depth=depth)
    assert (word_each(made.text), made.exact) == (500, True)
    body = made.text.removesuffix(QUESTION)
    before, after = body.split(fact("KTRWX"))
    share = len(before.split()) / (len(before.split()) + len(after.split()))
    assert share == pytest.approx(depth, abs=0.03)


async def test_the_question_of_a_sweep_keeps_the_model_talking() -> None:
    assert (await composer(None).prompt(100)).text.endswith(COUNT_ON)


# Which way a server counts


def as_vllm(asked: Asked) -> Script:
    said = asked.json.get("messages")
    return whole({"count": word_each(said[0]["content"])}) if said else refuses(400, "no messages")


def as_llama_cpp(asked: Asked) -> Script:
    if asked.path == "/apply-template":
        return whole({"prompt": "<|user|> " + asked.json["messages"][0]["content"] + " <|assistant|>"})
    # Asked in vLLM's way it counts nothing, and says 200.
    return whole({"tokens": list(range(len(asked.json.get("content", "").split())))})


def as_sglang(asked: Asked) -> Script:
    if asked.path != "/tokenize" or "prompt" not in asked.json:
        return refuses(400, "prompt: field required")
    return whole({"tokens": [1], "count": len(asked.json["prompt"].split()), "max_model_len": 10})


@pytest.mark.parametrize(
    ("server", "adds"), [(as_vllm, 12), (as_llama_cpp, 2), (as_sglang, 0)], ids=["vLLM", "llama.cpp", "SGLang"]
)
async def test_every_engine_is_asked_in_its_own_way(server: Callable[[Asked], Script], adds: int) -> None:
    async with LoopbackServer() as brain, http_client() as client:
        brain.answers = server
        counter = await Tokenizer(client, base_url=brain.url, model="m", headers={}).counter()
        assert counter is not None
        assert await counter("a b c d e f") == 6 + adds


async def test_a_server_that_counts_nothing_has_no_counter() -> None:
    async with LoopbackServer() as brain, http_client() as client:
        brain.answers = lambda asked: refuses(404, "nothing here")
        assert await Tokenizer(client, base_url=brain.url, model="m", headers={}).counter() is None
