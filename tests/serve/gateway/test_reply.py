"""Replies as clients get them: without what the template puts before them, and under the guard where they go on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pipelines.data.tokens.chat_messages import said
from pipelines.data.tokens.chat_thoughts import ALL_VISIBLE, Concealment, GrowingReply
from serve.gateway.asgi import DONE, sse_event
from serve.gateway.guard import RulesGuard, check_prompt
from serve.gateway.reply import GuardedStream, guard_response
from serve.gateway.request import GenerationRequest
from serve.gateway.routes import CHAT

EMPTY = Concealment("<think>\n\n</think>")
REQUEST = GenerationRequest(CHAT, {}, "chatcmpl-x", [], "", 0)
GO_ON = [[{"role": "user", "content": "Go on"}]]
BEGUN = "Here is how to make a pipe "


def request(concealment: Concealment = ALL_VISIBLE, begun_reply: str = "") -> GenerationRequest:
    return replace(REQUEST, concealment=concealment, begun_reply=begun_reply)


def events(text: str, size: int = 3) -> list[bytes]:
    """A stream as vLLM writes it: the role, the text in chunks, the end."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": text[start : start + size]} for start in range(0, len(text), size)]
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"})
    return [*(sse_event({"id": "x", "choices": [choice]}) for choice in choices), DONE]


def streamed(text: str, sent: GenerationRequest, size: int = 3) -> tuple[str, GuardedStream, list[bytes]]:
    """The text that a client reads of a stream, the stream, and the events it gets."""
    stream = GuardedStream(sent, RulesGuard(), "tiny")
    body = b"".join(stream.feed(event) for event in events(text, size))
    received = [event + b"\n\n" for event in body.split(b"\n\n") if event]
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in received if event != DONE]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks), stream, received


def texts_of(stream: GuardedStream) -> list[str]:
    """The replies of a stream, as feedback has them."""
    return [said(message) for message in stream.messages]


def whole(text: str, sent: GenerationRequest) -> tuple[dict[str, Any], list[str], bytes, bytes]:
    """The choice that a client gets of a whole response, its text for feedback, and vLLM's body beside the client's."""
    tokens = [{"token": token, "logprob": -0.1} for token in text.split("|")]
    choice = {"index": 0, "message": {"content": text.replace("|", "")}, "logprobs": {"content": tokens}}
    before = json.dumps({"choices": [choice]}).encode()
    after, messages, _ = guard_response(before, RulesGuard(), sent)
    return json.loads(after)["choices"][0], [said(message) for message in messages], before, after


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_an_empty_thought_reaches_nobody(size: int) -> None:
    text = "<think>\n\n</think>\n\nlamp 11. And so on."
    shown, stream, received = streamed(text, request(EMPTY), size)
    assert shown == "lamp 11. And so on." and texts_of(stream) == [shown]
    assert b"think" not in b"".join(received) and b'"role":"assistant"' in received[0]
    choice, texts, _, _ = whole("<think>|\n\n|</think>|\n\n|lamp| 11", request(EMPTY))
    assert choice["message"]["content"] == "lamp 11" and texts == ["lamp 11"]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["lamp", " 11"]


@pytest.mark.parametrize("text", ["lamp 11", "lamp, 3 > 2", "<thin", "<thinking> lamp"])
def test_other_replies_pass_unchanged(text: str) -> None:
    shown, _, received = streamed(text, request(EMPTY))
    assert shown == text and received == events(text)
    choice, _, before, after = whole(text, request(EMPTY))
    assert choice["message"]["content"] == text and before == after


OPENED, TAKEN_OUT = Concealment(in_thought=True), Concealment(takes_out=True)


def reasoning(received: list[bytes]) -> str:
    """The thought that a client reads of a stream, as OpenAI's clients do of vLLM's reasoning parsers."""
    deltas = [json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"] for event in received if event != DONE]
    return "".join(delta.get("reasoning") or "" for delta in deltas)


@pytest.mark.parametrize(("text", "sent"), [("The tide turns", OPENED), ("<think>\nThe tide turns", TAKEN_OUT)])
def test_a_thought_that_is_never_closed_is_no_content_and_comes_as_reasoning(text: str, sent: Concealment) -> None:
    shown, stream, received = streamed(text, request(sent))
    assert (shown, texts_of(stream), reasoning(received)) == ("", [""], "The tide turns")
    choice, texts, _, _ = whole(text.replace(" ", "| "), request(sent))
    assert choice["message"] == {"content": "", "reasoning": "The tide turns"} and texts == [""]
    assert choice["logprobs"]["content"] == []


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize("hidden", [EMPTY, OPENED, TAKEN_OUT], ids=["empty", "opened", "taken_out"])
@pytest.mark.parametrize(
    "text",
    [
        "<think>\n\n<think>\n\n</think>\n\npear 7. Ripe.",
        "<think>\n\n</think>\n\n<think>\n</think>\n\npear 7. Ripe.",
        "<think><think></think></think>pear 7. Ripe.",
    ],
    ids=["opened_twice", "two_thoughts", "within"],
)
def test_no_mark_of_an_empty_thought_reaches_anybody_and_the_answer_does(
    size: int, hidden: Concealment, text: str
) -> None:
    shown, stream, received = streamed(text, request(hidden), size)
    assert shown == texts_of(stream)[0] == "pear 7. Ripe."
    assert b"think>" not in b"".join(received) and reasoning(received) == ""
    choice, texts, _, _ = whole(text, request(hidden))
    assert choice["message"] == {"content": shown} and texts == [shown]


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\n\npear 7", "pear 7"),
        ("<think>\n\n<think>\n\n</thin", ""),
        ("<think>\n\n</think>\n\n</th", ""),
        ("<think>\nIt is ripe.\n</think>\n\npear", "<think>\nIt is ripe.\n</think>\n\npear"),
        ("<think>\n\n<think>\nIt is ripe.\n</think>\n\npear", "<think>\nIt is ripe.\n</think>\n\npear"),
        ("<think>\nNot <think> this.\n</think>\n\npear", "<think>\nNot <think> this.\n</think>\n\npear"),
    ],
    ids=[
        "unclosed",
        "cut_within_the_mark",
        "cut_within_another",
        "thought",
        "thought_opened_twice",
        "mark_in_a_thought",
    ],
)
def test_where_the_template_keeps_thoughts_whole_ones_are_shown_and_no_half(
    size: int, text: str, expected: str
) -> None:
    """What a model writes after a mark that it never closes may be all of its answer."""
    shown, stream, received = streamed(text, request(EMPTY), size)
    assert shown == texts_of(stream)[0] == expected and reasoning(received) == ""
    assert whole(text, request(EMPTY))[0]["message"] == {"content": expected}


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("text", "content", "thought"),
    [
        ("<think>\n\n<think>\nIt is\n</think>\n\npear", "pear", ""),
        ("<think>\n\n</think>\n\n<think>\nIt is\n</think>\n\npear", "pear", ""),
        ("<think>\nIt is\n</think>\n\n<think>\n</think>\n\npear", "pear", ""),
        ("<think>It is</think>\n<think>ripe.</think>pear", "pear", ""),
        ("<think>It is</think><think> ripe.</think>\npear <think>7</think>", "pear <think>7</think>", ""),
        ("<think>It is</think>\n\n<think> opens a thought.", "", "opens a thought."),
        ("<think>\n\n<think>\nIt is</thi", "", "It is"),
    ],
    ids=[
        "opened_twice",
        "after_an_empty_one",
        "before_an_empty_one",
        "two",
        "three_marks",
        "half",
        "cut_within_the_mark",
    ],
)
def test_all_thoughts_before_a_reply_are_taken_out(size: int, text: str, content: str, thought: str) -> None:
    for hidden in (OPENED, TAKEN_OUT):
        shown, stream, received = streamed(text, request(hidden), size)
        assert (shown, texts_of(stream)[0], reasoning(received)) == (content, content, thought)
        sent = {"content": content} | ({"reasoning": thought} if thought else {})
        assert whole(text, request(hidden))[0]["message"] == sent


def test_the_guard_reads_a_thought_that_is_sent() -> None:
    text = f"They want to know {BEGUN[8:]}bomb at home"
    shown, _, received = streamed(text, request(OPENED))
    assert (shown, reasoning(received)) == ("", "")
    assert whole(text, request(OPENED))[0]["message"] == {"content": ""}


@pytest.mark.parametrize("size", [1, 4, 9, 1000])
@pytest.mark.parametrize("text", ["Why?</think>\n\n</think>\n\nAt six, </th.", "</think>At six, </th."])
def test_an_end_of_a_thought_that_the_model_writes_once_more_reaches_nobody(size: int, text: str) -> None:
    shown, stream, received = streamed(text, request(OPENED), size)
    assert shown == "At six, </th." == texts_of(stream)[0]
    assert b"</think>" not in b"".join(received) and reasoning(received) == ""
    choice, texts, _, _ = whole(text, request(OPENED))
    assert choice["message"] == {"content": shown} and texts == [shown]


ABOUT_MARKS = [
    "You open `<think>` and close it with `</think>`.",
    "You open <think> and close it with </think>.",
    "用<think>开始，用</think>结束。",
    "Use it like this:\n\n```xml\n<think>\nWhy?\n</think>\n```",
    "pear 7.<think> Ripe.</think> More </think>",
    "</think> closes a thought.",
    "`</think>` closes a thought.",
]


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("hidden", "thought"),
    [
        (EMPTY, "<think>\n\n</think>\n\n"),
        (TAKEN_OUT, "<think>\nAbout `</think>`: text.\n</think>\n\n"),
        (TAKEN_OUT, "<think>\nSo:\n```\n<think>\nWhy?\n</think>\n```\n</think>\n\n"),
        (OPENED, "About `<think>` and `</think>`: `text`</think>"),
        (OPENED, "\n</think>\n\n"),
    ],
    ids=["empty", "taken_out", "with_code", "opened", "opened_empty"],
)
@pytest.mark.parametrize("text", ABOUT_MARKS)
def test_a_reply_may_write_about_the_marks_of_thoughts(size: int, hidden: Concealment, thought: str, text: str) -> None:
    shown, stream, received = streamed(thought + text, request(hidden), size)
    assert (shown, texts_of(stream), reasoning(received)) == (text, [text], "")
    choice, texts, _, _ = whole(thought + text, request(hidden))
    assert choice["message"] == {"content": text} and texts == [text]


@pytest.mark.parametrize("text", ABOUT_MARKS)
def test_no_more_of_a_reply_is_held_back_than_a_mark(text: str) -> None:
    growing = GrowingReply(TAKEN_OUT)
    assert growing.append("<think>\nWhy?\n</think>\n\n") == ""
    shown = ""
    for number, letter in enumerate(text, 1):
        shown += growing.append(letter)
        assert number - len(shown) <= len("</think>") + 1, shown


@pytest.mark.parametrize("size", [1, 1000])
def test_the_guard_judges_a_reply_with_the_beginning_it_goes_on_with(size: int) -> None:
    rest = "bomb at home. Then run."
    assert check_prompt(RulesGuard(), GO_ON, BEGUN) is None
    shown, stream, _ = streamed(rest, request(begun_reply=BEGUN), size)
    assert "bomb" not in shown and shown.endswith("I can't help with that.") and stream.reason
    choice, texts, _, _ = whole(rest, request(begun_reply=BEGUN))
    assert choice["message"]["content"] == shown and texts == [BEGUN + shown] == texts_of(stream)
    harmless, stream, _ = streamed("organ. It is old.", request(begun_reply=BEGUN), size)
    assert harmless == "organ. It is old." and texts_of(stream) == [f"{BEGUN}organ. It is old."]


def test_a_begun_reply_is_read_once_however_many_events_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    check = RulesGuard.check

    def counted(guard: RulesGuard, text: str, language: str | None = None) -> Any:
        read.append(text)
        return check(guard, text, language)

    monkeypatch.setattr(RulesGuard, "check", counted)
    begun = "The tide comes in. " * 100

    def checks(rest: str) -> int:
        read.clear()
        streamed(rest, request(begun_reply=begun), 1)
        return len(read)

    assert checks("It turns again, and so on") - checks("It") < 10


def test_an_unsafe_beginning_is_declined_and_a_refusal_is_not() -> None:
    assert check_prompt(RulesGuard(), GO_ON, f"{BEGUN}bomb: first,")
    assert check_prompt(RulesGuard(), GO_ON, "I will not explain how to make a pipe bomb. Ask me") is None
