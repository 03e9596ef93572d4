"""`chiasm images`: the image table in the terminal, as the running service tells it.

What stands in the cells was written by strangers.  A terminal obeys control characters, and `rich` obeys brackets: so
the former go, and words are never read as markup.  `--json` is ASCII only.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import httpx
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from router.admin.models import MOST_LISTED, Action

TIMEOUT_SECONDS = 30.0

_API = "/admin/api"


class CannotShow(Exception):
    """A sentence for whoever asked."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be done, and with which image."""

    action: Action
    number: int


class Service:
    """The admin API of a running service.  All methods raise `CannotShow`."""

    def __init__(self, url: str, key: str) -> None:
        """`url`: with or without `/admin` or `/v1` at its end."""
        base = url.rstrip("/").removesuffix("/v1").removesuffix("/admin")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._url = base
        # Proxies of the environment are not for what runs here, and would be taken for other machines.
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def ask(self, method: str, path: str, **params: str | int | bool) -> Any:
        given = {name: str(value).lower() if isinstance(value, bool) else value for name, value in params.items()}
        try:
            answer = self._client.request(method, f"{self._url}{_API}{path}", params=given)
        except httpx.TimeoutException:
            raise CannotShow(f"{self._url} does not answer within {TIMEOUT_SECONDS:g} seconds") from None
        except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise CannotShow(
                f"nothing answers at {self._url} ({type(error).__name__}): is `chiasm serve` running there? "
                "--url says where else to look"
            ) from None
        try:
            said = answer.json()
            if answer.is_success:
                return said
            problem = f"{said['error']['message']}"
        except (ValueError, KeyError, TypeError):
            raise CannotShow(f"what answers at {self._url} is no Chiasm with an admin API") from None
        if answer.status_code == 401:
            problem += " (--config names the file that has it; or CHIASM_SERVER__ADMIN_KEY)"
        raise CannotShow(_plain(problem))

    def all(self, path: str, **params: str | int | bool) -> Iterator[dict[str, Any]]:
        """The entries of all pages."""
        cursor: str | None = None
        while True:
            page = self.ask("GET", path, limit=MOST_LISTED, **params, **({"cursor": cursor} if cursor else {}))
            yield from page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def conversation(self, named: str) -> str:
        """The id of the conversation that somebody means: by its id, the beginning of it, or the client's name."""
        exact = list(self.all("/conversations", conversation=named))
        found = exact or [one for one in self.all("/conversations", q=named) if one["id"].startswith(named)]
        match found:
            case [one]:
                return str(one["id"])
            case []:
                raise CannotShow(f"there is no conversation {named!r}; `chiasm images` lists them")
        raise CannotShow(f"{named!r} can be {len(found)} conversations; give an id: {', '.join(_ids(found))}")


def show(service: Service, named: str | None, wish: Wish | None, *, as_json: bool, console: Console) -> None:
    """Raises `CannotShow`."""
    if named is None:
        _put(list(service.all("/conversations")), _conversations, as_json, console)
        return
    id_ = service.conversation(named)
    if wish is not None:
        done = service.ask("POST", f"/conversations/{id_}/images/{wish.number}/{wish.action}")
        _put([done], _images, as_json, console)
        return
    _put(list(service.all(f"/conversations/{id_}/images")), _images, as_json, console)


def _put(entries: Sequence[Mapping[str, Any]], table: Any, as_json: bool, console: Console) -> None:
    if as_json:
        # Not by the console, which would break and colour the lines.
        console.file.write(json.dumps({"data": entries}, indent=2) + "\n")
    else:
        console.print(table(entries))


def _conversations(entries: Sequence[Mapping[str, Any]]) -> Table | str:
    if not entries:
        return "There are no conversations with images yet."
    table = Table(Column("conversation", no_wrap=True), "client", "loaded", "looks", Column("last used", no_wrap=True))
    for one in entries:
        loaded = f"{one['loaded']} of {one['images']}"
        table.add_row(Text(one["id"]), _cell(one["client"]), loaded, str(one["looks"]), _when(one["last_used"]))
    return table


def _images(entries: Sequence[Mapping[str, Any]]) -> Table | str:
    if not entries:
        return "There are no images in this conversation."
    table = Table("image", "file", "size", "short description", "status", "looks", "last answer")
    for one in entries:
        status = "unreadable" if one["reason"] else f"{one['status']}, pinned" if one["pinned"] else one["status"]
        size = f"{one['width']}x{one['height']}" if one["width"] else ""
        description = one["description"] or one["reason"] or "not looked at yet"
        table.add_row(
            f"#{one['number']}",
            _cell(one["file"]),
            size,
            _cell(description),
            status,
            str(one["looks"]),
            _cell(one["last_answer"], 160),
        )
    return table


def _cell(words: str, most: int = 80) -> Text:
    line = _plain(words)
    return Text(line if len(line) <= most else line[: most - 1] + "…", overflow="fold")


def _plain(words: str) -> str:
    """One line that only shows something: no control characters, nothing that turns the line around."""
    return " ".join("".join(" " if _obeyed(one) else one for one in words).split())


def _obeyed(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def _ids(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(one["id"]) for one in entries[:5]]


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M") if seconds else ""
