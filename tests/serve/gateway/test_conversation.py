"""Fitting conversations into the model's context."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.data.tokens.chat import Chat
from serve.gateway.conversation import InvalidPrompt, Message, fit_prompt, parse_messages, split_turns, with_persona
from tests.tiny_models import Tiny


def conversation(num_turns: int) -> list[Message]:
    """A system message, finished turns, and a last question."""
    messages = [{"role": "system", "content": "Be kind."}]
    for number in range(num_turns - 1):
        messages.append({"role": "user", "content": f"question {number}"})
        messages.append({"role": "assistant", "content": f"yes {number}"})
    return [*messages, {"role": "user", "content": "last question"}]


@pytest.mark.parametrize("max_tokens", range(20, 160, 7))
def test_as_many_whole_turns_as_fit_are_kept(tiny: Tiny, max_tokens: int) -> None:
    chat, messages = Chat.open(tiny.first), conversation(8)
    system, turns = split_turns(messages)
    fitting = [
        count
        for count in range(1, 9)
        if len(chat.prompt([*system, *(message for turn in turns[8 - count :] for message in turn)])) <= max_tokens
    ]
    prompt = fit_prompt(messages, encode=chat.prompt, max_turns=99, max_prompt_tokens=max_tokens, context_tokens=200)
    assert prompt.turns_left_out == 8 - max(fitting, default=1)  # the last turn may take the reply's room
    assert prompt.messages == [messages[0], *messages[1 + 2 * prompt.turns_left_out :]]
    assert prompt.token_ids == chat.prompt(prompt.messages)
    assert len(prompt.token_ids) <= max_tokens or not fitting


def test_a_last_turn_that_leaves_no_room_for_a_reply_is_refused_with_the_room_there_is(tiny: Tiny) -> None:
    chat, messages = Chat.open(tiny.first), conversation(8)
    length = len(chat.prompt([messages[0], messages[-1]]))
    fits = fit_prompt(messages, encode=chat.prompt, max_turns=99, max_prompt_tokens=5, context_tokens=length + 1)
    assert len(fits.token_ids) == length
    with pytest.raises(
        InvalidPrompt, match=rf"expected at most {length - 1}, .* \(max_model_len of /v1/models\)"
    ) as error:
        fit_prompt(messages, encode=chat.prompt, max_turns=99, max_prompt_tokens=5, context_tokens=length)
    assert error.value.code == "context_length_exceeded"


def test_at_most_max_turns_are_kept(tiny: Tiny) -> None:
    encode = Chat.open(tiny.first).prompt
    prompt = fit_prompt(conversation(5), encode=encode, max_turns=2, max_prompt_tokens=10_000, context_tokens=20_000)
    assert [message["content"] for message in prompt.messages] == ["Be kind.", "question 3", "yes 3", "last question"]
    assert prompt.turns_left_out == 3


def test_a_turn_is_a_user_message_with_all_replies_to_it() -> None:
    roles = ["assistant", "user", "assistant", "assistant", "user"]
    system, turns = split_turns([{"role": role, "content": "x"} for role in roles])
    assert system == []
    assert [[message["role"] for message in turn] for turn in turns] == [roles[:1], roles[1:4], roles[4:]]


def test_a_late_system_message_goes_with_the_users_after_it_or_else_before_it() -> None:
    roles = ["system", "user", "assistant", "system", "user", "system", "assistant", "user", "system"]
    system, turns = split_turns([{"role": role, "content": "x"} for role in roles])
    assert [message["role"] for message in system] == roles[:1]
    assert [[message["role"] for message in turn] for turn in turns] == [roles[1:3], roles[3:7], roles[7:]]
    user, late = {"role": "user", "content": "x"}, {"role": "system", "content": "y"}
    assert parse_messages([user, late])[-1] == late


def test_a_system_message_without_text_is_left_out_but_at_the_beginning() -> None:
    user, empty = {"role": "user", "content": "x"}, {"role": "system", "content": ""}
    assert parse_messages([empty, user]) == [empty, user]
    assert parse_messages([user, empty]) == [user]


def test_a_system_message_replaces_the_persona() -> None:
    messages = [{"role": "user", "content": "who are you?"}]
    assert with_persona(messages, "You are Rayse.")[0] == {"role": "system", "content": "You are Rayse."}
    with_system = [{"role": "system", "content": "You are a pirate."}, *messages]
    assert with_persona(with_system, "You are Rayse.") == with_system
    assert with_persona(messages, None) == messages


INVALID: list[tuple[Any, str]] = [
    ([{"role": "king", "content": "x"}], "messages[0].role"),
    ([{"role": ["user"], "content": "x"}], "messages[0].role"),
    ([{"role": "user", "content": None}], "messages[0].content"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages[0].content"),
    ([{"role": "user", "content": "\ud800"}], "messages[0].content"),
    ([{"role": "assistant", "content": "y"}], "messages"),
    ([{"role": "system", "content": "y"}], "messages"),
]


@pytest.mark.parametrize(("messages", "param"), INVALID)
def test_errors_name_the_invalid_part_of_messages(messages: Any, param: str) -> None:
    with pytest.raises(InvalidPrompt) as refused:
        parse_messages(messages)
    assert refused.value.param == param
