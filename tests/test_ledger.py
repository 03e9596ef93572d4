"""What the client does not know of a history is put back where it happened, and only there."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.protocol.ledger import (
    DELETED,
    KeptTable,
    KeptTurn,
    Place,
    Trail,
    forgotten,
    of_one_line,
    weave,
    without_pictures,
    without_thoughts,
)
from router.protocol.pictures import result_messages
from router.protocol.plain import PlainMessages
from tools.call import ToolResult

USER = {"role": "user", "content": "u"}


def call(id_: str, name: str = "read", arguments: Any = '{"path":"a","n":1}') -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def assistant(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, **({"tool_calls": list(calls)} if calls else {}), **more}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def assistant_parts(*parts: Any) -> dict[str, Any]:
    """Strings are texts."""
    blocks = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "assistant", "content": blocks}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def tool(id_: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": text}


def last(*messages: Any) -> Place:
    return Trail(messages).places[-1]


MIXED = KeptTurn(
    said=(
        assistant(call("before", "analyzeImage")),
        tool("before", "a dog"),
        assistant(call("ours", "analyzeImage"), call("theirs"), reasoning_content="hm"),
    ),
    results=(tool("ours", "a cat"),),
    looks=((1,), (2,)),
)
LOOKED = KeptTurn(
    said=(assistant(call("l", "analyzeImage")), tool("l", "> a dog"), said("A dog.")), looks=((1,),), stamp=4
)


# Weaving


def test_a_hidden_turn_stands_again_before_the_words_that_came_of_it() -> None:
    assert weave([USER, said("A dog."), USER], {1: LOOKED}, {}) == [USER, *LOOKED.said, USER]


def test_a_mixed_turn_replaces_what_the_client_knows_of_it() -> None:
    history = [USER, assistant(call("theirs")), tool("theirs", "file"), USER]
    assert weave(history, {1: MIXED}, {}) == [USER, *MIXED.said, tool("ours", "a cat"), tool("theirs", "file"), USER]


def test_results_stand_in_the_order_of_their_calls() -> None:
    whole = assistant(call("c1"), call("ours", "analyzeImage"), call("c2"))
    kept = KeptTurn(said=(whole,), results=(tool("ours", "a cat"),), looks=((1,),))
    history = [USER, assistant(call("c1"), call("c2")), tool("c2", "2"), tool("c1", "1"), USER]
    woven = weave(history, {1: kept}, {})
    assert [message.get("tool_call_id") for message in woven] == [None, None, "c1", "ours", "c2", None]


def test_ids_that_the_client_has_rewritten_are_those_of_its_results() -> None:
    history = [USER, assistant(call("theirs_0")), tool("theirs_0", "file")]
    woven = weave(history, {1: MIXED}, {})
    assert [one["id"] for one in woven[3]["tool_calls"]] == ["ours", "theirs_0"]
    assert [message["tool_call_id"] for message in woven[4:]] == ["ours", "theirs_0"]
    assert MIXED.said[-1]["tool_calls"][1]["id"] == "theirs"


def test_every_call_is_answered_once() -> None:
    woven = weave([USER, assistant(call("theirs")), tool("theirs", "file")], {1: MIXED}, {})
    calls = [one["id"] for message in woven for one in message.get("tool_calls", ())]
    answers = [message["tool_call_id"] for message in woven if message["role"] == "tool"]
    assert sorted(calls) == sorted(answers)


def test_nothing_kept_leaves_the_history_as_the_client_sent_it() -> None:
    history = [USER, assistant(call("theirs")), tool("theirs", "file"), USER]
    assert weave(history, {}, {}) == history


def test_what_was_kept_is_not_changed_by_weaving() -> None:
    before = repr(MIXED)
    weave([USER, assistant(call("theirs")), tool("theirs", "x")], {1: MIXED}, {}, stands=lambda numbers, stamp: False)
    assert repr(MIXED) == before


# Forgotten images


def test_what_was_seen_in_a_forgotten_image_is_left_out_and_the_call_stays() -> None:
    woven = weave(
        [USER, said("A dog.")], {1: LOOKED}, {}, stands=lambda numbers, stamp: (list(numbers), stamp) != ([1], 4)
    )
    assert woven == [USER, LOOKED.said[0], tool("l", forgotten([1], "recallImage")), LOOKED.said[2]]


def test_only_the_results_about_forgotten_images_are_left_out() -> None:
    history = [USER, assistant(call("theirs")), tool("theirs", "file")]
    woven = weave(history, {1: MIXED}, {}, stands=lambda numbers, stamp: 2 not in numbers, recall="bring_back")
    contents = [message["content"] for message in woven if message["role"] == "tool"]
    assert contents == ["a dog", forgotten([2], "bring_back"), "file"]
    assert "#2" in contents[1]
    assert 'bring_back with image "2"' in contents[1]


def test_what_stands_for_a_deleted_image_does_not_ask_to_recall_it() -> None:
    kept = KeptTurn(said=(assistant(call("l", "analyzeImage")), tool("l", DELETED), said("x")), looks=((1,),))
    woven = weave([USER, said("x")], {1: kept}, {}, stands=lambda numbers, stamp: False)
    assert woven[2]["content"] == DELETED


def test_a_result_that_is_about_no_image_always_stands() -> None:
    kept = KeptTurn(said=(assistant(call("l", "analyzeImage")), tool("l", "no such image"), said("x")), looks=((),))
    assert weave([USER, said("x")], {1: kept}, {}, stands=lambda numbers, stamp: not list(numbers))[2] == kept.said[1]


# Tables


@pytest.mark.parametrize(
    ("message", "woven"),
    [
        (user("What?"), user("What?\n\n| table |")),
        (
            user([{"type": "text", "text": "What?"}]),
            user([{"type": "text", "text": "What?"}, {"type": "text", "text": "\n\n| table |"}]),
        ),
        (tool("c", "file"), tool("c", "file\n\n| table |")),
        (user(""), user("| table |")),
    ],
)
def test_a_table_stands_at_the_end_of_the_message_where_it_was_shown(message: Any, woven: Any) -> None:
    assert weave([USER, message, said("x")], {}, {1: KeptTable("| table |")}) == [USER, woven, said("x")]


def test_a_table_stays_with_the_clients_result_in_a_mixed_turn() -> None:
    history = [USER, assistant(call("theirs")), tool("theirs", "file")]
    woven = weave(history, {1: MIXED}, {2: KeptTable("| table |")})
    assert woven[-1] == tool("theirs", "file\n\n| table |")


def test_a_table_of_another_line_is_left_out() -> None:
    first, other, second = KeptTable("1", 3), KeptTable("of a title", 5), KeptTable("2", 4)
    assert of_one_line({0: first, 2: other, 4: second}) == {0: first, 4: second}
    assert of_one_line({0: first, 2: second, 4: other}) == {0: first, 2: second, 4: other}
    assert of_one_line({0: first, 2: first}) == {2: first}
    assert of_one_line({}) == {}


def test_a_table_is_found_under_the_same_words_of_the_system_only() -> None:
    def at(*system: Any) -> Place:
        return Trail([*({"role": "system", "content": words} for words in system), USER]).of_table(len(system))

    assert at("You help.") == at([{"type": "text", "text": "You  help."}])
    assert at("You help.") != at("Give a title.")
    assert at("You help.") != at()
    assert at("You help.").full != Trail([USER]).places[0].full
    late = Trail([USER, {"role": "system", "content": "It is late."}])
    assert late.of_table(0) == Trail([USER]).of_table(0), "later words of the system are those of the day"


# Thoughts and pictures


def test_thoughts_that_the_server_does_not_take_back_are_left_out() -> None:
    assert "reasoning_content" in without_thoughts(MIXED, ["reasoning_content"]).said[-1]
    bare = without_thoughts(MIXED, ["reasoning"])
    assert bare.said[-1] == {key: value for key, value in MIXED.said[-1].items() if key != "reasoning_content"}
    assert bare.said[:2] == list(MIXED.said[:2])
    assert (bare.results, bare.looks) == (MIXED.results, MIXED.looks)


SHOWN = KeptTurn(
    said=[
        assistant(call("r", "recallImage")),
        *result_messages([ToolResult("r", "It follows.", images=(1,), pictures=(1,))]),
        said("A dog."),
    ],
    looks=[[1]],
)


def test_pictures_are_left_out_for_a_brain_without_eyes() -> None:
    bare = without_pictures(SHOWN)
    assert bare.said == [SHOWN.said[0], SHOWN.said[1], SHOWN.said[3]]
    mixed = KeptTurn(said=[assistant(call("r"))], results=SHOWN.said[1:3], looks=[[1]])
    assert without_pictures(mixed).results == [SHOWN.said[1]]


def test_a_picture_goes_with_the_result_that_brought_it() -> None:
    assert weave([USER, said("A dog.")], {1: SHOWN}, {})[1:] == SHOWN.said
    woven = weave([USER, said("A dog.")], {1: SHOWN}, {}, stands=lambda numbers, stamp: 1 not in list(numbers))
    assert [message["role"] for message in woven] == ["user", "assistant", "tool", "assistant"]


def test_a_picture_of_several_images_goes_when_one_of_them_is_forgotten() -> None:
    both = KeptTurn(
        said=[
            assistant(call("r", "recallImage")),
            *result_messages([ToolResult("r", "They follow.", images=(1, 2), pictures=(1, 2))]),
            said("x"),
        ],
        looks=[[1, 2]],
    )
    woven = weave([USER, said("x")], {1: both}, {}, stands=lambda numbers, stamp: 2 not in list(numbers))
    assert [message["role"] for message in woven] == ["user", "assistant", "tool", "assistant"]


# Places


@pytest.mark.parametrize(
    ("written", "again"),
    [
        (user("a  b\n"), user(" a b")),
        (user("é"), user("e\u0301")),
        (user("a\nb"), user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])),
        (user("a"), user([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}])),
        (user("a"), user("a<system-reminder>the date</system-reminder>")),
        (said("a"), said("<think>hm</think>\n\na")),
        (said("a"), said('<details type="reasoning" done="true">hm</details>\na')),
        (said("a"), {"role": "assistant", "content": "a", "reasoning_content": "hm", "refusal": None}),
        (assistant(call("c")), {**assistant(call("c")), "content": ""}),
        (assistant(call("c")), assistant(call("c", arguments='{ "n": 1, "path": "a" }'))),
        (assistant(call("functions.read:0")), assistant(call("functions_read_0"))),
        (tool("functions.read:0", "a"), tool("functions_read_0", "a")),
        (assistant(call("c")), assistant(call("c", arguments={"path": "a", "n": 1}))),
        (said("ab c"), assistant_parts("a", {"type": "thinking", "thinking": "hm", "signature": "s"}, "b c")),
        (assistant(call("c"), content="a"), {**assistant(call("c")), **assistant_parts("a", {"type": "call"})}),
    ],
)
def test_a_place_survives_the_ways_in_which_clients_write(written: Any, again: Any) -> None:
    assert last(USER, written).full == last(USER, again).full
    assert last(USER, written).near == last(USER, again).near


@pytest.mark.parametrize(
    ("written", "other"),
    [
        (user("a b"), user("ab")),
        (user("a"), said("a")),
        (user("a"), user("b")),
        (user("<think>a</think>"), user("")),
        (user("a"), user("a<system-reminder>")),
        (assistant(call("c")), assistant(call("c"), call("d"))),
        (assistant(call("c")), assistant(call("c", "write"))),
        (assistant(call("c")), assistant(call("c", arguments='{"path":"b"}'))),
        (assistant(call("c")), {**assistant(call("c")), "content": "words"}),
        (tool("c", "a"), tool("c", "b")),
        (user([{"type": "input_audio", "input_audio": {"data": "AA"}}]), user([{"type": "input_audio"}])),
    ],
)
def test_other_words_are_another_place(written: Any, other: Any) -> None:
    assert last(USER, written).full != last(USER, other).full
    assert last(USER, written).near != last(USER, other).near


def test_a_call_is_known_by_its_id_whatever_its_arguments_are() -> None:
    said_so, anew = assistant(call("c"), content="a"), assistant(call("c", arguments="{}"), content="a")
    assert last(USER, said_so).calls == last(anew).calls != ""
    assert last(USER, said_so).near != last(USER, anew).near
    others: list[list[Any]] = [[call("d")], [call("c", "write")], [call("c"), call("d")], []]
    places = {last(USER, assistant(*calls, content="a")).calls for calls in others}
    assert last(USER, said_so).calls not in places | {last(USER, assistant(call("c"), content="b")).calls}
    assert "" in places


def test_a_message_of_nothing_but_a_reminder_moves_no_place() -> None:
    reminder = user([{"type": "text", "text": "<system-reminder>Nothing to do.</system-reminder>"}])
    assert last(USER, reminder, said("a")) == last(USER, said("a"))


def test_what_the_server_carried_out_itself_moves_no_place() -> None:
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    assert last(USER, assistant_parts(search, "a")) == last(USER, said("a"))


def test_histories_of_different_formats_have_no_place_in_common() -> None:
    assert Trail([USER], "chat").places[0].full != Trail([USER], "messages").places[0].full
    assert Trail([USER], "chat").places[0].near != Trail([USER], "messages").places[0].near


def test_the_systems_words_do_not_move_a_place() -> None:
    today = [{"role": "system", "content": "Today is Monday."}, USER, said("a")]
    tomorrow = [
        {"role": "system", "content": "Today is Tuesday."},
        USER,
        {"role": "developer", "content": "!"},
        said("a"),
    ]
    assert last(*today) == last(*tomorrow)


def test_the_full_place_is_that_of_the_whole_conversation() -> None:
    assert last(user("v"), said("x"), USER, said("a")).full != last(USER, said("a")).full


def test_the_near_place_survives_a_trimmed_history() -> None:
    assert last(user("v"), said("x"), USER, said("a")).near == last(USER, said("a")).near


def test_what_follows_has_the_place_that_it_has_in_the_next_history() -> None:
    trail = Trail([USER])
    assert trail.follow(said("a")) == last(USER, said("a"))
    assert trail.follow(user("b")) == last(USER, said("a"), user("b"))


MESSAGES = st.lists(
    st.builds(user, st.text(max_size=3))
    | st.builds(said, st.text(max_size=3))
    | st.builds(lambda id_: assistant(call(id_)), st.sampled_from("ab")),
    max_size=6,
)


@given(MESSAGES, MESSAGES)
def test_a_place_depends_on_what_came_before_and_on_nothing_after(before: list[Any], after: list[Any]) -> None:
    assert Trail([*before, *after]).places[: len(before)] == Trail(before).places


@pytest.mark.parametrize(
    "message",
    [
        None,
        "x",
        {"role": "user"},
        {"role": "user", "content": 1},
        {"role": "user", "content": [None, "x", {"type": "text"}]},
        {"role": "assistant", "tool_calls": "x"},
        {"role": "assistant", "tool_calls": [None, {"function": None}, {"function": {"arguments": "{"}}]},
        {"role": "user", "content": "\ud800"},
        {"role": "user", "content": [{"n": 2**70}]},
    ],
)
def test_whatever_stands_in_a_history_has_a_place(message: Any) -> None:
    assert len(last(USER, message).full) == 40


@pytest.mark.parametrize("text", ["<system-reminder>" * 60_000, "a" + "\u0315\u0300" * 60_000])
def test_hostile_words_take_linear_time(text: str) -> None:
    begun = time.process_time()
    Trail([user(text)])
    assert time.process_time() - begun < 5  # a square would take hours


@given(
    st.lists(st.sampled_from([USER, user("v"), said("u"), assistant(call("1")), assistant(call("2")), tool("1", "x")]))
)
def test_places_are_the_same_whether_or_not_the_messages_were_met_before(messages: list[Any]) -> None:
    met = PlainMessages()
    assert Trail(messages, "chat", met).places == Trail(messages, "chat", met).places == Trail(messages, "chat").places


def test_what_was_met_before_is_not_taken_for_what_is_written_likewise() -> None:
    met = PlainMessages()
    likewise: list[Any] = [
        {"role": "user", "content": "[]"},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "file", "text": 1}]},
        {"role": "user", "content": [{"type": "file", "text": 1.0}]},
        {"role": "user", "content": [{"type": "file", "text": "1"}]},
        {"role": "assistant", "content": "[]"},
        {"role": "tool", "content": "[]"},
        said("half a pair: \ud800"),
        [{"role": "user", "content": "u"}],
        "u",
    ]
    places = [Trail([message], "", met).places[0] for message in [*likewise, *likewise]]
    assert places == [Trail([message]).places[0] for message in likewise] * 2


def test_nobody_finds_out_by_time_what_another_tenant_has_said() -> None:
    met = PlainMessages()
    places = [Trail([USER], "", met, tenant=tenant).places for tenant in ("ada", "ada", "bob")]
    assert places == [Trail([USER]).places] * 3
    assert len(met) == 2


def test_no_more_messages_are_remembered_than_agreed() -> None:
    met = PlainMessages(3)
    places = [Trail([user(str(number))], "", met).places[0] for number in range(10)]
    assert len(met) == 3
    assert [Trail([user(str(number))], "", met).places[0] for number in range(10)] == places
