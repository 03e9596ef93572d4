"""Images by URL: who may be asked for them, what a hostile answer can do, and what a conversation remembers of it.

Every server here is on loopback, which is exactly where images must not come from: tests that fetch say so in
`allowed_networks`, and tests that must not fetch look at whether anybody knocked.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.blobs import Blobs
from cache.forgetting import LoadLimits
from cache.holders import Holders
from cache.image import ImageLimits
from cache.looks import Looks
from cache.memory import MemoryStore
from cache.rows import Rows
from cache.sources import fetch as fetch_module
from cache.sources.addresses import dialled, may_be_dialled
from cache.sources.fetch import EACH, Fetch, Patience, Resolve
from cache.sources.location import AllowedHost, Location, allows
from cache.sources.not_fetched import NotFetched
from cache.sources.remote_images import RemoteImages
from cache.tables import Tables
from router.intake.conversations import Conversations
from router.intake.hidden_turns import HiddenTurns
from router.intake.ingest import Ingest, Ingested
from router.intake.response_ids import ResponseIds
from tests.brain import looks, says
from tests.failing import FailingStore, broken
from tests.live import DEADLINE, assistant, becomes, live, picture, shown, text, user
from tools.places import Places

pytestmark = pytest.mark.anyio

LOOPBACK = (ip_network("127.0.0.0/8"),)
NAME = "images.example.org"
INTERNAL = "its host is in a network that images are not fetched from"
HASTY = Patience(place=0.2, connect=0.2, silence=0.2, whole=0.4)
"""For servers that never come to an end."""


# A server that says what it is told


@dataclass(slots=True)
class Knock:
    path: str
    head: str
    """The whole request, names in lower case."""


Page: TypeAlias = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Pages:
    port: int = 0
    pages: dict[str, Page] = field(default_factory=dict)
    """What is sent, by path; without one, nothing ever comes."""
    asked: list[Knock] = field(default_factory=list)
    connections: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody hung up."""
    server_names: list[str | None] = field(default_factory=list)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def url(self, path: str = "/a.png", host: str = NAME) -> str:
        return f"http://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._answer(reader, writer)
        except asyncio.CancelledError:  # `close`
            writer.transport.abort()
        self._tasks.discard(task)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = head.split()[1]
            self.asked.append(Knock(path, head.lower()))
            page = self.pages.get(path)
            if isinstance(page, bytes):
                writer.write(page)
                await writer.drain()
            else:
                try:
                    if page is not None:
                        await page(writer)
                    await reader.read()
                finally:
                    self.gone.set()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def pages(
    address: str = "127.0.0.1", port: int = 0, context: ssl.SSLContext | None = None, **first: Page
) -> AsyncIterator[Pages]:
    """`first`: pages by the words of their path, `a_png` for `/a.png`."""
    there = Pages(pages={"/" + name.replace("_", "."): page for name, page in first.items()})
    if context is not None:
        context.sni_callback = lambda _, name, __: there.server_names.append(name)
    server = await asyncio.start_server(there.serve, address, port, ssl=context)
    there.port = server.sockets[0].getsockname()[1]
    try:
        yield there
    finally:
        server.close()
        await there.close()


def says_http(body: bytes = b"", status: str = "200 OK", length: int | None = -1, **headers: str) -> bytes:
    """`length`: announced instead of the true one; `None`: none is."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if length is not None:
        fields["content-length"] = str(len(body) if length < 0 else length)
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("utf-8", "surrogateescape") + body


def moved(to: str, status: str = "302 Found") -> bytes:
    return says_http(status=status, location=to)


def endlessly(start: bytes, piece: bytes) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    async def page(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return page


# Who asks


class Names:
    """A resolver.  Each question takes the next answer; the last one stays."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self._answers = {name.replace("__", "-").replace("_", "."): list(lists) for name, lists in answers.items()}
        self.questions: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.questions.append(host)
        answers = self._answers.get(host)
        if answers is None:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def at(*addresses: str) -> Names:
    return Names(images_example_org=[addresses])


@asynccontextmanager
async def fetching(
    there: Pages | None = None,
    *hosts: str,
    networks: Sequence[Any] = LOOPBACK,
    resolve: Resolve | None = None,
    max_bytes: int = 2**20,
    patience: Patience | None = None,
    at_once: int = 8,
    trusted: ssl.SSLContext | None = None,
) -> AsyncIterator[Fetch]:
    """From `NAME`, which is 127.0.0.1, unless something else is said."""
    entries = hosts or ([f"{NAME}:{there.port}"] if there is not None else [NAME])
    fetch = Fetch(
        hosts=[AllowedHost.of(entry) for entry in entries],
        networks=networks,
        max_bytes=max_bytes,
        patience=patience,
        places=Places(at_once),
        resolve=resolve or at("127.0.0.1"),
        trusted=trusted,
    )
    try:
        async with asyncio.timeout(DEADLINE):
            yield fetch
    finally:
        fetch.close()


async def refusal(fetch: Fetch, url: str) -> str:
    with pytest.raises(NotFetched) as refused:
        await fetch.fetch(url)
    return refused.value.reason


# Which addresses

SPECIAL = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.255 168.63.129.16
    169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.170 192.0.0.192 192.0.2.1 192.88.99.1
    192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1
    255.255.255.255
    :: ::1 ::2 ::7f00:1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1 ::ffff:169.254.169.254
    64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::8.8.8.8 100::1 2001::1 2001:0:7f00:1::
    2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:10::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: 3fff::1
    5f00::1 fc00::1 fd00:ec2::254 fdff::1 fe80::1 fe80::1%lo fe80::1%25lo fec0::1 ff02::1 ff0e::1 4000::1 e000::1
    2a00::5efe:7f00:1 2a00::200:5efe:a00:1
""".split()  # noqa: SIM905


@pytest.mark.parametrize("address", SPECIAL)
async def test_a_name_that_leads_to_a_special_address_is_refused(address: str) -> None:
    async with fetching(networks=(), resolve=at(address)) as fetch:
        assert await refusal(fetch, f"http://{NAME}/a.png") == INTERNAL


@pytest.mark.parametrize("address", SPECIAL)
async def test_one_special_address_among_public_ones_is_enough(address: str) -> None:
    async with fetching(networks=(), resolve=at("93.184.215.14", address, "2606:2800:21f::1")) as fetch:
        assert await refusal(fetch, f"http://{NAME}/a.png") == INTERNAL


@pytest.mark.parametrize("address", [one for one in SPECIAL if "%" not in one and "." in one and ":" not in one])
async def test_a_special_address_is_refused_although_it_stands_on_the_list_of_hosts(address: str) -> None:
    async with fetching(None, address, networks=()) as fetch:
        assert await refusal(fetch, f"http://{address}/a.png") == INTERNAL


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.215.14", "100.63.255.255", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"],
)
def test_public_addresses_may_be_dialled(address: str) -> None:
    assert may_be_dialled(ip_address(address), ())


def test_behind_nat64_the_address_inside_decides() -> None:
    assert may_be_dialled(ip_address("64:ff9b::8.8.8.8"), ())
    assert not may_be_dialled(ip_address("64:ff9b::10.1.2.3"), ())
    assert may_be_dialled(ip_address("64:ff9b::10.1.2.3"), [ip_network("10.0.0.0/8")])


def test_an_allowed_network_opens_itself_and_nothing_else() -> None:
    networks = [ip_network("10.1.0.0/16"), ip_network("fd00:1::/32")]
    assert may_be_dialled(ip_address("10.1.2.3"), networks)
    assert may_be_dialled(ip_address("fd00:1::5"), networks)
    for other in ("10.2.0.1", "127.0.0.1", "fd00:2::5", "::ffff:10.1.2.3", "2002:a01:203::"):
        assert not may_be_dialled(ip_address(other), networks)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_what_is_not_global_by_the_standard_library_is_never_dialled(address: IPv4Address | IPv6Address) -> None:
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert not may_be_dialled(address, ()) or address in ip_network("64:ff9b::/96")


# Which URLs

NOT_WELL_FORMED = "its address is not well formed"
NOT_HTTP = "only images at http and https addresses can be fetched"
ODD_URLS: dict[str, str] = {
    **dict.fromkeys(
        [
            "",
            "a.png",
            "/etc/passwd",
            "file:///etc/passwd",
            "ftp://images.example.org/a.png",
            "gopher://127.0.0.1:{port}/_GET",
            "dict://127.0.0.1:{port}/",
            "chiasm:image/1",
            "blob:http://images.example.org/1",
            "javascript:alert(1)",
            "//images.example.org/a.png",
            "unix:/var/run/docker.sock",
        ],
        NOT_HTTP,
    ),
    **dict.fromkeys(
        [
            "http:127.0.0.1:{port}/",
            "http:/127.0.0.1:{port}/",
            "http:///127.0.0.1:{port}/",
            "http://",
            "http://:{port}/",
            "http://127.1:{port}/",
            "http://127.0.1:{port}/",
            "http://0:{port}/",
            "http://2130706433:{port}/",
            "http://0x7f000001:{port}/",
            "http://0x7f.0.0.1:{port}/",
            "http://0x7f.1:{port}/",
            "http://0177.0.0.1:{port}/",
            "http://017700000001:{port}/",
            "http://127.0.0.01:{port}/",
            "http://127.0.0.1.1:{port}/",
            "http://256.256.256.256:{port}/",
            "http://4294967296:{port}/",
            "http://①②⑦.⓪.⓪.①:{port}/",
            "http://127。0。0。1:{port}/",
            "http://ｌｏｃａｌｈｏｓｔ:{port}/",
            "http://lоcalhost:{port}/",
            "http://loopbac\u212a.example.org:{port}/",
            "http\u017f://images.example.org:{port}/",
            "http://[::ffff:127.0.0.1%lo]:{port}/",
            "http://[fe80::1%25eth0]:{port}/",
            "http://[::1:{port}/",
            "http://::1:{port}/",
            "http://[127.0.0.1]:{port}/",
            "http://[v1.x]:{port}/",
            "http://images.example.org:{port}a/",
            "http://images.example.org:-1/",
            "http://images.example.org:0/",
            "http://images.example.org:99999/",
            "http://images.example.org:{port}:80/",
            "http://127.0.0.1:{port}\\.images.example.org/",
            "http:\\\\127.0.0.1:{port}\\",
            "http://127.0.0.1:{port}\t.images.example.org/",
            "http://images.example.org\r\nHost: 127.0.0.1/",
            "http://images.example.org:{port}/ HTTP/1.1\r\nX: y",
            "http://images..example.org:{port}/",
            "http://.images.example.org:{port}/",
            "http://-images.example.org:{port}/",
            "http://images.example.org%00.evil.org:{port}/",
            "http://images%2eexample.org:{port}/",
            "http://images example.org:{port}/",
            "http://%31%32%37.0.0.1:{port}/",
            "http://" + "a" * 64 + ".org/",
        ],
        NOT_WELL_FORMED,
    ),
    **dict.fromkeys(
        [
            "http://images.example.org@127.0.0.1:{port}/",
            "http://user:secret@images.example.org:{port}/",
            "http://@images.example.org:{port}/",
            "http://images.example.org\\@127.0.0.1:{port}/",
            "http://127.0.0.1:{port}\\@images.example.org/",
            "http://images.example.org:80@127.0.0.1:{port}/",
        ],
        "its address holds a user name or password",
    ),
    "http://images.example.org/" + "a" * 9000: "its address is too long",
    **dict.fromkeys(
        [
            "http://127.0.0.1:{port}/",
            "http://127.0.0.1.:{port}/",
            "http://127.255.255.254:{port}/",
            "hTTp://LOCALHOST:{port}/",
            "http://localhost.:{port}/",
            "http://0.0.0.0:{port}/",
            "http://[::1]:{port}/",
            "http://[::]:{port}/",
            "http://[0:0:0:0:0:0:0:1]:{port}/",
            "http://[::ffff:127.0.0.1]:{port}/",
            "http://[::ffff:7f00:1]:{port}/",
            "http://[64:ff9b::7f00:1]:{port}/",
            "http://[2002:7f00:1::]:{port}/",
            "http://loopback.example.org:{port}/#@images.example.org/",
            "http://loopback.example.org:{port}/?@images.example.org/",
            "  http://loopback.example.org:{port}/  ",
        ],
        INTERNAL,
    ),
}


async def test_no_spelling_of_a_url_reaches_loopback() -> None:
    async with pages() as canary, pages(address="::1", port=canary.port) as canary_6:
        hosts = [
            *("localhost", "127.0.0.1", "127.255.255.254", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"),
            *("64:ff9b::7f00:1", "2002:7f00:1::", "loopback.example.org", NAME),
        ]
        entries = [f"[{host}]:{canary.port}" if ":" in host else f"{host}:{canary.port}" for host in hosts]
        loopback = [["127.0.0.1"]]
        resolve = Names(localhost=loopback, loopback_example_org=loopback, images_example_org=loopback)
        said = {}
        async with fetching(None, *entries, networks=(), resolve=resolve) as fetch:
            for url in ODD_URLS:
                said[url] = await refusal(fetch, url.replace("{port}", str(canary.port)))
        assert said == ODD_URLS
        assert (canary.connections, canary_6.connections) == (0, 0)


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("http://images.example.org", Location("http", NAME, 80, "/")),
        ("HTTPS://Images.Example.Org./A.png#top", Location("https", NAME, 443, "/A.png")),
        ("http://images.example.org:8080?a=b%2Fc&d=+e", Location("http", NAME, 8080, "/?a=b%2Fc&d=+e")),
        ("http://images.example.org/ü b.png?x=ü", Location("http", NAME, 80, "/%C3%BC%20b.png?x=%C3%BC")),
        ("http://images.example.org/a/../b//c?u=http://x@y/", Location("http", NAME, 80, "/a/../b//c?u=http://x@y/")),
        ("http://[2606:4700:0::1111]:81/", Location("http", "2606:4700::1111", 81, "/")),
        ("http://8.8.8.8/", Location("http", "8.8.8.8", 80, "/")),
        ("http://xn--bcher-kva.example/", Location("http", "xn--bcher-kva.example", 80, "/")),
        ("http://a_b.3example.org/\ud800", Location("http", "a_b.3example.org", 80, "/%ED%A0%80")),
    ],
)
def test_an_ordinary_url_is_taken_apart_and_its_query_left_as_it_is(url: str, location: Location) -> None:
    assert Location.of(url) == location


@given(st.text())
def test_whatever_a_client_sends_is_a_location_or_a_reason(words: str) -> None:
    for url in (words, "http://" + words, "http://a.org/" + words):
        with suppress(NotFetched):
            assert Location.of(Location.of(url).url) == Location.of(url)


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        (
            NAME,
            ["http://images.example.org/", "https://IMAGES.example.org.:443/", "https://images.example.org:80/"],
            ["http://images.example.org:8080/", "http://example.org/", "http://a.images.example.org/"],
        ),
        (
            "*.example.org",
            ["http://images.example.org/", "http://a.b.example.org/"],
            ["http://example.org/", "http://badexample.org/", "http://images.example.org.evil.org/"],
        ),
        ("images.example.org:8080", ["http://images.example.org:8080/"], ["http://images.example.org/"]),
        ("*.example.org:81", ["https://a.example.org:81/"], ["https://a.example.org/", "https://example.org:81/"]),
        ("2606:4700::1111", ["http://[2606:4700:0:0::1111]/"], ["http://[2606:4700::1112]/"]),
        ("[2606:4700::1111]:81", ["http://[2606:4700::1111]:81/"], ["http://[2606:4700::1111]/"]),
    ],
)
def test_the_list_of_hosts_means_what_it_says(entry: str, allowed: list[str], refused: list[str]) -> None:
    hosts = [AllowedHost.of(entry)]
    assert all(allows(hosts, Location.of(url)) for url in allowed)
    assert not any(allows(hosts, Location.of(url)) for url in refused)
    assert AllowedHost.of(str(hosts[0])) == hosts[0]


async def test_another_host_is_refused_by_name_before_it_is_looked_up() -> None:
    names = at("127.0.0.1")
    async with fetching(resolve=names) as fetch:
        assert await refusal(fetch, "http://evil.org/?key=secret") == "images are not fetched from evil.org"
        assert await refusal(fetch, f"http://{NAME}:22/") == f"images are not fetched from {NAME}, port 22"
        assert await refusal(fetch, f"http://{'a.' * 100}org/") == "images are not fetched from its host"
    assert names.questions == []


# Asking


async def test_the_bytes_come_and_nothing_of_ours_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1/")
    async with pages() as there, fetching(there) as fetch:
        there.pages["/a%20b.png?sig=x%2By"] = says_http(picture(), set_cookie="id=1; Path=/")
        assert await fetch.fetch(there.url("/a b.png?sig=x%2By#part")) == picture()
        assert await fetch.fetch(there.url("/a b.png?sig=x%2By")) == picture()
    head = there.asked[1].head.splitlines()
    assert head[0] == "get /a%20b.png?sig=x%2by http/1.1"
    names = {line.partition(":")[0] for line in head[1:] if line}
    assert names <= {"host", "accept", "accept-encoding", "user-agent", "connection"}
    assert f"host: {NAME}:{there.port}" in head
    assert "accept-encoding: identity" in head


async def test_a_name_is_resolved_once_and_the_checked_address_is_dialled() -> None:
    names = Names(images_example_org=[["127.0.0.2"], ["127.0.0.3"]])
    async with (
        pages(address="127.0.0.2", a_png=says_http(picture())) as right,
        pages(address="127.0.0.3", port=right.port) as wrong,
        fetching(right, resolve=names, networks=[ip_network("127.0.0.2/32")]) as fetch,
    ):
        assert await fetch.fetch(right.url()) == picture()
        assert names.questions == [NAME]
        assert await refusal(fetch, right.url()) == INTERNAL
        assert (right.connections, wrong.connections) == (1, 0)


async def test_no_socket_is_made_for_an_address_that_was_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = fetch_module._Pinned
    monkeypatch.setattr(fetch_module, "_Pinned", lambda _: pinned([ip_address("127.0.0.3")]))
    async with pages(address="127.0.0.3", a_png=says_http(picture())) as wrong:
        async with fetching(wrong, resolve=at("127.0.0.2")) as fetch:
            assert await refusal(fetch, wrong.url()) == "its server cannot be reached"
        assert wrong.connections == 0


async def test_the_next_address_is_tried_when_the_first_is_silent() -> None:
    async with (
        pages(address="127.0.0.2", a_png=says_http(picture())) as there,
        fetching(there, resolve=at("127.0.0.4", "127.0.0.2")) as fetch,
    ):
        assert await fetch.fetch(there.url()) == picture()


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_redirects_are_followed_three_times(status: str) -> None:
    async with pages() as there, fetching(there) as fetch:
        there.pages = {
            "/1": moved("2?x=ü", status),
            "/2?x=%C3%BC": moved(f"//{NAME}:{there.port}/3", status),
            "/3": moved(there.url("/4"), status),
            "/4": says_http(picture()),
            "/0": moved("/1", status),
        }
        assert await fetch.fetch(there.url("/1")) == picture()
        assert await refusal(fetch, there.url("/0")) == "it redirects more than 3 times"
    assert [knock.path for knock in there.asked[4:]] == ["/0", "/1", "/2?x=%C3%BC", "/3"]
    assert not any("referer" in knock.head or "cookie" in knock.head for knock in there.asked)


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("http://127.0.0.1:{port}/canary", "it redirects to a host that images are not fetched from"),
        ("http://169.254.169.254/latest/meta-data/", "it redirects to a host that images are not fetched from"),
        ("http://images.example.org:1/canary", "it redirects to a host that images are not fetched from"),
        ("http://inside.example.org:{port}/canary", INTERNAL),
        ("http://user@images.example.org:{port}/canary", "its address holds a user name or password"),
        ("//127.1:{port}/canary", NOT_WELL_FORMED),
        ("http://[::1/", NOT_WELL_FORMED),
        ("file:///etc/passwd", NOT_HTTP),
        ("data:image/png;base64,iVBORw0KGgo=", NOT_HTTP),
        ("", "its server's answer cannot be understood"),
    ],
)
async def test_a_redirect_is_checked_like_the_first_address(to: str, reason: str) -> None:
    names = Names(images_example_org=[["127.0.0.2"]], inside_example_org=[["127.0.0.1"]])
    async with pages(address="127.0.0.2") as there, pages(port=there.port) as canary:
        hosts = [f"{name}:{there.port}" for name in (NAME, "inside.example.org")]
        there.pages["/a.png"] = moved(to.replace("{port}", str(there.port)))
        async with fetching(None, *hosts, resolve=names, networks=[ip_network("127.0.0.2/32")]) as fetch:
            assert await refusal(fetch, there.url()) == reason
        assert canary.connections == 0


async def test_a_backslash_in_a_redirect_is_a_letter_of_the_path() -> None:
    async with pages() as there, fetching(there) as fetch:
        there.pages = {"/a.png": moved(r"http:\\evil.org\b"), "/%5C%5Cevil.org%5Cb": says_http(picture())}
        assert await fetch.fetch(there.url()) == picture()


async def test_a_name_that_turns_inward_between_two_redirects_is_caught() -> None:
    names = Names(images_example_org=[["127.0.0.2"], ["127.0.0.1"]])
    async with pages(address="127.0.0.2", a_png=moved("/b.png")) as there, pages(port=there.port) as canary:
        async with fetching(there, resolve=names, networks=[ip_network("127.0.0.2/32")]) as fetch:
            assert await refusal(fetch, there.url()) == INTERNAL
        assert canary.connections == 0


# Hostile answers


async def test_the_limit_holds_whatever_length_was_announced() -> None:
    big = bytes(3000)
    chunked = says_http(b"fff\r\n" + bytes(4095) + b"\r\n0\r\n\r\n", length=None, transfer_encoding="chunked")
    async with pages() as there, fetching(there, max_bytes=2000) as fetch:
        there.pages = {
            "/honest": says_http(big),
            "/announced": says_http(b"", length=10**12),
            "/unannounced": says_http(big, length=None, connection="close"),
            "/chunked": chunked,
            "/endless": endlessly(says_http(length=None), bytes(2**16)),
            "/just": says_http(bytes(2000)),
        }
        for path in list(there.pages)[:5]:
            assert await refusal(fetch, there.url(path)) == "larger than 0.00191 MiB", path
        assert await fetch.fetch(there.url("/just")) == bytes(2000)


async def test_an_endless_answer_is_hung_up_on() -> None:
    async with pages(a_png=endlessly(says_http(length=None), bytes(2**16))) as there, fetching(there) as fetch:
        await refusal(fetch, there.url())
        await becomes(there.gone.is_set)


async def test_less_than_was_announced_is_no_image() -> None:
    async with pages(a_png=says_http(b"half", length=10)) as there, fetching(there) as fetch:
        assert await refusal(fetch, there.url()) == "the connection ended before it was whole"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "x-unheard-of"])
async def test_a_compressed_answer_is_refused_and_never_unpacked(encoding: str) -> None:
    bomb = gzip.compress(bytes(2**24))
    async with pages(a_png=says_http(bomb, content_encoding=encoding)) as there, fetching(there) as fetch:
        assert await refusal(fetch, there.url()) == "its server sends it compressed"


async def test_an_answer_that_says_it_is_not_compressed_is_fine() -> None:
    async with pages(a_png=says_http(picture(), content_encoding="Identity")) as there, fetching(there) as fetch:
        assert await fetch.fetch(there.url()) == picture()


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (says_http(picture(), "404 Not Found"), "its server answered 404"),
        (says_http(picture(), "206 Partial Content"), "its server answered 206"),
        (says_http(b"", "304 Not Modified"), "its server answered 304"),
        (says_http(b"", "401 Unauthorized", www_authenticate="Basic"), "its server answered 401"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "its server's answer cannot be understood"),
        (b"", "its server's answer cannot be understood"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "its server's answer cannot be understood",
        ),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 20_000, "its server's answer cannot be understood"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 5_000, "its server's answer cannot be understood"),
    ],
)
async def test_an_answer_that_is_no_image_says_why_in_our_words(page: bytes, reason: str) -> None:
    async with pages(a_png=page) as there, fetching(there) as fetch:
        assert await refusal(fetch, there.url()) == reason


async def test_a_broken_chunk_is_no_image() -> None:
    broken_chunk = says_http(b"3\r\nabc\r\nzz\r\n", length=None, transfer_encoding="chunked")
    async with pages(a_png=broken_chunk) as there, fetching(there) as fetch:
        assert await refusal(fetch, there.url()) in (
            "its server's answer cannot be understood",  # where it came with the head
            "the connection ended before it was whole",
        )


async def drip(writer: asyncio.StreamWriter) -> None:
    writer.write(says_http(length=1000))
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def half_a_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")


async def pauses(writer: asyncio.StreamWriter) -> None:
    writer.write(says_http(b"half", length=10))


@pytest.mark.parametrize(
    "page",
    [None, half_a_head, pauses, drip, endlessly(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")],
    ids=["silent", "half a head", "pauses", "drips", "never comes to the point"],
)
async def test_a_slow_server_is_given_up(page: Page | None) -> None:
    async with pages() as there, fetching(there, patience=HASTY) as fetch:
        if page is not None:
            there.pages["/a.png"] = page
        assert await refusal(fetch, there.url()) == "its server took too long"
        await becomes(there.gone.is_set)


async def test_silence_is_given_up_before_the_time_is_over() -> None:
    async with pages() as there, fetching(there, patience=Patience(silence=0.2, whole=100 * DEADLINE)) as fetch:
        assert await refusal(fetch, there.url()) == "its server took too long"


async def test_a_server_that_is_not_there_or_not_known_is_said_so() -> None:
    async with pages() as there:
        url = there.url()
        async with fetching(there, resolve=at("127.0.0.4")) as fetch:
            assert await refusal(fetch, url) == "its server cannot be reached"
        async with fetching(there, resolve=Names()) as fetch:
            assert await refusal(fetch, url) == "its host cannot be found"
        async with fetching(there, resolve=at()) as fetch:
            assert await refusal(fetch, url) == "its host cannot be found"


async def test_a_name_server_that_is_silent_is_given_up() -> None:
    async def silent(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with fetching(resolve=silent, patience=HASTY) as fetch:
        assert await refusal(fetch, f"http://{NAME}/") == "its server took too long"


async def test_only_so_many_are_on_their_way_at_once() -> None:
    async with pages() as there, fetching(there, at_once=2, patience=Patience(whole=DEADLINE)) as fetch:
        there.pages["/a.png"] = says_http(picture())
        waiting = [asyncio.create_task(fetch.fetch(there.url("/silent"))) for _ in range(2)]
        await becomes(lambda: len(there.asked) == 2)
        third = asyncio.create_task(fetch.fetch(there.url()))
        await asyncio.sleep(0.05)
        assert there.connections == 2
        waiting[0].cancel()
        assert await third == picture()
        waiting[1].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_waiting_for_a_place_ends_too() -> None:
    async with pages() as there, fetching(there, at_once=1, patience=Patience(place=0.1, whole=DEADLINE)) as fetch:
        waiting = asyncio.create_task(fetch.fetch(there.url("/silent")))
        await becomes(lambda: len(there.asked) == 1)
        assert await refusal(fetch, there.url()) == "too many images are being fetched"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_who_asks_for_many_leaves_the_next_turn_to_another() -> None:
    async with pages() as there, fetching(there, at_once=1, patience=Patience(whole=DEADLINE)) as fetch:
        there.pages["/a.png"] = says_http(picture())
        gate = asyncio.Event()

        async def slow(writer: asyncio.StreamWriter) -> None:
            await gate.wait()
            writer.write(says_http(picture(), connection="close"))
            await writer.drain()

        there.pages["/slow"] = slow
        many = [asyncio.create_task(fetch.fetch(there.url("/slow"), "many")) for _ in range(20)]
        await becomes(lambda: len(there.asked) == 1)
        one = asyncio.create_task(fetch.fetch(there.url(), "one"))
        await asyncio.sleep(0)
        gate.set()
        assert await one == picture()
        assert [knock.path for knock in there.asked].index("/a.png") <= 2  # one turn may be taken already
        assert await asyncio.gather(*many) == [picture()] * 20


async def test_names_are_resolved_by_the_system_unless_told_otherwise() -> None:
    async with pages(a_png=says_http(picture())) as there:
        fetch = Fetch(
            hosts=[AllowedHost.of(f"localhost:{there.port}")],
            networks=[*LOOPBACK, ip_network("::1/128")],
            max_bytes=2**20,
            places=Places(1),
        )
        try:
            assert await fetch.fetch(there.url(host="localhost")) == picture()
        finally:
            fetch.close()


async def test_the_log_names_the_host_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with pages() as there, fetching(there) as fetch:
        there.pages["/secret-path?secret-key"] = there.pages["/other?key=secret-key"] = says_http(b"", "404 No")
        there.pages["/secret-path?key=secret-key"] = says_http(picture())
        there.pages["/moved"] = moved(there.url("/other?key=secret-key"))
        await fetch.fetch(there.url("/secret-path?key=secret-key"))
        for path in ("/moved", "/secret-path?secret-key"):
            await refusal(fetch, there.url(path))
    assert f"an image of {NAME} was fetched" in caplog.text
    assert f"an image of {NAME} was not fetched: its server answered 404" in caplog.text
    assert "secret" not in caplog.text
    assert "127.0.0.1" not in "".join(r.getMessage() for r in caplog.records if r.name.startswith("chiasm"))


def certificate(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """And a server's side of it."""
    public, private = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-days", "2"),
            *("-keyout", str(private), "-out", str(public)),
        ],
        check=True,
        capture_output=True,
        timeout=DEADLINE,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return public, context


async def test_over_tls_the_urls_name_counts_not_the_address(tmp_path: Path) -> None:
    public, context = certificate(tmp_path, NAME)
    trusted = ssl.create_default_context(cafile=str(public))
    async with pages(context=context, a_png=says_http(picture())) as there:
        url = there.url().replace("http:", "https:")
        async with fetching(there, trusted=trusted) as fetch:
            assert await fetch.fetch(url) == picture()
            assert there.server_names == [NAME]
            assert f"host: {NAME}:{there.port}" in there.asked[0].head
        other = f"other.example.org:{there.port}"
        async with fetching(None, other, trusted=trusted, resolve=Names(other_example_org=[["127.0.0.1"]])) as fetch:
            assert await refusal(fetch, f"https://{other}/a.png") == "its server has no valid certificate"
        async with fetching(there) as fetch:
            assert await refusal(fetch, url) == "its server has no valid certificate"
        async with fetching(there, trusted=trusted) as fetch:
            there.pages["/a.png"] = moved(there.url())
            assert await refusal(fetch, url) == "it redirects from https to http"


def test_a_zone_makes_no_address() -> None:
    assert dialled("fe80::1%eth0") is None
    assert dialled("2606:4700::1111%1") is None
    assert dialled("2606:4700::1111") == ip_address("2606:4700::1111")


# What a conversation remembers


class Room:
    def __init__(self, fetch: Fetch | None = None, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore(max_bytes=10**8)
        self.now = 0.0
        self.blobs, self.tables, self.rows = Blobs(self.store), Tables(self.store), Rows(self.store)
        limits = ImageLimits(max_bytes=2**20, max_pixels=10**6)
        remote = None
        if fetch is not None:
            remote = RemoteImages(
                fetch, store=self.store, tables=self.tables, blobs=self.blobs, limits=limits, clock=lambda: self.now
            )
        self.ingest = Ingest(
            blobs=self.blobs,
            tables=self.tables,
            rows=self.rows,
            limits=limits,
            load_limits=LoadLimits(max_loaded=4, keep_loaded=2, max_tokens=10**6),
            remote=remote,
            holders=Holders(self.store),
        )

    async def take(self, *messages: Any, tenant: str = "t", session: str | None = "s") -> Ingested:
        headers = {"x-session-id": session} if session else {}
        return await self.ingest.take({"messages": list(messages)}, tenant=tenant, headers=headers, cuts=None)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_what_is_at_a_url_is_admitted_like_an_image_that_was_sent() -> None:
    async with pages(a_png=says_http(picture(), content_type="text/html")) as there, fetching(there) as fetch:
        room = Room(fetch)
        taken = await room.take(user("What?", shown(there.url()), shown(picture())))
    (one, same) = taken.images
    assert (one.number, one.digest, one.media_type, one.width, one.height) == (1, sha(picture()), "image/png", 160, 96)
    assert (one.origin, one.bytes, one.problem, one.file) == ("url", len(picture()), "", "a.png")
    assert same.number == 1
    assert await room.blobs.get("t", one.digest) == picture()
    assert 1 in taken.table.loaded


async def test_a_url_is_fetched_once_in_a_conversation_whatever_becomes_of_it() -> None:
    async with pages(a_png=says_http(picture(1))) as there, fetching(there) as fetch:
        room = Room(fetch)
        first = await room.take(user(shown(there.url()), shown(there.url())))
        there.pages["/a.png"] = says_http(picture(2))
        history = [user(shown(there.url())), assistant("Well."), user("And again?", shown(there.url()))]
        second = await room.take(*history)
        restarted = await Room(fetch, room.store).take(*history)
        assert [row.digest for row in (*first.images, *second.images, *restarted.images)] == [sha(picture(1))] * 6
        assert {row.number for row in (*second.images, *restarted.images)} == {1}
        assert len(there.asked) == 1
        other = await room.take(user(shown(there.url())), session="other")
        assert other.images[0].digest == sha(picture(2))
        assert (await room.take(user(shown(there.url())), tenant="u")).images[0].digest == sha(picture(2))


async def test_a_page_that_changes_does_not_make_another_conversation_of_it() -> None:
    async with pages(a_png=says_http(picture(1))) as there, fetching(there) as fetch:
        room = Room(fetch)
        first = await room.take(user("What?", shown(there.url())), session=None)
        there.pages["/a.png"] = says_http(picture(2))
        second = await room.take(user("What?", shown(there.url())), assistant("A."), user("B?"), session=None)
    assert first.conversation == second.conversation
    assert second.images[0].digest == sha(picture(1))


async def test_of_two_requests_that_fetch_at_once_one_decides_for_both() -> None:
    served = 0

    async def another_each_time(writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        mine = served
        await becomes(lambda: served == 2)
        writer.write(says_http(picture(mine), connection="close"))
        await writer.drain()

    async with pages(a_png=another_each_time) as there, fetching(there) as fetch:
        room = Room(fetch)
        both = await asyncio.gather(*(room.take(user(shown(there.url()))) for _ in range(2)))
    assert served == 2
    assert both[0].images[0].digest == both[1].images[0].digest
    assert [taken.images[0].number for taken in both] == [1, 1]


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        (says_http(b"", "404 Not Found"), "its server answered 404"),
        (says_http(picture()[:60]), "truncated PNG"),
        (moved("http://10.0.0.1/"), "it redirects to a host that images are not fetched from"),
    ],
)
async def test_a_failure_is_remembered_until_the_url_is_sent_again(page: bytes, problem: str) -> None:
    async with pages(a_png=page) as there, fetching(there) as fetch:
        room = Room(fetch)
        question = user("What?", shown(there.url()))
        (row,) = (await room.take(question)).images
        assert (row.number, row.problem, row.origin) == (1, problem, "url")
        there.pages["/a.png"] = says_http(picture())
        (row,) = (await room.take(question, assistant("Pity."), user("Why?"))).images
        assert (row.number, row.problem) == (1, problem)
        assert len(there.asked) == 1
        rows = (await room.take(question, assistant("Pity."), user("Now?", shown(there.url())))).images
        assert {(row.digest, row.problem) for row in rows} == {(sha(picture()), "")}
        there.pages["/a.png"] = page
        rows = (await room.take(question, assistant("Pity."), user("Now?", shown(there.url())))).images
        assert {(row.digest, row.problem) for row in rows} == {(sha(picture()), "")}
        assert len(there.asked) == 2


async def test_a_request_that_is_repeated_before_an_answer_tries_again() -> None:
    async with pages(a_png=says_http(b"", "503 Busy")) as there, fetching(there) as fetch:
        room = Room(fetch)
        assert (await room.take(user(shown(there.url())))).images[0].problem == "its server answered 503"
        there.pages["/a.png"] = says_http(picture())
        assert (await room.take(user(shown(there.url())))).images[0].problem == ""


async def test_a_host_that_is_allowed_later_is_asked_then() -> None:
    async with pages(a_png=says_http(picture())) as there:
        async with fetching(there, "other.example.org") as fetch:
            room = Room(fetch)
            (row,) = (await room.take(user(shown(there.url())))).images
            assert row.problem == f"images are not fetched from {NAME}, port {there.port}"
        async with fetching(there) as fetch:
            again = Room(fetch, room.store)
            (row,) = (await again.take(user(shown(there.url())), assistant("Pity."), user("Now?"))).images
            assert (row.problem, row.digest) == ("", sha(picture()))


async def test_without_permission_nothing_is_fetched() -> None:
    async with pages(a_png=says_http(picture())) as there:
        (row,) = (await Room().take(user(shown(there.url())))).images
        assert row.problem == "images by URL are not fetched here, send the image itself"
        assert there.connections == 0


async def test_bytes_that_the_store_lost_are_fetched_again_if_they_are_the_same() -> None:
    async with pages(a_png=says_http(picture(1)), b_png=says_http(picture(2))) as there, fetching(there) as fetch:
        room = Room(fetch)
        question = user(shown(there.url()), shown(there.url("/b.png")))
        taken = await room.take(question)
        for row in taken.images:
            await room.blobs.delete("t", row.digest)
        there.pages["/b.png"] = says_http(picture(3))
        await room.take(question)
        assert len(there.asked) == 2
        room.now += 601
        again = await room.take(question)
        assert [row.digest for row in again.images] == [sha(picture(1)), sha(picture(2))]
        assert await room.blobs.get("t", sha(picture(1))) == picture(1)
        assert await room.blobs.get("t", sha(picture(2))) is None
        assert await room.blobs.get("t", sha(picture(3))) is None
        await room.take(question)
        assert len(there.asked) == 4


async def test_a_store_that_fails_costs_the_memory_and_nothing_else() -> None:
    store = FailingStore()
    store.on_write = store.on_read = broken
    async with pages(a_png=says_http(picture())) as there, fetching(there) as fetch:
        room = Room(fetch, store)
        (row,) = (await room.take(user(shown(there.url())))).images
        assert (row.number, row.digest, row.problem) == (1, sha(picture()), "")


async def test_a_deleted_image_is_neither_fetched_nor_kept_again() -> None:
    async with pages(a_png=says_http(picture())) as there, fetching(there) as fetch:
        room = Room(fetch)
        taken = await room.take(user(shown(there.url())))
        hidden_turns = HiddenTurns(room.store)
        conversations = Conversations(
            room.store,
            tables=room.tables,
            rows=room.rows,
            blobs=room.blobs,
            holders=Holders(room.store),
            looks=Looks(room.store),
            hidden_turns=hidden_turns,
            response_ids=ResponseIds(room.store),
        )
        assert await conversations.delete_image("t", taken.conversation.key, 1)
        room.now += 601
        again = await room.take(user(shown(there.url())))
        assert [(row.number, row.problem) for row in again.images] == [(1, "deleted")]
        assert len(there.asked) == 1
        assert await conversations.delete("t", taken.conversation.key)
        assert [key async for key in room.store.keys("url/")] == []
        await hidden_turns.close()


async def test_what_is_found_while_the_conversation_is_deleted_is_not_kept_in_it() -> None:
    store = MemoryStore(max_bytes=10**8)

    async def deletes(writer: asyncio.StreamWriter) -> None:
        async for key in store.keys("table/"):
            await store.delete(key)
        writer.write(says_http(picture(), connection="close"))
        await writer.drain()

    async with pages(a_png=deletes) as there, fetching(there) as fetch:
        (row,) = (await Room(fetch, store).take(user(shown(there.url())))).images
    assert (row.number, row.problem) == (1, "")
    assert [key async for key in store.keys("url/")] == []


# The whole application


def open_to(there: Pages, host: str = "127.0.0.1") -> dict[str, Any]:
    return {"remote_urls": "allow", "allowed_hosts": [f"{host}:{there.port}"], "allowed_networks": ["127.0.0.0/8"]}


@pytest.mark.live
async def test_the_eyes_see_an_image_by_its_url_and_the_words_stay() -> None:
    async with pages(a_png=says_http(picture(1))) as there, live(images=open_to(there)) as house:
        url = there.url("/a.png", "127.0.0.1")
        house.brain.will(says(looks(1, "What is it?")), says("A card."), says("Sure."))
        answer = await house.chat(user("What is it?", shown(url)))
        assert answer.text == "A card."
        assert house.eyes.looks[0].pictures == [picture(1)]
        there.pages["/a.png"] = says_http(b"", "404 Not Found")
        await house.chat(user("What is it?", shown(url)), assistant("A card."), user("Sure?"))
    first, _, third = house.brain.asked
    assert first.messages[0]["content"][1]["text"].startswith("[Image #1] (attached PNG, 160x96, ")
    assert third.messages[:1] == first.messages[:1]
    assert len(there.asked) == 1
    assert str(there.port).encode() not in third.body


@pytest.mark.live
async def test_a_url_that_leads_inside_is_words_and_the_turn_goes_on() -> None:
    async with pages() as canary, live(images=open_to(canary) | {"allowed_networks": []}) as house:
        house.brain.will(says("Pity."))
        answer = await house.chat(user("What?", shown(canary.url("/a.png?key=secret", "127.0.0.1"))))
        assert answer.text == "Pity."
        assert canary.connections == 0
    placeholder = house.brain.asked[0].messages[0]["content"][1]
    assert placeholder == text(f"[Image #1: unreadable, {INTERNAL}]\n")


@pytest.mark.live
async def test_one_keys_images_that_never_come_keep_no_other_key_waiting() -> None:
    async with (
        pages(a_png=says_http(picture(1))) as there,
        live(images=open_to(there), server={"api_keys": ["many", "one"]}) as house,
    ):
        house.brain.answers = lambda asked: says("Hello.")
        silent = [shown(there.url(f"/silent/{number}", "127.0.0.1")) for number in range(20)]
        stuck = asyncio.create_task(house.chat(user("What are these?", *silent), headers={"x-api-key": "many"}))
        await becomes(lambda: len(there.asked) == EACH)
        mine = user("What is it?", shown(there.url("/a.png", "127.0.0.1")))
        await house.chat(mine, headers={"x-api-key": "one"})
        assert "attached PNG" in str(house.brain.asked[0].messages)
        assert (stuck.done(), len(there.asked)) == (False, EACH + 1)
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)


@pytest.mark.live
async def test_a_brain_with_eyes_of_its_own_gets_the_pixels_and_never_the_url() -> None:
    async with (
        pages(a_png=says_http(picture(1))) as there,
        live(text={"images": "native"}, images=open_to(there)) as house,
    ):
        house.brain.may_see_pictures = True
        house.brain.will(says("A card."), says("Sure."))
        url = there.url("/a.png", "127.0.0.1")
        await house.chat(user("What?", shown(url)))
        there.pages.clear()
        await house.chat(user("What?", shown(url)), assistant("A card."), user("Sure?"))
    for asked in house.brain.asked:
        assert asked.messages[0] == user("What?", "[Image #1]", shown(picture(1)))
    assert len(there.asked) == 1
