"""Requests for a reply in a chat, and answers to them. Plain data: neither an engine nor a connection is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.data.dialogues.turns import with_thought
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.text.normalise import normalise

Messages = Sequence[Mapping[str, str]]
"""[{"role": system | user | assistant, "content": text}], of which the last is the user's."""

STOP, LENGTH = "stop", "length"  # how a usable answer ends, and one that was cut off
REFUSED, MALFORMED = "endpoint_refused", "malformed"  # of an endpoint that takes no request like this, or that is none


@dataclass(frozen=True)
class ChatRequest:
    """A prompt, and the seed of its reply."""

    messages: Messages
    seed: int


@dataclass(frozen=True)
class ChatAnswer:
    """The answer to a request.

    finish: stop, length (cut off), or why there is no usable text, as a reason to count it by. detail: more on that."""

    text: str
    finish: str = STOP
    prompt_tokens: int = 0
    reply_tokens: int = 0
    detail: str = ""


OnAnswers = Callable[[Mapping[int, ChatAnswer]], None]
"""Called with answers that have arrived, by the position of their request."""


def text_of(answer: ChatAnswer, *, partly: bool = False) -> str | Problem:
    """The text of an answer, normalised and without thoughts, or why there is none that can be used.

    partly: whether one that is cut off can be.

    >>> text_of(ChatAnswer("<think>2 + 2</think>\\n4")), text_of(ChatAnswer("Well", LENGTH)).reason
    ('4', 'cut_off')
    """
    if answer.finish == LENGTH and not partly:
        problem = f"cut off after {answer.reply_tokens} tokens; expected an end before, or a larger limit"
        return Problem("cut_off", problem)
    if answer.finish not in (STOP, LENGTH):
        return Problem(answer.finish, answer.detail or "no text; expected some")
    text = with_thought(normalise(answer.text).strip(), None, keep_thoughts=False, place="the answer")
    return text or Problem("empty", "no text; expected some")
