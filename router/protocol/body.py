"""A request's body as an object, and what must hold of it in every wire format."""

from __future__ import annotations

from typing import Any

import orjson

from router.errors import BadRequest

MOST_MESSAGES = 50_000
"""A million-token context holds no more messages than this; each costs a walk."""

MOST_LEVELS = 128
"""Of lists and objects inside each other.  JSON Schemas, the deepest thing that clients send, have some thirty; the
parser reads 1024, but the writer stops at 254 and Python's own stack not far behind."""

MOST_HOLDERS = 200_000
"""Lists and objects in a body.  Each part of a message costs some ten microseconds, in which nobody else is served; as
many messages as there may be, of one part each, are three quarters of it."""

_NEVER_SENT = frozenset(
    {
        # Whose cache is used, and who is served first: the brain is shared by all keys.
        "cache_salt",
        "extra_key",
        "priority",
        # Under which name the server has the request, and keeps its response: others' are names of the same kind.
        "request_id",
        "rid",
        # Where the server gets its memory or its answer from: these name hosts and keys.
        "kv_transfer_params",
        "ec_transfer_params",
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        "api_base",
        "base_url",
        "api_key",
        # Programs and tensors, and how pictures are decoded: what a server runs or loads is its owner's decision.
        "chat_template",
        "custom_logit_processor",
        "logits_processors",
        "prompt_embeds",
        "mm_processor_kwargs",
        "media_io_kwargs",
    }
)
"""Fields of a request that servers understand and no client should decide."""

_ALSO_READ = "vllm_xargs"
"""An object of whatever fields; vLLM puts those of the request into it that have the same names."""

_NEVER_SENT_IN_PARTS = ("uuid", "content_hash")
"""Of a content part and its `image_url`: names under which a server keeps a picture for everybody."""


def json_object(body: bytes | bytearray) -> dict[str, Any]:
    """Raises `BadRequest`."""
    try:
        request = orjson.loads(memoryview(body))  # subclasses of bytearray are not taken as they are
    except orjson.JSONDecodeError as error:
        # `error.doc` holds the whole body and must go nowhere; the position is all that helps.
        raise BadRequest(f"the body is not valid JSON (at byte {error.pos})") from None
    if not isinstance(request, dict):
        raise BadRequest("the body must be a JSON object")
    _check_levels(request)
    return request


def _check_levels(request: dict[str, Any]) -> None:
    level: list[Any] = [request]
    holders = 0
    for _ in range(MOST_LEVELS):
        holders += len(level)
        if holders > MOST_HOLDERS:
            raise BadRequest(f"the body holds more than {MOST_HOLDERS} lists and objects; shorten its history")
        inside = (item for holder in level for item in (holder.values() if isinstance(holder, dict) else holder))
        level = [item for item in inside if isinstance(item, dict | list)]
        if not level:
            return
    raise BadRequest(f"the body nests lists and objects more than {MOST_LEVELS} levels deep")


def check_common_fields(request: dict[str, Any]) -> None:
    """`model`, `stream` and `tools`.  Raises `BadRequest`."""
    if not isinstance(request.get("model", ""), str):
        raise BadRequest("model must be a string", param="model")
    if request.get("stream") not in (None, True, False):
        raise BadRequest("stream must be true or false", param="stream")
    check_fields(request, ("tools", list, "a list"))
    for index, tool in enumerate(request.get("tools") or ()):
        if not isinstance(tool, dict):
            raise BadRequest(f"tools[{index}] must be an object", param=f"tools[{index}]")


def check_fields(request: dict[str, Any], *expected: tuple[str, type, str]) -> None:
    """Each a name, a type, and words for it; what is absent or null is fine.  Raises `BadRequest`."""
    for name, kind, words in expected:
        value = request.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise BadRequest(f"{name} must be {words}", param=name)


def drop_what_is_never_sent(request: dict[str, Any], messages: list[Any]) -> None:
    """Fields by which one client could reach what belongs to others; all else rides along."""
    for name in _NEVER_SENT & request.keys():
        del request[name]
    if isinstance(more := request.get(_ALSO_READ), dict):
        for name in _NEVER_SENT & more.keys():
            del more[name]
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            for holder in (part, part.get("image_url")) if isinstance(part, dict) else ():
                if isinstance(holder, dict):
                    for name in _NEVER_SENT_IN_PARTS:
                        holder.pop(name, None)
