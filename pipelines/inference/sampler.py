"""Sampler: a vLLM engine in the calling process. Tokens in, tokens and log-probabilities out; weights can be replaced.

    Sampler(folder) ──logprobs(rows)──────────────► nats of every token
                    ──generate(prompts, seeds)────► replies
                    ──load(another folder)────────► weights pushed and proven, or a new process is needed
                    ──push(tensors, probe)────────► the same from a learner's memory, proven now or with the next batch

The only module that imports vLLM. Left out on purpose: text and chat templates (callers have tokenizers), engines over
several GPUs. On a CPU the engine keeps vLLM's packed weights: 1.5 × faster than without, and `push` packs them again.

In a process of an initialised torch process group the engine joins that group, though it works alone: then all
processes of the group must make their samplers at the same time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.inference import engine_size, probe, weights
from pipelines.inference.environment import environment
from pipelines.inference.estimates import Comparison, EngineWork
from pipelines.inference.model_config import architectures, context_length, engine_dtype, read_config, shape
from pipelines.inference.probe import PushResult
from pipelines.inference.reply import Reply, Sampling

if TYPE_CHECKING:
    from pipelines.inference.hardware import PeakMemory


def register_classes(names: Iterable[str]) -> None:
    """Imports the classes of these architectures. vLLM would start a process to inspect each: 8 s of imports."""
    from vllm import ModelRegistry

    for name in names:
        if name in ModelRegistry.models:
            ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())


def draw(logits_RV: Any) -> Any:
    """Draws a token of each row, with probability softmax(logits). int64 [R].

    The largest p ÷ E, with E exponentially distributed, is token i with probability p_i. As in vLLM, but E is −log of a
    uniform number: Tensor.exponential_ takes a CPU five times as long (4.1 ms for 64 × 4,096 against 0.8 ms)."""
    import torch

    probs_RV = logits_RV.softmax(dim=-1, dtype=torch.float32)
    noise_RV = torch.empty_like(probs_RV).uniform_().log_().neg_()
    return probs_RV.div_(noise_RV).argmax(dim=-1).view(-1)


class Sampler:
    """A vLLM engine that holds one model at a time.

    model: a Hugging Face folder with safetensors. max_tokens: of a row, and of a prompt with its reply; by default the
    model's context. kv_cache_bytes: size of the KV cache, which must hold one row of max_tokens; by default by
    engine_size.py. threads, cache: see `environment`. memory: of this process, where it is measured already; default:
    from now on. beat: called whenever a reply is finished.

    Raises ValueError where a recorded probe does not match: the engine would not compute what the learner did."""

    def __init__(
        self,
        model: Path,
        *,
        max_tokens: int | None = None,
        kv_cache_bytes: int | None = None,
        threads: int = 1,
        cache: Path | None = None,
        memory: PeakMemory | None = None,
        engines_per_gpu: int = 1,
        beat: Callable[[], object] = lambda: None,
    ):
        os.environ.update(environment(threads, cache))
        start = time.monotonic()
        import torch
        from vllm import LLM
        from vllm.platforms import current_platform
        from vllm.v1.sample.ops import topk_topp_sampler

        from pipelines.inference.hardware import PeakMemory

        self._cpu = current_platform.is_cpu()
        self._memory = memory or PeakMemory("cpu" if self._cpu else "cuda")
        self._folder = model
        self.max_tokens = max_tokens or context_length(model)
        self._shape = shape(model)
        if self._cpu:
            # vLLM compiles two small functions of its sampler for 20 s at their first call.
            torch.compiler.set_stance("force_eager")
            topk_topp_sampler.compiled_random_sample = draw
        register_classes(architectures(model))
        imported = time.monotonic()
        arguments = self._engine_arguments(model, kv_cache_bytes, engines_per_gpu)
        self._kv_cache_bytes: int = arguments["kv_cache_memory_bytes"]
        self._llm = LLM(**arguments)
        self.dtype = str(self._llm.model_config.dtype).removeprefix("torch.")
        self._vocabulary = self._llm.model_config.get_vocab_size()
        self._has_head = self._llm.apply_model(weights.has_head)[0]
        self._plain: dict[str, Any] = self._llm.apply_model(weights.plain)[0]
        self._held: weights.HeldWeights | None = None  # once weights were pushed
        self._asleep: set[str] = set()  # parts of the engine that have no memory
        self._bars = _bars(beat)
        self._problem = ""  # why the weights must not be used, if so
        self._pending_proof: tuple[object, probe.Probe] | None = None  # source of the weights, and their probe
        self.gap_nats: float | None = None  # of the current weights, once they are proven
        self._times = {"import_s": imported - start, "engine_s": time.monotonic() - imported}
        recorded = probe.read(model)
        if recorded is not None:
            self._expect(model, recorded)
            self._run([], [])
        if self._problem:
            raise ValueError(f"{model}: vLLM does not compute what its learner did: {self._problem}")

    def _engine_arguments(self, model: Path, kv_cache_bytes: int | None, engines_per_gpu: int) -> dict[str, Any]:
        from torch import cuda, distributed

        dtype, memory = engine_dtype(model, on_cpu=self._cpu), {}
        if self._cpu:
            kv_cache_bytes = kv_cache_bytes or engine_size.kv_bytes(read_config(model), self.max_tokens, dtype)
        else:
            free, total = cuda.mem_get_info()
            kv_cache_bytes = kv_cache_bytes or engine_size.gpu_kv_bytes(
                model, self.max_tokens, dtype, free_bytes=free, total_bytes=total, engines=engines_per_gpu
            )
            memory["gpu_memory_utilization"] = engine_size.gpu_fraction(
                model, dtype, kv_cache_bytes, free_bytes=free, total_bytes=total
            )
        joins = distributed.is_available() and distributed.is_initialized()
        return {
            "model": str(model),
            "dtype": dtype,
            "max_model_len": self.max_tokens + 1,  # vLLM requires room for a reply token after a full row
            "kv_cache_memory_bytes": kv_cache_bytes,
            **memory,
            **engine_size.batching(self.max_tokens + 1, on_cpu=self._cpu),
            "logprobs_mode": "processed_logprobs",  # of the distribution a token was drawn from
            "enforce_eager": self._cpu,
            "enable_sleep_mode": not self._cpu,
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # the folder's would add stop tokens and a temperature
            "use_tqdm_on_load": False,
            # Otherwise vLLM takes its rank in the process's group to be 0 of 1.
            "distributed_executor_backend": "external_launcher" if joins else None,
        }

    def describe(self) -> dict[str, Any]:
        """Facts of this engine: process, device, dtype, context, seconds to import and to start."""
        return {
            "pid": os.getpid(),
            "device": "cpu" if self._cpu else "gpu",
            "dtype": self.dtype,
            "max_tokens": self.max_tokens,
            "gap_nats": self.gap_nats,
            **self._times,
        }

    def compare(self, work: EngineWork) -> Comparison:
        """The most memory that this process held since it began, and what the formulas say of it and of work that was
        done; see comparing.py."""
        from pipelines.inference import comparing

        config = self._llm.model_config.hf_text_config.to_dict()
        return comparing.compare(
            self._folder, config, self.dtype, work, self._memory,
            max_tokens=self.max_tokens, kv_cache_bytes=self._kv_cache_bytes, on_cpu=self._cpu,
        )  # fmt: skip

    def memory_bytes(self) -> int:
        """The most memory that this process held since it began."""
        return self._memory.bytes()

    def logprobs(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Natural-log probability of every token but the first, after those before it: float32 [T-1] for each row.

        Raises ValueError for an empty row, one over max_tokens, or a token outside the vocabulary; NotProven where the
        weights are not proven."""
        self._check(rows, self.max_tokens)
        longer = [list(map(int, row)) for row in rows if len(row) > 1]
        params = self._params(temperature=0, max_tokens=1, prompt_logprobs=0)
        outputs = iter(self._run_proven(longer, [params] * len(longer)))
        return [_values(next(outputs).prompt_logprobs) if len(row) > 1 else np.zeros(0, np.float32) for row in rows]

    def generate(
        self, prompts: Sequence[Sequence[int]], *, sampling: Sampling, seeds: Sequence[int] | int | None = None
    ) -> list[Reply]:
        """One reply to each prompt (token ids); at max_tokens a reply ends.

        seeds: required unless temperature is 0. One a prompt: the same prompt and seed give the same reply, whatever
        else is in the batch. One for all: faster, and the same replies come only from the same batch of prompts, with a
        pending proof in both or in neither.
        Raises as `logprobs` does, and ValueError for a prompt that leaves no room."""
        self._check(prompts, self.max_tokens - 1)
        if seeds is None and sampling.temperature > 0:
            raise ValueError("seeds: missing; sampling at a temperature needs one a prompt, or one for all")
        if isinstance(seeds, int):
            import torch

            torch.manual_seed(seeds)  # requests without seeds are drawn with torch's global generator
        request_seeds = [None] * len(prompts) if seeds is None or isinstance(seeds, int) else list(seeds)
        params = [
            self._params(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=min(sampling.max_new_tokens, self.max_tokens - len(prompt)),
                stop_token_ids=list(sampling.stop_ids),
                seed=seed,
                logprobs=0,
            )
            for prompt, seed in zip(prompts, request_seeds, strict=True)
        ]
        outputs = [output.outputs[0] for output in self._run_proven([list(map(int, p)) for p in prompts], params)]
        return [
            Reply(list(o.token_ids), _values(o.logprobs), "stop" if o.finish_reason == "stop" else "length")
            for o in outputs
        ]

    def load(self, folder: Path) -> PushResult:
        """Replaces the live engine's weights with those of another folder, and proves them with its probe.

        A model of another shape, or quantised, needs a new process: the engine stays as it was."""
        if shape(folder) != self._shape or "quantization_config" in self._shape:
            return PushResult(False, "another shape")
        tied = "embed_tokens.weight" if read_config(folder).get("tie_word_embeddings") else None
        return self.push(
            weights.of_folder(folder), lambda: probe.read(folder) or probe.by_transformers(folder), folder, tied=tied
        )

    def push(
        self,
        tensors: Iterable[tuple[str, Any]],
        expected: Callable[[], probe.Probe],
        source: object = "the learner",
        *,
        tied: str | None = None,
        prove_now: bool = True,
    ) -> PushResult:
        """Replaces the live engine's weights, by their names in a Hugging Face folder, and proves them with a probe.

        source: where they are from, for messages. prove_now: False leaves the proof to the next batch, whatever it is:
        the probe is one row more in it instead of a batch by itself, and NotProven is raised in place of its results.

        tied: last part of the name of a matrix that is both input and output embedding, if there is one. An engine
        keeps it once; a CPU's packs a copy for each name and multiplies with the head's: it is pushed by the head's
        name alone."""
        start = time.perf_counter()
        self._wake("weights")
        self._problem, self._pending_proof = f"a push of {source} did not end", None
        expected_probe = expected()
        refusal = self._replace(tensors, tied)
        if refusal:
            self._problem = refusal
            return PushResult(False, refusal)
        self._expect(source, expected_probe)
        if prove_now:
            self._run([], [])
        return PushResult(not self._problem, self._problem, self.gap_nats, time.perf_counter() - start)

    def prove(self) -> float | None:
        """The gap of the current weights in nats, after a pending proof; None: they came without a probe.

        Raises NotProven."""
        if self._pending_proof or self._problem:
            self._run_proven([], [])
        return self.gap_nats

    def _replace(self, tensors: Iterable[tuple[str, Any]], tied: str | None) -> str:
        """Replaces the engine's weights; returns why that failed, empty where it did not."""
        dtype = self._llm.model_config.dtype
        if self._held is None:
            self._held = self._llm.apply_model(partial(weights.HeldWeights, dtype=dtype))[0]
        pushed = weights.Pushed(tensors, dtype, tied=tied, has_head=self._has_head, plain=self._plain)
        self._held.forget()
        self._llm.apply_model(weights.forget_packed_experts)
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(pushed)})
        except (AssertionError, KeyError, RuntimeError, ValueError) as error:
            return f"vLLM refused the weights: {type(error).__name__}: {error}"
        return self._held.problem(pushed.row_sums)

    def release_memory(self) -> None:
        """Gives a GPU's memory back, the weights too: others must be pushed before the next call. A CPU keeps all, and
        goes by the same rule."""
        if not self._asleep:
            if not self._cpu:
                self._llm.sleep(level=2)
            self._asleep = {"weights", "kv_cache"}

    def _expect(self, source: object, expected: probe.Probe) -> None:
        """After weights were replaced: the next batch must compute this probe."""
        self._problem, self._pending_proof = "", (source, probe.truncated(expected, self.max_tokens))
        self.gap_nats = None

    def _compare(self, logprobs: np.ndarray) -> None:
        """Compares the engine's log-probabilities of the pending probe's row with the probe."""
        assert self._pending_proof is not None
        source, expected = self._pending_proof
        self._pending_proof = None
        self._problem = f"the proof of {source} did not end"
        gap, tolerance = probe.gap_nats(expected, logprobs), probe.tolerance_nats(expected, self.dtype)
        self.gap_nats = gap
        self._problem = "" if gap <= tolerance else (
            f"the probe of {source} is {gap:.3g} nats off; at most {tolerance:g} is rounding in {self.dtype}"
        )  # fmt: skip

    def _params(self, **values: Any) -> Any:
        from vllm import SamplingParams

        return SamplingParams(flat_logprobs=True, detokenize=False, ignore_eos=True, **values)

    def _run_proven(self, rows: list[list[int]], params: list[Any]) -> list[Any]:
        """The engine's outputs of rows. Raises NotProven where its weights, or a pending proof, are wrong."""
        self._check_proven()
        outputs = self._run(rows, params)
        self._check_proven()
        return outputs

    def _run(self, rows: list[list[int]], params: list[Any]) -> list[Any]:
        """One batch, with the pending proof in it."""
        if self._pending_proof:
            rows = [*rows, self._pending_proof[1].tokens]
            params = [*params, self._params(temperature=0, max_tokens=1, prompt_logprobs=0)]
        if not rows:
            return []
        # Prefixes that earlier calls left in the cache would change the batches, and so the results' last bits.
        self._llm.reset_prefix_cache()
        self._wake("kv_cache")
        outputs = self._llm.generate([{"prompt_token_ids": row} for row in rows], params, use_tqdm=self._bars)
        if self._pending_proof:
            self._compare(_values(outputs.pop().prompt_logprobs))
        return outputs

    def _check_proven(self) -> None:
        if self._problem:
            raise probe.NotProven(f"the engine holds weights that are not proven: {self._problem}")
        if "weights" in self._asleep:
            raise probe.NotProven("the engine holds no weights: it released its memory, and none were pushed since")

    def _wake(self, part: str) -> None:
        if part in self._asleep:
            if not self._cpu:
                self._llm.wake_up(tags=[part])
            self._asleep.remove(part)

    def _check(self, rows: Sequence[Sequence[int]], max_tokens: int) -> None:
        for number, row in enumerate(rows):
            if not 0 < len(row) <= max_tokens:
                raise ValueError(f"row {number}: {len(row)} tokens; expected 1 to {max_tokens}")
            if min(row) < 0 or max(row) >= self._vocabulary:
                raise ValueError(f"row {number}: tokens {min(row)} to {max(row)}; expected 0 to {self._vocabulary - 1}")


class _Bar:
    """What vLLM asks of a progress bar. Shows nothing, and calls beat whenever a request is finished."""

    def __init__(self, beat: Callable[[], object]):
        self.update = lambda num_requests: beat()
        self.n, self.postfix, self.format_dict = 0, "", {"elapsed": 1.0}

    def close(self) -> None:
        """Nothing is on the screen."""


def _bars(beat: Callable[[], object]) -> Any:
    """In place of tqdm: requests pass unseen while they are added, and beat when they are finished."""
    return lambda iterable=None, **_: _Bar(beat) if iterable is None else iterable


def _values(flat: Any) -> np.ndarray:
    """The log-probabilities in vLLM's flat list: one a position; a row's first token has none."""
    return np.asarray(flat.logprobs, np.float32)
