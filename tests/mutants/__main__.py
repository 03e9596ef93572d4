"""Whether the tests notice when the core is changed: `python -m tests.mutants [FILE...] [--sample N --seed S]`.

Makes small faults in `router/protocol/`, runs the tests of that core against each, and names those that no test
notices.  Ends with exit code 1 where fewer than 90 % are noticed, and with 2 where nothing could be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORE = "router/protocol"
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
LEAST_SCORE = 90.0

PURE_TESTS = (
    "test_exchange.py",
    "test_exchange_broken_calls.py",
    "test_exchange_details.py",
    "test_exchange_refusals.py",
    "test_wire_fixtures.py",
    "test_sse.py",
    "test_openai_chat.py",
    "test_transcripts.py",
    "test_rescue.py",
    "test_cuts.py",
    "test_image_parts.py",
    "test_history.py",
    "test_ledger.py",
    "test_profiles.py",
    "test_ingest.py",
    "test_chat_request.py",
    "test_image_list.py",
    "test_file_names.py",
    "test_pictures.py",
    "test_placeholders.py",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/mutants/run.sh", description="Whether the tests notice faults.")
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {CORE}/, such as sse.py; default: all")
    parser.add_argument("--sample", type=int, metavar="N", help="try only N faults, chosen at random")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of that choice (default: 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="J", help="processes at a time")
    asked = parser.parse_args()

    os.chdir(ROOT)
    os.environ["HYPOTHESIS_PROFILE"] = "mutants"
    from tests.mutants.changes import changes

    names = [Path(name).name for name in asked.files] or sorted(path.name for path in (ROOT / CORE).glob("*.py"))
    unknown = [name for name in names if not (ROOT / CORE / name).is_file()]
    if unknown:
        parser.error(f"no such file in {CORE}/: {', '.join(unknown)}")
    sources = {f"{CORE}/{name}": (ROOT / CORE / name).read_text() for name in names}
    every = [change for file, source in sources.items() for change in changes(file, source)]
    equivalent = listed_as_equivalent()
    made = [change for change in every if change.key not in equivalent]
    stale = [key for key in equivalent if key[0] in sources and key not in {change.key for change in every}]
    chosen = made
    if asked.sample is not None and asked.sample < len(made):
        chosen = random.Random(asked.seed).sample(made, asked.sample)
    print(f"{len(every)} faults, of which {len(every) - len(made)} listed as changing nothing; {len(chosen)} are tried")

    import pytest

    from tests.mutants.trial import OPTIONS, Trials, Verdict

    started = time.monotonic()
    trials = Trials(ROOT, sources, chosen, asked.jobs)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        pytest.main([*OPTIONS, *(f"tests/{name}" for name in PURE_TESTS)], plugins=[trials])
    if trials.problem or len(trials.outcomes) != len(chosen):
        print(said.getvalue())
        print(f"nothing was measured: {trials.problem or 'pytest ended early, see above'}", file=sys.stderr)
        return 2

    counts = Counter(outcome.verdict for outcome in trials.outcomes)
    survivors = [outcome for outcome in trials.outcomes if outcome.verdict is Verdict.SURVIVED]
    for outcome in sorted(survivors, key=lambda outcome: (outcome.change.file, outcome.change.line)):
        change = outcome.change
        unreached = "" if outcome.tests else "   (no test comes here)"
        print(f"survived  {change.file}:{change.line}: {change.told}{unreached}\n          | {change.source}")
    for file, source, told in stale:
        print(f"{EQUIVALENT.name} lists a fault that is no longer made: {file} | {source} | {told}")
    score = 100 * (1 - len(survivors) / len(chosen)) if chosen else 100.0
    print(
        f"{len(chosen)} tried: {counts[Verdict.KILLED]} killed, {counts[Verdict.TIMED_OUT]} timed out, "
        f"{counts[Verdict.SURVIVED]} survived; score {score:.1f} % (at least {LEAST_SCORE:.0f} %), "
        f"{time.monotonic() - started:.0f} s"
    )
    return 0 if score >= LEAST_SCORE else 1


def listed_as_equivalent() -> set[tuple[str, str, str]]:
    """Faults that change nothing anyone could see: `file | source line | old -> new | reason`, one to a line."""
    keys = set()
    for line in EQUIVALENT.read_text().splitlines() if EQUIVALENT.exists() else []:
        if line.strip() and not line.startswith("#"):
            file, rest = line.split(" | ", 1)
            source, told, reason = rest.rsplit(" | ", 2)
            assert reason.strip(), f"no reason given: {line!r}"
            keys.add((f"{CORE}/{file.strip()}", source.strip(), told.strip()))
    return keys


if __name__ == "__main__":
    sys.exit(main())
