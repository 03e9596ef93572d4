"""What `chiasm bench` measures, against the times that the server wrote down, and against another client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import pytest
from openai import AsyncOpenAI

from router.bench.figures import METRICS, Measured, Summary, ratio, summed_up
from router.bench.load import Answer, Patience, Target, ask
from router.bench.plan import Bounds, Plan, Side
from router.bench.purse import Purse, Spent
from router.bench.report import told
from router.bench.result import Result
from router.bench.run import CannotMeasure, Run
from router.config import Settings
from router.http_client import http_client
from tests.brain import Asked, Breaks, Hangs, Script, Wire, looks, refuses, says
from tests.eyes import Eyes, Look, sees
from tests.live import Options, running
from tests.paced import TEMPLATE, Pace, PacedBrain, hidden_word
from tests.patients import drawn

pytestmark = [pytest.mark.anyio, pytest.mark.live]

METRIC = {metric.key: metric for metric in METRICS}
CLOSE = 0.05
"""By which two clients of the same streams may differ."""

ALONE: tuple[Side, ...] = ("alone",)


class Silent:
    def opening(self, result: Result) -> None: ...

    def doing(self, words: str) -> None: ...

    def step(self, requests: int = 1) -> None: ...

    def closing(self, result: Result) -> None: ...


def settings_for(brain: PacedBrain) -> Settings:
    return Options(text={"model": brain.model}).settings(brain.url, "http://127.0.0.1:9/v1")


async def measured(brain: PacedBrain, plan: Plan, *, behind: int = 0, patience: Patience | None = None) -> Result:
    """A run against this brain, and the Chiasm on the port `behind`."""
    patience = patience or Patience()
    targets: dict[Side, Target] = {"alone": Target("alone", brain.url, brain.model, "", patience)}
    if behind:
        targets["behind"] = Target("behind", f"http://127.0.0.1:{behind}/v1", "brain", "", patience)
    settings, result = settings_for(brain), Result(plan)
    async with http_client() as client:
        await Run(client, targets, settings, settings.text[0], Silent(), result).all()
    return result


def figure(result: Result, key: str, streams: int, side: Side = "alone") -> Summary:
    found = summed_up(result.waves, METRIC[key], streams, side)
    assert found is not None, result.waves
    return found


async def test_figures_agree_with_the_times_that_the_server_wrote_down() -> None:
    async with PacedBrain(Pace(first=0.2, gap=0.06, events=20)) as brain:
        brain.will_pace()
        result = await measured(brain, Plan(sides=ALONE, streams=(3,), rounds=1, prompt_tokens=200))
        told_by_server = brain.records[1:]  # the first was to warm up
        (wave,) = result.waves
        rates = sorted(stream.rate or 0 for stream in wave.answers)
        assert rates == pytest.approx(sorted(record.rate for record in told_by_server), rel=CLOSE)
        # The client's first token is the server's first event and its way here, counted from before the server knew.
        waited = median(record.sent[0] - record.came for record in told_by_server)
        assert waited <= figure(result, "ttft_ms", 3).median / 1000
        every = [moment for record in told_by_server for moment in (record.sent[0], record.sent[-1])]
        tokens = sum(len(record.sent) - 1 for record in told_by_server)
        aggregate = figure(result, "aggregate_tokens_per_s", 3).median
        assert aggregate == pytest.approx(tokens / (max(every) - min(every)), rel=CLOSE)
        assert [stream.prompt_tokens for stream in wave.answers] == [200] * 3


async def test_several_tokens_an_event_make_the_rate_of_tokens_and_not_of_events() -> None:
    async with PacedBrain(Pace(gap=0.08, events=12, tokens_per_event=4)) as brain:
        brain.will_pace()
        result = await measured(brain, Plan(sides=ALONE, streams=(1,), rounds=1))
        assert figure(result, "stream_tokens_per_s", 1).median == pytest.approx(brain.records[1].rate, rel=CLOSE)


async def test_a_thought_is_a_first_token() -> None:
    async with PacedBrain(Pace(events=8, thinks=6)) as brain:
        brain.will_pace()
        result = await measured(brain, Plan(sides=ALONE, streams=(1,), rounds=1))
        (stream,) = result.waves[0].answers
        assert len(stream.arrivals) == 8


async def test_a_stream_that_waits_its_turn_counts_from_when_it_was_due() -> None:
    async with PacedBrain(Pace(first=0.1, gap=0.02, events=10, serial=True)) as brain:
        brain.will_pace()
        result = await measured(brain, Plan(sides=ALONE, streams=(3,), rounds=1))
        (wave,) = result.waves
        firsts = sorted(stream.first for stream in wave.answers)
        spans = [record.sent[-1] - record.sent[0] for record in brain.records[1:]]
        # The last waits for the whole of both others.
        assert firsts[2] >= firsts[0] + sum(sorted(spans)[:2])
        assert figure(result, "ttft_slowest_ms", 3).median == pytest.approx(1000 * firsts[2])


async def test_a_client_that_is_late_counts_its_own_delay_too() -> None:
    async with PacedBrain(Pace(events=4)) as brain, http_client() as client:
        brain.will_pace()
        target, purse = Target("alone", brain.url, brain.model, ""), Purse(Bounds(10, 10**6, 60))
        request = target.request([{"role": "user", "content": "Count."}], 4)
        late = 5.0
        answer = await ask(client, target, request, purse, 100, due=time.monotonic() - late)
        assert late < answer.stream.first < answer.stream.ended


async def test_both_sides_are_measured_in_turn_and_compared_by_round() -> None:
    async with PacedBrain(Pace(events=8)) as brain, Eyes() as eyes:
        brain.will_pace()
        async with running(Options().settings(brain.url, eyes.url)) as port:
            result = await measured(brain, Plan(streams=(2,), rounds=2, prompt_tokens=120), behind=port)
        assert [wave.side for wave in result.waves] == ["alone", "behind", "behind", "alone"]
        assert {stream.prompt_tokens for wave in result.waves for stream in wave.answers} == {120}
        compared = ratio(result.waves, METRIC["stream_tokens_per_s"], 2)
        assert compared is not None
        assert compared.median == pytest.approx(1, rel=0.2)  # the brain's pace, whoever stands between
        prompts = [asked.json["messages"][-1]["content"] for asked in brain.asked]
        assert len(set(prompts)) == len(prompts)


async def test_cached_prompts_are_the_same_every_time() -> None:
    async with PacedBrain(Pace(events=3)) as brain:
        brain.will_pace()
        await measured(brain, Plan(sides=ALONE, streams=(1, 2), rounds=2, cached=True))
        prompts = [asked.json["messages"][-1]["content"] for asked in brain.asked[1:]]
        assert len(prompts) == 6
        assert len(set(prompts)) == 1


@pytest.mark.parametrize("name", ["ignore_eos", "stream_options", "temperature", "max_tokens"])
async def test_a_field_that_the_server_refuses_is_left_out_and_told(name: str) -> None:
    async with PacedBrain(Pace(events=4)) as brain:
        brain.refuses = (name,)
        brain.will_pace()
        result = await measured(brain, Plan(sides=ALONE, streams=(1,), rounds=1))
        assert result.good
        assert any(name in note for note in result.notes)
        assert all(name not in asked.json for asked in brain.asked[1:])


async def test_without_usage_there_are_times_and_a_note() -> None:
    async with PacedBrain(Pace(events=4, usage=False), tokenizes=False) as brain:
        brain.will_pace()
        result = await measured(brain, Plan(sides=ALONE, streams=(1,), rounds=1))
        assert figure(result, "ttft_ms", 1).median > 0
        assert summed_up(result.waves, METRIC["stream_tokens_per_s"], 1, "alone") is None
        assert any("no usage" in note for note in result.notes)
        assert not result.exact


# Faults and bounds


async def test_a_brain_that_refuses_ends_the_run_in_its_words() -> None:
    async with PacedBrain() as brain:
        brain.answers = lambda asked: refuses(401, "no such key")
        with pytest.raises(CannotMeasure, match="HTTP 401: no such key"):
            await measured(brain, Plan(sides=ALONE, streams=(1,), rounds=1))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (refuses(500, "out of memory"), "HTTP 500: out of memory"),
        (says("One.", Breaks()), "the connection broke"),
        (says("One.", Hangs()), "the answer stopped in its middle"),
        (says(Hangs()), "no word came in time"),
        (says(), "no words came"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_stream_that_fails_is_told_and_makes_no_figure(script: Script, why: str) -> None:
    async with PacedBrain(Pace(events=4)) as brain:
        brain.will_pace()
        paced = brain.answers
        assert paced is not None
        brain.answers = lambda asked: script if len(brain.asked) == 3 else paced(asked)
        plan = Plan(sides=ALONE, streams=(2,), rounds=2)
        result = await measured(brain, plan, patience=Patience(first_event=2.0, silence=1.0))
        assert not result.good
        assert [len(wave.failures) for wave in result.waves] == [1, 0]
        assert result.waves[0].failures == (why,)
        assert [one["failures"] for one in told(result)["sweep"]] == [[why]]


async def test_connections_that_break_are_asked_again_within_the_bounds_only() -> None:
    async with PacedBrain(Pace(events=4)) as brain:
        brain.will_pace()
        paced = brain.answers
        assert paced is not None
        plan = Plan(sides=ALONE, streams=(4,), rounds=5)
        most = plan.bounds(exact=True, tools=False).requests
        brain.answers = lambda asked: paced(asked) if len(brain.asked) == 1 else breaks
        with pytest.raises(Spent):
            await measured(brain, plan)
        assert 1 + 4 + 4 <= len(brain.asked) <= most, "each stream of the first wave is asked twice"


async def test_a_connection_that_breaks_before_the_answer_is_asked_again_once() -> None:
    async with PacedBrain(Pace(events=4)) as brain:
        brain.will_pace()
        paced = brain.answers
        assert paced is not None
        brain.answers = lambda asked: breaks if len(brain.asked) == 2 else paced(asked)
        result = await measured(brain, Plan(sides=ALONE, streams=(1,), rounds=1))
        assert result.good
        assert len(brain.asked) == 3


async def test_a_brain_that_has_gone_is_told_so() -> None:
    async with PacedBrain() as brain, http_client() as client:
        await brain.stop_listening()
        target = Target("alone", brain.url, brain.model, "")
        purse = Purse(Bounds(10, 10**6, 60))
        answer = await ask(client, target, target.request([], 2), purse, 10)
        assert answer.why == "nobody answers there"
        assert purse.tokens == 0


async def breaks(asked: Asked, wire: Wire) -> None:
    wire.reset()


async def test_a_server_that_counts_more_than_was_asked_for_ends_the_run() -> None:
    async with PacedBrain(Pace(events=4, tokens_per_event=20_000)) as brain:
        brain.will_pace()
        plan = Plan(sides=ALONE, streams=(2,), rounds=20)
        with pytest.raises(Spent):
            await measured(brain, plan)
        assert len(brain.asked) <= 3


async def test_what_is_spent_is_what_the_server_counted() -> None:
    async with PacedBrain(Pace(events=4)) as brain:
        brain.will_pace()
        result = await measured(brain, Plan(sides=ALONE, streams=(2,), rounds=2, prompt_tokens=150))
        assert result.purse is not None
        assert result.purse.requests == len(brain.asked) == 5
        assert result.purse.tokens == 5 * (150 + 4)


# Needles and images


async def test_needles_are_found_where_the_brain_reads_them() -> None:
    async with PacedBrain() as brain:
        brain.answers = lambda asked: says(hidden_word(asked) or "One.", usage=(brain.tokens(asked), 4))
        result = await measured(brain, Plan(sides=ALONE, streams=(), needle_tokens=400))
        assert [(one.depth, one.outcome) for one in result.needles] == [
            (depth, "found") for depth in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
        assert {one.prompt_tokens for one in result.needles} == {400}
        assert result.good


async def test_needles_beyond_what_the_brain_reads_are_not_found() -> None:
    async with PacedBrain() as brain:
        brain.answers = lambda asked: says(
            hidden_word(asked, within=250) or "I do not know.", usage=(250 + TEMPLATE, 4)
        )
        result = await measured(brain, Plan(sides=ALONE, streams=(), needle_tokens=400))
        outcomes = [one.outcome for one in result.needles]
        assert outcomes == ["found", "found", "found", "not found", "not found"]
        assert {one.prompt_tokens for one in result.needles} == {250 + TEMPLATE}
        assert any("does the server cut it?" in note for note in result.notes)


async def test_an_answer_that_was_cut_is_no_needle_that_was_not_found() -> None:
    async with PacedBrain() as brain:
        brain.answers = lambda asked: says("Let me think.", finish="length")
        result = await measured(brain, Plan(sides=ALONE, streams=(), needle_tokens=400))
        assert {one.outcome for one in result.needles} == {"cut"}


async def test_an_image_turn_tells_the_silence_of_the_look_and_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    pause = 0.4
    with drawn(monkeypatch) as cards:
        async with PacedBrain() as brain, Eyes() as eyes:
            brain.will(
                says("Warm."),
                says("Warm."),
                says("Let me look. ", looks(1, "What is the code word?")),
                says("It is a word."),
                says("Let me look. ", looks(1, "What is the code word?")),
            )
            brain.answers = lambda asked: says(f"It is {word(asked)}.")
            eyes.answers = lambda asked: sees("the word " + cards.find(picture_of(asked)).words[0], after=pause)
            async with running(Options().settings(brain.url, eyes.url)) as port:
                result = await measured(brain, Plan(streams=(), images=2), behind=port)
    blind, seeing = result.images
    assert (blind.read, seeing.read) == (False, True)
    for turn in result.images:
        assert (turn.turns, turn.vision_calls) == (2, 1)
        assert turn.vision_prompt_tokens > 0
        assert turn.silence is not None
        assert turn.first is not None
        # Chiasm may look before its words have reached this busy loop, so a part of the pause may go unseen.
        assert pause / 2 <= turn.silence <= turn.whole
        assert turn.first < turn.whole


def word(asked: Asked) -> str:
    return str(asked.messages[-1]["content"]).split("the word ")[1].split()[0].strip(".")


def picture_of(asked: Asked) -> bytes:
    return Look(asked).pictures[0]


# Another client


async def test_figures_agree_with_an_independent_client_within_five_percent() -> None:
    async with PacedBrain(Pace(first=1.0, gap=0.03, events=25)) as brain:
        brain.will_pace()
        target = Target("alone", brain.url, brain.model, "")
        request = target.request([{"role": "user", "content": "Count."}], 25)
        purse = Purse(Bounds(100, 10**6, 60))
        ours: list[Answer] = []
        theirs: list[tuple[float, float]] = []
        async with http_client() as client, AsyncOpenAI(base_url=brain.url, api_key="none") as other:
            await asked_by(other, request)  # its first request imports half of its package
            for _ in range(3):
                ours.append(await ask(client, target, request, purse, 200))
                theirs.append(await asked_by(other, request))
        result = Result(Plan(sides=ALONE, streams=(1,)))
        result.waves += [Measured(1, number, "alone", (answer.stream,)) for number, answer in enumerate(ours)]
        figures = told(result)["sweep"][0]["figures"]
        assert figures["ttft_ms"]["median"] / 1000 == pytest.approx(median(one for one, _ in theirs), rel=CLOSE)
        rate = figures["stream_tokens_per_s"]["median"]
        assert rate == pytest.approx(median(one for _, one in theirs), rel=CLOSE)


async def asked_by(client: AsyncOpenAI, request: Mapping[str, Any]) -> tuple[float, float]:
    """Seconds to the first token, and tokens a second, as the official client's user would measure them."""
    begun = time.monotonic()
    came: list[float] = []
    tokens = 0
    async with asyncio.timeout(30):
        stream = await client.chat.completions.create(
            model=request["model"],
            messages=request["messages"],
            max_tokens=request["max_tokens"],
            stream=True,
            stream_options={"include_usage": True},
        )
        async for one in stream:
            if one.choices and one.choices[0].delta.content:
                came.append(time.monotonic())
            if one.usage:
                tokens = one.usage.completion_tokens
    return came[0] - begun, (tokens - 1) / (came[-1] - came[0])
