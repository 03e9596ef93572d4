"""Which conversation a request belongs to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.intake.conversation import Conversation, identify, opening_of, tenant_of, turns


def ask(headers: dict[str, str] | None = None, tenant: str = "t", opening: str = "o", **body: Any) -> Conversation:
    return identify(tenant, headers or {}, body, opening)


def test_our_own_header_is_taken_as_it_is() -> None:
    assert ask({"x-chiasm-conversation": "my-chat.1"}).name == "my-chat.1"


def test_the_name_we_answer_means_the_same_conversation_when_sent_back() -> None:
    first = ask({"x-session-id": "s1"})
    again = ask({"x-chiasm-conversation": first.name}, opening="something else")
    assert again == first


@pytest.mark.parametrize("bad", ["", " ", "a b", "x" * 300, "a\tb", "ä"])
def test_a_header_that_cannot_be_a_name_is_ignored(bad: str) -> None:
    assert ask({"x-chiasm-conversation": bad}) == ask()


def test_the_first_sign_of_the_ladder_decides() -> None:
    ladder: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({"x-chiasm-conversation": "a"}, {}),
        ({"x-session-id": "a"}, {}),
        ({"x-session-affinity": "a"}, {}),
        ({"session-id": "a"}, {}),
        ({"x-claude-code-session-id": "a"}, {}),
        ({"x-openwebui-chat-id": "a"}, {}),
        ({}, {"metadata": {"user_id": "a"}}),
        ({}, {"prompt_cache_key": "a"}),
        ({}, {"metadata": {"session_id": "a"}}),
        ({}, {"user": "a"}),
    ]
    headers: dict[str, str] = {}
    body: dict[str, Any] = {}
    answers = [ask()]
    for more_headers, more_body in reversed(ladder):
        headers |= more_headers
        metadata = {**body.get("metadata", {}), **more_body.get("metadata", {})}
        body |= more_body | ({"metadata": metadata} if metadata else {})
        answers.append(ask(headers, **body))
    assert len({answer.key for answer in answers}) == len(answers)


def test_claude_codes_user_id_means_its_session() -> None:
    old = ask(metadata={"user_id": "user_abc_account_def_session_123-456"})
    other_account = ask(metadata={"user_id": "user_xyz_account_uvw_session_123-456"})
    new = ask(metadata={"user_id": json.dumps({"device_id": "d", "account_uuid": "a", "session_id": "123-456"})})
    assert old == other_account == new
    assert old != ask(metadata={"user_id": "user_abc_account_def_session_999"})


@pytest.mark.parametrize("junk", [7, None, [], {"user_id": 3}, {"user_id": "{broken"}, {"user_id": "[1]"}])
def test_junk_metadata_is_survived(junk: Any) -> None:
    assert ask(metadata=junk).tenant == "t"


def test_tenants_share_nothing() -> None:
    one, other = ask({"x-session-id": "s"}, tenant="a"), ask({"x-session-id": "s"}, tenant="b")
    assert (one.tenant, one.key) != (other.tenant, other.key)
    assert one.name != other.name


def test_a_tenant_does_not_show_its_key() -> None:
    assert "secret" not in tenant_of("secret-key")
    assert tenant_of("a") != tenant_of("b")
    assert tenant_of("") == "local"


def test_the_opening_ends_with_the_first_user_message() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    later = [*messages, {"role": "assistant", "content": "a"}, {"role": "user", "content": "v"}]
    assert opening_of(messages) == opening_of(later)
    assert opening_of(messages) == opening_of([*messages, {"role": "user", "content": "more"}])
    assert opening_of(messages) != opening_of([messages[0], {"role": "user", "content": "w"}])
    assert opening_of(messages) != opening_of([{"role": "system", "content": "z"}, messages[1]])


def test_a_turn_is_an_answer_and_what_led_to_it() -> None:
    roles = ["system", "user", "assistant", "tool", "assistant", "user"]
    assert turns([{"role": role} for role in roles]) == [1, 1, 1, 2, 2, 3, 3]
    assert turns([]) == [1]
    assert turns(["odd", {"role": ["assistant"]}]) == [1, 1, 1]
