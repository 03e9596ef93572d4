"""Who may see and change the image tables, and who may not."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

import pytest

from router.admin.auth import COOKIE, SESSION_SECONDS, Asking, Auth, Who
from router.errors import BadRequest, Forbidden, Unauthorized
from tests.live import Got, House, live

KEY = "the-admin-key-of-this-house"
STATS = "/admin/api/stats"
SESSION = "/admin/api/session"


def asking(method: str = "GET", peer: str | None = "127.0.0.1", **headers: str) -> Asking:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Asking(method, {"host": "127.0.0.1:8090", **named}, peer)


def refused(auth: Auth, what: Asking) -> str:
    with pytest.raises((Unauthorized, Forbidden)) as found:
        auth.check(what)
    return str(found.value.code)


# With a key


@pytest.mark.parametrize("headers", [{"authorization": f"Bearer {KEY}"}, {"x_api_key": KEY}])
def test_the_key_opens_the_door_from_everywhere(headers: dict[str, str]) -> None:
    who = Auth(KEY).check(asking(peer="203.0.113.9", host="admin.example.org", x_forwarded_for="1.2.3.4", **headers))
    assert who.by_key
    assert KEY not in who.name


@pytest.mark.parametrize("key", ["", "wrong", KEY[:-1], KEY + "x", KEY.upper(), "\xff" * 9, "local"])
def test_another_key_or_none_opens_nothing(key: str) -> None:
    assert refused(Auth(KEY), asking(x_api_key=key)) == "invalid_api_key"
    assert refused(Auth(KEY), asking(authorization=f"Bearer {key}")) == "invalid_api_key"
    with pytest.raises(Unauthorized):
        Auth(KEY).sign_in(asking("POST"), key)


def test_this_machine_needs_the_key_too_where_there_is_one() -> None:
    assert refused(Auth(KEY), asking()) == "invalid_api_key"


def test_a_wrong_key_is_refused_also_beside_a_good_session() -> None:
    auth = Auth(KEY)
    session = auth.sign_in(asking("POST"), KEY)
    assert refused(auth, asking(cookie=f"{COOKIE}={session}", x_api_key="wrong")) == "invalid_api_key"


# Sessions


def signed_in(auth: Auth) -> str:
    return auth.sign_in(asking("POST"), KEY)


def test_a_browser_signs_in_once() -> None:
    auth = Auth(KEY)
    who = auth.check(asking(cookie=f"other=1; {COOKIE}={signed_in(auth)}"))
    assert not who.by_key
    assert who.session


def test_a_session_ends_by_its_time_and_by_another_key() -> None:
    now = [1_000_000.0]
    auth = Auth(KEY, clock=lambda: now[0])
    cookie = f"{COOKIE}={signed_in(auth)}"
    assert Auth(KEY, clock=lambda: now[0]).check(asking(cookie=cookie)), "another process of the same configuration"
    assert refused(Auth("another", clock=lambda: now[0]), asking(cookie=cookie))
    now[0] += SESSION_SECONDS + 1
    assert refused(auth, asking(cookie=cookie))


@pytest.mark.parametrize("changed", ["", ".", "..", "9999999999.x.y", "é.ü.ß", "9" * 5000])
def test_no_other_cookie_is_a_session(changed: str) -> None:
    auth = Auth(KEY)
    good = signed_in(auth)
    ends, word, seal = good.split(".")
    forged = [
        changed,
        f"{int(ends) + 1}.{word}.{seal}",
        f"{ends}.{word}x.{seal}",
        f"{ends}.{word}.{seal[:-1]}",
        good + "0",
    ]
    for cookie in forged:
        assert refused(auth, asking(cookie=f"{COOKIE}={cookie}"))
    assert Auth("").check(asking(cookie=f"{COOKIE}={changed}")).session == ""


def test_the_cookie_is_for_nobody_but_this_room() -> None:
    auth = Auth(KEY)
    cookie = auth.set_cookie(asking("POST"), "value")
    assert {part.strip() for part in cookie.split(";")} == {
        f"{COOKIE}=value",
        "Path=/admin",
        f"Max-Age={SESSION_SECONDS}",
        "HttpOnly",
        "SameSite=Strict",
    }
    assert "Secure" in auth.set_cookie(asking("POST", origin="https://admin.example.org"), "value")
    assert "Max-Age=0" in auth.set_cookie(asking("POST"), "")


# Forged requests


def test_a_browser_changes_nothing_without_the_token_of_its_session() -> None:
    auth = Auth(KEY)
    session, other = signed_in(auth), signed_in(auth)
    who = Who("key", session=session)
    for token in ("", "x", auth.csrf(other), auth.csrf(session)[:-1], "é"):
        with pytest.raises(Forbidden):
            auth.check_change(asking("POST", x_csrf_token=token), who)
        with pytest.raises(Forbidden):
            auth.check_change(asking("DELETE"), who, token)
    auth.check_change(asking("POST", x_csrf_token=auth.csrf(session)), who)
    auth.check_change(asking("DELETE"), who, auth.csrf(session))
    auth.check_change(asking("GET"), who)
    auth.check_change(asking("POST"), Who("key", by_key=True))


def test_a_browser_on_this_machine_needs_the_token_too_and_a_script_does_not() -> None:
    auth = Auth("")
    auth.check_change(asking("POST"), auth.check(asking("POST")))
    for sign in ({"origin": "http://127.0.0.1:8090"}, {"sec_fetch_site": "same-origin"}, {"cookie": "a=b"}):
        one = asking("POST", **sign)
        with pytest.raises(Forbidden):
            auth.check_change(one, auth.check(one))
    session = auth.new_session()
    one = asking("POST", origin="http://127.0.0.1:8090", cookie=f"{COOKIE}={session}", x_csrf_token=auth.csrf(session))
    auth.check_change(one, auth.check(one))


FOREIGN: list[Mapping[str, str]] = [
    {"origin": "http://evil.test"},
    {"origin": "null"},
    {"origin": "http://["},
    {"origin": "http://127.0.0.1:3000"},
    {"origin": "http://127.0.0.1:8090.evil.test"},
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site"},
    {"origin": "http://127.0.0.1:8090", "sec_fetch_site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("key", ["", KEY])
def test_pages_of_other_sites_may_not_ask(headers: dict[str, str], key: str) -> None:
    assert refused(Auth(key), asking("POST", authorization=f"Bearer {KEY}", **headers)) == "foreign_origin"
    with pytest.raises(Forbidden):
        Auth(key).sign_in(asking("POST", **headers), key)


def test_a_link_on_another_site_leads_to_a_page_and_to_nothing_else() -> None:
    auth = Auth("")
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert auth.check(asking(**link), page=True)
    assert refused(auth, asking(**link))
    with pytest.raises(Forbidden):
        auth.check(asking("POST", **link), page=True)


def test_behind_a_proxy_with_another_name_the_browsers_word_counts() -> None:
    origin = {"origin": "https://admin.example.org", "host": "chiasm:8090", "sec_fetch_site": "same-origin"}
    assert Auth(KEY).check(asking("POST", authorization=f"Bearer {KEY}", **origin))
    assert refused(Auth(""), asking("POST", **origin)) == "not_loopback"


# This machine


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["127.0.0.1:8090", "localhost", "LOCALHOST:1", "[::1]:8090"])
def test_without_a_key_this_machine_may_ask(peer: str, host: str) -> None:
    assert Auth("").check(asking(peer=peer, host=host)).name == "loopback"


@pytest.mark.parametrize("peer", ["203.0.113.9", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1", "", "nonsense", None])
def test_without_a_key_no_other_machine_may_ask(peer: str | None) -> None:
    assert refused(Auth(""), asking(peer=peer)) == "not_loopback"


@pytest.mark.parametrize("host", ["evil.test", "evil.test:8090", "127.0.0.1.evil.test", "", "0.0.0.0", "[", "10.0.0.1"])
def test_without_a_key_a_name_that_points_here_is_not_enough(host: str) -> None:
    """DNS rebinding: for the browser the page of the stranger is then one of ours."""
    same = {"origin": f"http://{host}", "sec_fetch_site": "same-origin"}
    assert refused(Auth(""), asking(host=host)) == "not_loopback"
    assert refused(Auth(""), asking(host=host, **same)) == "not_loopback"


@pytest.mark.parametrize("name", ["x-forwarded-for", "x-forwarded-host", "x-real-ip", "forwarded", "via"])
def test_without_a_key_nothing_comes_through_a_proxy(name: str) -> None:
    assert refused(Auth(""), asking(**{name.replace("-", "_"): "127.0.0.1"})) == "not_loopback"


@pytest.mark.parametrize("name", [b"Host", b"origin", b"Authorization", b"cookie"])
def test_a_header_that_says_two_things_is_refused(name: bytes) -> None:
    headers = [(name, b"a"), (name.lower(), b"b")]
    with pytest.raises(BadRequest):
        Asking.of({"method": "GET", "headers": headers, "client": ("127.0.0.1", 1)})


# Over sockets


def check_headers(got: Got) -> None:
    assert "default-src 'none'" in got.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in got.headers["content-security-policy"]
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["cache-control"] == "no-store"
    assert got.headers["referrer-policy"] == "no-referrer"
    assert got.headers["x-frame-options"] == "DENY"


@pytest.mark.anyio
@pytest.mark.live
async def test_every_answer_has_the_headers_that_keep_strangers_words_from_doing_anything() -> None:
    async with live(server={"admin_key": KEY, "api_keys": ["client"]}) as house:
        good = {"authorization": f"Bearer {KEY}"}
        for status, path, method, headers in [
            (200, STATS, "GET", good),
            (200, STATS, "HEAD", good),
            (200, "/admin/api/openapi.json", "GET", good),
            (401, STATS, "GET", {}),
            (401, STATS, "GET", {"authorization": "Bearer client"}),
            (403, STATS, "GET", {**good, "origin": "http://evil.test"}),
            (404, "/admin/api/nothing", "GET", good),
            (404, "/admin/../admin/api/%2e%2e/x", "GET", {}),
            (404, "/admin/api/conversations/x/images/99999999999", "GET", good),
            (405, STATS, "POST", good),
            (401, "/admin/sign-out", "POST", {}),
            (400, "/admin/sign-in", "POST", {}),
            (413, "/admin/api/conversations/x/images/1/analyze", "POST", good),
        ]:
            body: Any = b"x" * 70_000 if status == 413 else None
            got = await house.send(body, path=path, method=method, headers=headers)
            assert got.status == status, (path, got.status, got.body)
            check_headers(got)
            if status >= 400:
                assert got.headers["content-type"] == "application/json"
                assert got.error["message"]
        client = await house.send({"messages": []}, headers={"authorization": f"Bearer {KEY}"})
        assert client.status == 401, "the admin is no client"


@pytest.mark.anyio
@pytest.mark.live
async def test_a_browser_signs_in_by_a_form_and_then_changes_with_a_token() -> None:
    async with live(server={"admin_key": KEY}) as house:
        form = {"content-type": "application/x-www-form-urlencoded"}
        wrong = await house.send(b"key=wrong", path="/admin/sign-in", headers=form)
        assert wrong.status == 401
        assert "set-cookie" not in wrong.headers
        got = await house.send(f"key={KEY}".encode(), path="/admin/sign-in", headers=form)
        assert (got.status, got.headers["location"]) == (303, "/admin")
        check_headers(got)
        cookie = {"cookie": got.headers["set-cookie"].partition(";")[0]}
        assert (await house.send(None, path=STATS, method="GET", headers=cookie)).status == 200
        token = (await house.send(None, path=SESSION, method="GET", headers=cookie)).json["csrf"]
        forget = "/admin/api/conversations/none/images/1/forget"
        assert (await house.send(None, path=forget, headers=cookie)).error["code"] == "csrf"
        assert (await house.send(None, path=forget, headers={**cookie, "x-csrf-token": token})).status == 404
        out = await house.send(b"csrf=no", path="/admin/sign-out", headers={**cookie, **form})
        assert out.status == 403
        out = await house.send(f"csrf={token}".encode(), path="/admin/sign-out", headers={**cookie, **form})
        assert out.status == 303
        assert "Max-Age=0" in out.headers["set-cookie"]


@pytest.mark.anyio
@pytest.mark.live
async def test_without_a_key_only_this_machine_by_its_own_name_may_ask() -> None:
    async with live() as house:
        assert (await house.get(STATS)).status == 200
        assert (await house.get(STATS, host=f"localhost:{house.port}")).status == 200
        for headers in ({"host": "rebound.test"}, {"origin": "http://rebound.test"}, {"x_forwarded_for": "127.0.0.1"}):
            got = await house.get(STATS, **headers)
            assert got.status == 403
            check_headers(got)
        session = await house.get(SESSION)
        assert session.json["who"] == "loopback"
        assert "HttpOnly" in session.headers["set-cookie"]


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "chiasm.audit"]


@pytest.mark.anyio
@pytest.mark.live
async def test_who_was_refused_and_who_signed_in_stands_in_the_audit_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chiasm.audit")
    async with live(server={"admin_key": KEY}) as house:
        await ask_in_all_ways(house)
    lines = audited(caplog)
    assert [(line["action"], line["outcome"]) for line in lines] == [
        ("ask", "invalid_api_key"),
        ("sign in", "invalid_api_key"),
        ("sign in", "done"),
        ("delete", "not_found"),
    ]
    assert re.fullmatch(r"key:[0-9a-f]{8}", lines[-1]["who"])
    assert KEY not in caplog.text


async def ask_in_all_ways(house: House) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    await house.get(STATS)
    await house.send(b"key=wrong", path="/admin/sign-in", headers=form)
    await house.send(f"key={KEY}".encode(), path="/admin/sign-in", headers=form)
    await house.send(None, path="/admin/api/conversations/x", method="DELETE", headers={"x-api-key": KEY})
