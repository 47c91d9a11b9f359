"""vLLM's engine on the GPU that a learner shares with it: memory given back, weights pushed into it, and the proof."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from pipelines.learning.saving import save
from tests.gpu.machine import Machine
from tests.gpu.speed import new_model, vocabulary

MAX_TOKENS, NUM_PROMPTS, PROMPT_TOKENS, REPLY_TOKENS = 512, 64, 64, 128


def measurements(machine: Machine) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The last part: the engine stays in the process."""
    if importlib.util.find_spec("vllm") is None:
        yield "sampler asleep and awake", lambda: {"skipped": "no vLLM; `make env LOCK=gpu` installs it"}
    else:
        yield "sampler asleep and awake", partial(asleep_and_awake, machine)


def asleep_and_awake(machine: Machine) -> dict[str, Any]:
    """One round of PPO's loop without learning: replies, memory given back, other weights pushed and proven, replies.

    Figures: GiB of the GPU in use beyond those before the engine (its context included), seconds of each step, the gap
    of each proof in nats, and how far the rows' log-probabilities are from those before the sleep. Raises
    AssertionError where an engine without weights answers, a push is not proven, or the first weights come back as
    others."""
    from pipelines.inference.probe import NotProven
    from pipelines.inference.reply import Sampling
    from pipelines.inference.sampler import Sampler

    folders = [machine.folder / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        model = new_model(machine, "350m", seed=seed)
        save(model, model.named_parameters(), folder)
        del model
    if machine.on_gpu:
        torch.cuda.empty_cache()
    before = in_use(machine)
    sampler = Sampler(folders[0], max_tokens=MAX_TOKENS)
    rows = np.random.default_rng(0).integers(3, vocabulary(machine), (NUM_PROMPTS, PROMPT_TOKENS)).tolist()
    sampling = Sampling(temperature=1.0, max_new_tokens=REPLY_TOKENS)
    figures: dict[str, Any] = {"engine_s": round(sampler.describe()["engine_s"], 1), "dtype": sampler.dtype}

    def note(name: str, function: Callable[[], Any]) -> Any:
        machine.wait()
        start = time.perf_counter()
        value = function()
        machine.wait()
        figures[f"{name}_s"] = round(time.perf_counter() - start, 3)
        figures[f"gib_after_{name}"] = round((in_use(machine) - before) / 2**30, 3)
        return value

    figures["gib_awake"] = round((in_use(machine) - before) / 2**30, 3)
    first = note("logprobs", partial(sampler.logprobs, rows))
    note("generate", partial(sampler.generate, rows, sampling=sampling, seeds=1))
    figures["replies_tokens_per_s"] = round(NUM_PROMPTS * REPLY_TOKENS / figures["generate_s"])
    note("sleep", sampler.release_memory)
    try:
        sampler.logprobs(rows[:1])
    except NotProven:
        figures["answers_without_weights"] = False
    else:
        raise AssertionError("an engine that gave its weights back answered")
    for name, folder in zip(("push_of_others", "push_of_the_first"), reversed(folders), strict=True):
        pushed = note(name, partial(sampler.load, folder))
        assert pushed.pushed, pushed.reason
        figures[f"{name}_gap_nats"] = pushed.gap_nats
        moved = max(float(np.abs(a - b).max()) for a, b in zip(first, sampler.logprobs(rows), strict=True))
        figures[f"{name}_moved_nats"] = moved
        if folder is folders[1]:
            note("sleep_again", sampler.release_memory)
    assert 4 * figures["push_of_the_first_moved_nats"] < figures["push_of_others_moved_nats"], figures
    return figures


def in_use(machine: Machine) -> int:
    """Bytes of the GPU that any process holds; 0 in a dry run."""
    if not machine.on_gpu:
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free
