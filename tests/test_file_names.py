"""An image is called what the client calls it, if the client said so, and nothing where that is not certain."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.protocol.file_names import file_names
from router.protocol.image_parts import FoundImage, RemoteImage, replace_images

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
URL = f"data:image/png;base64,{PNG}"


def images_in(messages: list[Any], token: str = "") -> list[FoundImage]:
    found: list[FoundImage] = []

    def note(image: FoundImage) -> str:
        found.append(image)
        return ""

    replace_images(messages, note, token)
    return found


def names(messages: list[Any], token: str = "") -> list[str]:
    found = images_in(messages, token)
    assert found
    said = file_names(messages, found)
    assert said == file_names(messages, found)
    assert len(said) == len(found)
    return said


def image(**fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": URL}, **fields}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def called(*calls: tuple[str, Any]) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": id,
                "type": "function",
                "function": {
                    "name": "Read",
                    "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
                },
            }
            for id, arguments in calls
        ],
    }


def tool(content: Any, id: str = "c1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content}


BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
MCP = {"type": "image", "data": PNG, "mimeType": "image/png"}


# The image's own part


@pytest.mark.parametrize(
    "part",
    [
        image(filename="shot.png"),
        {"type": "image_url", "image_url": {"url": URL, "filename": "shot.png"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a/shot.png?size=3#x"}},
        {"type": "file", "file": {"filename": "shot.png", "file_data": URL}},
        {"type": "file", "mediaType": "image/png", "filename": "shot.png", "url": URL},
        {"type": "media", "mediaType": "image/png", "data": PNG, "name": "a/b/shot.png"},
        {**MCP, "title": "shot.png"},
        {"type": "resource", "resource": {"uri": "file:///a/shot.png", "mimeType": "image/png", "blob": PNG}},
        {"type": "resource", "name": "shot.png", "resource": {"mimeType": "image/png", "blob": PNG}},
        {"type": "input_image", "image_url": URL, "path": "C:\\shots\\shot.png"},
    ],
)
def test_the_images_own_part_says_its_name(part: dict[str, Any]) -> None:
    assert names([user(text("what is this?"), part)]) == ["shot.png"]


def test_a_field_around_an_image_names_it_only_if_it_is_the_only_one() -> None:
    assert names([user({"type": "wrapped", "path": "/a/one.png", "content": [image()]})]) == ["one.png"]
    assert names([user({"type": "wrapped", "path": "/a/one.png", "content": [image(), image()]})]) == ["", ""]


def test_what_is_no_file_name_names_nothing() -> None:
    assert names([user(image(name="analyzeImage"))]) == [""]
    assert names([user(image(name="[Image #1]"))]) == [""]
    assert names([user(image(filename=".png"))]) == [""]
    assert names([user(image(filename=URL))]) == [""]
    assert names([user({"type": "image_url", "image_url": {"url": "https://example.com/image?id=3.5"}})]) == [""]
    assert names([{**user(image()), "name": "somebody.png"}]) == [""]


# Words in the message


def test_claude_code_names_its_sources_before_or_behind_in_order() -> None:
    assert names([user(text("[Image #1] what?"), image(), text("[Image: source: /tmp/a/1.png]"))]) == ["1.png"]
    sources = text(
        "[Image: source: C:\\My Docs\\a b.png]\n[Image: source: /tmp/two.jpg, original 4000x2000, "
        "displayed at 1000x500. Multiply coordinates by 4.00 to map to original image.]"
    )
    assert names([user(image(), image(), sources)]) == ["a b.png", "two.jpg"]


def test_claude_code_may_name_sources_in_a_message_of_their_own() -> None:
    behind = user(text("[Image: source: /tmp/1.png]"), text("[Image: source: /tmp/2.png]"))
    assert names([user(text("compare"), image(), image()), behind]) == ["1.png", "2.png"]
    assert names([user(image()), {"role": "user", "content": "[Image: source: /tmp/1.png]"}]) == ["1.png"]
    assert names([user(image()), {"role": "user", "content": "see [Image: source: /tmp/1.png] again"}]) == [""]


def test_a_note_on_the_size_alone_names_nothing() -> None:
    note = "[Image: original 4000x2000, displayed at 1000x500. Multiply coordinates by 4.00.]"
    assert names([user(image(), text(note))]) == [""]


def test_codex_names_an_image_just_before_it_even_if_others_have_no_name() -> None:
    tag = text('<image name=[Image #2] path="/var/folders/x/codex-clipboard-M1.png">')
    assert names([user(image(), tag, image(), text("</image>"), image())]) == ["", "codex-clipboard-M1.png", ""]
    assert names([user(text("<image name=[Image #1]>"), image(), text("</image>"))]) == [""]


def test_codex_lists_files_that_were_mentioned() -> None:
    words = "# Files mentioned by the user:\n\n## Screenshot 2026 at 10.10.04.png: /tmp/x.png\n\n## My request:\nlook"
    assert names([user(text(words), image())]) == ["Screenshot 2026 at 10.10.04.png"]


def test_open_code_names_a_file_by_the_call_that_it_made_up() -> None:
    call = text('Called the Read tool with the following input: {"filePath":"/project/plan.png"}')
    assert names([user(text("look"), call, image())]) == ["plan.png"]
    assert names([user(call, text('Called … input: {"filePath":"/project/main.py"}'), image())]) == ["plan.png"]


@pytest.mark.parametrize("words", ["![the plan](./docs/plan.png)", "what is in @docs/plan.png ?", "![](<plan.png>)"])
def test_other_forms_that_mean_an_attached_file(words: str) -> None:
    assert names([user(text(words), image())]) == ["plan.png"]


def test_a_file_that_a_person_only_talks_about_is_not_taken_for_the_image() -> None:
    assert names([user(text("this is how logo.png should not look"), image())]) == [""]
    assert names([user(text("mail me@home.png"), image())]) == [""]


def test_an_image_in_the_middle_of_markdown_has_the_name_that_stands_there() -> None:
    big = PNG * 4
    words = f"see ![one.png](data:image/png;base64,{big}) and ![two](data:image/png;base64,{big}A)"
    assert names([{"role": "user", "content": words}]) == ["one.png", ""]


def test_fewer_or_more_names_than_images_name_nothing() -> None:
    one, two = text("[Image: source: /a/1.png]"), text("[Image: source: /a/2.png]")
    assert names([user(image(), image(), one)]) == ["", ""]
    assert names([user(image(), one, two)]) == [""]
    assert names([user(image(filename="own.png"), image(), one)]) == ["own.png", "1.png"]
    assert names([user(image(filename="1.png"), image(), one)]) == ["1.png", ""]


def test_a_name_that_is_said_twice_is_one_name() -> None:
    assert names([user(image(), text("@a.png and again @a.png"))]) == ["a.png"]
    assert names([user(image(), image(), text("[Image: source: /x/a.png][Image: source: /x/a.png]"))]) == ["a.png"] * 2


# Results of tools


@pytest.mark.parametrize(
    "content",
    [
        [BLOCK],
        json.dumps([BLOCK]),
        json.dumps({"content": [text("Read image"), MCP]}),
        [text("Read image file [image/png]"), MCP],
        f"here: {URL}",
    ],
)
@pytest.mark.parametrize("field", ["file_path", "filePath", "path", "filename", "image_path"])
def test_a_tool_result_is_called_as_in_the_call_that_it_answers(content: Any, field: str) -> None:
    messages = [
        called(("c0", {field: "/project/other.png"}), ("c1", {"limit": 3, field: "/project/plan.png"})),
        tool("nothing", "c0"),
        tool(content),
    ]
    assert names(messages) == ["plan.png"]


def test_a_tool_that_says_where_it_saved_its_screenshot_is_believed_before_the_call() -> None:
    said = text(
        "### Result\nTook the viewport screenshot and saved it as C:\\x\\.playwright-mcp\\page-1.png.\n"
        "await page.screenshot({ path: 'C:\\\\x\\\\.playwright-mcp\\\\page-1.png' });"
    )
    messages = [called(("c1", {"filename": "asked.png"})), tool([said, MCP])]
    assert names(messages) == ["page-1.png"]
    assert names([called(("c1", {"filename": "asked.png"})), tool([text("done"), MCP])]) == ["asked.png"]


def test_a_call_that_names_as_many_files_as_there_are_images_names_them_in_order() -> None:
    messages = [called(("c1", {"paths": ["/a/1.png", "/a/2.png"]})), tool([BLOCK, BLOCK])]
    assert names(messages) == ["1.png", "2.png"]
    assert names([called(("c1", {"file_path": "/a/pages.png"})), tool([BLOCK, BLOCK])]) == ["", ""]


def test_a_file_that_is_no_image_names_none() -> None:
    assert names([called(("c1", {"file_path": "/a/report.pdf"})), tool([BLOCK])]) == [""]


@pytest.mark.parametrize("arguments", ["", "{", "[1]", "null", '{"file_path": 3}', '{"file_path": null}'])
def test_broken_arguments_name_nothing(arguments: str) -> None:
    assert names([called(("c1", arguments)), tool([BLOCK])]) == [""]


def test_a_call_of_an_earlier_turn_is_not_the_one_that_is_answered() -> None:
    messages = [
        called(("c1", {"file_path": "/a/old.png"})),
        tool("text"),
        {"role": "assistant", "content": "and now"},
        tool([BLOCK]),
    ]
    assert names(messages) == [""]


def test_images_that_were_moved_behind_the_results_are_called_as_in_the_calls() -> None:
    messages = [
        called(("c1", {"path": "/a/1.png"}), ("c2", {"path": "/a/main.py"}), ("c3", {"path": "/a/3.png"})),
        tool("(image)", "c1"),
        tool("code", "c2"),
        tool("(image)", "c3"),
    ]
    assert names([*messages, user(text("Attached image(s) from tool result:"), image(), image())]) == ["1.png", "3.png"]
    assert names([*messages, user(image(), image())]) == ["1.png", "3.png"]
    assert names([*messages, user(text("no, look at this"), image(), image())]) == ["", ""]
    assert names([*messages, user(image())]) == [""]


# What a name may look like


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b/c.png", "c.png"),
        ("C:\\a\\b c.PNG", "b c.PNG"),
        ("file:///a/my%20plan.png", "my plan.png"),
        ("file:///a/%2e%2e%2fx.png", "x.png"),
        ("../../etc/x.png", "x.png"),
        ("  x.png \n", "x.png"),
        ("a\nb\u202e\x00.png", "a b .png"),
        ("图 1.png", "图 1.png"),
        ("x" * 80 + ".jpeg", "x" * 54 + "….jpeg"),
        ("http://[", ""),
        ("/a/b/", ""),
        ("..", ""),
        ("", ""),
        ("half\ud83d.png", "half .png"),
    ],
)
def test_a_name_is_the_last_word_of_its_path_on_one_line(path: str, name: str) -> None:
    assert names([user(image(filename=path))]) == [name]


# Whatever comes


def test_images_are_found_where_the_walk_finds_them_also_behind_cut_payloads() -> None:
    token = "cutABC"
    parts = [
        text("see data:image/png;base64,cutABC0 here"),
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,cutABC1"}, "filename": "b.png"},
    ]
    assert names([user(*parts)], token) == ["", "b.png"]


def test_a_message_that_is_walked_in_another_way_names_nothing_and_spoils_no_other() -> None:
    messages = [user(image(filename="a.png")), user(image(filename="b.png"))]
    first, second = images_in(messages)
    for odd in (
        [],
        [first, first],
        [replace(first, inline=True)],
        [replace(first, source=RemoteImage("u"), inline=True)],
    ):
        assert file_names(messages, [*odd, second]) == [""] * len(odd) + ["b.png"]


def test_hostile_texts_take_no_time_to_speak_of() -> None:
    for word in ("![", "<image ", "[Image: source: ", '"path":"', "@a", ".png", "## ", "a/", "(", "@"):
        words = word * (2_000_000 // len(word))
        names([user(text(words), image()), user(image(), text(words))])
        names([called(("c1", {"path": words})), tool([text(words), BLOCK])])


values = st.recursive(
    st.none() | st.text(max_size=20) | st.sampled_from([URL, "a.png", "[Image: source: /b.png]", json.dumps([BLOCK])]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "name", "path", "content", "role"]), inner, max_size=3)
        | st.builds(
            lambda name, also: {**BLOCK, "name": name, "also": also}, st.sampled_from(["x.png", 3, None]), inner
        )
    ),
    max_leaves=8,
)


@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "tool", "assistant"]), "content": values})))
def test_there_is_a_name_for_each_image_whatever_the_messages_are(messages: list[Any]) -> None:
    found = images_in(messages)
    said = file_names(messages, found)
    assert len(said) == len(found)
    assert all(len(name) <= 60 and "/" not in name and (name == "" or name.isprintable()) for name in said)


@pytest.mark.parametrize("id_", [None, 3, [], {"a": 1}])
def test_a_result_whose_id_is_no_word_names_nothing(id_: Any) -> None:
    result = {"role": "tool", "tool_call_id": id_, "content": [image()]}
    assert names([called(("c", '{"file_path": "/tmp/a.png"}')), result]) == [""]
