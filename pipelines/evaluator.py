"""Evaluator: the run's one vLLM engine for evaluations, in a separate process from the first evaluation to the end, or,
where it holds a GPU or much memory, until it rests.

    load(folder) ── same shape: weights pushed and proven; another: the process is replaced
    logprobs, generate ── in batches, so that progress is visible and every wait has a deadline
    rest() ── before any other stage: it works only while no stage works, and gives back a GPU, or much memory

It takes no logical CPU, since it never works beside a stage. It dies with the driver.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import ClusterError, MemberLost
from cluster.gang import Gang
from cluster.resources import Resources
from cluster.session import Session
from pipelines.inference import engine_size
from pipelines.inference.environment import environment
from pipelines.inference.estimates import Comparison, EngineWork
from pipelines.inference.model_config import engine_dtype, read_config
from pipelines.inference.probe import PushResult
from pipelines.inference.reply import Reply, Sampling

ROWS_BATCH_TOKENS = 32_768  # of one call of logprobs: 2 s for 2 million parameters on one core
REST_S = 60.0  # deadline for an idle engine to say what it holds
IDLE_FRACTION = 0.05  # of the machine's memory: an engine that holds more ends when it rests
IDLE_BYTES = 2 * 2**30  # but one that holds less stays: it starts again in 20 to 30 s
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container

OnProgress = Callable[[int, int], None]
"""Called after each batch with the number of requests that are done, and of all."""


@dataclass(frozen=True)
class EngineSettings:
    """How the engine runs, whatever the model: any change needs a fresh process."""

    threads: int
    max_tokens: int  # of a row, and of a prompt with its reply
    kv_cache_bytes: int | None = None  # default: what the rows that run at once need
    gpus: float = 0.0  # fraction of a GPU
    start_s: float = 900.0  # deadline for the engine's start, a large model read from a slow disk included
    answer_s: float = 600.0  # deadline for a batch, or for pushing a model's weights
    cache: Path | None = None  # folder for what vLLM compiles on a GPU


class Evaluator:
    """The evaluator of one run. Nothing is started before the first `load`.

    Raises ClusterError when the engine's process dies or misses a deadline; the next `load` starts a fresh one."""

    def __init__(self, session: Session):
        self._session = session
        self._gang: Gang | None = None
        self._settings: EngineSettings | None = None
        self._folder: Path | None = None
        self._work, self._seconds = EngineWork(), 0.0  # that the live process has done since count_anew

    def load(self, folder: Path, settings: EngineSettings, notify: Callable[[str], object] = lambda text: None) -> None:
        """Makes this model the one that runs. notify: gets a line about what was done.

        Raises ClusterError where vLLM does not compute what the model's learner did."""
        if settings == self.settings and self._push(folder, settings, notify):
            return
        self.close()
        self._start(folder, settings)
        engine = self.describe()
        proof = "" if engine["gap_nats"] is None else f", {engine['gap_nats']:.1e} nats off the model's probe"
        notify(
            f"evaluator up: vLLM on {engine['device']}, {engine['dtype']}, {settings.threads} threads, "
            f"import {engine['import_s']:.1f} s, engine {engine['engine_s']:.1f} s{proof}"
        )

    def _push(self, folder: Path, settings: EngineSettings, notify: Callable[[str], object]) -> bool:
        """Loads the model into the live process. False where it needs a fresh one, and the notice said why."""
        loaded_folder, self._folder = self._folder, None
        try:
            if folder == loaded_folder:
                self._call("describe", deadline_s=settings.answer_s)
            else:
                loaded: PushResult = self._call("load", folder, deadline_s=settings.answer_s)
                if not loaded.pushed:
                    notify(f"the evaluator's process is replaced: {loaded.reason}")
                    return False
                notify(f"weights pushed into the evaluator, {loaded.gap_nats:.1e} nats off their probe")
        except MemberLost as error:  # while stages worked, with its node perhaps
            notify(f"the evaluator's process is replaced: {error}")
            return False
        self._folder = folder
        return True

    @property
    def settings(self) -> EngineSettings | None:
        """Settings of the live engine, None without one. With equal settings `load` may keep the process."""
        return self._settings if self._gang is not None else None

    def describe(self) -> dict[str, Any]:
        """The engine's process, device, dtype, and the seconds that its start took."""
        return self._call("describe", deadline_s=self._live.answer_s)

    def logprobs(
        self, rows: Sequence[Sequence[int]], on_progress: OnProgress = lambda done, total: None
    ) -> list[np.ndarray]:
        """Log-probability of every token but the first of each row: float32 [T-1] each, nats. See Sampler.logprobs."""
        logprobs: list[np.ndarray] = []
        for batch in _by_tokens(rows, ROWS_BATCH_TOKENS):
            start = time.perf_counter()
            logprobs += self._call("logprobs", batch, deadline_s=self._live.answer_s)
            self._done(EngineWork.scoring(batch), time.perf_counter() - start)
            on_progress(len(logprobs), len(rows))
        return logprobs

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: Sampling,
        seeds: Sequence[int] | int | None = None,
        on_progress: OnProgress = lambda done, total: None,
    ) -> list[Reply]:
        """A reply to each prompt. See Sampler.generate. seeds: one each, or one from which each batch derives its."""
        replies: list[Reply] = []
        size = engine_size.size_of(on_cpu=not self._live.gpus).num_rows  # as many as the engine works on at once
        for first in range(0, len(prompts), size):
            part = slice(first, first + size)
            if isinstance(seeds, int):
                batch_seeds: list[int] | int | None = seeds + first
            else:
                batch_seeds = None if seeds is None else list(seeds[part])
            batch = [list(prompt) for prompt in prompts[part]]
            start = time.perf_counter()
            replies += self._call(
                "generate", batch, sampling=sampling, seeds=batch_seeds, deadline_s=self._live.answer_s
            )
            lengths = [len(reply.tokens) for reply in replies[first:]]
            self._done(
                EngineWork.generating(batch, lengths, temperature=sampling.temperature), time.perf_counter() - start
            )
            on_progress(len(replies), len(prompts))
        return replies

    def count_anew(self) -> None:
        """Forgets the work that was done: `compare` is of what comes."""
        self._work, self._seconds = EngineWork(), 0.0

    def _done(self, work: EngineWork, seconds: float) -> None:
        self._work, self._seconds = self._work + work, self._seconds + seconds

    def compare(self, notify: Callable[[str], object] = lambda text: None) -> tuple[Comparison, float]:
        """The memory of the live engine's process and what was planned for it and for all that it has done since
        `count_anew`, or since it began; and the seconds that this took. All 0 where the process dies of it, and the
        notice says why."""
        try:
            comparison: Comparison = self._call("compare", self._work, deadline_s=self._live.answer_s)
        except ClusterError as error:  # work that is done is not lost for a figure
            notify(f"what the evaluator took is not compared with the plan: {error}")
            return Comparison(0, 0, 0.0), 0.0
        return comparison, self._seconds

    def rest(self) -> None:
        """For the stage that comes, gives a GPU back to Ray, or memory: then the process ends, and the next `load`
        starts another. A small engine on a CPU stays."""
        if self._gang is not None and (self._live.gpus or self._held_bytes() > idle_bytes()):
            self.close()

    def _held_bytes(self) -> int:
        """The most that the live process held; 0 where it died, and is closed."""
        try:
            return self._call("memory_bytes", deadline_s=REST_S)
        except ClusterError:
            return 0

    def close(self) -> None:
        """Ends the process, if there is one. May be called twice."""
        gang, self._gang, self._folder = self._gang, None, None
        if gang is not None:
            gang.close()

    @property
    def _live(self) -> EngineSettings:
        if self._settings is None:
            raise ValueError("evaluator: no model is loaded; call load first")
        return self._settings

    def _start(self, folder: Path, settings: EngineSettings) -> None:
        self._session.start()
        self._settings = settings
        try:
            self._gang = Gang(
                "pipelines.inference.sampler:Sampler",
                1,
                resources=Resources(1, cpus_per_worker=0, gpus_per_worker=settings.gpus, threads=settings.threads),
                name="evaluator",
                env=environment(settings.threads, settings.cache),
                start_s=settings.start_s,
                model=folder,
                max_tokens=settings.max_tokens,
                kv_cache_bytes=_kv_cache_bytes(folder, settings),
                threads=settings.threads,
                cache=settings.cache,
            )
        except (RuntimeError, ValueError) as error:
            raise _failed("start", folder, error) from error
        self._folder = folder
        self.count_anew()

    def _call(self, method: str, *args: Any, deadline_s: float, **kwargs: Any) -> Any:
        """One call of the engine. A process that died or missed the deadline is closed."""
        if self._gang is None:
            raise ValueError("evaluator: no model is loaded; call load first")
        try:
            return self._gang.call(method, *args, deadline_s=deadline_s, **kwargs)[0]
        except ClusterError:
            self.close()
            raise
        except RuntimeError as error:
            folder = self._folder
            self.close()
            raise _failed(method, folder, error) from error


def idle_bytes() -> int:
    """What an engine may hold while other stages work, on this machine or in this container."""
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or one without a limit: "max"
        machine_bytes = min(machine_bytes, int(CGROUP_LIMIT.read_text()))
    return max(round(IDLE_FRACTION * machine_bytes), IDLE_BYTES)


def _failed(method: str, folder: Path | None, error: Exception) -> ClusterError:
    return ClusterError(
        f"evaluator: vLLM failed in {method} with {folder} ({type(error).__name__}: {error}); expected a model "
        f"that vLLM can run here"
    )


def _by_tokens(rows: Iterable[Sequence[int]], max_tokens: int) -> Iterator[list[list[int]]]:
    """Rows in batches of at most so many tokens; a longer row is a batch by itself."""
    batch: list[list[int]] = []
    batch_tokens = 0
    for row in rows:
        if batch and batch_tokens + len(row) > max_tokens:
            yield batch
            batch, batch_tokens = [], 0
        batch.append(list(row))
        batch_tokens += len(row)
    if batch:
        yield batch


def _kv_cache_bytes(model: Path, settings: EngineSettings) -> int | None:
    """On a CPU by default a limit of its own: an evaluation must fit beside whatever else the machine does."""
    if settings.kv_cache_bytes is not None or settings.gpus:
        return settings.kv_cache_bytes
    dtype = engine_dtype(model, on_cpu=True)
    return engine_size.kv_bytes(
        read_config(model), settings.max_tokens, dtype, max_bytes=engine_size.MAX_EVALUATOR_KV_BYTES
    )
