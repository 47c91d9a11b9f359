"""A model of the store that writes: as transformers would, and the same after a kill, in one engine or two."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.errors import ClusterError
from cluster.gang import Gang
from cluster.session import Session
from pipelines.data.tokens.chat import Chat
from pipelines.engines import WriterCluster
from pipelines.errors import UserError
from pipelines.evaluator import EngineSettings, Evaluator
from pipelines.inference.reply import Sampling
from pipelines.writers.model import ModelBackend
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


class Losing(Evaluator):
    """An evaluator whose last engine dies on request as soon as engines write: of their batches it has the second."""

    loses = False

    @contextmanager
    def running(self, doing: str) -> Iterator[list[Gang]]:
        with super().running(doing) as engines:
            if self.loses and doing == "generate":
                os.kill(engines[-1].call("describe", deadline_s=60)[0]["pid"], signal.SIGKILL)
            yield engines


@pytest.fixture
def two(session: Session) -> Iterator[Losing]:
    """An evaluator of its own: that of the other tests has one engine, which goes on."""
    evaluator = Losing(session)
    yield evaluator
    evaluator.close()


def test_two_engines_write_what_one_does_and_what_a_kill_left_is_kept(
    tmp_path: Path, tiny: Tiny, evaluator: Evaluator, two: Losing
) -> None:
    """Five batches, with prompts of many lengths, and some that are too long."""
    texts = [f"{'why ' * (number % 70)}{number}" for number in range(5 * 64 - 30)]
    prompts, sampling = [[{"role": "user", "content": text}] for text in texts], Sampling(1.0, max_new_tokens=8)

    def write(draft: str, engines: int) -> list[ChatAnswer]:
        uses = {1: evaluator, 2: two}[engines]
        cluster = {**ENGINE, "engines": engines}
        work = work_of("augment", tmp_path, model=tiny.first, evaluator=uses, draft=tmp_path / draft, cluster=cluster)
        return Writer.open(Requests(work, "augment", 1000), None, context=CONTEXT).answers(prompts, sampling)

    one = write("one", 1)
    assert {answer.finish for answer in one} >= {"length", "prompt_too_long"}
    assert write("two", 2) == one and two.settings is not None and two.settings.engines == 2
    too_long = sum(answer.finish == "prompt_too_long" for answer in one)
    first = sum(answer.finish != "prompt_too_long" for answer in one[:64])
    two.loses = True
    with pytest.raises(ClusterError, match=r"gang evaluator 2: rank 0 on .* died in generate"):
        write("killed", 2)
    assert two.settings is None, "all engines end, the one that lives too"
    file = tmp_path / "killed" / "requests" / "answers.jsonl"
    assert len(file.read_text().splitlines()) == too_long + first, "those of the first batch"
    kept = file.read_bytes()
    assert write("killed", 1) == one and file.read_bytes().startswith(kept)


@pytest.mark.parametrize(
    ("gpus", "free", "cluster", "expected"),
    [
        ((), 0, {}, 1),
        ((0.0, 4.0, 2.0), 6, {}, 6),
        ((4.0, 4.0), 3, {}, 3),
        ((4.0,), 0, {}, 1),
        ((16.0,), 16, {}, 10),
        ((4.0,), 4, {"gpus": 0.5}, 1),
        ((4.0,), 4, {"gpus": 0}, 1),
        ((4.0,), 0, {"engines": 3}, 3),
        ((), 0, {"engines": 2}, 2),
    ],
)
def test_an_engine_for_each_free_gpu_and_no_more_than_batches(
    gpus: tuple[float, ...], free: int, cluster: dict[str, Any], expected: int
) -> None:
    nodes = [SimpleNamespace(gpus=each) for each in gpus]
    session: Any = SimpleNamespace(nodes=lambda: nodes, free_gpus=lambda enough, wait_s: free)
    assert WriterCluster.model_validate(cluster).engines_on(session, batches=10) == expected


def test_engines_are_added_where_a_pass_has_more_batches_and_stay_where_it_has_fewer(
    tmp_path: Path, tiny: Tiny
) -> None:
    """As the two writers of a stage, which share them: instructions are asked for in few batches, replies in many."""
    free, waits = 8, list[float]()

    def free_gpus(enough: int, *, wait_s: float) -> int:
        waits.append(wait_s)
        return free

    evaluator: Any = SimpleNamespace(settings=None)
    work = work_of("augment", tmp_path, model=tiny.first, evaluator=evaluator)
    session: Any = SimpleNamespace(nodes=lambda: [SimpleNamespace(gpus=8.0)], free_gpus=free_gpus)
    work = replace(work, session=session)
    for batches, expected in ((2, 2), (16, 8), (1, 8)):
        evaluator.settings = ModelBackend(work, CONTEXT).settings_for(batches)
        assert (evaluator.settings.engines, evaluator.settings.gpus) == (expected, 1)
        free = 8 - expected
    assert waits == [5, 0], "only for what Ray has to learn of the stage before"
    evaluator.settings = EngineSettings(threads=1, max_tokens=16, gpus=1)  # of an evaluation before, which ends
    free = 1
    assert ModelBackend(work, CONTEXT).settings_for(16).engines == 2
