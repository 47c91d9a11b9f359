"""A guard model, which checks prompts after the embedded guard let them pass: behind an OpenAI-compatible endpoint, or
hosted by this server (serve/hosting/guard_host.py), which answers the same requests through a transport of its own.

    conversation ──family's prompt──► endpoint ──family's answer──► verdict
                                        └──no answer in time──► the request is refused (503), or passes: `failure`

One that hangs holds threads of its own alone, and after a few calls in a row without an answer it is not asked for some
seconds: prompts are refused, or pass, at once.

Its family (guard_families.py) writes the prompt and reads the answer; categories of harm that are switched off pass.
Replies are judged where the options say so, each time with the conversation: whole ones once, streams as they grow.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from pipelines.data.guard.classifier import Verdict
from serve.gateway.asgi import ApiError
from serve.gateway.conversation import Message
from serve.guard_families import CONTROVERSIAL, UNAVAILABLE, UNSAFE, Answer, family_of, reason_of
from serve.settings import GuardEndpoint, HostedGuard

GUARD_KEY_ENV = "RAYSE_GUARD_KEY"  # the endpoint's key, where the settings hold none
# Words that nothing else here replies with, so that a later request says by them what the guard model declined.
MODEL_REFUSALS = {"en": "I can't help with this request.", "zh": "对不起，这个请求我不能帮忙。"}
HOSTED_URL = "http://guard-model/v1"  # of requests to one that is hosted, which no network carries
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # never reached through the proxy that `http_proxy` names
MAX_CALLS = 64  # at a time; further ones wait for one of these to end
MAX_FAILURES, PAUSE_S = 5, 5.0  # calls in a row without an answer, after which the endpoint is not asked, so long
UNREADABLE = (400, 413, 422)  # statuses of a request that is at fault: vLLM's of a prompt that is too long is 400
MAX_ANSWER_TOKENS = 64  # a label, and on another line its categories


class GuardModelUnavailable(Exception):
    """The guard model gave no answer, or none that its family gives."""


class UnreadableForGuard(GuardModelUnavailable):
    """The guard model refuses a conversation, such as one that is too long for it. It passes in no case: whoever wrote
    it could choose its length."""


def _alternating(messages: Sequence[Message]) -> list[Message]:
    """Messages as every guard model's template takes them: the user's and the assistant's in turn, with the system's
    text and results of tools as the user's."""
    turns: list[Message] = []
    for message in messages:
        role, content = "assistant" if message["role"] == "assistant" else "user", message["content"]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n\n" + content
        else:
            turns.append({"role": role, "content": content})
    return turns


class Pauses:
    """Says when an endpoint that does not answer is asked again: after PAUSE_S, by one call, while others are refused.
    Safe for several threads."""

    def __init__(self) -> None:
        self._lock, self._failures, self._ends = threading.Lock(), 0, 0.0

    def may_ask(self) -> bool:
        """Whether a call may be made now."""
        with self._lock:
            now = time.monotonic()
            if self._failures >= MAX_FAILURES:
                if now < self._ends:
                    return False
                self._ends = now + PAUSE_S
            return True

    def note(self, *, answered: bool) -> None:
        """Notes how a call ended."""
        with self._lock:
            self._failures = 0 if answered else self._failures + 1
            self._ends = time.monotonic() + PAUSE_S


@dataclass(frozen=True)
class ReplyJudge:
    """Judges the replies to a request. conversations: that they reply to, each as many of them; stopped: is set once
    the request has ended, so that the guard model is not asked for it any more."""

    model: GuardModel
    conversations: Sequence[Sequence[Message]]
    num_replies: int
    stopped: threading.Event = field(default_factory=threading.Event)

    def __call__(self, index: int, text: str) -> Verdict | None:
        """The verdict on a reply so far, by its index, where it must be declined."""
        if self.stopped.is_set():
            return Verdict(False, reason_of([UNAVAILABLE]), 1.0)
        return self.model.check_reply(self.conversations[index * len(self.conversations) // self.num_replies], text)


class GuardModel:
    """The guard model of an endpoint, or the one that this server hosts, with the transport that reaches it. Raises
    UserError where the model's name says no family that is known, and for categories that it does not have."""

    def __init__(self, judging: GuardEndpoint | HostedGuard, transport: httpx.BaseTransport | None = None):
        self._judging, self._family = judging, family_of(judging.model)
        self._off = self._family.let_pass(judging.categories, "categories")
        self._url, key = HOSTED_URL, None
        if isinstance(judging, GuardEndpoint):
            self._url, key = judging.url.rstrip("/"), judging.key or os.environ.get(GUARD_KEY_ENV)
        self._threads, self._pauses = ThreadPoolExecutor(MAX_CALLS, "guard-model"), Pauses()
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=judging.timeout_s,
            trust_env=urlsplit(self._url).hostname not in LOOPBACK,
            transport=transport,
        )

    async def ask(self, conversations: Iterable[Sequence[Message]], within_s: float) -> Verdict | None:
        """As check, in a thread that nothing but this model's calls waits for. Raises ApiError (503; 504 after that
        time). What is cancelled asks no more."""
        stopped = threading.Event()
        try:
            async with asyncio.timeout(within_s):
                return await self.in_thread(self.check, conversations, stopped)
        except TimeoutError:
            raise ApiError(504, "the guard model took longer over the prompts of this request than this server's limit "
                           "of a reply's time; send fewer", code="timeout") from None  # fmt: skip
        except UnreadableForGuard:
            raise ApiError(400, "messages: the guard model cannot read this conversation, which may be too long for "
                           "it; send a shorter one", param="messages", code="guard_cannot_read") from None  # fmt: skip
        except GuardModelUnavailable as error:
            raise ApiError(503, f"the guard model does not answer ({error}), and without it no prompt passes; "
                           f"please try again later", code="guard_unavailable") from None  # fmt: skip
        finally:
            stopped.set()

    def check(
        self, conversations: Iterable[Sequence[Message]], stopped: threading.Event | None = None
    ) -> Verdict | None:
        """The verdict on prompts of which one must be declined; None where all may pass. stopped: is set once nobody
        waits for it any more; then the next prompt is not asked about.

        Raises UnreadableForGuard, and GuardModelUnavailable without an answer in time, unless `failure` is pass."""
        for messages in conversations:
            if stopped is not None and stopped.is_set():
                raise GuardModelUnavailable("stopped")
            try:
                if (verdict := self._verdict(messages)) is not None:
                    return verdict
            except GuardModelUnavailable as error:
                if not self._passes(error):
                    raise
        return None

    def _verdict(self, messages: Sequence[Message]) -> Verdict | None:
        """The verdict on a conversation's last turn where it must be declined. Raises GuardModelUnavailable."""
        label, categories = self._classify(messages)
        counted = [category for category in categories if category not in self._off]
        is_declined = label == UNSAFE or (label == CONTROVERSIAL and self._judging.controversial == "decline")
        return Verdict(False, reason_of(counted), 1.0) if is_declined and (counted or not categories) else None

    def judge(self, conversations: Sequence[Sequence[Message]], num_replies: int) -> ReplyJudge | None:
        """What judges the replies to a request; None where none are judged. num_replies: to all conversations."""
        return ReplyJudge(self, conversations, num_replies) if self._judging.replies and conversations else None

    def check_reply(self, messages: Sequence[Message], reply: str) -> Verdict | None:
        """The verdict on a reply that must be declined, also where none comes in time, unless `failure` is pass: a
        response may have begun, so that there is no status to say it with."""
        try:
            return self._verdict([*messages, {"role": "assistant", "content": reply}])
        except GuardModelUnavailable as error:
            return None if self._passes(error) else Verdict(False, reason_of([UNAVAILABLE]), 1.0)

    def _passes(self, error: GuardModelUnavailable) -> bool:
        """Whether what has no verdict passes."""
        return self._judging.failure == "pass" and not isinstance(error, UnreadableForGuard)

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in one of the threads that nothing but this model's calls waits for."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _classify(self, messages: Sequence[Message]) -> Answer:
        """(label, categories) of a conversation, by the model."""
        if not self._pauses.may_ask():
            raise GuardModelUnavailable(f"the last {MAX_FAILURES} calls or more had no answer")
        try:
            answer = self._answer(messages)
        except httpx.TransportError as error:
            # A prompt that takes long must not switch a guard off for others, where prompts pass without it.
            is_slow = isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout)
            self._pauses.note(answered=is_slow and self._judging.failure == "pass")
            raise GuardModelUnavailable(type(error).__name__) from None
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:  # a status, no JSON
            self._pauses.note(answered=True)
            is_unreadable = isinstance(error, httpx.HTTPStatusError) and error.response.status_code in UNREADABLE
            raise (UnreadableForGuard if is_unreadable else GuardModelUnavailable)(type(error).__name__) from None
        self._pauses.note(answered=True)
        result = self._family.read(answer)
        if result is None:
            raise GuardModelUnavailable(f"an answer that {self._judging.model} does not give")
        return result

    def _answer(self, messages: Sequence[Message]) -> str:
        """The text that the endpoint replies with."""
        messages = [{**message, "content": self._family.plain(message["content"])} for message in messages]
        body: dict[str, Any] = {"max_tokens": MAX_ANSWER_TOKENS, "temperature": 0}
        if isinstance(self._judging, GuardEndpoint):  # a hosted engine has one model, of another name with each version
            body["model"] = self._judging.model
        if self._family.prompt is None:
            choice = self._post("chat/completions", body | {"messages": _alternating(messages)})
            return choice["message"]["content"] or ""
        checked = [category for category in self._family.categories if category not in self._off]
        return self._post("completions", body | {"prompt": self._family.prompt(messages, checked)})["text"] or ""

    def _post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """The first choice of the endpoint's answer."""
        response = self._client.post(f"{self._url}/{route}", json=body)
        return response.raise_for_status().json()["choices"][0]
