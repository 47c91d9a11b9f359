"""What of a conversation the model is shown."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.data.tokens.chat import Chat
from serve.gateway.conversation import BadConversation, Message, messages_of, shown, turns_of, with_persona
from tests.tiny_models import Tiny


def talk(turns: int) -> list[Message]:
    """A system message, finished turns, and a question."""
    found = [{"role": "system", "content": "Be kind."}]
    for number in range(turns - 1):
        found += [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": f"yes {number}"}]
    return [*found, {"role": "user", "content": "last question"}]


@pytest.mark.parametrize("room", range(20, 160, 7))
def test_the_most_turns_that_fit_are_shown_and_none_is_broken(tiny: Tiny, room: int) -> None:
    chat, messages = Chat.open(tiny.first), talk(8)
    head, turns = turns_of(messages)
    fitting = [
        count
        for count in range(1, 9)
        if len(chat.prompt([*head, *(one for turn in turns[8 - count :] for one in turn)])) <= room
    ]
    if not fitting:
        with pytest.raises(BadConversation) as refused:
            shown(messages, encode=chat.prompt, max_turns=99, budget_tokens=room)
        assert refused.value.code == "context_length_exceeded"
        return
    found = shown(messages, encode=chat.prompt, max_turns=99, budget_tokens=room)
    assert found.left_out == 8 - max(fitting)
    assert found.messages == [messages[0], *messages[1 + 2 * found.left_out :]]
    assert found.ids == chat.prompt(found.messages)
    assert len(found.ids) <= room


def test_at_most_so_many_turns_are_shown(tiny: Tiny) -> None:
    found = shown(talk(5), encode=Chat.open(tiny.first).prompt, max_turns=2, budget_tokens=10_000)
    assert [message["content"] for message in found.messages] == ["Be kind.", "question 3", "yes 3", "last question"]
    assert found.left_out == 3


def test_a_turn_is_a_question_with_all_its_replies() -> None:
    roles = ["assistant", "user", "assistant", "assistant", "user"]
    head, turns = turns_of([{"role": role, "content": "x"} for role in roles])
    assert head == []
    assert [[message["role"] for message in turn] for turn in turns] == [roles[:1], roles[1:4], roles[4:]]


def test_a_persona_gives_way_to_a_system_message() -> None:
    asked = [{"role": "user", "content": "who are you?"}]
    assert with_persona(asked, "You are Rayse.")[0] == {"role": "system", "content": "You are Rayse."}
    own = [{"role": "system", "content": "You are a pirate."}, *asked]
    assert with_persona(own, "You are Rayse.") == own
    assert with_persona(asked, None) == asked


BAD: list[tuple[Any, str]] = [
    (None, "messages"),
    ([], "messages"),
    ("hello", "messages"),
    (["hello"], "messages[0]"),
    ([{"role": "king", "content": "x"}], "messages[0].role"),
    ([{"role": ["user"], "content": "x"}], "messages[0].role"),
    ([{"role": "user", "content": None}], "messages[0].content"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages[0].content"),
    ([{"role": "user", "content": "\ud800"}], "messages[0].content"),
    ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "messages"),
]


@pytest.mark.parametrize(("given", "param"), BAD)
def test_bad_messages_are_named(given: Any, param: str) -> None:
    with pytest.raises(BadConversation) as refused:
        messages_of(given)
    assert refused.value.param == param
