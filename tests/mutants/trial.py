"""Runs the tests against one fault after the other, each in a fork of a process that has everything loaded.

A fault is never written to disk.  One inside a function is put into the running function (`__code__`), and only tests
that execute its statement are run, quick ones first.  One that takes effect at import (a constant, a default, a table)
needs the modules anew: the fork forgets them, imports them with the fault in place and collects the tests again.

Time is counted as processor time, so that a busy machine does not make a fault look noticed.
"""

from __future__ import annotations

import functools
import gc
import importlib.abc
import importlib.machinery
import os
import resource
import select
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import Phase, settings

from tests.mutants.changes import Change, changed, reporting

EXAMPLES = 25
"""Of each property, where it asks for more: a fault that only the four-hundredth example finds counts as not found."""

_LEAST_SECONDS = 3.0
_TIMES_AS_LONG = 6
"""A fault that makes its tests this many times slower, and slower than `_LEAST_SECONDS`, has been noticed."""
_IDLE_SECONDS = 120.0
"""A fork that waits for something that never comes uses no processor time."""
_MEMORY = 2 * 1024**3
"""A fault may fill memory without end."""

_SURVIVED, _KILLED, _FAULT_OF_OURS = 0, 1, 70


_REPORT = "__reached__"
_Remembering: type[Any] = type(functools.lru_cache(abs))


class Verdict(Enum):
    KILLED = "killed"
    SURVIVED = "survived"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True)
class Outcome:
    change: Change
    verdict: Verdict
    tests: int
    """How many tests could have noticed."""
    seconds: float


class Trials:
    """A pytest plugin: collects as always, runs everything once for the map, then tries the faults."""

    def __init__(self, root: Path, sources: dict[str, str], faults: Sequence[Change], jobs: int) -> None:
        self._root = root
        self._sources = sources
        self._faults = faults
        self._jobs = jobs
        self._by_line: dict[tuple[str, int], set[int]] = defaultdict(set)
        self._seconds: dict[int, float] = {}
        self._items: list[pytest.Item] = []
        self._functions: list[FunctionType] = []
        self._remembering: list[Any] = []
        self.outcomes: list[Outcome] = []
        self.problem = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            self.problem = "the tests could not be collected"
            return True
        self._items = session.items
        names = {str(self._root / file) for file in self._sources}
        living = gc.get_objects()
        self._functions = [
            one for one in living if isinstance(one, FunctionType) and one.__code__.co_filename in names and _named(one)
        ]
        self._remembering = [
            one for one in living if isinstance(one, _Remembering) and one.__module__.startswith("router.")
        ]
        fewer_examples(self._items)
        failed = self._map()
        if failed:
            self.problem = f"the tests fail without any fault: {', '.join(failed[:5])}"
            return True
        print(f"  the tests take {sum(self._seconds.values()):.0f} s once", file=sys.__stderr__, flush=True)
        self._try_all()
        return True

    # The map

    def _map(self) -> list[str]:
        """Which statements each test executes: for one run every function says so itself, which costs far less than
        to trace it.  Answers the tests that fail."""
        failed: list[str] = []
        reached: set[tuple[str, int]] = set()
        plain = {function: function.__code__ for function in self._functions}
        for file, source in self._sources.items():
            name = str(self._root / file)
            code = compile(reporting(source, _REPORT), name, "exec", dont_inherit=True)
            for function in self._functions:
                if function.__code__.co_filename == name:
                    function.__globals__[_REPORT] = functools.partial(_add, reached, file)
                    function.__code__ = _code_in(code, function.__code__)
        for number, item in enumerate(self._items):
            reached.clear()
            self._forget_remembered()
            started = time.process_time()
            if not _passes(item, self._items[number + 1] if number + 1 < len(self._items) else None):
                failed.append(item.nodeid)
            self._seconds[number] = time.process_time() - started
            for place in reached:
                self._by_line[place].add(number)
        for function, code in plain.items():
            function.__code__ = code
        return failed

    def _forget_remembered(self) -> None:
        for one in self._remembering:
            one.cache_clear()

    def _tests_for(self, change: Change) -> list[int]:
        return self._spread(self._by_line.get((change.file, change.statement), ()))

    def _spread(self, numbers: Iterable[int]) -> list[int]:
        """One case of each test before the second of any, quick ones first: cases of one test tend to agree."""
        rank: dict[str, int] = defaultdict(int)
        order = []
        for number in sorted(numbers, key=lambda number: self._seconds[number]):
            name = self._items[number].nodeid.partition("[")[0]
            order.append((rank[name], self._seconds[number], number))
            rank[name] += 1
        return [number for _, _, number in sorted(order)]

    def _test_files_for(self, change: Change) -> list[str]:
        """Those that run anything of the file most often first; all where it holds nothing that runs by line."""
        counts: dict[str, int] = defaultdict(int)
        for (file, _), numbers in self._by_line.items():
            if file == change.file:
                for number in numbers:
                    counts[str(self._items[number].path)] += 1
        everything = list(dict.fromkeys(str(item.path) for item in self._items))
        return sorted(counts, key=lambda path: -counts[path]) + [path for path in everything if path not in counts]

    # The faults

    def _try_all(self) -> None:
        gc.freeze()
        waiting = list(reversed(self._faults))
        running: dict[int, tuple[int, Change, int, float]] = {}
        while waiting or running:
            while waiting and len(running) < self._jobs:
                change = waiting.pop()
                tests = self._tests_for(change) if change.function else list(range(len(self._items)))
                if not tests:
                    self.outcomes.append(Outcome(change, Verdict.SURVIVED, 0, 0.0))
                    continue
                seconds = max(_LEAST_SECONDS, _TIMES_AS_LONG * sum(self._seconds[number] for number in tests))
                process, pipe = self._fork(change, tests, seconds)
                running[pipe] = (process, change, len(tests), time.monotonic())
            ended, _, _ = select.select(list(running), [], [], 1.0)
            for pipe, (process, change, count, started) in list(running.items()):
                late = time.monotonic() - started > _IDLE_SECONDS
                if pipe not in ended and not late:
                    continue
                if late:
                    os.kill(process, signal.SIGKILL)
                _, status = os.waitpid(process, 0)
                os.close(pipe)
                del running[pipe]
                verdict = Verdict.TIMED_OUT if late else _verdict(status)
                self.outcomes.append(Outcome(change, verdict, count, time.monotonic() - started))
                self._show_progress()

    def _show_progress(self) -> None:
        done, survived = len(self.outcomes), sum(one.verdict is Verdict.SURVIVED for one in self.outcomes)
        if done % 50 == 0:
            print(f"  {done} of {len(self._faults)} tried, {survived} survived", file=sys.__stderr__, flush=True)

    def _fork(self, change: Change, tests: Sequence[int], seconds: float) -> tuple[int, int]:
        """The process, and a pipe that becomes readable when it is over."""
        reading, writing = os.pipe()
        process = os.fork()
        if process:
            os.close(writing)
            return process, reading
        code, told = _FAULT_OF_OURS, 2
        try:
            os.close(reading)
            nowhere, told = os.open(os.devnull, os.O_RDWR), os.dup(2)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
            code = self._noticed_inside(change, tests) if change.function else self._noticed_at_import(change)
        except BaseException as error:
            os.write(told, f"{change.file}:{change.line}: {change.told}: {error!r}\n".encode())
        finally:
            os._exit(code)

    def _noticed_inside(self, change: Change, tests: Sequence[int]) -> int:
        name = str(self._root / change.file)
        code = compile(changed(self._sources[change.file], change), name, "exec", dont_inherit=True)
        # All of the file's functions, because two may have one name (a property and its setter).
        for function in self._functions:
            if function.__code__.co_filename == name and function.__code__.co_qualname == change.function:
                function.__code__ = _code_in(code, function.__code__)
        self._forget_remembered()
        order = [self._items[number] for number in tests]
        for item, following in zip(order, [*order[1:], None], strict=True):
            if not _passes(item, following):
                return _KILLED
        return _SURVIVED

    def _noticed_at_import(self, change: Change) -> int:
        name = str(self._root / change.file)
        code = compile(changed(self._sources[change.file], change), name, "exec", dont_inherit=True)
        for module in [one for one in sys.modules if one.split(".")[0] in ("router", "tools", "cache", "tests")]:
            if not module.startswith("tests.mutants") and module != "tests":
                del sys.modules[module]
        sys.meta_path.insert(0, _Finder(change.file.removesuffix(".py").replace("/", "."), name, code))
        arguments = [*OPTIONS, "-x", *self._test_files_for(change)]
        result = pytest.main(arguments, plugins=[_FewerExamples()])
        return _SURVIVED if result == pytest.ExitCode.OK else _KILLED


OPTIONS = (
    *("-q", "-s", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"),
    *("-m", "not live"),  # the core alone, without sockets
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # its modules are loaded already, that is the point
)


class _FewerExamples:
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        fewer_examples(items)


def fewer_examples(items: Iterable[pytest.Item]) -> None:
    """Properties that ask for many examples of their own accord are given `EXAMPLES`; nothing is made smaller when it
    fails, because only that it fails counts."""
    for item in items:
        test = getattr(item, "obj", None)
        asked = getattr(test, "_hypothesis_internal_use_settings", None)
        if isinstance(asked, settings):
            test._hypothesis_internal_use_settings = settings(  # type: ignore[union-attr]
                asked,
                max_examples=min(EXAMPLES, asked.max_examples),
                phases=(Phase.explicit, Phase.generate),
                derandomize=True,
                database=None,
                deadline=None,
            )


def _passes(item: pytest.Item, following: pytest.Item | None) -> bool:
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=following))


def _verdict(status: int) -> Verdict:
    if os.WIFSIGNALED(status):
        return Verdict.TIMED_OUT if os.WTERMSIG(status) == signal.SIGPROF else Verdict.KILLED
    match os.WEXITSTATUS(status):
        case 0:
            return Verdict.SURVIVED
        case 1:
            return Verdict.KILLED
    raise RuntimeError("a fault could not be put in place; its fork said why above")


def _named(function: FunctionType) -> bool:
    """Whether it stands in a file by itself: what is made while a function runs is part of that function."""
    return "<" not in function.__code__.co_qualname


def _add(reached: set[tuple[str, int]], file: str, line: int) -> None:
    reached.add((file, line))


def _code_in(module: CodeType, old: CodeType) -> CodeType:
    for code in _codes(module):
        if code.co_qualname == old.co_qualname and code.co_firstlineno == old.co_firstlineno:
            return code
    raise LookupError(f"no {old.co_qualname} in the changed file")


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from code that is at hand."""

    def __init__(self, module: str, path: str, code: CodeType) -> None:
        self._module = module
        self._path = path
        self._code = code

    def find_spec(self, fullname: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=self._path)

    def exec_module(self, module: Any) -> None:
        exec(self._code, module.__dict__)
