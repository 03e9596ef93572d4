"""Images are found wherever clients hide them, and nothing else is touched."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest

from router.protocol.image_parts import (
    UNSEEN,
    Base64Image,
    FoundImage,
    RemoteImage,
    images_outside,
    replace_images,
    without_pictures,
)

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
URL = f"data:image/png;base64,{PNG}"


def numbered(messages: list[Any], token: str = "") -> tuple[list[Any], list[FoundImage]]:
    """The messages with <0>, <1>, … in the images' places, and the images."""
    found: list[FoundImage] = []

    def say(image: FoundImage) -> str:
        found.append(image)
        return f"<{len(found) - 1}>"

    return replace_images(messages, say, token), found


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": URL, "detail": "high"}},
        {"type": "image_url", "image_url": {"url": URL}, "media_type": "image/png"},
        {"type": "image_url", "image_url": URL},
        {"type": "input_image", "image_url": URL},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {"type": "image", "data": PNG, "mimeType": "image/png"},
        {"type": "media", "data": PNG, "mediaType": "image/png"},
        {"type": "image-data", "data": PNG, "mediaType": "image/png"},
        {"type": "file-data", "data": PNG, "mediaType": "image/png"},
        {"type": "file", "mediaType": "image/png", "url": URL},
        {"type": "file", "file": {"file_data": URL, "filename": "a.png"}},
        {"type": "image", "image": URL},
        {"type": "image", "image": PNG},
    ],
)
def test_an_image_part_of_any_shape_becomes_a_text_part_in_its_place(part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, part, {"type": "text", "text": "b"}]}]
    replaced, found = numbered(messages)
    texts = [item["text"] for item in replaced[0]["content"]]
    assert texts == ["a", "<0>", "b"]
    assert isinstance(found[0].source, Base64Image)
    assert (found[0].source.payload, found[0].source.media_type) in {(PNG, "image/png"), (PNG, "")}
    assert found[0].origin == "user"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "hello"},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0xLjQ="}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "mediaType": "application/pdf", "data": "JVBERi0xLjQ="},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
        {"type": "tool_reference", "name": "image"},
        {
            "type": "input_audio",
            "input_audio": {"data": base64.b64encode(b"RIFF1234WAVEfmt " + bytes(900)).decode(), "format": "wav"},
        },
    ],
)
def test_what_is_no_image_stays_the_same_object(part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [part]}]
    replaced, found = numbered(messages)
    assert not found
    assert replaced[0] is messages[0]


def test_an_image_address_is_found_as_such() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    _, found = numbered([{"role": "user", "content": [part]}])
    assert found[0].source == RemoteImage("https://example.org/a.png")
    assert found[0].origin == "url"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "image", "image": "https://example.org/a.png"},
        {"type": "image", "url": "https://example.org/a.png"},
        {"type": "image-url", "url": "https://example.org/a.png"},
        {"type": "input_image", "image_url": "https://example.org/a.png"},
        {"type": "image_url", "url": "https://example.org/a.png"},
        {"type": "file", "mediaType": "image/png", "url": "https://example.org/a.png"},
        {"type": "file", "media_type": "image/png", "data": {"url": "https://example.org/a.png"}},
        {"type": "file", "mime_type": "image/png", "url": "https://example.org/a.png"},
        {"type": "image-data", "data": "https://example.org/a.png"},
    ],
)
def test_an_image_address_of_any_shape_is_found(part: dict[str, Any]) -> None:
    _, found = numbered([{"role": "user", "content": [part]}])
    assert [image.source for image in found] == [RemoteImage("https://example.org/a.png")]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "source": {"type": "url", "url": "https://example.org/a.pdf"}},
        {"type": "file", "source": {"data": "JVBERi0xLjQ=", "media_type": "application/pdf"}},
        {"type": "file", "mediaType": "application/pdf", "url": "https://example.org/a.pdf"},
        {"type": "file", "url": "http://example.org/a"},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "url": "data:application/pdf;base64,JVBERi0xLjQ="},
        {"type": "media", "data": "AAAA"},
    ],
)
def test_a_file_that_does_not_say_it_is_an_image_is_none(part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [part]}]
    replaced, found = numbered(messages)
    assert not found
    assert replaced[0] is messages[0]


@pytest.mark.parametrize("part", [{"type": "image"}, {"type": "image_url", "image_url": None}])
def test_an_image_of_nothing_has_neither_data_nor_type(part: dict[str, Any]) -> None:
    _, found = numbered([{"role": "user", "content": [part]}])
    assert [image.source for image in found] == [Base64Image("", "")]


def test_an_image_knows_the_message_and_the_place_it_was_found_in() -> None:
    part = {"type": "image_url", "image_url": {"url": URL}}
    _, found = numbered([{"role": "user", "content": "a"}, {"role": "user", "content": [part, {"text": URL}]}])
    assert [(image.message, image.inline) for image in found] == [(1, False), (1, True)]


def test_claude_code_routers_tool_message_holds_its_image_in_a_json_string() -> None:
    blocks = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}]
    messages = [{"role": "tool", "tool_call_id": "t1", "content": json.dumps(blocks, separators=(",", ":"))}]
    replaced, found = numbered(messages)
    assert replaced == [{"role": "tool", "tool_call_id": "t1", "content": "<0>"}]
    assert found[0].origin == "tool"


def test_several_blocks_in_a_json_string_keep_their_order_as_text() -> None:
    blocks = [
        {"type": "text", "text": "before"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {"type": "text", "text": "between"},
        {"type": "image", "data": PNG, "mimeType": "image/png"},
    ]
    replaced, _ = numbered([{"role": "tool", "tool_call_id": "t1", "content": json.dumps(blocks)}])
    assert replaced[0]["content"] == "before\n<0>\nbetween\n<1>"


def test_a_json_object_around_the_image_stays_json() -> None:
    output = {"ok": True, "content": [{"type": "image", "data": PNG, "mimeType": "image/png"}], "url": "http://x"}
    replaced, _ = numbered([{"role": "tool", "tool_call_id": "t1", "content": json.dumps(output)}])
    assert json.loads(replaced[0]["content"]) == {
        "ok": True,
        "content": [{"type": "text", "text": "<0>"}],
        "url": "http://x",
    }


def test_parts_of_a_tool_message_become_one_string() -> None:
    parts = [{"type": "text", "text": "shot"}, {"type": "image_url", "image_url": {"url": URL}}]
    replaced, _ = numbered([{"role": "tool", "tool_call_id": "t1", "content": parts}])
    assert replaced[0]["content"] == "shot\n<0>"


@pytest.mark.parametrize("role", ["user", "assistant", "system", "tool"])
def test_a_data_url_in_the_middle_of_a_text_is_replaced_inline(role: str) -> None:
    replaced, found = numbered([{"role": role, "content": f"see ![a]({URL}) and {URL}, both"}])
    assert replaced[0]["content"] == "see ![a](<0>) and <1>, both"
    assert all(image.inline for image in found)


def test_base64_that_a_tool_printed_is_replaced_inline() -> None:
    picture = PNG[:80] + "A" * 600
    replaced, found = numbered([{"role": "tool", "tool_call_id": "t", "content": f"screenshot: {picture}\ndone"}])
    assert replaced[0]["content"] == "screenshot: <0>\ndone"
    assert found[0].source == Base64Image(picture, "")


def test_a_picture_in_the_arguments_of_a_call_is_replaced_and_they_stay_json() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"image": URL, "n": 1})}}
    replaced, _ = numbered([{"role": "assistant", "content": None, "tool_calls": [call]}])
    arguments = replaced[0]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"image": "<0>", "n": 1}


@pytest.mark.parametrize(
    "text",
    [
        'src = "data:image/png;base64," + encoded',
        "the prefix data:image/png;base64, is followed by the payload",
        "data:image/svg+xml;utf8,<svg xmlns='http://www.w3.org/2000/svg'/>",
        "/9j/ is how a JPEG begins in base64",
        '[{"type": "text", "text": "an \\"image\\" is worth a thousand words"}]',
        '{"image": "not one", "note": "broken json',
    ],
)
def test_text_about_pictures_is_left_alone(text: str) -> None:
    messages = [{"role": "tool", "tool_call_id": "t", "content": text}]
    replaced, found = numbered(messages)
    assert not found
    assert replaced[0] is messages[0]


def test_tokens_of_cut_payloads_are_images_wherever_they_stand() -> None:
    messages = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,WORDx0"}}]},
        {"role": "tool", "tool_call_id": "t", "content": "WORDx1"},
    ]
    replaced, found = numbered(messages, "WORDx")
    assert replaced[0]["content"] == [{"type": "text", "text": "<0>"}]
    assert replaced[1]["content"] == "<1>"
    assert [image.source for image in found] == [Base64Image("WORDx0", "image/png"), Base64Image("WORDx1", "")]


def test_tokens_are_replaced_whole_and_their_word_alone_stays() -> None:
    said = "WORDx WORDxWORDx12WORDx3, WORDx"
    replaced, found = numbered([{"role": "user", "content": said}], "WORDx")
    assert replaced[0]["content"] == "WORDx WORDx<0><1>, WORDx"
    assert [image.source for image in found] == [Base64Image("WORDx12", ""), Base64Image("WORDx3", "")]


def test_asking_again_for_the_same_history_asks_in_the_same_order() -> None:
    messages = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": URL}]},
        {"role": "tool", "tool_call_id": "t", "content": json.dumps([{"type": "image", "data": PNG}])},
    ]
    assert numbered(messages) == numbered(messages)


def test_picture_data_outside_the_messages_is_named() -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert images_outside({"messages": messages, "model": "m", "metadata": {"a": "b"}}) is None
    assert images_outside({"messages": messages, "metadata": {"picture": URL}}) == "metadata"
    assert images_outside({"messages": messages, "extra": ["WORDx3"]}, "WORDx") == "extra"


@pytest.mark.parametrize("junk", [None, 3, "text", ["list"], {"role": "user", "content": 7}])
def test_a_message_of_the_wrong_type_passes_through(junk: Any) -> None:
    assert replace_images([junk], lambda _: "x") == [junk]


@pytest.mark.parametrize("url", [None, 7, {"url": None}, {}, {"url": "data:image/png"}, {"url": "data:,hello"}])
def test_an_image_part_without_a_picture_is_still_an_image(url: Any) -> None:
    replaced, found = numbered([{"role": "user", "content": [{"type": "image_url", "image_url": url}]}])
    assert replaced[0]["content"] == [{"type": "text", "text": "<0>"}]
    assert isinstance(found[0].source, Base64Image)
    assert found[0].source.payload == ""


def test_json_a_thousand_deep_is_a_text_like_any_other() -> None:
    text = "[" * 900 + f'"{URL}"' + "]" * 900
    replaced, found = numbered([{"role": "tool", "tool_call_id": "t", "content": text}])
    assert replaced[0]["content"] == text.replace(URL, f"<{len(found) - 1}>")


def test_an_example_in_a_tools_description_becomes_words() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": f"for example {URL}"}}]
    assert without_pictures(tools)[0]["function"] == {"name": "f", "description": "for example [image data]"}
    plain = [{"type": "function", "function": {"name": "f", "description": "no picture"}}]
    assert without_pictures(plain) is plain


BIG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + random.Random(7).randbytes(3000)).decode()
FOLDED = "\n".join(BIG[i : i + 76] for i in range(0, len(BIG), 76))
PHP = BIG.replace("/", "\\/")
NET = BIG.replace("+", "\\u002B")


def left(value: Any) -> int:
    """How many letters of the picture can still be read, in runs of 24."""
    text = json.dumps(value)
    return sum(24 for i in range(0, len(BIG) - 24, 24) if BIG[i : i + 24] in text)


@pytest.mark.parametrize(
    "said",
    [
        f"$ base64 shot.png\n{FOLDED}\n$",
        f"data:image/png;base64,\n{FOLDED}\n",
        f'<img src="data:image/png;base64,{PHP}">',
        f'{{"url": "data:image\\/png;base64,{PHP}"}}',
        f'{{"a": "data:image/png;base64,{NET}"}}',
        json.dumps({"a": f"data:image/png;base64,{FOLDED}"}),
        'Result: {"type": "image", "data": "' + PHP + '"}',
        json.dumps(json.dumps({"screenshot": f"data:image/png;base64,{BIG}"})),
        json.dumps({"type": "resource", "resource": {"mimeType": "image/png", "blob": BIG}}),
        json.dumps({"inlineData": {"mimeType": "image/png", "data": BIG}}),
        json.dumps({"image": {"format": "png", "source": {"bytes": BIG}}}),
        json.dumps({"type": "Buffer", "data": list(base64.b64decode(BIG))}),
        f"DATA:IMAGE/PNG;BASE64,{BIG}",
        f"data:;base64,{BIG}",
        f"data:image/png;base64,{BIG.replace('+', '%2B').replace('/', '%2F')}",
        json.dumps({f"data:image/png;base64,{BIG}": 1, "type": "image"}),
    ],
)
@pytest.mark.parametrize("role", ["tool", "user", "arguments"])
def test_no_escaping_and_no_folding_lets_a_picture_through(said: str, role: str) -> None:
    if role == "arguments":
        message: dict[str, Any] = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": said}}]}
    else:
        message = {"role": role, "content": said}
    if "Buffer" in said and role != "tool":
        return  # numbers in prose are numbers
    replaced, found = numbered([message])
    assert found
    assert left(replaced) == 0
    assert str(list(base64.b64decode(BIG))[:20])[1:-1] not in json.dumps(replaced)


@pytest.mark.parametrize(
    "text",
    [
        "eyJhbGciOiJIUzI1NiJ9." + "YWJjZGVmZ2hpamtsbW5vcA" * 40,
        "sha512-" + "QkZB" * 200,
        "/9j" + " words" * 100,
        "path/to/" + "directory/" * 60,
        "\n".join("word" * 5 for _ in range(100)),
    ],
)
def test_long_runs_of_letters_that_are_no_picture_are_left_alone(text: str) -> None:
    messages = [{"role": "tool", "tool_call_id": "t", "content": text}]
    assert numbered(messages)[0][0] is messages[0]


def test_the_search_takes_time_in_proportion() -> None:
    for piece in ("data:image/x;base64,", "iVBORw0KGgo\n", "\\/9j\\/", "data:;base64,\\n", "%2B\\u002B", "\\"):
        text = " /9j " + piece * (400_000 // len(piece))
        numbered([{"role": "tool", "tool_call_id": "t", "content": text}])


@pytest.mark.parametrize("tail", [")", "'", ". Next", '"/><p>IMPORTANT</p>', "]"])
def test_the_words_around_a_picture_in_a_text_stay(tail: str) -> None:
    replaced, found = numbered([{"role": "user", "content": f"see data:image/png;base64,{BIG}{tail} end"}])
    assert replaced[0]["content"] == f"see <0>{tail} end"
    assert len(found) == 1


@pytest.mark.parametrize(
    "start", ["iVBORw0KGgo", "/9j/", "R0lGOD", "UklGRAAAAAAARUJQ", "Qk2AAAAAAAAA", "SUkqA", "TU0AK"]
)
def test_bare_base64_of_every_format_is_found_in_prose(start: str) -> None:
    picture = start + "A" * 400
    replaced, found = numbered([{"role": "user", "content": f"see {picture} here"}])
    assert replaced[0]["content"] == "see <0> here"
    assert [image.source for image in found] == [Base64Image(picture, "")]


@pytest.mark.parametrize("fill", ["A" * 252, "A\\/" * 84, "%2B" * 84, ("A" * 17 + "\n") * 14])
def test_the_shortest_bare_base64_is_found_wherever_it_begins_among_words(fill: str) -> None:
    picture = "iVBORw0KGgo" + fill + "A" * 20
    for before in range(300):
        replaced, found = numbered([{"role": "user", "content": "a " * before + picture + " b" * 300}])
        assert len(found) == 1
        assert "A" not in replaced[0]["content"]


@pytest.mark.parametrize(
    "text", [f"data:image/png;base64,{PNG[:39]}", f"data:;base64,{'QUJD' * 100}", "/9j/" + "A" * 252]
)
def test_what_is_too_short_or_of_no_known_kind_stays_to_the_letter(text: str) -> None:
    messages = [{"role": "user", "content": f"say {text} aloud" if text.startswith("data") else text}]
    assert numbered(messages) == (messages, [])


@pytest.mark.parametrize(("written", "media_type"), [("image/png", "image/png"), ("image\\/webp", "image/webp")])
def test_a_data_url_in_prose_keeps_its_type(written: str, media_type: str) -> None:
    _, found = numbered([{"role": "user", "content": f"see data:{written};base64,{PNG} here"}])
    assert [image.source for image in found] == [Base64Image(PNG, media_type)]


def test_a_token_in_a_data_url_in_prose_is_an_image_though_it_is_short() -> None:
    replaced, found = numbered([{"role": "user", "content": "see data:image/png;base64,WORDx1 here"}], "WORDx")
    assert replaced[0]["content"] == "see <0> here"
    assert [image.source for image in found] == [Base64Image("WORDx1", "image/png")]


@pytest.mark.parametrize(
    ("part", "media_type"),
    [
        ({"type": "image", "source": {"media_type": "image/webp", "data": PNG}}, "image/webp"),
        ({"type": "image", "source": {"media_type": "image/webp", "data": URL}}, "image/webp"),
        ({"type": "image", "source": {"data": PNG}}, ""),
        ({"type": "image", "image": {"data": PNG}}, ""),
        ({"type": "image-data", "data": PNG}, ""),
        ({"type": "file", "data": URL}, "image/png"),
        ({"type": "image", "data": PNG, "mime_type": "image/gif"}, "image/gif"),
        ({"type": "file", "data": PNG, "media_type": "image/gif"}, "image/gif"),
        ({"type": "input_image", "image_url": URL.replace("png", "webp")}, "image/webp"),
        ({"data": PNG, "mimeType": "image/gif"}, "image/gif"),
        ({"blob": PNG, "mediaType": "IMAGE/gif"}, "IMAGE/gif"),
        ({"bytes": PNG, "media_type": "image/gif"}, "image/gif"),
        ({"base64": PNG, "mime_type": "image/gif"}, "image/gif"),
        ({"content": PNG, "contentType": "image/gif"}, "image/gif"),
        ({"url": URL, "contentType": "image/gif"}, "image/gif"),
    ],
)
def test_an_image_keeps_its_data_and_the_type_it_was_given(part: dict[str, Any], media_type: str) -> None:
    _, found = numbered([{"role": "user", "content": [part]}])
    assert [image.source for image in found] == [Base64Image(PNG, media_type)]


@pytest.mark.parametrize("start", [b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF"])
def test_a_picture_as_a_list_of_numbers_is_found(start: bytes) -> None:
    picture = start + bytes(60)
    _, found = numbered([{"role": "user", "content": [{"type": "Buffer", "data": list(picture)}]}])
    assert [image.source for image in found] == [Base64Image(base64.b64encode(picture).decode(), "")]


@pytest.mark.parametrize("numbers", [[1, 2, 3], [137, 80, 78, 256], [71, 73, 70, "x"], "text", None])
def test_other_numbers_are_no_picture(numbers: Any) -> None:
    messages = [{"role": "user", "content": [{"type": "Buffer", "data": numbers}]}]
    assert numbered(messages) == (messages, [])


def test_an_unprotected_address_is_an_address_too() -> None:
    _, found = numbered([{"role": "user", "content": [{"type": "image", "image": "http://example.org/a.png"}]}])
    assert [image.source for image in found] == [RemoteImage("http://example.org/a.png")]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": "http://10.0.0.1/v.mp4"}},
        {"type": "audio_url", "audio_url": "https://example.org/a.mp3"},
        {"type": "file_url", "file_url": {"url": "file:///etc/passwd"}},
        {"type": "video_url"},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "input_file", "file_url": "http://10.0.0.1/a.pdf"},
        {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}},
        {"type": "computer_screenshot", "image_url": "http://10.0.0.1/a.png"},
    ],
)
@pytest.mark.parametrize("role", ["user", "tool"])
def test_what_the_brains_server_would_fetch_for_a_client_becomes_words(part: dict[str, Any], role: str) -> None:
    (message,) = replace_images([{"role": role, "content": [part]}], lambda _: "AN IMAGE")
    assert UNSEEN in str(message)
    assert "AN IMAGE" not in str(message)
    assert "example.org" not in str(message)
    assert "10.0.0.1" not in str(message)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,AAAA"}},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
        {"type": "input_file", "file_url": "data:application/pdf;base64,AAAA"},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Words."}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": ["string", "null"], "source": {"type": ["url"]}},
    ],
)
def test_a_sound_or_a_file_that_is_sent_itself_rides_along(part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [part]}]
    assert replace_images(messages, lambda _: "") == messages


def test_messages_that_are_known_to_hold_no_image_are_not_looked_at() -> None:
    messages = [{"role": "user", "content": f"see {URL}"} for _ in range(3)]
    replaced = replace_images(messages, lambda image: f"<{image.message}>", only={1})
    assert [message["content"][4:] for message in replaced] == [URL, "<1>", URL]
    assert replaced[0] is messages[0]
