"""The application: its addresses, and the one place where implementations are chosen."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from cache.blobs import Blobs
from cache.forgetting import LoadLimits
from cache.holders import Holders
from cache.image import ImageLimits
from cache.looks import Looks
from cache.open import open_store
from cache.pixels.pool import Pixels
from cache.rows import Rows
from cache.sources.fetch import AT_ONCE, EACH, Fetch
from cache.sources.location import AllowedHost
from cache.sources.remote_images import RemoteImages
from cache.store import Store, StoreError
from cache.tables import Tables
from router import count_tokens, endpoints, health, pass_through
from router.admin import api
from router.admin.auth import Auth
from router.admin.events import Bus
from router.admin.page import routes as page
from router.admin.service import changes_to, open_admin, prompts_to
from router.admin.thumbnails import Thumbnails
from router.allocator import give_back_when_quiet
from router.bodies import Bodies
from router.brain import Brain
from router.config import Settings, TextSettings, VisionSettings, is_loopback
from router.door import Caller, Door, Endpoint
from router.endpoints import Rooms
from router.errors import ChiasmError, NoSuchPath
from router.health import Pulse, Readiness
from router.http_client import http_client
from router.intake.afterwards import Afterwards
from router.intake.caption import Captions
from router.intake.conversations import Conversations
from router.intake.counting import Counting
from router.intake.hidden_turns import HiddenTurns
from router.intake.ingest import Ingest
from router.intake.last_prompts import LastPrompts
from router.intake.preparation import Preparation
from router.intake.readable import ReadableBlobs
from router.intake.response_ids import ResponseIds
from router.intake.since import Since
from router.protocol.chat.writer import error_body
from router.protocol.messages.errors import error_body as messages_error_body
from router.protocol.profiles import eyes_switch
from router.response import Receive, Send
from router.telemetry import scrape
from router.telemetry.metrics import Metrics
from router.telemetry.scrape import Gauges
from router.telemetry.traces import open_traces
from router.telemetry.watch import Watch
from router.upstream import Upstream
from tools.places import Places
from tools.vision.backend import VisionBackend
from tools.vision.courteous import Courteous
from tools.vision.open import open_eyes

log = logging.getLogger("chiasm")

_SWEEP_SECONDS = 600.0
"""Between two looks for what the store has kept too long; retention is counted in hours."""


def create_app(settings: Settings) -> Starlette:
    """The ASGI application.  Connections and files are opened by its lifespan and closed with it.

    The lifespan raises `StoreError` for a store that cannot be opened.
    """
    keys = [key.get_secret_value() for key in settings.server.api_keys]
    auth = Auth(settings.server.admin_key.get_secret_value())
    bodies = Bodies(largest=int(settings.server.max_body_mib * 2**20), tenants=len(keys))

    def door(
        endpoint: Endpoint,
        *methods: str,
        open_to_all: bool = False,
        error_body: Callable[[ChiasmError], dict[str, Any]] = error_body,
    ) -> Door:
        return Door(
            endpoint,
            methods=methods,
            api_keys=keys,
            bodies=bodies,
            open_to_all=open_to_all,
            error_body=error_body,
        )

    app = _Application(
        routes=[
            *[
                Route(f"/v1{wire.path}", door(endpoints.completion(wire), "POST", error_body=wire.error_body))
                for wire in endpoints.FORMATS
            ],
            Route("/v1/messages/count_tokens", door(count_tokens.messages, "POST", error_body=messages_error_body)),
            Route("/v1/models", door(endpoints.models, "GET", "HEAD")),
            Route("/v1/models/{model:path}", door(endpoints.models, "GET", "HEAD")),
            Route("/v1/completions", door(pass_through.completions, "POST")),
            Route("/v1/embeddings", door(pass_through.embeddings, "POST")),
            *[Route(path, door(pass_through.tokenize, "POST")) for path in ("/tokenize", "/v1/tokenize")],
            *[Route(path, door(pass_through.detokenize, "POST")) for path in ("/detokenize", "/v1/detokenize")],
            Route("/healthz", door(health.healthz, "GET", "HEAD", open_to_all=True)),
            Route("/readyz", door(health.readyz, "GET", "HEAD", open_to_all=True)),
            Route("/metrics", _metrics_door(settings, bodies)),
            *api.routes(auth),
            *page.routes(auth),
        ],
        lifespan=lambda _: _lifespan(settings),
    )
    app.router.redirect_slashes = False
    app.router.default = _Default(app.router.default, door(_no_such_path, *_ANY_METHOD, open_to_all=True))
    return app


def _metrics_door(settings: Settings, bodies: Bodies) -> Door:
    """Open where only this machine can ask; elsewhere any key opens it, the admin's too."""
    server = settings.server
    keys = [key.get_secret_value() for key in (*server.api_keys, server.admin_key) if key.get_secret_value()]
    return Door(
        scrape.metrics,
        methods=("GET", "HEAD"),
        api_keys=keys,
        bodies=bodies,
        open_to_all=is_loopback(server.host),
    )


class _Application(Starlette):
    """Without the framework's middleware: the doors answer every error themselves, and each layer around `send` is paid
    for with every chunk."""

    def build_middleware_stack(self) -> ASGIApp:
        return self.router


_ANY_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")


class _Default:
    """What answers where no route matches: our error shape for HTTP, the framework's way for anything else."""

    def __init__(self, framework: Callable[..., Awaitable[None]], ours: Door) -> None:
        self._framework = framework
        self._ours = ours

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        answer = self._ours if scope["type"] == "http" else self._framework
        await answer(scope, receive, send)


async def _no_such_path(caller: Caller, scope: Any, receive: Receive, send: Send) -> None:
    raise NoSuchPath(f"there is nothing at {scope['path'][:200]!r}; clients use the base URL ending in /v1")


@asynccontextmanager
async def _lifespan(settings: Settings) -> AsyncIterator[dict[str, Any]]:
    async with AsyncExitStack() as stack:
        watch = Watch(Metrics(settings), open_traces(os.environ))
        stack.push_async_callback(asyncio.to_thread, watch.traces.close)
        client = await stack.enter_async_context(http_client())
        store = open_configured_store(settings)
        stack.push_async_callback(store.close)
        limits = ImageLimits(
            max_bytes=int(settings.images.max_image_mib * 2**20),
            max_pixels=int(settings.images.max_megapixels * 1_000_000),
        )
        pixels = Pixels(limits)
        stack.push_async_callback(asyncio.to_thread, pixels.close)
        askers = len(settings.server.api_keys)
        eyes = [_open_eyes(one, client, limits, pixels, watch, askers=askers) for one in settings.vision]
        for one in eyes:
            stack.push_async_callback(one.close)
        bus = Bus()
        tables = Tables(store, changed=changes_to(bus), moved=watch.metrics.moved)
        blobs, rows = ReadableBlobs(store, pixels, limits), Rows(store)
        looks, holders = Looks(store), Holders(store)
        load_limits = LoadLimits(
            settings.images.max_loaded, settings.images.keep_loaded, settings.images.max_loaded_tokens
        )
        ingest = Ingest(
            blobs=blobs,
            tables=tables,
            rows=rows,
            limits=limits,
            load_limits=load_limits,
            holders=holders,
            remote=_remote_images(settings, store, tables, blobs, limits, stack),
            bad=watch.metrics.bad_image,
        )
        stack.callback(ingest.close)
        afterwards = Afterwards(near=settings.images.keep_loaded, pixels=pixels)
        stack.push_async_callback(afterwards.close)
        hidden_turns = HiddenTurns(store, tables=tables)
        stack.push_async_callback(hidden_turns.close)
        sweeping = asyncio.create_task(_sweep_now_and_then(store))
        stack.callback(sweeping.cancel)
        brains = [_brain(text, settings, eyes, client) for text in settings.text]
        last_prompts = LastPrompts(noted=prompts_to(bus))
        readiness = Readiness(brains, store)
        response_ids = ResponseIds(store, tenants=askers)
        stack.push_async_callback(readiness.close)
        rooms = Rooms(
            settings=settings,
            brains=brains,
            preparation=Preparation(
                ingest=ingest,
                tables=tables,
                rows=rows,
                blobs=blobs,
                looks=looks,
                captions=Captions(rows=rows, looks=looks),
                hidden_turns=hidden_turns,
                afterwards=afterwards,
                since=Since(store),
                always_offer=settings.images.offer_tools == "always",
                last_prompts=last_prompts,
            ),
            response_ids=response_ids,
            watch=watch,
            counting=Counting(
                store=store,
                limits=limits,
                load_limits=load_limits,
                pixels=pixels,
                always_offer=settings.images.offer_tools == "always",
            ),
        )
        admin = open_admin(
            settings=settings,
            store=store,
            tables=tables,
            rows=rows,
            blobs=blobs,
            looks=looks,
            deleting=Conversations(
                store,
                tables=tables,
                rows=rows,
                blobs=blobs,
                holders=holders,
                looks=looks,
                hidden_turns=hidden_turns,
                response_ids=response_ids,
            ),
            brains=brains,
            eyes=eyes,
            thumbnails=Thumbnails(pixels, limits),
            bus=bus,
            last_prompts=last_prompts,
        )
        pulse = Pulse()
        stack.callback(pulse.stop)
        giving_back = asyncio.create_task(give_back_when_quiet(rooms.traffic))
        stack.callback(giving_back.cancel)
        gauges = Gauges(watch.metrics, brains, eyes, settings, rooms.answering, store)
        stack.push_async_callback(gauges.close)
        yield {
            "rooms": rooms,
            "readiness": readiness,
            "pulse": pulse,
            "admin": admin,
            "gauges": gauges,
            "refused": watch.metrics.refused,
        }
        await rooms.last_words()


def open_configured_store(settings: Settings) -> Store:
    """Raises `StoreError` where it cannot be opened safely."""
    store = settings.store
    return open_store(store.kind, str(store.path), store.url.get_secret_value(), store.max_gib, store.retention_hours)


def _remote_images(
    settings: Settings, store: Store, tables: Tables, blobs: Blobs, limits: ImageLimits, stack: AsyncExitStack
) -> RemoteImages | None:
    if settings.images.remote_urls == "off":
        return None
    fetch = Fetch(
        hosts=[AllowedHost.of(host) for host in settings.images.allowed_hosts],
        networks=settings.images.allowed_networks,
        max_bytes=limits.max_bytes,
        places=Places(AT_ONCE, each=EACH if len(settings.server.api_keys) > 1 else AT_ONCE),
    )
    stack.callback(fetch.close)
    return RemoteImages(fetch, store=store, tables=tables, blobs=blobs, limits=limits)


def _open_eyes(
    eyes: VisionSettings, client: httpx.AsyncClient, limits: ImageLimits, pixels: Pixels, watch: Watch, *, askers: int
) -> VisionBackend:
    opened = open_eyes(
        eyes.kind,
        name=eyes.name or "eyes",
        client=client,
        base_url=eyes.base_url,
        model=eyes.model,
        api_key=eyes.api_key.get_secret_value(),
        thinking=eyes.thinking,
        max_tokens=eyes.max_tokens,
        max_concurrency=eyes.max_concurrency,
        timeout_seconds=eyes.timeout_seconds,
        limits=limits,
        askers=askers,
        pixels=pixels,
        switch=eyes_switch(eyes.engine, eyes.base_url, eyes.kind),
    )
    return Courteous(opened, watch=watch, price=watch.metrics.price("eyes", opened.name))


def _brain(text: TextSettings, settings: Settings, eyes: list[VisionBackend], client: httpx.AsyncClient) -> Brain:
    wanted = settings.eyes_for(text)
    return Brain(
        settings=text,
        upstream=Upstream(client, base_url=text.base_url, model=text.model, api_key=text.api_key.get_secret_value()),
        eyes=None if wanted is None else eyes[settings.vision.index(wanted)],
    )


async def _sweep_now_and_then(store: Store) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        try:
            await store.sweep()
        except StoreError as error:
            log.warning("the store could not be swept: %s", error)
