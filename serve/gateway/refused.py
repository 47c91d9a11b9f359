"""What of a conversation was declined before: it no longer counts against what follows, and the model never gets it.

    user's message, refusal, user's message          the first one is left out, with its refusal
    calls, their results, refusal, user's message    calls and results are; the refusal replies to what is before them

A client sends the whole conversation with each request, so that without this one declined message would end it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.data.dialogues.refusals import is_refusal
from pipelines.data.tokens.chat_messages import join_turns
from serve.gateway.conversation import Message
from serve.gateway.guard import Guard, check_conversation
from serve.gateway.guard_model import MODEL_REFUSALS
from serve.gateway.tools import checked


def without_refused(
    guard: Guard, messages: Sequence[Message], *, has_guard_model: bool = False
) -> tuple[list[Message], int]:
    """(the messages without those that must be declined, alone or with those before them, and were, number of such
    places). Whoever wrote the refusal, the model does not see what it is of.

    has_guard_model: a guard model may have declined what the guard lets pass, so that its refusal, word for word,
    is enough. To ask that model of each refused message again would take a call of it for each.

    A refused message that no message of the user follows stays, so that the conversation is declined."""
    kept: list[Message] = []
    number = num_refused = 0
    while number < len(messages):
        end = _end_of_exchange(messages, number)
        if _is_refused(messages, end) and (
            (has_guard_model and messages[end]["content"].strip() in MODEL_REFUSALS.values())
            or check_conversation(guard, checked([*kept, *messages[number:end]]))
        ):
            num_refused += 1
            # A refusal without the user's message that it replies to would stand for nothing.
            number = end + 1 if messages[number]["role"] == "user" else end
        else:
            kept.append(messages[number])
            number += 1
    return (join_turns(kept) if num_refused else kept), num_refused


def _end_of_exchange(messages: Sequence[Message], start: int) -> int:
    """Position after a message, and after the results of its calls, if it has any."""
    end = start + 1
    while "tool_calls" in messages[start] and end < len(messages) and messages[end]["role"] == "tool":
        end += 1
    return end


def _is_refused(messages: Sequence[Message], end: int) -> bool:
    """Whether a message of the user, or calls with their results, that end here are followed by a refusal and by a
    message of the user, before which the system's may stand."""
    roles = [message["role"] for message in messages[end - 1 : end + 3]]
    if roles[2:3] == ["system"]:
        del roles[2]
    return roles[:3] in (["user", "assistant", "user"], ["tool", "assistant", "user"]) and is_refusal(
        messages[end]["content"]
    )
