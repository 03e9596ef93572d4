"""The addresses of the admin API: what each takes and gives, and who answers it.

`OPERATIONS` is all of it: the routes are made from it, and so is `openapi.json`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.routing import Route

from cache.store import StoreError
from router.admin import openapi
from router.admin.auth import Auth
from router.admin.door import AdminDoor, Call, Handler, Reply
from router.admin.errors import NotFound
from router.admin.models import (
    Action,
    Answer,
    Conversation,
    ConversationQuery,
    Conversations,
    Deleted,
    DetailedImages,
    EventQuery,
    Image,
    ImageDetail,
    ImageDetails,
    ImageQuery,
    Images,
    Session,
    Stats,
    Task,
)
from router.admin.shown import plain
from router.admin.stream import stream
from router.errors import BadRequest, ChiasmError
from router.response import ClientGone, unless_gone

BASE = "/admin/api"

_DIGITS = 9
"""Of an image's number; there are none with more."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked for.  `answer`: the models of its JSON, or the media type of what is none."""

    method: str
    path: str
    handler: Handler
    summary: str
    answer: Sequence[type[BaseModel]] | str
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    errors: Sequence[int] = ()


async def _conversations(call: Call) -> Reply:
    data, cursor = await call.admin.conversations(ConversationQuery.model_validate(call.query))
    return Reply.json(Conversations(data=data, next_cursor=cursor))


async def _conversation(call: Call) -> Reply:
    return Reply.json(await call.admin.conversation(call.path["id"]))


async def _images(call: Call) -> Reply:
    query = ImageQuery.model_validate(call.query)
    data, cursor = await call.admin.images(call.path["id"], query)
    if query.details:
        return Reply.json(DetailedImages(data=data, next_cursor=cursor))
    return Reply.json(Images(data=[plain(one) for one in data], next_cursor=cursor))


async def _image(call: Call) -> Reply:
    query = ImageDetail.model_validate(call.query)
    return _shown(await call.admin.image(call.path["id"], number_of(call)), query)


def _shown(image: ImageDetails, query: ImageDetail) -> Reply:
    return Reply.json(image if query.details else plain(image))


async def _thumbnail(call: Call) -> Reply:
    return Reply(await call.admin.thumbnail(call.path["id"], number_of(call)), media_type="image/png")


def _doing(action: Action) -> Handler:
    async def handler(call: Call) -> Reply:
        query = ImageDetail.model_validate(call.query)
        done = await audited(call, action, lambda: call.admin.do(action, call.path["id"], number_of(call)))
        return _shown(done, query)

    return handler


async def _analyze(call: Call) -> Reply:
    task = Task.model_validate(_json(await call.body())).task
    said: list[str] = []

    async def look() -> None:
        said.append(await call.admin.analyze(call.path["id"], number_of(call), task))

    await audited(call, "analyze", lambda: unless_gone(call.receive, look()))
    return Reply.json(Answer(answer=said[0]))


async def _delete_image(call: Call) -> Reply:
    gone = await audited(call, "delete", lambda: call.admin.delete_image(call.path["id"], number_of(call)))
    return Reply.json(Deleted(deleted=gone))


async def _delete_conversation(call: Call) -> Reply:
    gone = await audited(call, "delete", lambda: call.admin.delete_conversation(call.path["id"]))
    return Reply.json(Deleted(deleted=gone))


async def _stats(call: Call) -> Reply:
    return Reply.json(await call.admin.stats())


async def _events(call: Call) -> Reply | None:
    query = EventQuery.model_validate(call.query)
    if call.asking.method == "HEAD":
        return Reply(media_type="text/event-stream")
    await stream(call, query.conversation)
    return None


async def _session(call: Call) -> Reply:
    who = call.who
    if who.by_key:
        return Reply.json(Session(who=who.name, csrf=None))
    session = who.session or call.auth.new_session()
    reply = Reply.json(Session(who=who.name, csrf=call.auth.csrf(session)))
    if who.session:
        return reply
    return Reply(reply.body, headers={"set-cookie": call.auth.set_cookie(call.asking, session)})


async def _openapi(call: Call) -> Reply:
    return Reply.json(openapi.document(BASE, OPERATIONS))


_AT = "/conversations/{id}"
_IMAGE = _AT + "/images/{n}"

OPERATIONS: Sequence[Operation] = (
    Operation(
        "GET",
        "/conversations",
        _conversations,
        "The conversations, the newest first",
        [Conversations],
        ConversationQuery,
        errors=[400],
    ),
    Operation("GET", _AT, _conversation, "One conversation", [Conversation], errors=[404]),
    Operation("DELETE", _AT, _delete_conversation, "Delete it, with all its images", [Deleted], errors=[404]),
    Operation(
        "GET",
        _AT + "/images",
        _images,
        "Its images, by their numbers",
        [Images, DetailedImages],
        ImageQuery,
        errors=[400, 404],
    ),
    Operation("GET", _IMAGE, _image, "One image", [Image, ImageDetails], ImageDetail, errors=[404]),
    Operation("DELETE", _IMAGE, _delete_image, "Delete it; its number stays taken", [Deleted], errors=[404]),
    Operation(
        "GET", _IMAGE + "/thumbnail", _thumbnail, "At most 256 pixels wide and high", "image/png", errors=[404, 409]
    ),
    Operation(
        "POST",
        _IMAGE + "/forget",
        _doing("forget"),
        "Take what was seen in it out of the prompt",
        [Image, ImageDetails],
        ImageDetail,
        errors=[404],
    ),
    Operation(
        "POST",
        _IMAGE + "/load",
        _doing("load"),
        "Put what was seen in it back into the prompt",
        [Image, ImageDetails],
        ImageDetail,
        errors=[404, 409],
    ),
    Operation(
        "POST",
        _IMAGE + "/pin",
        _doing("pin"),
        "Load it and never forget it",
        [Image, ImageDetails],
        ImageDetail,
        errors=[404, 409],
    ),
    Operation(
        "POST",
        _IMAGE + "/unpin",
        _doing("unpin"),
        "It may be forgotten again",
        [Image, ImageDetails],
        ImageDetail,
        errors=[404],
    ),
    Operation(
        "POST",
        _IMAGE + "/analyze",
        _analyze,
        "Have the eyes look now",
        [Answer],
        body=Task,
        errors=[400, 404, 409, 502],
    ),
    Operation("GET", "/stats", _stats, "Brains, eyes, store and counts", [Stats]),
    Operation("GET", "/events", _events, "What changes, as it changes", "text/event-stream", EventQuery, errors=[404]),
    Operation("GET", "/session", _session, "Who asks, and the token for changes by a browser", [Session]),
    Operation("GET", "/openapi.json", _openapi, "This description", "application/json"),
)


def routes(auth: Auth) -> list[Route]:
    """Of the API."""
    by_path: dict[str, dict[str, Handler]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, {})[operation.method] = operation.handler
    return [Route(BASE + path, AdminDoor(auth, handlers)) for path, handlers in by_path.items()]


def number_of(call: Call) -> int:
    written = call.path["n"]
    if not (written.isascii() and written.isdecimal() and len(written) <= _DIGITS):
        raise NotFound("an image's address ends in its number")
    return int(written)


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadRequest("the body is no JSON") from None


async def audited(call: Call, action: str, do: Callable[[], Awaitable[Any]]) -> Any:
    """Every action leaves a line, however it ends."""
    conversation, written = call.path["id"], call.path.get("n", "")
    number = int(written) if written.isdecimal() and len(written) <= _DIGITS else None
    outcome = "failed"
    try:
        done = await do()
        outcome = "done"
    except ChiasmError as error:
        outcome = error.code or error.type
        raise
    except StoreError:
        outcome = "store_unavailable"
        raise
    except ClientGone:
        outcome = "hung up"
        raise
    finally:
        call.audit(action, outcome, conversation=conversation[:80], number=number)
    return done
