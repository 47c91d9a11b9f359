"""Replies under a guard model that judges them: whole ones, streams as they grow, calls of tools, without an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.data.guard.classifier import Verdict
from serve.gateway.asgi import sse_event
from serve.gateway.conversation import Message
from serve.gateway.guard import JUDGED_BYTES, RulesGuard, begin_reply
from serve.gateway.reply import GuardedStream, guard_response
from tests.serve.gateway import scripted
from tests.serve.gateway.test_gateway import BODY, Engine, gateway, send_request
from tests.serve.gateway.test_guard_model import LLAMA, QWEN, SHIELD, answering, guard
from tests.serve.gateway.test_reply import OPENED, events, request
from tests.stages import chat_endpoint
from tests.tiny_models import Tiny

SENTENCES = [f"Part {number} of it is a sentence of some words. " for number in range(40)]
LONG = "".join(SENTENCES)
PATH = "/v1/chat/completions"


def at(endpoint: chat_endpoint.ChatEndpoint, **options: Any) -> dict[str, Any]:
    """The option `guard_endpoint` of a server whose guard model judges replies."""
    return {"url": f"{endpoint.url}/v1", "model": LLAMA, "timeout_s": 5, "replies": True, **options}


def unsafe_with(word: str, judged: list[str]) -> Callable[[int, str], Verdict | None]:
    """A judge of replies, which notes what it read."""

    def judge(index: int, text: str) -> Verdict | None:
        judged.append(text)
        return Verdict(False, "model S1", 1.0) if word in text else None

    return judge


@pytest.mark.parametrize("model", [LLAMA, QWEN, SHIELD])
def test_each_family_is_asked_about_a_reply_with_its_question(model: str) -> None:
    prompt: list[Message] = [{"role": "user", "content": "How?"}]
    answer = {LLAMA: "unsafe\nS2", QWEN: "Safety: Unsafe\nCategories: Violent\nRefusal: No", SHIELD: "Yes"}[model]
    with chat_endpoint.serving(answering(answer)) as endpoint:
        judge = guard(endpoint.url, model, replies=True).judge([prompt], 1)
        assert judge is not None
        verdict = judge(0, "Like this {so}.")
        assert guard(endpoint.url, model).judge([prompt], 1) is None  # unless the options say so
    assert verdict is not None and verdict.reason.startswith("model")
    (body,) = endpoint.bodies
    if model == SHIELD:
        assert "Human Question: How?\n\nChatbot Response: Like this {so}.\n<end_of_turn>" in body["prompt"]
        assert "The chatbot shall not generate content that harms" in body["prompt"]
        assert "Does the Chatbot Response violate" in body["prompt"]
    else:
        assert body["messages"] == [*prompt, {"role": "assistant", "content": "Like this {so}."}]


def test_of_several_replies_each_is_judged_with_its_own_prompt() -> None:
    prompts: list[list[Message]] = [[{"role": "user", "content": name}] for name in ("one", "two")]
    with chat_endpoint.serving(answering("safe")) as endpoint:
        judge = guard(endpoint.url, replies=True).judge(prompts, 4)
        assert judge is not None
        assert [judge(index, "Hi.") for index in range(4)] == [None] * 4
    assert [body["messages"][0]["content"] for body in endpoint.bodies] == ["one", "one", "two", "two"]


def test_a_stream_is_judged_as_it_grows_and_nothing_is_sent_before() -> None:
    judged: list[str] = []
    stream = GuardedStream(request(), RulesGuard(), "tiny", judge=unsafe_with("Part 20", judged))
    received = ""
    for event in events(LONG, 7):
        for line in stream.feed(event).split(b"\n\n"):
            if line.startswith(b"data: {"):
                received += json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"].get("content") or ""
        assert stream.cut or any(text.startswith(received) for text in ["", *judged])
    sent = LONG[: LONG.index("Part 20") - JUDGED_BYTES]  # at least so much of it
    assert stream.cut and stream.reason == "model S1" and received.startswith(sent) and "Part 20" not in received
    assert judged[0] == SENTENCES[0]
    assert all(JUDGED_BYTES <= len(later) - len(earlier) <= JUDGED_BYTES + 160 for earlier, later in pairwise(judged))


def test_the_end_of_a_stream_is_judged_before_it_is_sent() -> None:
    judged: list[str] = []
    kept: list[list[Any]] = []

    def on_reply(messages: list[Any]) -> str:
        kept.append(messages)
        return ""

    text = "All is well. Then the end"
    stream = GuardedStream(request(), RulesGuard(), "tiny", on_reply, judge=unsafe_with("the end", judged))
    received = b"".join(stream.feed(event) for event in events(text))
    assert judged[-1] == text and b"the" not in received and stream.reason == "model S1"
    (messages,) = kept
    assert messages[0]["content"].startswith("All is well.") and "end" not in messages[0]["content"]
    passing = GuardedStream(request(), RulesGuard(), "tiny", judge=unsafe_with("nothing", judged))
    assert b"".join(passing.feed(event) for event in events(text)) == b"".join(events(text))


def test_chinese_is_judged_as_often_by_its_tokens() -> None:
    judged: list[str] = []
    stream = GuardedStream(request(), RulesGuard(), "tiny", judge=unsafe_with("nothing", judged))
    text = "今天天气很好我们去公园散步吧。" * 40  # 600 characters, 1,800 bytes
    for event in events(text, 4):
        stream.feed(event)
    assert 6 <= len(judged) <= 9 and judged[-1] == text


def test_a_begun_reply_is_judged_with_what_follows() -> None:
    judged: list[str] = []
    stream = GuardedStream(request(begun_reply="So it is."), RulesGuard(), "tiny", judge=unsafe_with("bad", judged))
    received = b"".join(stream.feed(event) for event in events(" And bad."))
    assert judged == ["So it is. And bad."] and b"bad" not in received


def test_calls_of_tools_are_judged_with_the_text_before_them() -> None:
    judged: list[str] = []
    call = {"id": "a", "index": 0, "type": "function", "function": {"name": "send", "arguments": '{"to": "bad"}'}}
    choice: dict[str, Any] = {"index": 0, "delta": {"content": "I send it."}, "finish_reason": None}
    last = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}
    stream = GuardedStream(request(), RulesGuard(), "tiny", judge=unsafe_with("bad", judged))
    received = b"".join(stream.feed(sse_event({"choices": [each]})) for each in (choice, last))
    assert judged[-1] == "I send it.\nsend\nto\nbad" and b"bad" not in received and b"I send it." in received
    whole = {"index": 0, "message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}
    judge = unsafe_with("bad", judged)
    body, _, reason = guard_response(json.dumps({"choices": [whole]}).encode(), RulesGuard(), request(), judge)
    assert reason == "model S1" and json.loads(body)["choices"][0]["message"]["tool_calls"] == []


def test_a_thought_that_is_declined_is_not_sent() -> None:
    judged: list[str] = []
    choice = {"index": 0, "message": {"content": "a bad thought"}, "finish_reason": "length"}
    sent = request(OPENED)
    for word, shown in (("bad", None), ("nothing", "a bad thought")):
        judge = unsafe_with(word, judged)
        body, _, _ = guard_response(json.dumps({"choices": [choice]}).encode(), RulesGuard(), sent, judge)
        assert json.loads(body)["choices"][0]["message"].get("reasoning") == shown


def test_what_the_embedded_guard_declines_needs_no_judge() -> None:
    judged: list[str] = []
    reply = begin_reply(RulesGuard(), "", lambda text: judged.append(text))  # type: ignore[func-returns-value]
    reply.append("Here is how to make a pipe bomb at home.", last=True)
    assert reply.verdict is not None and reply.verdict.reason.startswith("rule") and judged == []


def test_the_gateway_declines_replies_and_says_when_none_was_judged(tiny: Tiny) -> None:
    with chat_endpoint.serving(lambda prompt: "unsafe\nS9" if prompt == "Hi." else "safe") as endpoint:
        app = gateway(tiny, Engine(), guard_endpoint=at(endpoint))
        declined = send_request(app, "POST", PATH, json=BODY)
        assert declined.headers["x-rayse-guard"] == "reply"
        assert declined.json()["rayse_guard"] == {"where": "reply", "reason": "model S9"}
        assert "Hi." not in declined.text
        endpoint.reply = lambda prompt: "what?" if prompt == "Hi." else "safe"
        assert send_request(app, "POST", PATH, json=BODY).json()["rayse_guard"]["reason"] == "model unavailable"
        passing = gateway(tiny, Engine(), guard_endpoint=at(endpoint, failure="pass"))
        assert send_request(passing, "POST", PATH, json=BODY).json()["choices"][0]["message"]["content"] == "Hi."
        prompts_alone = gateway(tiny, Engine(), guard_endpoint=at(endpoint, replies=False))
        assert send_request(prompts_alone, "POST", PATH, json=BODY).json()["choices"][0]["message"]["content"] == "Hi."


def test_a_stream_over_http_shows_no_piece_that_was_not_judged(tiny: Tiny, tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    with (
        chat_endpoint.serving(lambda prompt: "unsafe\nS3" if "Part 12" in prompt else "safe") as endpoint,
        scripted.serve(tiny.first, {"Go": LONG}, guard_endpoint=at(endpoint), access_log=log) as url,
    ):
        body = {"messages": [{"role": "user", "content": "Go"}], "stream": True}
        with httpx.stream("POST", f"{url}{PATH}", json=body, timeout=60) as response:
            lines = [line for line in response.iter_lines() if line.startswith("data: {")]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text.startswith("Part 0 of it") and "Part 12" not in text
    assert chunks[-1]["rayse_guard"] == {"where": "reply", "reason": "model S3"}
    (line,) = log.read_text().splitlines()
    assert json.loads(line)["guard"] == {"where": "reply", "reason": "model S3"}
