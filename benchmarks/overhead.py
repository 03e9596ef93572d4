"""What Chiasm costs: the brain alone, nginx in front of it and Chiasm in front of it, measured in turn in one run.

    make bench
    python benchmarks/overhead.py --only chunks,ttft --rounds 5

Read the ratios: they hold from machine to machine, milliseconds do not.  Linux only, because the kernel's own figures
of each process are read from /proc.  A run with three rounds takes under three minutes; everything is on loopback.
"""

from __future__ import annotations

import argparse
import gc
import platform
import sys
import tempfile
import time
from asyncio import Runner
from contextlib import ExitStack
from pathlib import Path

import uvloop
from processes import NO_NGINX, brain, chiasm, find_nginx, nginx
from report import as_json, table
from scenarios import SCENARIOS, Field, run


def main() -> int:
    arguments = _arguments()
    if not Path("/proc/self/schedstat").exists():
        print("this needs a Linux kernel that keeps /proc/PID/schedstat", file=sys.stderr)
        return 2
    program = find_nginx()
    if program is None:
        print(NO_NGINX, file=sys.stderr)
    begun = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chiasm-bench-")))
        alone = stack.enter_context(brain())
        floor, storing = stack.enter_context(nginx(program, alone.port, folder)) if program else (None, None)
        router = stack.enter_context(chiasm(alone.port, folder, store=arguments.store))
        there = Field(alone, floor, storing, router, folder)
        gc.disable()  # the clients' own pauses are not what is measured
        with Runner(loop_factory=uvloop.new_event_loop) as runner:
            values = runner.run(run(there, arguments.only, arguments.rounds, _say))
    base = "nginx" if program else "alone"
    if arguments.json:
        print(as_json(values, base))
    else:
        print(table(values, base))
        if base == "alone":
            print("\nNo nginx: the ratios are against the brain alone, and goals that count in nginx are left open.")
        print(f"\nPython {platform.python_version()}, {arguments.rounds} rounds, {time.monotonic() - begun:.0f} s")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What Chiasm costs, in multiples of nginx.")
    parser.add_argument("--only", type=_names, default=list(SCENARIOS), help=f"some of {', '.join(SCENARIOS)}")
    parser.add_argument("--rounds", type=int, default=3, help="each measures every target once (default: 3)")
    parser.add_argument("--store", choices=("disk", "memory"), default="disk", help="Chiasm's store (default: disk)")
    parser.add_argument("--json", action="store_true", help="all figures, for a program to read")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SCENARIOS:
            raise argparse.ArgumentTypeError(f"there is no {name!r}; there are {', '.join(SCENARIOS)}")
    return names


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
