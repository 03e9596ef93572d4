"""Which conversation a request belongs to, and whose it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from router.protocol.cache_marks import without_cache_control

SESSION_HEADERS = (
    "x-session-id",
    "x-session-affinity",
    "session-id",
    "x-claude-code-session-id",
    "x-openwebui-chat-id",
)
_VALID_ID = re.compile(r"[A-Za-z0-9._:@=+/-]{1,200}")


@dataclass(frozen=True, slots=True)
class Conversation:
    """`key` names it in the store, inside its tenant; `name` is what the client may send back to mean it."""

    tenant: str
    key: str
    name: str
    turn: int = field(default=0, compare=False)
    """Of the request: the number of answers in its history, and one; 0: not known."""


def tenant_of(api_key: str) -> str:
    """Each key is a tenant; without keys there is one.  A digest, so that the store never holds a key."""
    return hashlib.sha256(b"chiasm tenant\0" + api_key.encode()).hexdigest()[:32] if api_key else "local"


def identify(tenant: str, headers: Mapping[str, str], request: Mapping[str, Any], opening: str) -> Conversation:
    """The first sign that is present decides: our own header, session headers, ids in the body, and at last the
    conversation's opening (`opening`: its system text and first user turn, images as digests).

    `headers`: names in lower case.
    """
    return replace(_identified(tenant, headers, request, opening), turn=turns(request.get("messages") or ())[-1])


def turns(messages: Sequence[Any]) -> list[int]:
    """The turn to which each message belongs, and last the one that is to be answered now: the number of answers before
    it, and one.  A client that trims its history counts anew."""
    answers = [isinstance(one, dict) and one.get("role") == "assistant" for one in messages]
    return list(accumulate(answers, initial=1))


def _identified(tenant: str, headers: Mapping[str, str], request: Mapping[str, Any], opening: str) -> Conversation:
    own = headers.get("x-chiasm-conversation", "")
    if _VALID_ID.fullmatch(own):
        return _conversation(tenant, own)
    for name in SESSION_HEADERS:
        if value := headers.get(name):
            return _derived(tenant, name, value)
    metadata = request.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    for name, value in (
        ("metadata.user_id", _session_part(metadata.get("user_id"))),
        ("prompt_cache_key", request.get("prompt_cache_key")),
        ("metadata.session_id", metadata.get("session_id")),
        ("conversation", _id_of(request.get("conversation"))),
        ("user", request.get("user")),
    ):
        if isinstance(value, str) and value:
            return _derived(tenant, name, value)
    return _derived(tenant, "opening", opening)


def opening(messages: list[Any]) -> list[Any]:
    """What stands before the first assistant message, up to and including the first user message."""
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else "assistant"
        if role == "user":
            return messages[: index + 1]
        if role == "assistant":
            return messages[:index]
    return messages


def opening_of(messages: list[Any]) -> str:
    """The words of a conversation's opening.

    Give it the history with images replaced by their digests, or two conversations that begin with the same words
    about different pictures would be one.
    """
    said = [[message.get("role"), _plain(message.get("content"))] for message in opening(messages)]
    return json.dumps(said, sort_keys=True, ensure_ascii=True)


def _plain(content: Any) -> Any:
    """Without marks.  Clients make a text a list of one to set a mark on it, and a text again when it moves on."""
    content = without_cache_control(content)
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        (part,) = content
        if part.keys() == {"type", "text"} and isinstance(part["text"], str):
            return part["text"]
    return content


def _session_part(user_id: object) -> str:
    """Claude Code's session id: `user_…_account_…_session_<id>`, or newer, a JSON object with `session_id`."""
    if not isinstance(user_id, str):
        return ""
    if user_id.startswith("{"):
        try:
            session = json.loads(user_id).get("session_id")
        except (ValueError, AttributeError, RecursionError):
            session = None
        return session if isinstance(session, str) else user_id
    return user_id.rpartition("_session_")[2] or user_id


def _id_of(conversation: Any) -> Any:
    """Responses name a conversation that the server keeps, or an object that has its id."""
    return conversation.get("id") if isinstance(conversation, Mapping) else conversation


def _derived(tenant: str, kind: str, value: str) -> Conversation:
    digest = hashlib.sha256(f"{tenant}\0{kind}\0{value}".encode("utf-8", "surrogatepass")).hexdigest()
    return _conversation(tenant, f"c-{digest[:32]}")


def _conversation(tenant: str, name: str) -> Conversation:
    return Conversation(tenant, key_of(name), name)


def key_of(name: str) -> str:
    """Of a conversation that a client calls so."""
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:40]
