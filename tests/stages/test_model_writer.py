"""A model of the store that writes: as transformers would, and the same after a kill, in one engine or two."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray.util.queue

from cluster.errors import ClusterError
from cluster.gang import Gang
from cluster.resources import Resources
from cluster.session import Session
from pipelines.data.tokens.chat import Chat
from pipelines.engines import WriterCluster
from pipelines.errors import UserError
from pipelines.evaluator import Evaluator
from pipelines.inference.reply import Sampling
from pipelines.writers.model import Engines
from pipelines.writers.requests import ChatAnswer
from pipelines.writers.writer import Requests, Writer
from tests import tiny_models
from tests.cluster import members
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


@pytest.fixture
def two(session: Session) -> Iterator[Evaluator]:
    """An evaluator of its own: that of the other tests has one engine, which goes on."""
    evaluator = Evaluator(session)
    yield evaluator
    evaluator.close()


class Killing(ProgressNotes):
    """Kills an engine once so many requests are answered."""

    def __init__(self, evaluator: Evaluator, answered: int):
        super().__init__()
        self._evaluator, self._answered = evaluator, answered

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        super().update(done, total, unit, **figures)
        if done == self._answered:
            with self._evaluator.running("describe") as engines:
                os.kill(engines[-1].call("describe", deadline_s=60)[0]["pid"], signal.SIGKILL)


def test_two_engines_write_what_one_does_and_what_a_kill_left_is_kept(
    tmp_path: Path, tiny: Tiny, evaluator: Evaluator, two: Evaluator
) -> None:
    """Five batches, with prompts of many lengths, and some that are too long."""
    texts = [f"{'why ' * (number % 70)}{number}" for number in range(5 * 64 - 30)]
    prompts, sampling = [[{"role": "user", "content": text}] for text in texts], Sampling(1.0, max_new_tokens=8)

    def write(draft: str, engines: int, *, answered: int = 0) -> list[ChatAnswer]:
        uses = {1: evaluator, 2: two}[engines]
        cluster = {**ENGINE, "engines": engines}
        work = work_of("augment", tmp_path, model=tiny.first, evaluator=uses, draft=tmp_path / draft, cluster=cluster)
        if answered:
            work = replace(work, progress=Killing(uses, answered))
        return Writer.open(Requests(work, "augment", 1000), None, context=CONTEXT).answers(prompts, sampling)

    one = write("one", 1)
    assert {answer.finish for answer in one} >= {"length", "prompt_too_long"}
    assert write("two", 2) == one and two.settings is not None and two.settings.engines == 2
    too_long = sum(answer.finish == "prompt_too_long" for answer in one)
    first = sum(answer.finish != "prompt_too_long" for answer in one[:64])
    with pytest.raises(ClusterError, match=r"gang evaluator 2: rank 0 on .* died in generate"):
        write("killed", 2, answered=too_long + first)
    assert two.settings is None, "all engines end, the one that lives too"
    file = tmp_path / "killed" / "requests" / "answers.jsonl"
    assert too_long + first <= len(file.read_text().splitlines()) < len(prompts)
    kept = file.read_bytes()
    assert write("killed", 1) == one and file.read_bytes().startswith(kept)


def test_tasks_get_engines_that_are_free(session: Session) -> None:
    session.start()
    nothing, gangs = Resources(cpus_per_worker=0), []
    for name in ("a", "b"):
        gangs.append(Gang(members.Member, 1, resources=nothing, name=name, factor=1))
    free = ray.util.queue.Queue(actor_options={"num_cpus": 0})
    free.put_nowait_batch([0, 1])
    engines = Engines(gangs, free)
    with engines.one(0) as first, engines.one(0) as second:
        assert {first.name, second.name} == {"a", "b"}
        timer = threading.Timer(0.2, free.put, [1])
        timer.start()
        with engines.one(0) as third:  # waits
            assert third.name == "b"
    for gang in gangs:
        gang.close()


@pytest.mark.parametrize(
    ("gpus", "cluster", "expected"),
    [
        ((), {}, 1),
        ((0.0, 4.0, 2.0), {}, 6),
        ((4.0,), {"gpus": 0.5}, 1),
        ((4.0,), {"gpus": 0}, 1),
        ((4.0,), {"engines": 3}, 3),
        ((), {"engines": 2}, 2),
    ],
)
def test_an_engine_for_each_gpu(gpus: tuple[float, ...], cluster: dict[str, Any], expected: int) -> None:
    session: Any = SimpleNamespace(nodes=lambda: [SimpleNamespace(gpus=each) for each in gpus])
    assert WriterCluster.model_validate(cluster).engines_on(session) == expected
