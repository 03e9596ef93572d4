"""A page as somebody without JavaScript has it: words, links, forms; and what must not stand in one."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode

from router.admin.page import assets
from tests.live import Got, House

HTML = {"accept": "text/html,application/xhtml+xml"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
VOID = {"meta", "link", "img", "input", "br", "hr"}


@dataclass
class Form:
    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)

    def body(self, **changed: str) -> bytes:
        return urlencode({**self.fields, **changed}).encode()


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]


class PageReader(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.elements: list[Element] = []
        self.forms: list[Form] = []
        self.unclosed: list[str] = []
        self._area = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append(Element(tag, given))
        if tag not in VOID:
            self.unclosed.append(tag)
        if tag == "form":
            self.forms.append(Form(given.get("action", ""), given.get("method", "get")))
        elif tag == "input" and self.forms and "name" in given:
            self.forms[-1].fields[given["name"]] = given.get("value", "")
        elif tag == "textarea":
            self._area = given["name"]
            self.forms[-1].fields[self._area] = ""

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed[-1:] == [tag], f"</{tag}> closes {self.unclosed[-3:]}"
        self.unclosed.pop()
        if tag == "textarea":
            self._area = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.forms[-1].fields[self._area] += data
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [one.attributes for one in self.elements if one.tag == tag]

    @property
    def links(self) -> list[str]:
        return [one["href"] for one in self.all("a")]

    def form(self, ending: str) -> Form:
        """The one form whose action ends so."""
        (found,) = [form for form in self.forms if form.action.endswith(ending)]
        return found

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@dataclass
class Visitor:
    """Somebody with a browser that runs no scripts."""

    house: House
    cookies: dict[str, str] = field(default_factory=dict)

    def _headers(self) -> dict[str, str]:
        jar = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {**HTML, "cookie": jar or "none=1"}  # or the client would add those that it keeps itself

    def _took(self, got: Got) -> Got:
        if given := got.headers.get("set-cookie"):
            name, _, value = given.partition(";")[0].partition("=")
            self.cookies[name] = value
        return got

    async def get(self, path: str, status: int = 200) -> Got:
        got = self._took(await self.house.send(None, path=path, method="GET", headers=self._headers()))
        assert got.status == status, (path, got.status, got.body[:500])
        return got

    async def page(self, path: str, status: int = 200) -> PageReader:
        got = await self.get(path, status)
        assert got.headers["content-type"] == "text/html; charset=utf-8"
        return checked(got)

    async def send(self, path: str, body: bytes, status: int = 303, **headers: str) -> Got:
        """A form, by a browser: it says where the form was."""
        sent = {**self._headers(), **FORM, "sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate", **headers}
        sent.setdefault("origin", f"http://127.0.0.1:{self.house.port}")
        got = self._took(await self.house.send(body, path=path, headers=sent))
        assert got.status == status, (path, got.status, got.body[:500])
        return got

    async def submit(self, at: str, ending: str, **fields: str) -> PageReader:
        """The form of the page `at` whose action ends so, and the page behind it."""
        form = (await self.page(at)).form(ending)
        got = await self.send(form.action, form.body(**fields))
        return await self.page(got.headers["location"])


def checked(got: Got) -> PageReader:
    """What holds of every page."""
    policy = got.headers["content-security-policy"]
    assert policy == (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert got.headers["cache-control"] == "no-store"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["referrer-policy"] == "same-origin", "with none a form's origin would be nobody's"
    page = PageReader(got.body.decode())
    assert page.unclosed == []
    for element in page.elements:
        assert element.tag != "style"
        assert "style" not in element.attributes
        assert not [name for name in element.attributes if name.startswith("on")]
        for name in ("src", "href", "action"):
            address = element.attributes.get(name, "/")
            assert address.startswith(("/", "#")), address
            assert not address.startswith("//")
    assert [one["src"] for one in page.all("script")] == [assets.url("page.js")]
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids)), "two elements have one id"
    labels = {one["for"] for one in page.all("label")}
    fields_ = [*page.all("input"), *page.all("select"), *page.all("textarea")]
    assert labels == {one["id"] for one in fields_ if one.get("type") != "hidden" and "hidden" not in one}
    assert all(one.get("scope") in ("col", "row") for one in page.all("th"))
    assert all("alt" in one for one in page.all("img"))
    assert len(page.all("h1")) == 1
    assert page.all("a")[0] == {"class": "skip", "href": "#main"}
    return page
