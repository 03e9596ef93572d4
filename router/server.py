"""Runs the application: the listening socket, the words at the start, and an end that lets running answers finish."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette

from cache.store import StoreError
from router.allocator import share_heaps
from router.app import create_app, open_configured_store
from router.config import ConfigError, Settings, TextSettings
from router.connection import KEEP_ALIVE_SECONDS, Connection
from router.draining import Workers, draining
from router.log_lines import FORMATTERS
from router.telemetry.metrics import shared_folder

_BACKLOG = 2048

MOST_CONNECTIONS = 8192
"""Of one process, each with an answer that may run for minutes: some 300 MB where all of them do."""

_OTHER_DESCRIPTORS = 512
"""Files of the store, the listening socket, and connections that are told that there is no room."""

_STORE_SECONDS = 3.0
"""For the store's first answer.  Redis has limits of its own, far below."""


def serve(settings: Settings, *, workers: int = 1) -> None:
    """Serve until SIGTERM or SIGINT.  Raises `ConfigError` and `OSError` (the address cannot be had) before anything
    listens."""
    _try_the_store(settings)
    listening = _listen(settings.server.host, settings.server.port)
    config = configured(
        partial(_application, settings),
        factory=True,
        workers=workers,
        connections=_room_for_connections(),
        # uvicorn counts whole seconds, and takes 0 for "no limit"
        drain_seconds=max(1, round(settings.server.drain_seconds)),
    )
    print(greeting(settings, listening.getsockname()[1]), flush=True)  # noqa: T201 (this is what the user waits for)
    with listening, shared_folder(workers):
        if workers > 1:
            Workers(config, sockets=[listening]).run()
        else:
            uvicorn.Server(config).run(sockets=[listening])


def configured(
    app: Any, *, drain_seconds: int, connections: int | None = None, factory: bool = False, workers: int = 1
) -> uvicorn.Config:
    """How this application is served."""
    return uvicorn.Config(
        app,
        factory=factory,
        loop="auto",
        http=Connection,  # by httptools: h11 lets a request be smuggled behind one with both length headers
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks where a request came from, so nobody need be believed about it
        backlog=_BACKLOG,
        workers=workers,
        limit_concurrency=connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain_seconds,
    )


def _room_for_connections() -> int:
    """As many as there are descriptors for, of which each connection may need three: its own, the brain's, and the
    eyes'.  Asks the system for as many as that takes."""
    try:
        import resource
    except ImportError:  # a system without such limits
        return MOST_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * MOST_CONNECTIONS + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):  # some systems have a lower limit that they do not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return min(MOST_CONNECTIONS, max(64, (soft - _OTHER_DESCRIPTORS) // 3))


def _try_the_store(settings: Settings) -> None:
    """Opened, asked and closed once before anything listens: in a worker it would be a traceback.

    One that cannot be opened is a fault of the configuration.  One that does not answer may come back at any time, and
    answers go on without it.
    """
    loop = asyncio.new_event_loop()
    try:
        problem = loop.run_until_complete(_problem_of_the_store(settings))
    except StoreError as error:
        raise ConfigError(f"[store] {error}") from None
    finally:
        loop.close()  # not `asyncio.run`, which waits for a name server that does not answer
    if problem:
        print(f"chiasm: warning: [store] {problem}; starting without it", file=sys.stderr, flush=True)  # noqa: T201


async def _problem_of_the_store(settings: Settings) -> str:
    store = open_configured_store(settings)
    try:
        async with asyncio.timeout(_STORE_SECONDS):
            await store.get("probe/start")
    except StoreError as error:
        return str(error)
    except TimeoutError:
        return f"no answer in {_STORE_SECONDS:g} seconds"
    finally:
        await store.close()
    return ""


def _application(settings: Settings) -> Starlette:
    """Made in each worker, which is a fresh process."""
    share_heaps()
    _logging(settings.server.log_format)
    app = create_app(settings)
    rooms = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Any]:
        async with rooms(app) as state:
            assert state is not None
            async with draining(state["readiness"], drain_seconds=settings.server.drain_seconds):
                yield state

    app.router.lifespan_context = lifespan
    return app


def greeting(settings: Settings, port: int) -> str:
    """Where it listens, and a command to try it with."""
    host = settings.server.host
    shown = f"[{host}]" if ":" in host else "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 (only compared)
    url = f"http://{shown}:{port}"
    key = " -H 'authorization: Bearer YOUR_KEY'" if settings.server.api_keys else ""
    body = '{"messages": [{"role": "user", "content": "Say hello."}], "stream": true}'
    return "\n".join(
        [
            f"Chiasm listens on {url}/v1",
            *(f"  brain  {_shown(text)}" for text in settings.text),
            *(
                f"  eyes   {eyes.name or 'first model'} at {eyes.base_url or 'this process'} ({eyes.kind})"
                for eyes in settings.vision
            ),
            f"  admin  {url}/admin" + ("" if _asks_for_a_key(settings) else "  (from this machine only)"),
            "try it:",
            f"  curl -N {url}/v1/chat/completions -H 'content-type: application/json'{key} -d '{body}'",
        ]
    )


def _asks_for_a_key(settings: Settings) -> bool:
    return bool(settings.server.admin_key.get_secret_value())


def _shown(text: TextSettings) -> str:
    return f"{text.name or 'first model'} at {text.base_url}"


def _listen(host: str, port: int) -> socket.socket:
    """Bound here, before workers start, so that a taken port is one clear error."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(_BACKLOG)  # now, so that whoever reads the greeting can connect
    except OSError:
        listening.close()
        raise
    listening.set_inheritable(True)
    return listening


def _logging(form: Literal["text", "json"]) -> None:
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(FORMATTERS[form]())
    logging.basicConfig(level=logging.INFO, handlers=[lines])
    # Their INFO lines hold whole URLs, and one line per request is ours.
    for name in ("httpx", "httpcore", "aiohttp", "uvicorn", "uvicorn.error", "sse_starlette", "PIL", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
