"""Sends requests to a server with OpenAI's API, several at a time, through OpenAI's client.

    ChatRequest ──POST /chat/completions──► ChatAnswer | UserError (key, name of the model) | ClusterError (no answer)

The client tries again after 408, 409, 429, 5xx, timeouts and lost connections, after longer and longer pauses, or after
those that the server names, up to two minutes. A request that the server refuses for what it says is an answer, counted
by its reason.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai

from cluster.errors import ClusterError
from pipelines.engines import Endpoint, EndpointCluster
from pipelines.errors import UserError
from pipelines.inference.reply import Sampling
from pipelines.writers.requests import LENGTH, MALFORMED, REFUSED, STOP, ChatAnswer, ChatRequest, OnAnswers

REFUSING = (400, 413, 422)  # too long, or against the server's rules: another request may be answered
REPEATED = (408, 409, 429)  # by the client, as 5xx are
MAX_PAUSE_S = 120  # the client repeats nothing where the server names a longer one
DETAIL_CHARACTERS = 300
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ROUNDS = 4  # requests of a call for each that is sent at a time, so that few wait for the slowest


class EndpointBackend:
    """The model behind an endpoint. stage: its name, for messages.

    Raises UserError where the key is missing."""

    def __init__(self, endpoint: Endpoint, cluster: EndpointCluster, stage: str):
        self.name = endpoint.name
        self.batch, self.at_once = 1, ROUNDS * cluster.concurrency
        self._endpoint, self._cluster, self._stage = endpoint, cluster, stage
        self._key = read_key(endpoint, stage)
        self._client = openai.OpenAI(
            base_url=endpoint.url,
            api_key=self._key or "none",
            max_retries=cluster.retries,
            timeout=cluster.request_s,
            # A server of this machine is never reached through the proxy that `http_proxy` names.
            http_client=openai.DefaultHttpxClient(trust_env=urlsplit(endpoint.url).hostname not in LOOPBACK),
        )

    def answer(self, requests: Sequence[ChatRequest], sampling: Sampling, on_answers: OnAnswers) -> None:
        """Calls on_answers with each answer as it arrives, by the position of its request. After an error or Ctrl-C no
        further request is sent, and those that are under way are waited for: they may have to be paid."""
        with ThreadPoolExecutor(self._cluster.concurrency) as pool:
            positions = {pool.submit(self._answer, each, sampling): index for index, each in enumerate(requests)}
            recorded: set[Future[ChatAnswer]] = set()
            try:
                for future in as_completed(positions):
                    on_answers({positions[future]: future.result()})
                    recorded.add(future)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                for future, index in positions.items():
                    if future not in recorded and not future.cancelled() and future.exception() is None:
                        on_answers({index: future.result()})
                raise

    def _answer(self, request: ChatRequest, sampling: Sampling) -> ChatAnswer:
        body: dict[str, Any] = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "seed": request.seed,
            **self._endpoint.parameters,
        }
        try:
            response = self._client.chat.completions.with_raw_response.create(
                model=self._endpoint.model,
                messages=[dict(message) for message in request.messages],  # pyright: ignore[reportArgumentType]
                extra_body={key: value for key, value in body.items() if value is not None},
            )
        except openai.APIStatusError as error:
            if error.status_code in REFUSING:
                return ChatAnswer("", REFUSED, detail=self._text(error))
            raise self._failure(error) from None
        except openai.APIConnectionError as error:
            raise self._no_answer(error.__cause__ or error) from None
        answer = answer_of(response.content)
        return replace(answer, detail=self._detail(answer.detail))

    def _failure(self, error: openai.APIStatusError) -> UserError | ClusterError:
        where = f"{self._stage}: {self._endpoint.url} answers {error.status_code}: {self._text(error)}"
        if error.status_code in (401, 403):
            key = self._endpoint.key_env or self._endpoint.key_file
            where_key = f"the key in {key}" if key else "a key: name its environment variable with endpoint.key_env"
            return UserError(f"{where}; expected {where_key} to be taken")
        if error.status_code in (404, 405):
            return UserError(f"{where}; expected a model {self._endpoint.model} there, below an address that ends in "
                             f"/v1 as a rule: check endpoint.url and endpoint.model")  # fmt: skip
        pause = pause_of(error.response.headers)
        if pause > MAX_PAUSE_S:
            return ClusterError(f"{where}, and asks to wait {pause:g} s; {self._go_on()}")
        is_repeated = error.status_code in REPEATED or error.status_code >= 500
        times = f", and did so {self._cluster.retries} times more" if is_repeated and self._cluster.retries else ""
        return ClusterError(f"{where}{times}; {self._go_on()}")

    def _no_answer(self, cause: BaseException) -> ClusterError:
        text = f"{type(cause).__name__}: {cause}"[:DETAIL_CHARACTERS]
        return ClusterError(f"{self._stage}: no answer from {self._endpoint.url} within "
                            f"{self._cluster.request_s:g} s, {self._cluster.retries + 1} times ({text}); "
                            f"{self._go_on()}")  # fmt: skip

    def _go_on(self) -> str:
        return ("answers so far are kept: run the same command again once it answers, or with a smaller "
                f"cluster.{self._stage}.concurrency")  # fmt: skip

    def _text(self, error: openai.APIStatusError) -> str:
        """The server's message."""
        body: Any = error.body
        text = str(body.get("message") or body) if isinstance(body, dict) else error.message
        return self._detail(text)

    def _detail(self, text: str) -> str:
        """The beginning of what a server says, without the key, should it repeat that."""
        return (text.replace(self._key, "…") if self._key else text)[:DETAIL_CHARACTERS]


def pause_of(headers: Mapping[str, str]) -> float:
    """The seconds that a server asks to wait; 0 where it names none.

    >>> pause_of({"retry-after": "300"}), pause_of({"retry-after": "Fri, 1 May 2026 07:28:00 GMT"})
    (300.0, 0.0)
    """
    try:
        return float(headers.get("retry-after", 0))
    except ValueError:  # a date
        return 0.0


def read_key(endpoint: Endpoint, stage: str) -> str | None:
    """The API key; None where none is sent. Raises UserError where it is missing."""
    if endpoint.key_env is not None:
        key = os.environ.get(endpoint.key_env, "").strip()
        if not key:
            raise UserError(f"{stage}: the environment variable {endpoint.key_env} is empty; expected the key of "
                            f"{endpoint.url}. Set it where the run starts: export {endpoint.key_env}=…")  # fmt: skip
        return key
    if endpoint.key_file is None:
        return None
    file = Path(endpoint.key_file).expanduser()
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{stage}: {file}: cannot be read ({error}); expected the key of {endpoint.url}") from None
    if not key:
        raise UserError(f"{stage}: {file}: is empty; expected the key of {endpoint.url}")
    return key


def answer_of(body: bytes) -> ChatAnswer:
    """The answer in the body of a response.

    >>> answer_of(b'{"choices": [{"message": {"content": "Hi."}, "finish_reason": "stop"}]}').text
    'Hi.'
    >>> answer_of(b'{"choices": [{"message": {"content": "Hi\\\\ud83d"}}]}').text, answer_of(b"<html>").finish
    ('Hi?', 'malformed')
    """
    try:
        content = json.loads(body)
        choice, usage = content["choices"][0], content.get("usage") or {}
        text, reason = choice["message"].get("content") or "", choice.get("finish_reason") or STOP
        prompt_tokens, reply_tokens = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        finish = reason if reason in (STOP, LENGTH) else f"finish_{reason}"
        text = text.encode("utf-8", "replace").decode()  # JSON can spell half a character, which no file holds
        return ChatAnswer(text.strip(), finish, prompt_tokens, reply_tokens)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ChatAnswer("", MALFORMED, detail=body.decode(errors="replace"))
