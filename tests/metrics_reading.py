"""What `/metrics` says, as Prometheus reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from tests.live import DEADLINE, House


@dataclass(frozen=True, slots=True)
class Scraped:
    samples: tuple[tuple[str, dict[str, str], float], ...]

    @classmethod
    def read(cls, text: str) -> Scraped:
        families = text_string_to_metric_families(text)
        return cls(
            tuple((sample.name, dict(sample.labels), sample.value) for one in families for sample in one.samples)
        )

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name with these labels; 0 where there is none."""
        return sum(
            value
            for found, has, value in self.samples
            if found == name and all(has.get(k) == v for k, v in labels.items())
        )

    def values(self, name: str, label: str) -> set[str]:
        return {has[label] for found, has, _ in self.samples if found == name and label in has}

    @property
    def names(self) -> set[str]:
        return {name for name, _, _ in self.samples}

    @property
    def words(self) -> Iterable[str]:
        for name, labels, _ in self.samples:
            yield name
            yield from labels.values()


async def scrape(house: House) -> Scraped:
    got = await house.get("/metrics")
    assert got.status == 200, got.body
    assert got.headers["content-type"].startswith("text/plain; version=")
    return Scraped.read(got.body.decode())


async def scraped_until(house: House, condition: Callable[[Scraped], bool]) -> Scraped:
    """The first that it holds for."""
    async with asyncio.timeout(DEADLINE):
        while not condition(got := await scrape(house)):
            pass
    return got
