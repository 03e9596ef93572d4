"""A check, as data, and the order in which checks are made."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from router.doctor.budget import OutOfBudget
from router.doctor.facts import Facts
from router.doctor.verdict import Verdict, skipped


class Subject(Protocol):
    """What is examined: a brain, eyes, or the path through both."""

    title: str

    @property
    def facts(self) -> Facts: ...


S = TypeVar("S", bound=Subject)
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Check(Generic[S, E]):
    name: str
    """Unique within a subject; what `needs` and the documentation call it."""
    ask: Callable[[S], Awaitable[E | Verdict]]
    """Brings the evidence back, or a verdict where there is nothing to ask."""
    judge: Callable[[Facts, E], Verdict]
    needs: tuple[str, ...] = ()
    """Checks that must be usable first."""


@dataclass(frozen=True, slots=True)
class Checked:
    subject: str
    check: str
    verdict: Verdict
    seconds: float


async def examined(
    subject: S, checks: Sequence[Check[S, object]], clock: Callable[[], float], known: Mapping[str, Verdict]
) -> AsyncGenerator[Checked]:
    """Make the checks one after the other; each is told as soon as it is made.

    One after the other, because times are part of what is judged.  `known`: verdicts on others that checks may need.
    """
    done: dict[str, Verdict] = dict(known)
    for check in checks:
        begun = clock()
        unwell = [name for name in check.needs if name not in done or not done[name].usable]
        if unwell:
            verdict = skipped(f"because {_because(unwell[0], done)}")
        else:
            verdict = await _made(subject, check)
        done[check.name] = verdict
        yield Checked(subject.title, check.name, verdict, clock() - begun)


async def _made(subject: S, check: Check[S, object]) -> Verdict:
    try:
        evidence = await check.ask(subject)
    except OutOfBudget:
        return skipped("because it could cost more tokens than are left", "raise --max-tokens")
    return evidence if isinstance(evidence, Verdict) else check.judge(subject.facts, evidence)


def _because(name: str, done: dict[str, Verdict]) -> str:
    if name not in done:
        return f"{name!r} was not checked"
    return f"{name!r} {'failed' if done[name].level == 'fail' else 'was skipped'}"
