"""Cutting pictures out of the bytes gives the same request as parsing it whole."""

from __future__ import annotations

import base64
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.protocol.cuts import LEAST_CUT, cut

WORD = "chiasm0123456789abcdefx"
LARGE = base64.b64encode(bytes(range(256)) * 64).decode()
PNG = "iVBORw0KGgo" + LARGE
JPEG = "/9j/" + LARGE


def cut_json(value: Any, **style: Any) -> tuple[Any, int]:
    """The parsed skeleton with payloads put back, and how many there were."""
    body = bytearray(json.dumps(value, **style).encode())
    skeleton, cuts = cut(body, WORD)
    return cuts.restored(orjson.loads(skeleton)), len(cuts.spans)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_data_urls_are_cut_and_come_back(separators: tuple[str, str]) -> None:
    value = {
        "messages": [
            {"image_url": {"url": f"data:image/png;base64,{LARGE}"}},
            {"url": f"data:image/jpeg;base64,{JPEG}"},
        ]
    }
    restored, count = cut_json(value, separators=separators)
    assert restored == value
    assert count == 2


def test_the_skeleton_is_small() -> None:
    body = bytearray(json.dumps({"url": f"data:image/png;base64,{LARGE}"}).encode())
    skeleton, cuts = cut(body, WORD)
    assert len(skeleton) < 100
    assert bytes(cuts.payload(f"{WORD}0") or b"") == LARGE.encode()


def test_a_picture_in_a_json_string_in_a_json_string_is_cut() -> None:
    inner = json.dumps([{"type": "image", "source": {"data": PNG}}, {"url": f"data:image/png;base64,{LARGE}"}])
    restored, count = cut_json({"messages": [{"role": "tool", "content": inner}]})
    assert restored == {"messages": [{"role": "tool", "content": inner}]}
    assert count == 2


def test_bare_base64_is_cut_where_a_string_begins_with_it() -> None:
    restored, count = cut_json({"a": PNG, "b": JPEG, "c": "text " + PNG})
    assert restored == {"a": PNG, "b": JPEG, "c": "text " + PNG}
    assert count == 2


@pytest.mark.parametrize(
    "text",
    [
        f"data:image/png;base64,{LARGE[:100]}",
        f"data:image/png;base64,{LARGE[:5000]}\\/{LARGE[:5000]}",
        f"data:image/png;base64,{LARGE} and words behind it",
        f"data:application/pdf;base64,{LARGE}",
        "data:image/png;base64,",
    ],
)
def test_what_is_not_plainly_a_payload_is_left_to_the_parser(text: str) -> None:
    restored, count = cut_json({"a": text})
    assert restored == {"a": text}
    assert count == 0


def test_an_unfinished_body_is_left_to_the_parser() -> None:
    body = bytearray(f'{{"a": "data:image/png;base64,{LARGE}'.encode())
    skeleton, cuts = cut(body, WORD)
    assert skeleton is body
    assert not cuts.spans


class Searched(bytearray):
    """Counts the bytes that were searched."""

    cost = 0

    def find(self, what: Any, start: Any = 0, end: Any = None) -> int:
        place = super().find(what, start, len(self) if end is None else end)
        self.cost += (place if place >= 0 else len(self) if end is None else min(end, len(self))) - start
        return place

    def rfind(self, what: Any, start: Any = 0, end: Any = None) -> int:
        place = super().rfind(what, start, len(self) if end is None else end)
        self.cost += (len(self) if end is None else min(end, len(self))) - max(place, start)
        return place


@pytest.mark.parametrize("opening", ["data:image/x;base64,", '\\"iVBORw0KGgo', '"/9j/', "data:image/x;base64,/ "])
@pytest.mark.parametrize("closing", ['"', ' "', "", '\\n"'])
def test_each_byte_is_searched_a_fixed_number_of_times(opening: str, closing: str) -> None:
    for count in (1_000, 10_000):
        body = Searched(f'{{"a": "{opening * count}{closing}}}'.encode())
        cut(body, WORD)
        assert body.cost < 40 * len(body)


def test_a_token_that_the_client_wrote_itself_means_nothing() -> None:
    _, cuts = cut(bytearray(json.dumps({"url": f"data:image/png;base64,{LARGE}"}).encode()), WORD)
    assert cuts.payload("chiasmffffx0") is None
    assert cuts.payload(f"{WORD}1") is None
    assert cuts.payload(f"{WORD}-1") is None
    assert cuts.payload(f"{WORD}0") is not None


PIECES = {
    "a data URL": f"data:image/png;base64,{LARGE}",
    "one with a parameter": f"data:image/webp;charset=utf-8;base64,{LARGE}",
    "PNG": PNG,
    "JPEG": JPEG,
    "words": "plain words",
    "escapes": 'quotes " and \\ slashes',
    "JSON": json.dumps({"data": PNG}),
    "JSON in JSON": json.dumps(json.dumps([PNG, LARGE])),
    "long": "x" * LEAST_CUT,
    "scheme": "data:image/",
    "mark": ";base64,",
    "unicode": "\u2028 ünïcode 🖼",
}
texts = st.lists(st.sampled_from(sorted(PIECES)), max_size=3)
shapes = st.recursive(
    texts.map(tuple) | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts.map(tuple), inner, max_size=3),
    max_leaves=8,
)


def grown(shape: Any) -> Any:
    """Names of pieces to the pieces: drawn by name, so that a failing example can be read."""
    match shape:
        case tuple():
            return " ".join(PIECES[name] for name in shape)
        case list():
            return [grown(item) for item in shape]
        case dict():
            return {grown(key): grown(item) for key, item in shape.items()}
        case _:
            return shape


@given(shape=shapes, ascii_only=st.booleans())
def test_cut_and_restored_is_the_request_itself(shape: Any, ascii_only: bool) -> None:
    value = grown(shape)
    body = bytearray(json.dumps(value, ensure_ascii=ascii_only).encode())
    before = bytes(body)
    skeleton, cuts = cut(body, WORD)
    assert cuts.restored(orjson.loads(skeleton)) == value
    assert bytes(body) == before


@pytest.mark.parametrize("tail", [")", "'", "<b>", ") and (", "'/><p>IMPORTANT</p>", ")" + "A" * 200, ",", ".", "]"])
def test_a_payload_that_does_not_fill_its_string_is_left_to_the_parser(tail: str) -> None:
    restored, count = cut_json({"a": f"![x](data:image/png;base64,{LARGE}{tail}"})
    assert restored == {"a": f"![x](data:image/png;base64,{LARGE}{tail}"}
    assert count == 0


def test_sound_is_no_picture() -> None:
    wav = base64.b64encode(b"RIFF\x10\x20\x30\x00WAVEfmt " + bytes(9000)).decode()
    webp = base64.b64encode(b"RIFF\x10\x20\x30\x00WEBPVP8 " + bytes(9000)).decode()
    assert cut_json({"data": wav})[1] == 0
    assert cut_json({"data": webp})[1] == 1


@pytest.mark.parametrize("start", ["iVBORw0KGgo", "/9j/", "R0lGOD", "UklGRAAAAAAARUJQ"])
def test_bare_pictures_of_every_format_are_cut(start: str) -> None:
    body = bytearray(json.dumps({"a": start + LARGE}).encode())
    _, cuts = cut(body, WORD)
    assert bytes(cuts.payload(f"{WORD}0") or b"") == (start + LARGE).encode()


@pytest.mark.parametrize(("length", "count"), [(LEAST_CUT - 4, 0), (LEAST_CUT, 1)])
@pytest.mark.parametrize("before", ["data:image/png;base64,", ""])
def test_only_payloads_of_the_least_size_are_cut(before: str, length: int, count: int) -> None:
    text = before + ("/9j/" + LARGE)[:length]
    value = {"b": "words" * 2000, "a": text}
    restored, cut_out = cut_json(value)
    assert restored == value
    assert cut_out == count


@pytest.mark.parametrize("before", [0, 1, 63, 64, 4031, 4032, 4033, 4095, 4096, 5000])
def test_the_smallest_payload_is_found_wherever_it_begins_among_words(before: int) -> None:
    value = {"a": "a " * (before // 2) + "b" * (before % 2), "p": ("/9j/" + LARGE)[:LEAST_CUT], "z": "c " * 3000}
    restored, count = cut_json(value)
    assert restored == value
    assert count == 1


def test_a_body_as_large_as_the_least_payload_is_searched() -> None:
    text = '"/9j/' + LARGE
    whole = text[: LEAST_CUT - 1] + '"'
    skeleton, cuts = cut(bytearray(whole.encode()), WORD)
    assert skeleton == whole.encode()
    assert not cuts.spans  # what it holds is smaller by its quotes
    larger = text[: LEAST_CUT + 1] + '"'
    assert cut(bytearray(larger.encode()), WORD)[0] == f'"{WORD}0"'.encode()


def test_a_scheme_without_a_payload_does_not_hide_the_picture_behind_it() -> None:
    words = "data:image/ is how it begins, " + "x" * 100 + " data:image/"
    value = {"a": words, "b": f"data:image/png;base64,{LARGE}", "c": words}
    assert cut_json(value) == (value, 1)


@pytest.mark.parametrize(("letters", "count"), [(3, 1), (45, 1), (46, 0), (60, 0)])
def test_a_media_type_may_be_long_but_not_endless(letters: int, count: int) -> None:
    value = {"a": f"data:image/{'x' * letters};base64,{LARGE}"}
    assert cut_json(value) == (value, count)


def test_a_picture_behind_words_that_are_no_payload_is_still_cut() -> None:
    value = {"a": f"data:image/png;base64,x data:image/png;base64,{LARGE}", "b": f"data:image/gif;base64,{LARGE}"}
    assert cut_json(value) == (value, 2)


def test_bare_pictures_between_and_behind_data_urls_are_cut_in_order() -> None:
    url = f"data:image/png;base64,{LARGE}"
    value = [PNG, url, JPEG, PNG, url, "R0lGOD" + LARGE]
    body = bytearray(json.dumps(value).encode())
    skeleton, cuts = cut(body, WORD)
    url_with = "data:image/png;base64," + WORD
    assert orjson.loads(skeleton) == [
        WORD + "0", url_with + "1", WORD + "2", WORD + "3", url_with + "4", WORD + "5",
    ]  # fmt: skip
    assert cuts.restored(orjson.loads(skeleton)) == value


def test_a_token_of_no_picture_stays_as_the_client_wrote_it() -> None:
    _, cuts = cut(bytearray(json.dumps({"url": f"data:image/png;base64,{LARGE}"}).encode()), WORD)
    assert cuts.restored([f"see {WORD}7 and {WORD}0"]) == [f"see {WORD}7 and {LARGE}"]
    assert cuts.payload(WORD) is None


def test_sound_in_the_container_of_webp_is_left_and_a_picture_behind_it_is_cut() -> None:
    sound, picture = "UklGRAAAAAAAV0FW" + LARGE, "UklGRAAAAAAARUJQ" + LARGE
    assert cut_json([sound]) == ([sound], 0)
    assert cut_json([sound, picture]) == ([sound, picture], 1)


@pytest.mark.parametrize("sign", [")", "'", "<", " ", "\\"])
def test_a_url_that_does_not_fill_its_string_is_left_to_the_parser(sign: str) -> None:
    value = [f"data:image/png;base64,{LARGE}{sign}{LARGE}", "/9j/" + LARGE + sign + LARGE]
    assert cut_json(value) == (value, 0)


def test_what_ends_in_something_else_than_base64_is_left_to_the_parser() -> None:
    value = [f"data:image/png;base64,{LARGE}!", "/9j/" + LARGE.rstrip("=") + "!"]
    assert cut_json(value) == (value, 0)


@pytest.mark.parametrize(
    "piece",
    [b'"/9j/', b'"UklGR', b'\\"/9j/', b'"iVBORw0KGgo"', b'data:image/png;base64,"', b"data:image/"],
    ids=["jpeg", "riff", "escaped", "png", "data url", "no data url"],
)
def test_beginnings_without_end_are_not_all_tried(monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
    """Each costs the event loop a microsecond, and a body has room for millions."""
    tried = []

    class Body(bytearray):
        def find(self, *what: Any) -> int:
            tried.append(what)
            return super().find(*what)

    body = Body(b"[" + piece * 100_000 + b']"' + b"x" * 9 + b'"')
    skeleton, made = cut(body, "chiasm" + "0" * 32 + "x")
    assert bytes(skeleton) == bytes(body)
    assert made.spans == []
    assert len(tried) < 80_000
