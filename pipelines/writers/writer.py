"""Writer: sends each request of a stage once, and at most as many as the recipe allows.

    prompts ──number, seed──► requests ──already answered?──┬──► answers
                                  └──► backend ──► draft/requests/answers.jsonl

A stage is a function of its answers: killed and run again it comes to the same requests, of which those in the draft
are not sent again. The backend is a model of the store or an endpoint; see model.py, endpoint.py.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipelines.data.dialogues.synthetic.rows import Written
from pipelines.engines import Endpoint
from pipelines.errors import UserError
from pipelines.inference.reply import Sampling
from pipelines.stage import Facts, Work
from pipelines.store.digests import digest_value
from pipelines.writers.requests import (
    LENGTH,
    MALFORMED,
    REFUSED,
    STOP,
    ChatAnswer,
    ChatRequest,
    Messages,
    OnAnswers,
)

ANSWERS = "answers.jsonl"  # in the folder `requests` of the draft, one answer a line
MILLION = 1e6
ROUND = 4096  # rows begun at a time: work for many engines
FIRST = 4  # requests of an endpoint: where it refuses all of them, it is not they that are at fault


class Backend(Protocol):
    """Who answers. name: as provenance has it.

    at_once: number of requests of a call; batch: of those whose answers come together, at most as many."""

    @property
    def name(self) -> str: ...

    @property
    def batch(self) -> int: ...

    @property
    def at_once(self) -> int: ...

    def answer(self, requests: Sequence[ChatRequest], sampling: Sampling, on_answers: OnAnswers) -> None: ...


@dataclass
class Answers:
    """The answers in a draft, by the digest of their request; a last line that a kill cut off is dropped."""

    file: Path
    by_key: dict[str, ChatAnswer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.file.exists():
            return
        whole = self.file.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        os.truncate(self.file, len(whole))
        for line in whole.splitlines():
            values = json.loads(line)
            key = values.pop("key")
            self.by_key[key] = ChatAnswer(**values)

    def add(self, answers: Mapping[str, ChatAnswer]) -> None:
        """Writes answers to the disk."""
        self._write(self.file, answers)
        self.by_key.update(answers)

    def forget_unusable(self) -> None:
        """Leaves the answers out that hold no text, so that another run sends their requests again."""
        self.by_key = {key: answer for key, answer in self.by_key.items() if answer.finish in (STOP, LENGTH)}
        whole = self.file.with_suffix(".part")
        whole.unlink(missing_ok=True)
        self._write(whole, self.by_key)
        whole.replace(self.file)

    @staticmethod
    def _write(file: Path, answers: Mapping[str, ChatAnswer]) -> None:
        """Writes answers at the end of a file, and onto the disk."""
        lines = [json.dumps({"key": key, **asdict(answer)}, ensure_ascii=False) for key, answer in answers.items()]
        with file.open("ab") as stream:
            stream.write("".join(f"{line}\n" for line in lines).encode(errors="replace"))
            stream.flush()
            os.fsync(stream.fileno())


@dataclass
class Requests:
    """The number of requests of a stage, which several writers share, and what they cost. area: of their facts."""

    work: Work
    area: str
    max_requests: int
    answers: Answers = field(init=False)
    counts: Counter[str] = field(default_factory=Counter)
    cost: float | None = None

    def __post_init__(self) -> None:
        self.answers = Answers(self.work.draft.folder("requests") / ANSWERS)

    @property
    def left(self) -> int:
        """Number of requests that may still be sent."""
        return self.max_requests - self.counts["requests"]

    @property
    def facts(self) -> Facts:
        facts: Facts = {f"{self.area}/{name}": self.counts[name] for name in ("requests", "prompt_tokens",
                                                                              "reply_tokens")}  # fmt: skip
        return facts if self.cost is None else {**facts, f"{self.area}/cost": self.cost}

    def check(self, written: Written) -> None:
        """Notes why there are fewer rows than the recipe says. Raises UserError where there is none."""
        if not written.rows:
            self.answers.forget_unusable()
        sent = f"{self.counts['requests']:,} of at most {self.max_requests:,} requests"
        note = written.check(self.work.name, self.work.options.rows, sent, self.work.draft.out)
        if note:
            self.work.progress.note(note)

    def count(self, answer: ChatAnswer, endpoint: Endpoint | None) -> None:
        self.counts.update(requests=1, prompt_tokens=answer.prompt_tokens, reply_tokens=answer.reply_tokens)
        if endpoint is not None and (endpoint.prompt_price or endpoint.reply_price):
            price = answer.prompt_tokens * endpoint.prompt_price + answer.reply_tokens * endpoint.reply_price
            self.cost = (self.cost or 0.0) + price / MILLION


@dataclass
class Writer:
    """One backend. endpoint: its options, where it is one."""

    requests: Requests
    backend: Backend
    endpoint: Endpoint | None = None
    refused: list[ChatAnswer] = field(default_factory=list)  # the first answers, as long as there are no others
    is_taken: bool = False  # whether the endpoint has taken a request

    @classmethod
    def open(cls, requests: Requests, endpoint: Endpoint | None, *, context: int) -> Writer:
        """The endpoint, or else the model before the stage. context: tokens of a prompt with its reply, of that model.

        Raises UserError for a missing key, or a model without a chat template."""
        work = requests.work
        if endpoint is not None:
            from pipelines.writers.endpoint import EndpointBackend

            return cls(requests, EndpointBackend(endpoint, work.cluster, work.name), endpoint)
        from pipelines.writers.model import ModelBackend

        return cls(requests, ModelBackend(work, context))

    @property
    def name(self) -> str:
        """As provenance has it: fingerprint of the model, or MODEL at URL."""
        return self.backend.name

    def answers(self, prompts: Sequence[Messages], sampling: Sampling) -> list[ChatAnswer]:
        """The answers to the prompts: to the first ones only, where no more requests are left.

        Raises UserError or ClusterError where there is no answer; those so far are in the draft."""
        first = self.requests.counts["requests"]
        requests = [
            ChatRequest(prompt, self._seed(first + number))
            for number, prompt in enumerate(prompts[: self.requests.left])
        ]
        keys = [self._key(request, sampling) for request in requests]
        for start in range(0, len(requests), self.backend.at_once):
            part = slice(start, start + self.backend.at_once)
            self._answer(requests[part], keys[part], sampling, first + start)
            self._check_refusals([self.requests.answers.by_key[key] for key in keys[part]])
        answers = [self.requests.answers.by_key[key] for key in keys]
        for answer in answers:
            self.requests.count(answer, self.endpoint)
        return answers

    def _answer(
        self, requests: Sequence[ChatRequest], keys: Sequence[str], sampling: Sampling, num_before: int
    ) -> None:
        """Answers the requests of a call that have no answer yet.

        A batch is answered as a whole, so that it is the same batch after a kill, and its numbers are too."""
        known, progress, size = self.requests.answers, self.requests.work.progress, self.backend.batch
        batches = [range(first, min(first + size, len(keys))) for first in range(0, len(keys), size)]
        missing = [n for batch in batches if any(keys[n] not in known.by_key for n in batch) for n in batch]
        if not missing:
            return
        num_done = num_before + len(keys) - len(missing)
        progress.update(num_done, self.requests.max_requests, "requests")

        def on_answers(answers: Mapping[int, ChatAnswer]) -> None:
            nonlocal num_done
            num_done += len(answers)
            known.add({keys[missing[position]]: answer for position, answer in answers.items()})
            progress.update(num_done, self.requests.max_requests, "requests")

        self.backend.answer([requests[index] for index in missing], sampling, on_answers)

    def _check_refusals(self, answers: Sequence[ChatAnswer]) -> None:
        """Raises UserError where an endpoint has refused all requests so far, and keeps none of its refusals: the same
        command sends them again."""
        if self.endpoint is None or self.is_taken:
            return
        self.refused += [answer for answer in answers if answer.finish in (REFUSED, MALFORMED)]
        self.is_taken = any(answer.finish not in (REFUSED, MALFORMED) for answer in answers)
        if self.is_taken or len(self.refused) < FIRST:
            return
        self.requests.answers.forget_unusable()
        raise UserError(f"{self.requests.work.name}: {self.endpoint.url} has answered none of the first "
                        f"{len(self.refused):,} requests; to the first it says: {self.refused[0].detail}. Expected a "
                        f"chat completion: check endpoint.url, model and parameters")  # fmt: skip

    def _seed(self, number: int) -> int:
        """31 bits, which every server takes."""
        return int(digest_value([self.requests.work.seed, number]), 16) % 2**31

    def _key(self, request: ChatRequest, sampling: Sampling) -> str:
        values: list[Any] = [self.name, [dict(message) for message in request.messages], request.seed]
        return digest_value([*values, sampling.temperature, sampling.max_new_tokens])
