"""Evaluator: the run's vLLM engine for evaluations, in a separate process from the first evaluation to the end, or,
where it holds a GPU or much memory, until it rests. For a stage that writes there may be several, of the same model.

    load(folder) ── same shape: weights pushed and proven; another: the processes are replaced
    logprobs, generate ── of one engine, in batches, so that progress is visible and every wait has a deadline
    running() ── all engines, for calls from Ray's tasks
    rest() ── before any other stage: it works only while no stage works, and gives back GPUs, or much memory

It takes no logical CPU, since it never works beside a stage. It dies with the driver.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import ClusterError, MemberLost
from cluster.gang import Gang
from cluster.resources import Resources
from cluster.session import Session
from cluster.session import notify as session_notify
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
    engines: int = 1  # each with its own threads, and GPU or fraction of one

    @property
    def engines_per_gpu(self) -> int:
        """How many of the engines may come to be on one GPU."""
        return max(1, min(self.engines, int(1 / self.gpus))) if self.gpus else 1

    def covers(self, other: EngineSettings) -> bool:
        """Whether these are the other's, with as many engines or more, each as large."""
        is_as_large = self.engines_per_gpu == other.engines_per_gpu
        return is_as_large and self == replace(other, engines=self.engines) and self.engines >= other.engines


class Evaluator:
    """The evaluator of one run. Nothing is started before the first `load`.

    Raises ClusterError when the engine's process dies or misses a deadline; the next `load` starts a fresh one."""

    def __init__(self, session: Session):
        self._session = session
        self._gangs: list[Gang] = []  # of one engine each
        self._settings: EngineSettings | None = None
        self._folder: Path | None = None
        self._work, self._seconds = EngineWork(), 0.0  # that the live process has done since count_anew

    def load(self, folder: Path, settings: EngineSettings, notify: Callable[[str], object] = lambda text: None) -> None:
        """Makes this model the one that runs. notify: gets a line about what was done.

        Raises ClusterError where vLLM does not compute what the model's learner did."""
        live = self.settings
        if live is None or not settings.covers(live) or not self._push(folder, settings, notify):
            self.close()
            self.count_anew()
        elif settings == live:
            return
        self._start(folder, settings)
        engine = self.describe()
        proof = "" if engine["gap_nats"] is None else f", {engine['gap_nats']:.1e} nats off the model's probe"
        number = "" if settings.engines == 1 else f"{settings.engines} engines, "
        notify(
            f"evaluator up: vLLM on {engine['device']}, {number}{engine['dtype']}, {settings.threads} threads, "
            f"import {engine['import_s']:.1f} s, engine {engine['engine_s']:.1f} s{proof}"
        )

    def _push(self, folder: Path, settings: EngineSettings, notify: Callable[[str], object]) -> bool:
        """Loads the model into the live process. False where it needs a fresh one, and the notice said why."""
        loaded_folder, self._folder = self._folder, None
        try:
            if folder == loaded_folder:
                self._call_all("describe", deadline_s=settings.answer_s)
            else:
                loaded: list[PushResult] = self._call_all("load", folder, deadline_s=settings.answer_s)
                for each in loaded:
                    if not each.pushed:
                        notify(f"the evaluator's process is replaced: {each.reason}")
                        return False
                notify(f"weights pushed into the evaluator, {loaded[0].gap_nats:.1e} nats off their probe")
        except MemberLost as error:  # while stages worked, with its node perhaps
            notify(f"the evaluator's process is replaced: {error}")
            return False
        self._folder = folder
        return True

    @property
    def settings(self) -> EngineSettings | None:
        """Settings of the live engines, None without one. With equal settings `load` may keep the processes, and with
        more engines than before add to them."""
        return self._settings if self._gangs else None

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
        if self._gangs and (self._live.gpus or self._held_bytes() > idle_bytes()):
            self.close()

    def _held_bytes(self) -> int:
        """The most that the live processes held; 0 where one died, and all are closed."""
        try:
            return sum(self._call_all("memory_bytes", deadline_s=REST_S))
        except ClusterError:
            return 0

    def close(self) -> None:
        """Ends the processes, if there are any. May be called twice."""
        gangs, self._gangs, self._folder = self._gangs, [], None
        for gang in gangs:
            gang.close()

    @property
    def _live(self) -> EngineSettings:
        if self._settings is None:
            raise ValueError("evaluator: no model is loaded; call load first")
        return self._settings

    def _start(self, folder: Path, settings: EngineSettings) -> None:
        """Starts the engines that there are not yet. Raises ClusterError where the cluster can never hold them all."""
        self._session.start()
        resources = Resources(settings.engines, cpus_per_worker=0, gpus_per_worker=settings.gpus)
        resources.check("evaluator", wait_s=settings.start_s, on_message=session_notify)
        self._settings = settings
        try:
            with _failing("start", folder, RuntimeError, ValueError):
                self._gangs += _engines(folder, settings, range(len(self._gangs), settings.engines))
        except BaseException:
            self.close()
            raise
        self._folder = folder

    @contextlib.contextmanager
    def running(self, doing: str) -> Iterator[list[Gang]]:
        """The live engines, for calls of their methods, from other processes too. doing: for messages.

        After an error of an engine all are closed, and the error is a ClusterError."""
        if not self._gangs:
            raise ValueError("evaluator: no model is loaded; call load first")
        try:
            with _failing(doing, self._folder, RuntimeError):
                yield self._gangs
        except ClusterError:
            self.close()
            raise

    def _call(self, method: str, *args: Any, deadline_s: float, **kwargs: Any) -> Any:
        """One call of the first engine. One that died or missed the deadline is closed."""
        with self.running(method) as gangs:
            return gangs[0].call(method, *args, deadline_s=deadline_s, **kwargs)[0]

    def _call_all(self, method: str, *args: Any, deadline_s: float) -> list[Any]:
        """One call of each engine, of all at once."""
        with self.running(method) as gangs:
            calls = [gang.send(method, *args) for gang in gangs]
            return [gang.collect(call, deadline_s=deadline_s)[0] for gang, call in zip(gangs, calls, strict=True)]


def _engines(folder: Path, settings: EngineSettings, numbers: Sequence[int]) -> list[Gang]:
    """Starts engines, all at once. Raises the first error of any; what still starts then is not waited for, not even
    at the end of the process, and closed once it is up."""
    if len(numbers) == 1:
        return [_engine(folder, settings, numbers[0])]
    started = [Future[Gang]() for _ in numbers]

    def start(number: int, engine: Future[Gang]) -> None:
        try:
            engine.set_result(_engine(folder, settings, number))
        except BaseException as error:  # raised by the main thread
            engine.set_exception(error)

    try:
        for number, engine in zip(numbers, started, strict=True):  # no pool: its threads are waited for
            threading.Thread(target=start, args=(number, engine), daemon=True).start()
        for engine in as_completed(started):
            engine.result()
        return [engine.result() for engine in started]
    except BaseException:
        for engine in started:
            engine.add_done_callback(_close_started)
        raise


def _engine(folder: Path, settings: EngineSettings, number: int) -> Gang:
    """Starts an engine, and waits for it. number: of several, from 0; the name of the first one has none."""
    return Gang(
        "pipelines.inference.sampler:Sampler",
        1,
        resources=Resources(1, cpus_per_worker=0, gpus_per_worker=settings.gpus, threads=settings.threads),
        name=f"evaluator {number + 1}" if number else "evaluator",
        env=environment(settings.threads, settings.cache),
        start_s=settings.start_s,
        model=folder,
        max_tokens=settings.max_tokens,
        kv_cache_bytes=_kv_cache_bytes(folder, settings),
        threads=settings.threads,
        cache=settings.cache,
        engines_per_gpu=settings.engines_per_gpu,
    )


def _close_started(engine: Future[Gang]) -> None:
    if engine.exception() is None:
        engine.result().close()


@contextlib.contextmanager
def _failing(doing: str, folder: Path | None, *errors: type[Exception]) -> Iterator[None]:
    """Makes these errors of vLLM a ClusterError."""
    try:
        yield
    except errors as error:
        raise ClusterError(
            f"evaluator: vLLM failed in {doing} with {folder} ({type(error).__name__}: {error}); expected a model "
            f"that vLLM can run here"
        ) from error


def idle_bytes() -> int:
    """What an engine may hold while other stages work, on this machine or in this container."""
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or one without a limit: "max"
        machine_bytes = min(machine_bytes, int(CGROUP_LIMIT.read_text()))
    return max(round(IDLE_FRACTION * machine_bytes), IDLE_BYTES)


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
