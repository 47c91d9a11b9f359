"""A model of the store that writes replies, in one vLLM engine or several, which get their batches from Ray Data.

    requests ──► batches of 64 (256 on a GPU) ──map_batches──► an engine that is free ──► answers, in order

The engines are the evaluator's, and outlive a pass of Ray Data, with which a pool of its own actors would end:
instructions are written in rounds, each of which needs the one before. A batch is the same whatever the number of
engines, and so are the seeds and the answers of its requests.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cluster.resources import cores
from pipelines.data.tokens.chat import Chat
from pipelines.engines import WriterCluster
from pipelines.errors import UserError
from pipelines.evaluator import EngineSettings
from pipelines.inference import engine_size
from pipelines.inference.model_config import context_length
from pipelines.inference.reply import Reply, Sampling
from pipelines.parallel import map_in_order
from pipelines.stage import Work
from pipelines.writers.leases import Engines
from pipelines.writers.requests import STOP, ChatAnswer, ChatRequest, OnAnswers

Prompts = dict[int, list[int]]
"""Tokens, by the position of the request."""


class ModelBackend:
    """The model before the stage. The same requests, in the same batches, get the same answers.

    context: tokens of a prompt with its reply at most. Raises UserError for a model without a chat template."""

    at_once = sys.maxsize

    def __init__(self, work: Work, context: int):
        artifact, cluster = work.inputs["model"], work.cluster
        assert isinstance(cluster, WriterCluster) and work.evaluator is not None, "uses_evaluator"
        self.name, self._stage = artifact.fingerprint, work.name
        self._model, self._evaluator, self._note = artifact.local(), work.evaluator, work.progress.note
        self._cluster, self._session = cluster, work.session
        self._chat = Chat.open(self._model, name=f"{work.name}: {artifact.manifest.name}")
        self._settings = EngineSettings(
            threads=cluster.threads or cores(),
            max_tokens=min(context, context_length(self._model)),
            kv_cache_bytes=cluster.kv_cache_bytes,
            gpus=cluster.gpus_on(work.session),
            start_s=cluster.start_s,
            answer_s=cluster.answer_s,
            cache=work.cache,
        )
        self.batch = engine_size.size_of(on_cpu=not self._settings.gpus).num_rows

    def settings_for(self, num_batches: int) -> EngineSettings:
        """With the number of engines. Those that write already stay, also where there are fewer batches now."""
        live = self._evaluator.settings
        number = self._cluster.engines_on(
            self._session,
            batches=num_batches,
            running=live.engines if live and live.covers(self._settings) else 0,
            held_gpus=int(live.engines * live.gpus) if live else 0,
        )
        return replace(self._settings, engines=number)

    def answer(self, requests: Sequence[ChatRequest], sampling: Sampling, on_answers: OnAnswers) -> None:
        """Calls on_answers with the answers of each batch, in order, by the positions of their requests.

        Raises UserError where an answer may be as long as prompt and answer together."""
        limit = self._settings.max_tokens - sampling.max_new_tokens
        if limit < 1:
            raise UserError(f"{self._stage}: an answer of {sampling.max_new_tokens:,} tokens (max_new_tokens, "
                            f"judge_tokens) leaves no room for a prompt in {self._settings.max_tokens:,} tokens "
                            f"(context, or as many as the model attends to); lower it")  # fmt: skip
        unfit: dict[int, ChatAnswer] = {}
        batches: list[Prompts] = []
        for first in range(0, len(requests), self.batch):
            prompts = self._chat.prompts([request.messages for request in requests[first : first + self.batch]])
            batch: Prompts = {}
            for index, prompt in enumerate(prompts, first):
                if not isinstance(prompt, list):
                    unfit[index] = ChatAnswer("", "template_refuses", detail=str(prompt))
                elif len(prompt) > limit:
                    detail = f"{len(prompt)} tokens; with a reply of {sampling.max_new_tokens} at most {limit}"
                    unfit[index] = ChatAnswer("", "prompt_too_long", detail=detail)
                else:
                    batch[index] = prompt
            if batch:
                batches.append(batch)
        if unfit:
            on_answers(unfit)
        if not batches:
            return
        self._evaluator.load(self._model, self.settings_for(len(batches)), self._note)
        for batch, replies in zip(batches, self._replies(batches, requests, sampling), strict=True):
            pairs = zip(batch.items(), replies, strict=True)
            on_answers({index: self._answer(prompt, reply) for (index, prompt), reply in pairs})

    def _replies(
        self, batches: Sequence[Prompts], requests: Sequence[ChatRequest], sampling: Sampling
    ) -> Iterator[list[Reply]]:
        """The replies of each batch, in order."""
        items = [
            {"number": number, "batch": pickle.dumps(([*batch.values()], [requests[index].seed for index in batch]))}
            for number, batch in enumerate(batches)
        ]
        with self._evaluator.running("generate") as gangs, Engines.open(gangs[: len(batches)]) as engines:
            yield from map_in_order(
                reply_to,
                items,
                tasks=len(engines.gangs),
                cpus_per_task=0,
                engines=engines,
                sampling=replace(sampling, stop_ids=self._chat.stop_ids),
                deadline_s=self._settings.answer_s,
            )

    def _answer(self, prompt: Sequence[int], reply: Reply) -> ChatAnswer:
        answer = ChatAnswer(self._chat.text(reply.tokens), reply.finish, len(prompt), len(reply.tokens))
        return answer if answer.text or reply.finish != STOP else replace(answer, finish="empty")


def reply_to(item: Mapping[str, Any], *, engines: Engines, sampling: Sampling, deadline_s: float) -> list[Reply]:
    """The replies to a batch, without log-probabilities, in a task."""
    prompts, seeds = pickle.loads(item["batch"])
    with engines.one(item["number"]) as engine:
        (replies,) = engine.call("generate", prompts, sampling=sampling, seeds=seeds, deadline_s=deadline_s)
    return [replace(reply, logprobs=reply.logprobs[:0]) for reply in replies]
