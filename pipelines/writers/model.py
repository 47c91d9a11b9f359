"""A model of the store that writes replies, in the run's one vLLM engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cluster.resources import cores
from pipelines.data.tokens.chat import Chat
from pipelines.engines import WriterCluster
from pipelines.errors import UserError
from pipelines.evaluator import EngineSettings
from pipelines.inference import engine_size
from pipelines.inference.model_config import context_length
from pipelines.inference.reply import Sampling
from pipelines.stage import Work
from pipelines.writers.requests import STOP, ChatAnswer, ChatRequest


class ModelBackend:
    """The model before the stage. The same requests, in the same batches, get the same answers.

    context: tokens of a prompt with its reply at most. Raises UserError for a model without a chat template."""

    def __init__(self, work: Work, context: int):
        artifact, cluster = work.inputs["model"], work.cluster
        assert isinstance(cluster, WriterCluster) and work.evaluator is not None, "uses_evaluator"
        self.name, self._stage = artifact.fingerprint, work.name
        self._model, self._evaluator, self._note = artifact.local(), work.evaluator, work.progress.note
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

    def answer(
        self, requests: Sequence[ChatRequest], sampling: Sampling, on_answer: Callable[[int, ChatAnswer], None]
    ) -> None:
        """Calls on_answer with the position of each request and its answer, once all are there.

        Raises UserError where an answer may be as long as prompt and answer together."""
        limit = self._settings.max_tokens - sampling.max_new_tokens
        if limit < 1:
            raise UserError(f"{self._stage}: an answer of {sampling.max_new_tokens:,} tokens (max_new_tokens, "
                            f"judge_tokens) leaves no room for a prompt in {self._settings.max_tokens:,} tokens "
                            f"(context, or as many as the model attends to); lower it")  # fmt: skip
        prompts = self._chat.prompts([request.messages for request in requests])
        fitting: dict[int, list[int]] = {}
        for index, prompt in enumerate(prompts):
            if not isinstance(prompt, list):
                on_answer(index, ChatAnswer("", "template_refuses", detail=str(prompt)))
            elif len(prompt) > limit:
                detail = f"{len(prompt)} tokens; with a reply of {sampling.max_new_tokens} at most {limit}"
                on_answer(index, ChatAnswer("", "prompt_too_long", detail=detail))
            else:
                fitting[index] = prompt
        if not fitting:
            return
        self._evaluator.load(self._model, self._settings, self._note)
        replies = self._evaluator.generate(
            list(fitting.values()),
            sampling=replace(sampling, stop_ids=self._chat.stop_ids),
            seeds=[requests[index].seed for index in fitting],
        )
        for (index, prompt), reply in zip(fitting.items(), replies, strict=True):
            ended = reply.finish == STOP
            answer = ChatAnswer(self._chat.text(reply.tokens), reply.finish, len(prompt), len(reply.tokens))
            on_answer(index, answer if answer.text or not ended else replace(answer, finish="empty"))
