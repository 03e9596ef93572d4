"""What is said stays between those who say it: no key, prompt, answer, argument or picture is in a log or in an error
of ours, whatever goes wrong; keys stay ours, wherever a server repeats them; and pages of other hosts may not ask.

What brain, eyes and our own faults could let out is tried in every wire format (`speaker`).
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

import router.door
from cache.memory import MemoryStore
from cache.store import StoreError
from router.config import Settings
from router.intake.preparation import Preparation
from router.log_lines import LogLines
from tests.brain import (
    Asked,
    Brain,
    Breaks,
    Calls,
    Ends,
    Fails,
    Hangs,
    Script,
    Sends,
    Thinks,
    Wire,
    looks,
    refuses,
    resets,
    says,
    whole,
)
from tests.eyes import Eyes, sees
from tests.live import (
    DEADLINE,
    House,
    Line,
    Options,
    assistant,
    becomes,
    data_url,
    function,
    live,
    picture,
    service_process,
    shown,
    soon,
    tool_call,
    tool_result,
    user,
)
from tools.analyze_image import AnalyzeImage

pytestmark = pytest.mark.anyio

KEY = 'sk-our-"upstream"-key-0123456789abcdef'


@pytest.mark.usefixtures("speaker")
@pytest.mark.parametrize(
    "script",
    [
        refuses(400, f"bad request by Bearer {KEY}"),
        refuses(400, "x" * 1990 + KEY),
        refuses(400, "bad", code=f"key={KEY}"),
        refuses(500, f"we saw {KEY}"),
        says(Fails(f"we saw {KEY}")),
        says("Hello", Fails(f"we saw {KEY}")),
        whole({"error": {"message": f"we saw {KEY}"}}),
        whole({"detail": {"key": KEY}}, status=403),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_key_that_a_server_repeats_goes_nowhere(
    script: Script, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with live(text={"api_key": KEY.replace(" ", "")}) as house:
        house.brain.answers = lambda asked: script
        got = await house.send({"messages": [user("Hi.")], "stream": stream})
        for part in ("upstream", "0123456789abcdef"):
            assert f"-{part}" not in got.body.decode(), got.body
            assert f"-{part}" not in caplog.text


async def test_a_code_cannot_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with live() as house:
        house.brain.will(refuses(400, "bad", code="x\n2026-01-01 ERROR forged"))
        await house.send({"messages": [user("Hi.")]})
    assert "forged" not in caplog.text


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://evil.example", 403),
        ("null", 403),
        ("https://127.0.0.1.evil.example", 403),
        ("http://[", 403),
        ("http://[::1", 403),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:8080", 200),
        ("http://[::1]:8080", 200),
    ],
)
async def test_without_keys_only_pages_of_this_machine_may_ask(origin: str, status: int) -> None:
    async with live() as house:
        house.brain.answers = lambda asked: says("Hello.")
        got = await house.send({"messages": [user("Hi.")]}, headers={"origin": origin})
        assert got.status == status


async def test_with_keys_the_key_decides() -> None:
    async with live(server={"api_keys": ["k"]}) as house:
        house.brain.answers = lambda asked: says("Hello.")
        headers = {"origin": "http://elsewhere.example", "authorization": "Bearer k"}
        got = await house.send({"messages": [user("Hi.")]}, headers=headers)
        assert got.status == 200


# Nothing of what is said is in a log

MARK: Final = "Kanarienvogel"
"""Part of whatever must stay out of logs."""

CAT: Final = picture(41)
PIXELS: Final = base64.b64encode(CAT).decode()
KEYS: Final = {kind: f"sk-{kind}-{MARK}-0123456789abcdef" for kind in ("client", "other", "brain", "eyes")}
QUIETED: Final = (
    "httpx",
    "httpcore",
    "aiohttp",
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "sse_starlette",
    "asyncio",
)


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """Every record as it would be written, of all loggers: our own to DEBUG, those of others to INFO although the
    service sets them higher."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    listener = Listener(0)
    listener.setFormatter(LogLines())
    root, others = logging.getLogger(), [logging.getLogger(name) for name in QUIETED]
    levels = [(logger, logger.level) for logger in (root, *others)]
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    for other in others:
        other.setLevel(logging.INFO)
    yield lines
    root.removeHandler(listener)
    for logger, level in levels:
        logger.setLevel(level)


def check_quiet(lines: str) -> None:
    assert MARK.lower() not in lines.lower(), [line for line in lines.splitlines() if MARK.lower() in line.lower()][:3]
    assert not re.search(r"[A-Za-z0-9+/]{64,}", lines), "base64"
    assert not any(PIXELS[start : start + 40] in lines for start in range(0, len(PIXELS) - 40, 20))


def request(words: str = "", **fields: Any) -> dict[str, Any]:
    """With a mark in each place in which a client can put words."""
    image = {**shown(CAT), "filename": f"{MARK}-{words}.png"}
    return {
        "messages": [
            {"role": "system", "content": f"{MARK} of the system"},
            user(f"{MARK} of the user {words}", image),
            assistant(f"{MARK} of the answer", tool_call("c1", "Read", f'{{"path": "{MARK}"}}')),
            tool_result("c1", f"{MARK} of a result, data:image/png;base64,{PIXELS}"),
            user(f"{MARK}? {words}"),
        ],
        "tools": [{**function("Read"), "description": MARK}],
        "user": f"{MARK} of a name",
        "metadata": {"user_id": MARK},
        "stop": [MARK],
        **fields,
    }


def look(number: int, words: str) -> Calls:
    return looks(number, f"{MARK} of a task, {words}")


ECHO: Final = f"{MARK} {KEYS['brain']} {PIXELS} {MARK}"


async def bad_http(asked: Asked, wire: Wire) -> None:
    await wire.raw(f"HTTP/1.1 {MARK}\r\n{MARK}: {MARK}\x00\r\n\r\n".encode())
    await wire.until_hung_up()


BRAIN_SAYS: Final[dict[str, list[Script]]] = {
    "a look": [says(Thinks(MARK), MARK, look(1, "1")), says(MARK)],
    "a client's call": [says(Calls("Read", f'{{"path": "{MARK}"}}'))],
    "both": [says(look(1, "2"), Calls("Read", f'{{"path": "{MARK}"}}'))],
    "no such image": [says(look(9, "3")), says(MARK)],
    "garbled arguments": [says(Calls("analyzeImage", f"{{image 1 {MARK}")), says(MARK)],
    "a call of a tool that nobody has": [says(Calls(f"{MARK}Tool", MARK))],
    "a refusal": [refuses(400, ECHO, code=f"{MARK} {MARK}")],
    "an error": [refuses(500, ECHO)],
    "an error in the stream": [says(MARK, Fails(ECHO))],
    "an error after a look": [says(look(1, "4")), refuses(400, ECHO)],
    "garbage": [says(MARK, Sends(f"data: {{{ECHO}\n\n".encode()))],
    "no JSON": [whole(ECHO.encode(), headers={"content-type": f"text/{MARK}"})],
    "other JSON": [whole({MARK: ECHO})],
    "a broken connection": [says(MARK, Breaks())],
    "half an answer": [says(MARK, Ends())],
    "two resets": [resets, resets],
    "bad HTTP": [bad_http, bad_http],
}

EYES_SAY: Final[dict[str, Script]] = {
    "an answer": sees(f"{MARK} {PIXELS[:60]}"),
    "an error": refuses(500, ECHO),
    "a refusal": refuses(400, f"{KEYS['eyes']} {ECHO}"),
    "garbage": whole(f"{ECHO} {{".encode(), headers={"content-type": "text/plain"}),
    "nothing": whole({"choices": [{"message": {"content": None, "refusal": ECHO}}]}),
    "no JSON of its kind": whole({MARK: ECHO}),
    "a broken connection": resets,
}


@asynccontextmanager
async def guarded(**options: Any) -> AsyncIterator[House]:
    """With all keys, and images by address allowed from a host that is not there."""
    async with live(
        server={"api_keys": [KEYS["client"], KEYS["other"]]},
        text={"api_key": KEYS["brain"]},
        vision={"api_key": KEYS["eyes"]},
        images={"remote_urls": "allow", "allowed_hosts": ["nowhere.invalid"], "max_loaded": 2, "keep_loaded": 1},
        **options,
    ) as house:
        yield house


def client() -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS['client']}", "cookie": f"c={MARK}", "user-agent": MARK, "referer": MARK}


@pytest.mark.usefixtures("speaker")
@pytest.mark.parametrize("stream", [True, False])
async def test_no_log_holds_what_is_said_whatever_the_brain_does(stream: bool, heard: list[str]) -> None:
    async with guarded() as house:
        house.brain.may_see_pictures = True  # only echoes of this test
        house.eyes.answers = lambda asked: sees(f"{MARK} is on it")
        house.brain.answers = lambda asked: says(MARK)
        for name, scripts in BRAIN_SAYS.items():
            heard.clear()
            house.brain.will(*scripts)
            got = await house.send(request(name, stream=stream), headers=client())
            house.brain._line.clear()
            assert KEYS["brain"] not in got.body.decode()
            await becomes(lambda: any("model=" in line for line in heard))  # the exchange is, but for what was said
            check_quiet("\n".join(heard))


@pytest.mark.usefixtures("speaker")
@pytest.mark.parametrize("mode", ["tool", "caption"])
async def test_no_log_holds_what_is_said_whatever_the_eyes_do(mode: str, heard: list[str]) -> None:
    async with guarded() as house:
        house.brain.may_see_pictures = True
        house.brain.answers = lambda asked: (
            says(look(1, str(len(house.brain.asked))))
            if asked.tools and asked.messages[-1]["role"] == "user"
            else says(MARK)
        )
        fields = {"tool_choice": "none"} if mode == "caption" else {}
        for number, (name, script) in enumerate(EYES_SAY.items()):
            house.eyes.answers = lambda asked, script=script: script
            asked = len(house.eyes.asked)
            headers = {**client(), "x-chiasm-conversation": f"talk-{number}"}
            got = await house.send(request(name, **fields), headers=headers)
            assert got.status == 200
            assert KEYS["eyes"] not in got.body.decode() + str([asked.body for asked in house.brain.asked])
            assert len(house.eyes.asked) > asked
    assert any("eyes" in line for line in heard)
    check_quiet("\n".join(heard))


async def test_no_log_holds_what_clients_send_that_is_refused(heard: list[str]) -> None:
    async with guarded() as house:
        house.brain.answers = lambda asked: says(MARK)
        for body in (
            f"{MARK} {PIXELS}".encode(),
            f'{{"messages": "{MARK}"}}'.encode(),
            {"messages": [{"role": MARK, "content": MARK}]},
            request(model=MARK),
            request(n=MARK),
            request(tools=[MARK]),
            request(functions={MARK: PIXELS}),
            {**request(), MARK: data_url(CAT)},
        ):
            got = await house.send(body, headers=client())
            assert got.status in (400, 404)
            assert PIXELS[:40] not in got.body.decode()
        for path in (f"/v1/{MARK}?key={KEYS['client']}", f"/v1/models/{MARK}", f"/v1/models?api_key={KEYS['client']}"):
            head = f"GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {KEYS['client']}\r\n\r\n"
            async with Line(house.port, head.encode()) as raw:
                assert (await raw.rest()).status in (200, 404)
        for wrong in (KEYS["client"][:-1], f"{KEYS['client']}x", MARK):
            got = await house.send(request(), headers={"x-api-key": wrong})
            assert got.status == 401
            assert MARK not in got.body.decode()
        for line in (f"GET /{MARK} HTTP/9\r\n\r\n", f"{MARK}\r\n\r\n", f"GET / HTTP/1.1\r\n{MARK}\r\n\r\n"):
            async with Line(house.port, line.encode()) as raw:
                while await raw.more():
                    pass
                assert MARK.encode() not in raw.raw
    assert any("refused" in line for line in heard)
    check_quiet("\n".join(heard))


async def test_no_log_holds_the_path_of_an_image_by_address(heard: list[str]) -> None:
    async with guarded() as house:
        house.brain.answers = lambda asked: says(MARK)
        for url in (
            f"http://nowhere.invalid/{MARK}.png?sig={MARK}",
            f"http://{MARK}@elsewhere.invalid/",
            f"{MARK}://x",
        ):
            await house.chat(user("What?", shown(url)), headers=client())
    assert any("nowhere.invalid" in line for line in heard)
    check_quiet("\n".join(heard))


@pytest.mark.usefixtures("speaker")
async def test_no_log_holds_what_was_said_where_a_client_leaves_or_a_server_hangs(heard: list[str]) -> None:
    async with guarded() as house:
        house.eyes.answers = lambda asked: says(Hangs())
        for script in (says(MARK, Hangs()), says(look(1, "1"))):
            house.brain.will(script)
            async with house.line(*request()["messages"], stream=True, headers=client()):
                await soon(house.brain.came(len(house.brain.asked) + 1))
                await asyncio.sleep(0.05)
        await becomes(lambda: sum("outcome=cancelled" in line for line in heard) == 2)
    check_quiet("\n".join(heard))


async def test_no_log_holds_what_was_said_where_the_store_fails(
    heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise StoreError("the store is full")

    for name in ("get", "get_many", "put", "add", "swap"):
        monkeypatch.setattr(MemoryStore, name, fails)
    async with guarded() as house:
        house.brain.will(says(look(1, "1")), says(MARK))
        assert (await house.send(request(), headers=client())).status == 200
    assert any("could not be" in line for line in heard)
    check_quiet("\n".join(heard))


@pytest.mark.usefixtures("speaker")
async def test_a_fault_of_ours_is_in_the_log_with_its_place_and_without_what_it_is_about(
    heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of an exception hold what it stumbled over; a `KeyError` is nothing else."""

    def stumbles(*_: Any, **__: Any) -> Any:
        try:
            return dict[str, str]()[f"{MARK} {PIXELS}"]
        except KeyError as error:
            raise ValueError(f"{MARK} of {KEYS['client']}") from error

    async with guarded(log_may_say=r"a fault of ours in request \w+|the tool analyzeImage failed") as house:
        house.brain.will(says(look(1, "1")), says(MARK))
        with monkeypatch.context() as tool:
            tool.setattr(AnalyzeImage, "_look", stumbles)
            assert (await house.send(request(), headers=client())).status == 200
        with monkeypatch.context() as room:
            room.setattr(Preparation, "prepare", stumbles)
            got = await house.send(request(), headers=client())
            assert got.status == 500
            assert MARK not in got.body.decode()
    text = "\n".join(heard)
    assert text.count("in stumbles") == 4, "where it was, of both exceptions"
    assert "ValueError" in text
    assert "KeyError" in text
    check_quiet(text)


async def test_a_server_cannot_write_lines_into_the_log(heard: list[str]) -> None:
    async with live() as house:
        house.brain.models = refuses(503, "x\n2026-01-01 00:00:00,000 ERROR chiasm forged\r\x1b[2J")
        await house.get("/readyz")
    lines = "\n".join(heard).splitlines()
    assert any("forged" in line for line in lines), "its words are there"
    assert not any(line.startswith("2026-01-01") for line in lines)
    assert not any("\x1b" in line for line in lines)


async def test_the_real_services_log_holds_nothing_of_it_either(tmp_path: Path) -> None:
    """As it sets up its log itself."""
    async with Brain() as brain, Eyes() as eyes:
        brain.may_see_pictures = True
        options = Options(
            server={"api_keys": [KEYS["client"], KEYS["other"]], "drain_seconds": 1},
            text={"api_key": KEYS["brain"]},
            vision={"api_key": KEYS["eyes"]},
            images={"remote_urls": "allow", "allowed_hosts": ["nowhere.invalid"]},
            store={"kind": "disk", "path": str(tmp_path / "store")},
        )
        async with service_process(tmp_path, options.tables(brain.url, eyes.url)) as service:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{service.port}", trust_env=False, timeout=DEADLINE
            ) as http:
                house = House(brain, eyes, service.port, http)
                eyes.answers = lambda asked: refuses(500, ECHO)
                for script in BRAIN_SAYS.values():
                    brain.will(*script)
                    brain.answers = lambda asked: says(MARK)
                    await house.send(request(stream=True), headers=client(), path=f"/v1/chat/completions?key={MARK}")
                    brain._line.clear()
                for path in (
                    f"/v1/models?api_key={KEYS['client']}",
                    f"/{MARK}?key={MARK}",
                    "/readyz",
                    f"/readyz?k={MARK}",
                ):
                    await house.get(path, x_api_key=KEYS["client"])
                house.brain.answers = lambda asked: says(MARK)
                await house.send({"messages": [user(shown(f"http://nowhere.invalid/?{MARK}"))]}, headers=client())
                brain.will(says(MARK, Hangs()))
                async with house.line(*request()["messages"], stream=True, headers=client()) as line:
                    await line.until(MARK.encode())
                    service.terminate()
                    await line.rest()
            await service.ended()
        written = service.log.read_text()
    assert "model=brain" in written
    check_quiet(written)


# Keys and headers


async def test_every_key_is_compared_in_full_and_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def noted(given: bytes, known: bytes) -> bool:
        compared.append((given, known))
        return hmac.compare_digest(given, known)

    class Noting:
        compare_digest = staticmethod(noted)

    monkeypatch.setattr(router.door, "hmac", Noting)
    keys = ["first-key", "second-key", "third-key"]
    async with live(server={"api_keys": keys}) as house:
        for given, status in (("first-key", 200), ("third-key", 200), ("f", 401), ("first-keyx", 401), ("", 401)):
            compared.clear()
            got = await house.get("/v1/models", x_api_key=given)
            assert got.status == status
            # Whether it is the first, the last or none: each of them is compared with what was given.
            assert [known for offered, known in compared if offered == given.encode()][:3] == [
                key.encode() for key in keys
            ]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_keys_no_other_machine_is_let_in(host: str) -> None:
    tables = Options(server={"host": host}).tables("http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1")
    with pytest.raises(ValueError, match="api_keys is empty"):
        Settings.model_validate(tables)
    Settings.model_validate({**tables, "server": {"host": host, "api_keys": ["k"]}})


@pytest.mark.parametrize("images", ["tool", "off"])
async def test_of_a_clients_headers_the_brain_gets_the_request_id_and_the_session_and_no_other(images: str) -> None:
    ours = {"x-request-id": "r-1", "x-session-id": "s-1"}
    theirs = {
        "authorization": f"Bearer {KEYS['client']}",
        "x-api-key": KEYS["client"],
        "cookie": "theirs",
        "x-forwarded-for": "theirs",
        "x-forwarded-host": "theirs",
        "x-forwarded-proto": "theirs",
        "forwarded": "for=theirs",
        "via": "1.1 theirs",
        "host": "theirs.example",
        "connection": "keep-alive, x-hop",
        "keep-alive": "timeout=theirs",
        "proxy-authorization": "Basic theirs",
        "proxy-connection": "theirs",
        "te": "trailers, theirs",
        "trailer": "theirs",
        "x-hop": "theirs",
        "origin": "http://127.0.0.1",
        "referer": "http://theirs/",
        "user-agent": "theirs",
        "openai-organization": "theirs",
        "x-unknown": "theirs",
        "accept-language": "theirs",
        "traceparent": "theirs",
        "x-chiasm-conversation": "theirs",
    }
    async with live(server={"api_keys": [KEYS["client"]]}, text={"api_key": "ours", "images": images}) as house:
        house.brain.will(says("Hello."))
        async with house.line(user("Hi."), headers={**theirs, **ours}) as line:
            assert (await line.rest()).status == 200
        got = house.brain.asked[0].headers
        assert "theirs" not in str(got)
        assert KEYS["client"] not in str(got)
        assert got["authorization"] == "Bearer ours"
        assert got["host"] == f"127.0.0.1:{house.brain.port}"
        assert {name: got[name] for name in ours} == ours
        allowed = {"host", "authorization", "accept", "accept-encoding", "content-type", "content-length", "user-agent"}
        assert got.keys() <= allowed | ours.keys(), got.keys()


@pytest.mark.usefixtures("speaker")
async def test_of_the_brains_headers_the_client_gets_none() -> None:
    theirs = {
        "set-cookie": "theirs=1",
        "server": "theirs",
        "x-powered-by": "theirs",
        "x-request-id": "theirs",
        "openai-organization": "theirs",
        "proxy-authenticate": "theirs",
        "access-control-allow-origin": "theirs",
    }
    async with live() as house:
        for stream in (True, False):
            house.brain.will(says("Hello.", headers=theirs), refuses(400, "no", headers=theirs))
            for _ in range(2):
                got = await house.send({"messages": [user("Hi.")], "stream": stream})
                assert "theirs" not in str(dict(got.headers))
        assert (await house.get("/v1/models")).headers.get("server") is None


async def test_where_a_proxy_is_named_in_the_environment_nothing_is_sent_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with live() as house:
        house.brain.will(says(looks(1, "What?")), says("So."))
        assert (await house.chat(user(shown(CAT)))).text == "So."
        assert len(house.eyes.asked) == 1
