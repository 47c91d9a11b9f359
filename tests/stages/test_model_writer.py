"""A model of the store that writes: as transformers would, and the same after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.data.tokens.chat import Chat
from pipelines.errors import UserError
from pipelines.evaluator import Evaluator
from pipelines.inference.reply import Sampling
from pipelines.writers.requests import ChatAnswer
from pipelines.writers.writer import Requests, Writer
from tests import tiny_models
from tests.stages.preference_work import without_template
from tests.stages.single import ProgressNotes, work_of
from tests.tiny_models import CONTEXT, Tiny

PROMPTS = [[{"role": "user", "content": text}] for text in ("json", "a path and a name", "写一首诗", "why " * CONTEXT)]
ENGINE = {"threads": 1, "gpus": 0, "answer_s": 120}  # that of the other tests, which goes on


def answers(folder: Path, model: Path, evaluator: Evaluator, draft: Path, sampling: Sampling) -> list[ChatAnswer]:
    work = work_of("augment", folder, model=model, evaluator=evaluator, draft=draft, cluster=ENGINE)
    return Writer.open(Requests(work, "augment", 100), None, context=CONTEXT).answers(PROMPTS, sampling)


def greedy(model: Path, prompt: list[int], number: int, stop_ids: tuple[int, ...]) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + number and tokens[-1:] not in [[stop] for stop in stop_ids]:
        tokens.append(int(np.argmax(tiny_models.reference_logits(model, tokens)[-1])))
    return tokens[len(prompt) :]


def test_answers_are_those_of_transformers(tmp_path: Path, tiny: Tiny, evaluator: Evaluator) -> None:
    *fitting, too_long = answers(tmp_path, tiny.first, evaluator, tmp_path / "draft", Sampling(0.0, max_new_tokens=8))
    chat = Chat.open(tiny.first)
    for prompt, answer in zip(PROMPTS, fitting, strict=False):
        tokens = chat.prompt(prompt)
        reply = greedy(tiny.first, tokens, 8, chat.stop_ids)
        assert (answer.text, answer.reply_tokens) == (chat.text(reply), len(reply))
        assert answer.prompt_tokens == len(tokens)
        assert answer.finish == ("stop" if reply[-1] in chat.stop_ids and answer.text else answer.finish)
    assert too_long.finish == "prompt_too_long" and str(CONTEXT - 8) in too_long.detail


def test_progress_shows_a_batch_that_begins_and_whole_ones(tmp_path: Path, tiny: Tiny, evaluator: Evaluator) -> None:
    """A line of the log is written at most every 15 s: the first answer of a batch must not take it."""
    work = work_of("augment", tmp_path, model=tiny.first, evaluator=evaluator, cluster=ENGINE)
    writer = Writer.open(Requests(work, "augment", 100), None, context=CONTEXT)
    prompts = [PROMPTS[0]] * (writer.backend.batch + 1)
    writer.answers(prompts, Sampling(0.0, max_new_tokens=1))
    assert isinstance(work.progress, ProgressNotes)
    assert sorted({*work.progress.counts}) == [0, writer.backend.batch, len(prompts)]


def test_a_batch_that_a_kill_cut_off_is_answered_as_before(tmp_path: Path, tiny: Tiny, evaluator: Evaluator) -> None:
    sampling = Sampling(1.0, max_new_tokens=8)
    undisturbed = answers(tmp_path, tiny.first, evaluator, tmp_path / "undisturbed", sampling)
    whole = (tmp_path / "undisturbed" / "requests" / "answers.jsonl").read_bytes()
    file = tmp_path / "killed" / "requests" / "answers.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(whole[: len(whole) // 2])
    assert answers(tmp_path, tiny.first, evaluator, tmp_path / "killed", sampling) == undisturbed


def test_a_model_without_a_chat_template(tmp_path: Path, tiny: Tiny, evaluator: Evaluator) -> None:
    model = without_template(tiny.first, tmp_path / "model")
    with pytest.raises(UserError, match=r"model: no chat_template\.jinja"):
        answers(tmp_path, model, evaluator, tmp_path / "draft", Sampling())
