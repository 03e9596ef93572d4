"""`chiasm print-config`: what a client needs to be told to come here, ready to paste.

Each client is an entry of `client_configs/clients.toml` with a template beside it.  A template is filled with the
address of the service and the names of its models.  A JSON template stays JSON: names and addresses are put into its
strings, and what stands for a model stands once for each.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import httpx

from router.config import Settings
from router.config.spelling import nearest

VARIABLE: Final = "CHIASM_API_KEY"
ANY_KEY: Final = "any"
"""Where the service asks for none; most clients want to send one."""

SOME_MODEL: Final = "YOUR_MODEL"
"""Where nobody can tell."""

CONTEXT: Final = 131_072
OUTPUT: Final = 16_384
"""Tokens.  Clients compact a conversation by these; few models have a smaller context."""

_TIMEOUT_SECONDS: Final = 2.0
"""For a service on this machine; one that does not run refuses at once."""

_LINE: Final = 100
"""Characters of JSON that may stand on one line."""

_HARMLESS: Final = re.compile(r"[\w./:@+~-]+")
"""Names from the network that may stand in what is pasted into a shell."""

_MODEL: Final = "@MODEL@"


class NoSuchClient(Exception):
    """A sentence for whoever asked."""


@dataclass(frozen=True, slots=True)
class Client:
    """The fields are explained in `clients.toml`."""

    title: str
    template: str
    into: str
    key: str
    then: Sequence[str]
    notes: Sequence[str]
    each_model: bool = False
    needs_variable: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """What clients have to know of it."""

    url: str
    """Without `/v1` or a slash at its end."""
    models: Sequence[str]
    """At least one."""
    asks_for_a_key: bool = False
    context: int = CONTEXT
    """Tokens."""


@cache
def clients() -> Mapping[str, Client]:
    """All that there are, by name."""
    entries = tomllib.loads(_read("clients.toml"))
    return {name: Client(**entry) for name, entry in entries.items()}


def find(name: str) -> Client:
    """Raises `NoSuchClient`."""
    if name in clients():
        return clients()[name]
    near = nearest(name, clients())
    hint = f"did you mean {near!r}? " if near else ""
    raise NoSuchClient(f"there is nothing for {name!r}; {hint}there are {', '.join(clients())}")


def snippet(wanted: Client, service: Service) -> str:
    """The text to paste, ending in a line feed."""
    template = _read(wanted.template)
    if wanted.template.endswith(".json"):
        return _written(_filled(json.loads(template), _words(wanted, service), service.models)) + "\n"
    models = service.models if wanted.each_model else service.models[:1]
    texts = []
    for model in models:
        text = template
        for mark, value in _words(wanted, service, model).items():
            # A JSON string is one of TOML and YAML as well; its quotes stand in the template.
            written = json.dumps(value, ensure_ascii=False)
            text = text.replace(mark, written[1:-1] if isinstance(value, str) else written)
        texts.append(text)
    return "".join(texts)


def remarks(wanted: Client, service: Service) -> Iterator[str]:
    """Lines for whoever pastes it: where it goes, and what comes next."""
    yield wanted.title
    yield f"into: {wanted.into}"
    if service.asks_for_a_key:
        yield f"before: export {VARIABLE}=…, one of [server] api_keys"
    elif wanted.needs_variable:
        yield f"before: export {VARIABLE}={ANY_KEY}"
    for command in wanted.then:
        yield f"then: {command.replace(_MODEL, service.models[0])}"
    for note in wanted.notes:
        yield f"note: {note}"
    if service.models[0] == SOME_MODEL:
        yield f"note: put the model's name for {SOME_MODEL}: no service answers at {service.url}/v1/models"


def service_of(settings: Settings, *, url: str, context: int = CONTEXT) -> Service:
    """`url`: where clients reach it.

    Names that only the service knows are asked of it; where it does not run, `SOME_MODEL` stands for them.
    """
    keys = settings.server.api_keys
    base = url.rstrip("/").removesuffix("/v1")
    models = [text.name for text in settings.text if text.name is not None]
    if len(models) < len(settings.text):
        models = _listed(base, keys[0].get_secret_value() if keys else "") or [SOME_MODEL]
    return Service(base, models, asks_for_a_key=bool(keys), context=context)


def _listed(base: str, key: str) -> list[str]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        # Proxies of the environment are not for what runs here.
        answer = httpx.get(f"{base}/v1/models", headers=headers, timeout=_TIMEOUT_SECONDS, trust_env=False)
        names = [str(row["id"]) for row in answer.raise_for_status().json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return []
    return [name for name in names if _HARMLESS.fullmatch(name)]


def _read(name: str) -> str:
    return files("router").joinpath("client_configs", name).read_text("utf-8")


def _words(wanted: Client, service: Service, model: str = "") -> dict[str, str | int]:
    return {
        "@URL@": service.url,
        "@KEY@": wanted.key if service.asks_for_a_key else ANY_KEY,
        "@CONTEXT@": service.context,
        "@OUTPUT@": min(OUTPUT, service.context // 2),
        _MODEL: model or service.models[0],
    }


def _filled(template: Any, words: Mapping[str, str | int], models: Sequence[str]) -> Any:
    """`models`: those that an entry for each is made of."""
    match template:
        case str() if template in words:
            return words[template]
        case str():
            for mark, value in words.items():
                template = template.replace(mark, str(value))
            return template
        case list():
            filled = []
            for entry in template:
                for_each = entry == _MODEL or (isinstance(entry, dict) and _MODEL in entry.values())
                filled += [_filled(entry, *one) for one in _each(words, models, for_each)]
            return filled
        case dict():
            return {
                _filled(name, *one): _filled(value, *one)
                for name, value in template.items()
                for one in _each(words, models, name == _MODEL)
            }
        case _:
            return template


def _each(
    words: Mapping[str, str | int], models: Sequence[str], for_each: bool
) -> list[tuple[Mapping[str, str | int], Sequence[str]]]:
    """What to fill an entry with, and the models to make more entries of within it."""
    return [({**words, _MODEL: model}, [model]) for model in models] if for_each else [(words, models)]


def _written(value: Any, indent: str = "") -> str:
    """JSON as people write it: what is short stands on one line."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value:
        return line
    if len(indent) + len(line) <= _LINE and not _is_deep(value):
        return f"{{ {line[1:-1]} }}" if isinstance(value, dict) else line
    inner = indent + "  "
    if isinstance(value, dict):
        entries = [f"{json.dumps(name, ensure_ascii=False)}: {_written(one, inner)}" for name, one in value.items()]
        return "{\n" + ",\n".join(inner + entry for entry in entries) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _written(one, inner) for one in value) + f"\n{indent}]"


def _is_deep(value: dict[str, Any] | list[Any]) -> bool:
    entries = value.values() if isinstance(value, dict) else value
    return any(isinstance(entry, dict) for entry in entries)
