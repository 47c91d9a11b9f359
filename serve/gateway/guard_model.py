"""A guard model behind an OpenAI-compatible endpoint, which checks prompts after the embedded guard let them pass.

    conversation ──family's prompt──► endpoint ──family's answer──► verdict
                                        └──no answer in time──► the request is refused (503), or passes: `failure`

An endpoint that hangs holds threads of its own alone, and after a few calls in a row without an answer it is not asked
for some seconds: prompts are refused, or pass, at once.

Llama Guard and Qwen3Guard have a chat template that writes their prompt from the conversation; ShieldGemma's prompt is
written here, from its model card. It checks prompts alone: a call for each sentence of a reply would take longer than
the reply. The name of the model says its family.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from pipelines.data.guard.classifier import Verdict
from pipelines.errors import UserError
from serve.gateway.asgi import ApiError
from serve.gateway.conversation import Message
from serve.settings import GuardEndpoint

GUARD_KEY_ENV = "RAYSE_GUARD_KEY"  # the endpoint's key, where the settings hold none
REASON = "model"  # begins the reason of what a guard model declined, and of nothing else
# Words that nothing else here replies with, so that a later request says by them what the guard model declined.
MODEL_REFUSALS = {"en": "I can't help with this request.", "zh": "对不起，这个请求我不能帮忙。"}
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # never reached through the proxy that `http_proxy` names
MAX_CALLS = 64  # at a time; further ones wait for one of these to end
MAX_FAILURES, PAUSE_S = 5, 5.0  # calls in a row without an answer, after which the endpoint is not asked, so long
MAX_ANSWER_TOKENS = 64  # a label, and on another line its categories
LABEL = re.compile(r"\s*(?P<label>safe|unsafe)\b(?:\s+(?P<categories>S\d+(?:\s*,\s*S\d+)*))?", re.IGNORECASE)
QWEN_LABEL = re.compile(r"Safety:\s*(Safe|Unsafe|Controversial)", re.IGNORECASE)
QWEN_CATEGORIES = re.compile(r"Categories:\s*([^\n]+)")
YES_NO = re.compile(r"\s*(yes|no)\b", re.IGNORECASE)
SHIELDGEMMA_PROMPT = """You are a policy expert trying to help determine whether a user prompt is in violation of the \
defined safety policies.

<start_of_turn>
Human Question: {text}
<end_of_turn>

Our safety principle is defined in the below:

* "No Dangerous Content": The prompt shall not contain or seek generation of content that harms oneself and/or others \
(e.g., accessing or building firearms and explosive devices, promotion of terrorism, instructions for suicide).
* "No Harassment": The prompt shall not contain or seek generation of content that is malicious, intimidating, \
bullying, or abusive content targeting another individual (e.g., physical threats, denial of tragic events, \
disparaging victims of violence).
* "No Hate Speech": The prompt shall not contain or seek generation of content that targets identity and/or protected \
attributes (e.g., racial slurs, promotion of discrimination, call to violence against protected groups).
* "No Sexually Explicit Information": The prompt shall not contain or seek generation of content that references \
sexual acts or is lewd.

Does the human question violate the above principles? Your answer must start with 'Yes' or 'No'. And then walk \
through step by step to be sure we answer correctly.
"""


class GuardModelUnavailable(Exception):
    """The guard model gave no answer, or none that its family gives."""


@dataclass(frozen=True)
class Family:
    """How a family of guard models is called. name: part of the models' names; prompt: of one text, for /completions,
    or None where the chat template writes it; read: its answer as (unsafe, categories), None where it is none."""

    name: str
    prompt: str | None
    read: Callable[[str], tuple[bool, str] | None]


def read_label(answer: str) -> tuple[bool, str] | None:
    """Llama Guard's answer: `safe`, or `unsafe` and on the next line its categories.

    >>> read_label("unsafe\\nS1,S9"), read_label("safe"), read_label("Sure!")
    ((True, 'S1,S9'), (False, ''), None)
    """
    match = LABEL.match(answer)
    return None if match is None else (match["label"].lower() == "unsafe", match["categories"] or "")


def read_qwen(answer: str) -> tuple[bool, str] | None:
    """Qwen3Guard's answer: `Safety: Unsafe` and `Categories: …`. Controversial, its label between both, may pass."""
    match, categories = QWEN_LABEL.search(answer), QWEN_CATEGORIES.search(answer)
    if match is None:
        return None
    return match[1].lower() == "unsafe", categories[1].strip() if categories else ""


def read_yes(answer: str) -> tuple[bool, str] | None:
    """ShieldGemma's answer: Yes, the text violates its principles, or No."""
    match = YES_NO.match(answer)
    return None if match is None else (match[1].lower() == "yes", "")


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


FAMILIES = (
    Family("llamaguard", None, read_label),
    Family("qwen3guard", None, read_qwen),
    Family("shieldgemma", SHIELDGEMMA_PROMPT, read_yes),
)


def family_of(model: str, *, option: str = "--guard-model") -> Family:
    """The family of a model, by its name. Raises UserError, which names the option, where the name says none."""
    name = re.sub("[^a-z0-9]", "", model.lower())
    family = next((family for family in FAMILIES if family.name in name), None)
    if family is None:
        raise UserError(
            f"{option} {model}: is of no family of guard models that is known; expected a name with Llama-Guard, "
            f"Qwen3Guard or ShieldGemma, as the endpoint lists it"
        )
    return family


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


class GuardModel:
    """The guard model of an endpoint. Raises UserError where the model's name says no family that is known."""

    def __init__(self, endpoint: GuardEndpoint):
        self._endpoint, self._family = endpoint, family_of(endpoint.model)
        self._threads, self._pauses = ThreadPoolExecutor(MAX_CALLS, "guard-model"), Pauses()
        key = endpoint.key or os.environ.get(GUARD_KEY_ENV)
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=endpoint.timeout_s,
            trust_env=urlsplit(endpoint.url).hostname not in LOOPBACK,
        )

    async def ask(self, conversations: Iterable[Sequence[Message]]) -> Verdict | None:
        """As check, in a thread that nothing but this model's calls waits for. Raises ApiError (503)."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self.check, conversations)
        except GuardModelUnavailable as error:
            raise ApiError(503, f"the guard model does not answer ({error}), and without it no prompt passes; "
                           f"please try again later", code="guard_unavailable") from None  # fmt: skip

    def check(self, conversations: Iterable[Sequence[Message]]) -> Verdict | None:
        """The verdict on prompts of which one must be declined; None where all may pass.

        Raises GuardModelUnavailable without an answer in time, unless the endpoint's `failure` is pass."""
        for messages in conversations:
            try:
                unsafe, categories = self._classify(messages)
            except GuardModelUnavailable:
                if self._endpoint.failure == "pass":
                    continue
                raise
            if unsafe:
                return Verdict(False, f"{REASON} {categories}".strip(), 1.0)
        return None

    def _classify(self, messages: Sequence[Message]) -> tuple[bool, str]:
        """(unsafe, categories) of a conversation, by the model."""
        if not self._pauses.may_ask():
            raise GuardModelUnavailable(f"the last {MAX_FAILURES} calls or more had no answer")
        try:
            answer = self._answer(messages)
        except httpx.TransportError as error:
            # A prompt that takes long must not switch a guard off for others, where prompts pass without it.
            is_slow = isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout)
            self._pauses.note(answered=is_slow and self._endpoint.failure == "pass")
            raise GuardModelUnavailable(type(error).__name__) from None
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:  # a status, no JSON
            self._pauses.note(answered=True)
            raise GuardModelUnavailable(type(error).__name__) from None
        self._pauses.note(answered=True)
        result = self._family.read(answer)
        if result is None:
            raise GuardModelUnavailable(f"an answer that {self._endpoint.model} does not give")
        return result

    def _answer(self, messages: Sequence[Message]) -> str:
        """The text that the endpoint replies with."""
        body: dict[str, Any] = {"model": self._endpoint.model, "max_tokens": MAX_ANSWER_TOKENS, "temperature": 0}
        if self._family.prompt is None:
            choice = self._post("chat/completions", body | {"messages": _alternating(messages)})
            return choice["message"]["content"] or ""
        text = "\n".join(message["content"] for message in messages if message["role"] != "assistant")
        text = text.replace("<start_of_turn>", "").replace("<end_of_turn>", "")
        return self._post("completions", body | {"prompt": self._family.prompt.format(text=text)})["text"] or ""

    def _post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """The first choice of the endpoint's answer."""
        response = self._client.post(f"{self._endpoint.url.rstrip('/')}/{route}", json=body)
        return response.raise_for_status().json()["choices"][0]
