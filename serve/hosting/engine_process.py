"""The process of a replica's engine, started before vLLM is imported: replica and engine then import at the same time.

    replica   EngineProcess() ──► import vLLM, read the model's config ──► vLLM starts "its" process: the work is sent
    engine         └────────────► import vLLM, wait ─────────────────────► vLLM's engine loop

By itself vLLM starts the process once the replica has imported everything, and the process imports it all again.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, cast

from cluster.loading import loading

MODULES = ("vllm.v1.engine.core", "vllm.v1.executor.uniproc_executor", "vllm.v1.worker.cpu_worker")
# Files that vLLM's engine on a CPU loads before all others (vllm/platforms/cpu.py), beside the folder of a package.
OPENMP_FILES = ("torch.libs/libgomp*.so*", "torch/lib/libgomp*.so*")
TCMALLOC_FILES = ("vllm/libs/libtcmalloc_minimal*.so*", "vllm/libs/libtcmalloc.so*")
# The engine gives way to the replica that reads requests and sends text: else its threads keep the cores while most of
# the requests that come at once wait to be read.
NICENESS = 5


class EngineProcess(SpawnProcess):
    """A process that imports vLLM's engine, and then does what vLLM gives the process that it starts.

    It ends with this process, however that ends, if it got no work by then. architectures: of the model."""

    def __init__(self, architectures: Sequence[str]):
        self.architectures = tuple(architectures)
        receiver, sender = Pipe(duplex=False)
        super().__init__(target=_work, args=(receiver, self.architectures), name="EngineCore")
        with _variable("LD_PRELOAD", _preloaded()):
            super().start()
        receiver.close()
        self._sender = sender  # after the start, which copies this object and the pipes that it holds
        # Where this process ends before it sends the work, multiprocessing waits for the other, which waits for that.
        Finalize(self, sender.close, exitpriority=0)
        self._work: tuple[Callable[..., object], dict[str, Any]] | None = None

    def start(self) -> None:
        """Sends the work, and the environment of this process, which vLLM has changed since."""
        with contextlib.suppress(BrokenPipeError):  # it has ended: vLLM watches it, and names its exit code
            self._sender.send((dict(os.environ), self._work))
        self._sender.close()

    @contextlib.contextmanager
    def given_to_vllm(self) -> Iterator[None]:
        """Inside, vLLM gets this process when it makes the one of its engine."""
        from vllm.v1.engine import utils

        def make(*, target: Callable[..., object], kwargs: dict[str, Any], name: str) -> EngineProcess:
            self._work = target, kwargs
            return self

        context = SpawnContext()
        cast(Any, context).Process = make
        get_context, utils.get_mp_context = utils.get_mp_context, lambda: context
        try:
            yield
        finally:
            utils.get_mp_context = get_context
        if self._work is None:
            raise RuntimeError("vLLM has not taken the engine's process that was started for it")


def _work(receiver: Connection, architectures: Sequence[str]) -> None:
    """Runs in the process: imports, then waits for the work. Returns where the replica ends before it sends any."""
    with loading():
        from pipelines.inference.sampler import register_classes

        for module in MODULES:
            importlib.import_module(module)
        register_classes(architectures)
    gc.freeze()
    try:
        environment, (target, kwargs) = receiver.recv()
    except EOFError:
        return
    os.environ.update(environment)
    os.nice(NICENESS)  # of this thread, and of those that it starts
    target(**kwargs)


def _preloaded() -> str:
    """The value of LD_PRELOAD that vLLM gives its engine on a CPU."""
    files = os.environ.get("LD_PRELOAD", "")
    if not any(name in files for name in ("libomp", "libgomp", "libiomp")):
        files = ":".join(filter(None, (files, _library("torch", OPENMP_FILES))))
    if "libtcmalloc" not in files:
        files = ":".join(filter(None, (_library("vllm", TCMALLOC_FILES), files)))
    return files


def _library(package: str, patterns: Sequence[str]) -> str:
    """The first file of these patterns, beside the folder of a package; empty where there is none."""
    spec = find_spec(package)
    beside = Path(spec.origin).parent.parent if spec and spec.origin else Path()
    return next((str(file) for pattern in patterns for file in sorted(beside.glob(pattern))), "")


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
