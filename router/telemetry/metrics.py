"""What is counted, for `/metrics`.  `docs/operating.md` has the table of names.

Names are those of OpenTelemetry's semantic conventions for generative AI where there is one, written as Prometheus
wants them; towards clients Chiasm is a server there, towards brain and eyes a client.  A label has few values, all
known beforehand: names from the configuration, codes from the lists here; whatever else somebody sends becomes `other`.

With several workers each writes into files of its own in a folder that they share (`prometheus_client`'s multi-process
mode, begun by `shared_folder` before they start), and whichever is asked answers for all.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, cast

from anyio import to_thread
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from cache.tables import Moved
from router.config import Settings
from router.errors import ChiasmError
from tools.watch import Price

_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The library reads it when it is imported, which a worker does anew."""

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68)
"""The conventions', and two more: an answer with several turns takes minutes."""
_FIRST_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120)
_TOKENS = tuple(4**power for power in range(11))
_TURNS = (1, 2, 3, 4, 6, 8, 12, 16)

REASONS: Final = frozenset({"stop", "length", "tool_calls", "content_filter", "refusal", "pause_turn"})
"""How an answer ends well."""

ERRORS: Final = frozenset(
    {
        "cancelled",
        "client_gone",
        "invalid_request_error",
        "invalid_api_key",
        "foreign_origin",
        "model_not_found",
        "not_found",
        "method_not_allowed",
        "request_too_large",
        "request_timeout",
        "overloaded",
        "server_shutdown",
        "upstream_refused",
        "upstream_error",
        "upstream_timeout",
        "upstream_unavailable",
        "upstream_unreachable",
        "upstream_reset",
        "upstream_truncated",
        "upstream_lacks_path",
        "server_error",
        "unsupported_content_encoding",
    }
)

BAD_IMAGES: Final = (
    ("url", re.compile(r"\b(URL|host|address|addresses|server|server's|redirects|fetched|connection)\b")),
    ("too_large", re.compile("large|scans|costly")),
    ("truncated", re.compile("^truncated")),
    ("damaged", re.compile("^damaged")),
    ("unsupported", re.compile("^unsupported")),
    ("no_image", re.compile("^not an image|^empty|no pixels")),
    ("base64", re.compile("base64")),
)
"""Kinds by the words that a placeholder says; `other` for the rest."""

_Mode = Literal["livesum", "livemax", "livemostrecent"]
"""How the values of several workers become one."""

_BREAKER = {"closed": 0.0, "half open": 0.5, "open": 1.0}


def outcome_of(error: BaseException | None, reason: str = "") -> str:
    """One of `REASONS`, `ERRORS`, or `other`."""
    if error is None:
        return reason if reason in REASONS else "other"
    if isinstance(error, ChiasmError):
        codes = (error.code, type(error).code, error.type)  # its own may be a server's word
        return next((code for code in codes if code in ERRORS), "other")
    return "server_error"


def kind_of(problem: str) -> str:
    return next((kind for kind, words in BAD_IMAGES if words.search(problem)), "other")


class Metrics:
    """Of one application.  Methods are named after what happened."""

    def __init__(self, settings: Settings) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody asks for
        self._folder = os.environ.get(_FOLDER, "")
        self._registry = CollectorRegistry()
        # What is in a registry and in the shared files would be told twice.
        self._registered = None if self._folder else self._registry
        self._currency = settings.server.currency
        self._store = settings.store.kind
        self._prices = {
            **{("brain", model_label(text.name)): Price(text.price_input, text.price_output) for text in settings.text},
            **{("eyes", one.name or "eyes"): Price(one.price_input, one.price_output) for one in settings.vision},
        }
        model, op = "gen_ai_request_model", "gen_ai_operation_name"
        self._duration = self._histogram(
            "gen_ai_server_request_duration_seconds",
            "From a client's request, read whole, to the end of its answer.",
            (op, model, "format", "error_type"),
            _SECONDS,
        )
        self._first = self._histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a client's request to the first words of its stream.",
            (op, model, "format"),
            _FIRST_SECONDS,
        )
        self._exchanges = self._counter("chiasm_exchanges", "Requests for an answer.", (model, "format", "outcome"))
        self._refused = self._counter("chiasm_refused_requests", "Answered with an error status.", ("status",))
        self._chunks = self._counter("chiasm_chunks", "Events written to clients' streams.", (model,))
        self._turns = self._histogram(
            "chiasm_turns_per_exchange", "Completions asked of the brain for one answer.", (model,), _TURNS
        )
        self._operation = self._histogram(
            "gen_ai_client_operation_duration_seconds",
            "One turn of a brain, one look of eyes.",
            (op, model, "role", "error_type"),
            _SECONDS,
        )
        self._first_of_turn = self._histogram(
            "gen_ai_client_operation_time_to_first_chunk_seconds",
            "From a turn's request to its first bytes.",
            (op, model),
            _FIRST_SECONDS,
        )
        self._tokens = self._histogram(
            "gen_ai_client_token_usage",
            "Tokens of one turn or look, as its server counts them.",
            (op, model, "role", "gen_ai_token_type"),
            _TOKENS,
        )
        self._cached = self._counter(
            "chiasm_cached_input_tokens", "Of prompts, read from a server's prefix cache, as it says.", (model,)
        )
        self._cost = self._counter("chiasm_cost", "By the configured prices.", (model, "role", "currency"))
        self._looks = self._counter("chiasm_looks", "Looks, by how they ended.", ("eyes", "outcome"))
        self._images = self._counter("chiasm_images", "Images that got a number.")
        self._loaded = self._counter(
            "chiasm_images_loaded", "Images loaded: new ones, and those that came back.", ("reason",)
        )
        self._forgotten = self._counter("chiasm_images_forgotten", "Images forgotten.")
        self._bad = self._counter("chiasm_bad_images", "Images that nobody can look at.", ("kind",))
        self._prompt = self._counter("chiasm_prompt_bytes", "Bytes of prompts, pictures apart.", (model,))
        self._reused = self._counter(
            "chiasm_prompt_bytes_reused", "Of those, the beginning of the conversation's prompt before.", (model,)
        )
        self._running = self._gauge("chiasm_exchanges_in_progress", "Answers being given.")
        self._looking = self._gauge("chiasm_looks_in_progress", "Looks that somebody waits for.", ("eyes",))
        self._waiting = self._gauge("chiasm_looks_waiting", "Of those, beyond what runs at once.", ("eyes",))
        self._breaker = self._gauge(
            "chiasm_breaker_open", "1: the brain is left alone; 0.5: tried again.", (model,), mode="livemax"
        )
        # A store on disk is one for all workers, memory is each worker's own.
        self._stored = self._gauge(
            "chiasm_store_bytes",
            "What the store holds; missing where only its server knows.",
            ("kind",),
            mode="livesum" if settings.store.kind == "memory" else "livemostrecent",
        )

    @property
    def shared(self) -> bool:
        """Whether other processes answer for this one."""
        return bool(self._folder)

    # What happened

    def refused(self, status: int) -> None:
        self._refused.labels(str(status)).inc()

    def exchange(self, model: str, form: str, outcome: str, seconds: float, first: float | None) -> None:
        error = "" if outcome in REASONS else outcome
        self._exchanges.labels(model, form, outcome).inc()
        self._duration.labels("chat", model, form, error).observe(seconds)
        if first is not None:
            self._first.labels("chat", model, form).observe(first)

    def answered(self, model: str, turns: int, chunks: int) -> None:
        if turns:
            self._turns.labels(model).observe(turns)
        self._chunks.labels(model).inc(chunks)

    def turn(self, model: str, seconds: float, first: float | None, error: str) -> None:
        self._operation.labels("chat", model, "brain", error).observe(seconds)
        if first is not None:
            self._first_of_turn.labels("chat", model).observe(first)

    def cached(self, model: str, tokens: int) -> None:
        self._cached.labels(model).inc(tokens)

    def look(self, eyes: str, outcome: str, seconds: float) -> None:
        self._looks.labels(eyes, outcome).inc()
        if outcome in ("answered", "behind"):
            self._operation.labels("chat", eyes, "eyes", "").observe(seconds)
        elif outcome.startswith("failed"):
            self._operation.labels("chat", eyes, "eyes", outcome).observe(seconds)

    def tokens(self, role: str, model: str, read: int, said: int) -> float:
        """Answers what they cost."""
        self._tokens.labels("chat", model, role, "input").observe(read)
        self._tokens.labels("chat", model, role, "output").observe(said)
        cost = self.price(role, model).of(read, said)
        if cost:
            self._cost.labels(model, role, self._currency).inc(cost)
        return cost

    def price(self, role: str, model: str) -> Price:
        return self._prices.get((role, model)) or Price()

    def moved(self, moved: Moved) -> None:
        if moved.new:
            self._images.inc(moved.new)
        for reason, count in (("new", moved.loaded), ("back", moved.back)):
            if count:
                self._loaded.labels(reason).inc(count)
        if moved.forgotten:
            self._forgotten.inc(moved.forgotten)

    def bad_image(self, problem: str) -> None:
        self._bad.labels(kind_of(problem)).inc()

    def prompt(self, model: str, total: int, reused: int) -> None:
        self._prompt.labels(model).inc(total)
        self._reused.labels(model).inc(reused)

    # What is

    def running(self, exchanges: int) -> None:
        self._running.set(exchanges)

    def eyes(self, name: str, looking: int, waiting: int) -> None:
        self._looking.labels(name).set(looking)
        self._waiting.labels(name).set(waiting)

    def breaker(self, model: str, state: str) -> None:
        self._breaker.labels(model).set(_BREAKER[state])

    def stored(self, size: int) -> None:
        self._stored.labels(self._store).set(size)

    async def exposed(self, accept: str) -> tuple[bytes, str]:
        """The text of all of it, in the form that is asked for, and its media type."""
        encode, media_type = choose_encoder(accept)
        if not self.shared:
            return encode(self._registry), media_type

        def collected() -> bytes:
            _without_the_dead(Path(self._folder))
            registry = CollectorRegistry()
            registry.register(_OfAllWorkers(None, self._folder))  # type: ignore[no-untyped-call]
            return encode(registry)

        return await to_thread.run_sync(collected), media_type

    def _counter(self, name: str, words: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, words, labels, registry=self._registered)

    def _histogram(self, name: str, words: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, words, labels, buckets=buckets, registry=self._registered)

    def _gauge(self, name: str, words: str, labels: tuple[str, ...] = (), mode: _Mode = "livesum") -> Gauge:
        return Gauge(name, words, labels, multiprocess_mode=mode, registry=self._registered)


class _OfAllWorkers(MultiProcessCollector):
    """The library's own fails on a file that a worker has made this moment and not yet given its size."""

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in Path(self._path).glob("*.db") if _has_size(path)]
        return cast(Iterable[Metric], self.merge(files, accumulate=True))  # type: ignore[no-untyped-call]


def _has_size(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:  # of a worker that another one has found dead
        return False


def model_label(name: str | None) -> str:
    """Of a brain: as configured, because what its server calls it is its server's to choose."""
    return name or "default"


def _without_the_dead(folder: Path) -> None:
    """A worker that was killed still has its queue in the files; what it has counted stays."""
    for pid in {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*_*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
        except PermissionError:
            continue


@contextmanager
def shared_folder(workers: int) -> Iterator[None]:
    """Within it, processes that are started count together."""
    if workers < 2:
        yield
        return
    folder = tempfile.mkdtemp(prefix="chiasm-metrics-")
    before = os.environ.get(_FOLDER)
    os.environ[_FOLDER] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FOLDER]
        else:
            os.environ[_FOLDER] = before
        shutil.rmtree(folder, ignore_errors=True)
