"""Where figures go besides the screen."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from router.bench.plan import BadPlan
from router.bench.plot import picture, png, svg
from router.bench.report import as_json
from router.bench.result import Result

_KINDS: Final = {".svg": svg, ".png": png}


@dataclass(frozen=True, slots=True)
class Outputs:
    """Raises `BadPlan` for files that could not be written, before anything is measured."""

    json: Path | None = None
    """`-`: standard output, instead of the tables."""
    plot: Path | None = None
    """Its ending says the format."""

    def __post_init__(self) -> None:
        if self.plot is not None and self.plot.suffix.lower() not in _KINDS:
            raise BadPlan(f"--plot: {self.plot.name!r} ends neither in .svg nor in .png")
        for name, file in (("--json", self.json), ("--plot", self.plot)):
            if file is not None and str(file) != "-" and not file.absolute().parent.is_dir():
                raise BadPlan(f"{name}: there is no folder {str(file.parent)!r}")

    @property
    def to_screen(self) -> bool:
        """Standard output is for people."""
        return self.json is None or str(self.json) != "-"

    def write(self, result: Result) -> None:
        """Raises `OSError`."""
        if self.json is not None and self.to_screen:
            self.json.write_text(as_json(result), encoding="utf-8")
        elif self.json is not None:
            sys.stdout.write(as_json(result))
        if self.plot is not None:
            day = result.began.date().isoformat()
            title = (
                f"{result.brain}, {result.plan.prompt_tokens} prompt tokens, {result.plan.max_tokens} answered, {day}"
            )
            self.plot.write_bytes(_KINDS[self.plot.suffix.lower()](picture(result.waves, title)))
