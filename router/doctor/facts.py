"""What is known of a server by now, for judges to word their remedies with."""

from __future__ import annotations

from dataclasses import dataclass

from router.protocol.profiles import PROFILES, Profile


@dataclass(frozen=True, slots=True)
class Facts:
    place: str
    """Where it stands in the configuration, such as `[[text]] #1`."""
    base_url: str
    configured: str | None
    """Model id of the configuration."""
    engine: str = "auto"
    version: str = ""
    model: str | None = None
    """The id that is asked for."""
    has_key: bool = False
    context: int | None = None
    tokens_per_event: float = 0.0
    """Of a plain streamed answer; 0: not known.  Well above 1: tokens leave in batches."""

    @property
    def profile(self) -> Profile:
        return PROFILES[self.engine]

    @property
    def called(self) -> str:
        """Engine and version, as far as they are known."""
        if self.engine == "auto":
            return "an engine that does not say which"
        return " ".join([_NAMES.get(self.engine, self.engine), *([self.version] if self.version else [])])

    def older_than(self, *version: int) -> bool | None:
        """`None` where it is not known."""
        numbers = self.version.removeprefix("v").split(".")[: len(version)]
        if len(numbers) < len(version) or not all(number.isdecimal() for number in numbers):
            return None
        return tuple(map(int, numbers)) < version


_NAMES = {"vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp", "ollama": "Ollama"}
