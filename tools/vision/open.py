"""Which eyes a configuration means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, assert_never

import httpx

from cache.image import DEFAULT_LIMITS, ImageLimits
from cache.pixels.pool import Pixels
from tools.vision.backend import VisionBackend
from tools.vision.ocr import OcrEyes
from tools.vision.openai import OPENAI, EyesProfile, OpenAIEyes
from tools.vision.qwen import QWEN

EyesKind = Literal["qwen", "openai", "ocr"]

Switch = Mapping[bool, Mapping[str, object]]
"""Body fields that switch thinking on and off."""


def profile_of(kind: Literal["qwen", "openai"], switch: Switch | None = None) -> EyesProfile:
    """What eyes of this kind want, on a server with this thinking `switch` (else the family's)."""
    profile = QWEN if kind == "qwen" else OPENAI
    return profile if switch is None else replace(profile, switch=switch)


def open_eyes(
    kind: EyesKind,
    *,
    name: str,
    client: httpx.AsyncClient | None = None,
    base_url: str = "",
    model: str | None = None,
    api_key: str = "",
    thinking: bool = False,
    max_tokens: int = 2048,
    max_concurrency: int = 8,
    timeout_seconds: float = 120.0,
    limits: ImageLimits = DEFAULT_LIMITS,
    askers: int = 1,
    pixels: Pixels | None = None,
    switch: Switch | None = None,
) -> VisionBackend:
    """Make the eyes of `kind`; arguments as in a `[[vision]]` table, how many `askers` there can be, who decodes
    pictures (else each has workers of its own), and the server's own thinking `switch` (else the family's).

    Opens no connection and loads no model.

    `qwen` and `openai` need `client` and `base_url` (else `ValueError`); the client stays its maker's to close.  `ocr`
    needs neither, and always reads one picture at a time.
    """
    match kind:
        case "ocr":
            # A second recognition would only share the same cores, at another half gigabyte.
            return OcrEyes(name=name, timeout_seconds=timeout_seconds, limits=limits, askers=askers, pixels=pixels)
        case "qwen" | "openai":
            if client is None or not base_url:
                raise ValueError(f"eyes {name!r} of kind {kind!r} need a client and a base_url ending in /v1")
            return OpenAIEyes(
                client,
                base_url,
                name=name,
                model=model,
                api_key=api_key,
                thinking=thinking,
                max_tokens=max_tokens,
                max_concurrency=max_concurrency,
                timeout_seconds=timeout_seconds,
                limits=limits,
                profile=profile_of(kind, switch),
                askers=askers,
                pixels=pixels,
            )
        case _:
            assert_never(kind)
