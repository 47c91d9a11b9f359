"""Sampler: a vLLM engine in the calling process. Tokens in, tokens and log-probabilities out; weights can change.

    Sampler(folder) ──logprobs(rows)──────────────► nats of every token
                    ──generate(prompts, seeds)────► replies
                    ──load(another folder)────────► pushed and proven, or a fresh process is needed
                    ──push(tensors, probe)────────► the same, from a learner's memory, proven now or next time

The only door to vLLM. Left out on purpose: text and chat templates (callers have tokenizers), engines over several
GPUs. On a CPU the engine keeps vLLM's packed weights: 1.5 × faster than without, and `push` packs anew.

In a process of an initialised torch process group the engine joins that group, though it works alone: then all
processes of the group must make their samplers at the same time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.inference import probe
from pipelines.inference.model_config import context_length, read_config, shape
from pipelines.inference.reply import Reply, Sampling

NUM_ROWS = 64  # sequences the engine works on at once; more gain nothing on a CPU
BATCH_TOKENS = 2048  # of one forward pass; 512 to 8,192 are equally fast on a CPU, and more take more memory
KV_BYTES = 4 * 2**30  # most memory taken for keys and values unasked, if one row needs no more


@dataclass(frozen=True)
class Loaded:
    """What became of `load` or `push`. Where weights were refused or not proven the engine answers nothing more until
    others are; "another shape" changes nothing."""

    pushed: bool
    why: str = ""  # not: "another shape", or how the proof failed
    gap_nats: float | None = None  # of the proof; None: refused, or not proven yet
    seconds: float = 0.0  # of pushing, and of proving if at once


def environment(threads: int, cache: Path | None = None) -> dict[str, str]:
    """What a process's environment must hold before torch and vLLM are imported there.

    threads: of the engine's arithmetic on a CPU. cache: a folder for what vLLM compiles on a GPU and may reuse."""
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process, where weights are pushed by a call
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # pinned threads would share cores with others' pinned threads
        "OMP_NUM_THREADS": str(threads),  # vLLM turns torch.set_num_threads into a no-op
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one place more than the model's: see Sampler.max_tokens
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if cache is not None:
        settings |= {"VLLM_CACHE_ROOT": str(cache / "vllm"), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor")}
    return settings


def kv_bytes(folder: Path, max_tokens: int) -> int:
    """Memory for the keys and values, in float32, of as many rows as run at once; of fewer where that is over 4 GiB."""
    config = read_config(folder)
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    token_bytes = config["num_hidden_layers"] * 2 * heads * size * 4
    row_bytes = (max_tokens // 128 + 2) * 128 * token_bytes  # whole blocks of 128 tokens, and one that vLLM keeps
    return max(row_bytes, min(NUM_ROWS * row_bytes, KV_BYTES))


def batching(max_tokens: int, *, on_cpu: bool) -> dict[str, Any]:
    """How vLLM fills a forward pass. max_tokens: the longest sequence.

    On a CPU no prompt is cut in two: vLLM would take back what a cut one drew from the generator of its own seed, which
    torch's generators for CPUs cannot do, and the engine would die."""
    return {"max_num_batched_tokens": max(BATCH_TOKENS, max_tokens) if on_cpu else BATCH_TOKENS,
            "enable_chunked_prefill": not on_cpu}  # fmt: skip


def draw(logits_RV: Any) -> Any:
    """A token of each row, with probability softmax(logits). int64 [R].

    The largest p ÷ E, with E exponentially distributed, is token i with probability p_i. As in vLLM, but E is −log of a
    uniform number: torch's own exponential numbers take a CPU five times as long (4.1 ms for 64 × 4,096, 0.8 ms so)."""
    import torch

    probs_RV = logits_RV.softmax(dim=-1, dtype=torch.float32)
    noise_RV = torch.empty_like(probs_RV).uniform_().log_().neg_()
    return probs_RV.div_(noise_RV).argmax(dim=-1).view(-1)


class Sampler:
    """A vLLM engine around one model at a time.

    model: a Hugging Face folder with safetensors. max_tokens: of a row, and of a prompt with its reply; by default the
    model's context. kv_cache_bytes: memory for keys and values; it must hold one row of max_tokens, and 64 rows run at
    once when it holds them; by default `kv_bytes`. threads, cache: see `environment`.

    Raises ValueError where a recorded probe does not match: the engine would not compute what the learner did."""

    def __init__(
        self,
        model: Path,
        *,
        max_tokens: int | None = None,
        kv_cache_bytes: int | None = None,
        threads: int = 1,
        cache: Path | None = None,
    ):
        os.environ.update(environment(threads, cache))
        begin = time.monotonic()
        import torch
        from vllm import LLM, ModelRegistry
        from vllm.platforms import current_platform
        from vllm.v1.sample.ops import topk_topp_sampler

        self._cpu = current_platform.is_cpu()
        self.max_tokens = max_tokens or context_length(model)
        self._shape = shape(model)
        if self._cpu:
            # vLLM compiles two small functions of its sampler for 20 s at their first call.
            torch.compiler.set_stance("force_eager")
            topk_topp_sampler.compiled_random_sample = draw
        for name in self._shape.get("architectures") or ():
            # Registered with its class vLLM looks at it here. It would start a process to import it there: 8 s.
            if name in ModelRegistry.models:
                ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
        imported = time.monotonic()
        self._llm = LLM(**self._engine_arguments(model, kv_cache_bytes or kv_bytes(model, self.max_tokens)))
        self.dtype = str(self._llm.model_config.dtype).removeprefix("torch.")
        self._vocabulary = self._llm.model_config.get_vocab_size()
        self._has_head = self._llm.apply_model(_has_head)[0]
        self._plain: dict[str, Any] = self._llm.apply_model(_plain)[0]
        self._asleep, self._wrong = False, ""
        self._owed: tuple[object, probe.Probe] | None = None  # whose weights wait for their proof, and the proof
        self.gap_nats: float | None = None  # of the weights that are held, once they are proven
        self._times = {"import_s": imported - begin, "engine_s": time.monotonic() - imported}
        if recorded := probe.read(model):
            self._owe(model, recorded)
            self._run([], [])
        if self._wrong:
            raise ValueError(f"{model}: vLLM does not compute what its learner did: {self._wrong}")

    def _engine_arguments(self, model: Path, kv_cache_bytes: int) -> dict[str, Any]:
        from torch import distributed

        joins = distributed.is_available() and distributed.is_initialized()
        return {
            "model": str(model),
            # A CPU's bfloat16 is 5 × slower than float32. A GPU takes the model as it is: vLLM's own choice would
            # run a float32 model in 16 bits.
            "dtype": "float32" if self._cpu else self._shape.get("dtype") or self._shape.get("torch_dtype") or "auto",
            "max_model_len": self.max_tokens + 1,  # vLLM wants room for a reply; a whole row leaves none
            "kv_cache_memory_bytes": kv_cache_bytes,
            "max_num_seqs": NUM_ROWS,
            **batching(self.max_tokens + 1, on_cpu=self._cpu),
            "logprobs_mode": "processed_logprobs",  # of the distribution a token was drawn from
            "enforce_eager": self._cpu,
            "enable_sleep_mode": not self._cpu,
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # the folder's would add stop tokens and temperatures of its own
            "use_tqdm_on_load": False,
            # Otherwise vLLM takes its rank in the process's group to be 0 of 1.
            "distributed_executor_backend": "external_launcher" if joins else None,
        }

    def describe(self) -> dict[str, Any]:
        """What this engine is: its process, type, context, seconds to import and to start."""
        return {
            "pid": os.getpid(),
            "device": "cpu" if self._cpu else "gpu",
            "dtype": self.dtype,
            "max_tokens": self.max_tokens,
            "gap_nats": self.gap_nats,
            **self._times,
        }

    def logprobs(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Natural-log probability of every token but the first, given those before it: float32 [T-1] for each row.

        Raises ValueError for an empty row, one over max_tokens, or a token outside the vocabulary; NotProven where the
        weights are not."""
        self._check(rows, self.max_tokens)
        asked = [list(map(int, row)) for row in rows if len(row) > 1]
        params = self._params(temperature=0, max_tokens=1, prompt_logprobs=0)
        outputs = iter(self._answer(asked, [params] * len(asked)))
        return [_values(next(outputs).prompt_logprobs) if len(row) > 1 else np.zeros(0, np.float32) for row in rows]

    def generate(
        self, prompts: Sequence[Sequence[int]], *, sampling: Sampling, seeds: Sequence[int] | int | None = None
    ) -> list[Reply]:
        """One reply to each prompt (token ids); at max_tokens a reply ends.

        seeds: needed unless temperature is 0. One a prompt: the same prompt and seed give the same reply, whatever else
        is asked at the same time. One for all: faster, and only the same prompts together give the same replies, all
        of them with a proof that was owed, or none.
        Raises as `logprobs` does, and ValueError for a prompt that leaves no room."""
        self._check(prompts, self.max_tokens - 1)
        if seeds is None and sampling.temperature > 0:
            raise ValueError("seeds: none given; sampling at a temperature needs one a prompt, or one for all")
        if isinstance(seeds, int):
            import torch

            torch.manual_seed(seeds)  # requests without seeds are drawn with torch's own generator
        chosen = [None] * len(prompts) if seeds is None or isinstance(seeds, int) else list(seeds)
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
            for prompt, seed in zip(prompts, chosen, strict=True)
        ]
        outputs = [output.outputs[0] for output in self._answer([list(map(int, p)) for p in prompts], params)]
        return [
            Reply(list(o.token_ids), _values(o.logprobs), "stop" if o.finish_reason == "stop" else "length")
            for o in outputs
        ]

    def load(self, folder: Path) -> Loaded:
        """Puts another model's weights into the live engine and proves them with a probe.

        A model of another shape, or quantised, needs a fresh process: nothing is changed."""
        if shape(folder) != self._shape or "quantization_config" in self._shape:
            return Loaded(False, "another shape")
        tied = "embed_tokens.weight" if read_config(folder).get("tie_word_embeddings") else None
        return self.push(
            _tensors(folder), lambda: probe.read(folder) or probe.by_transformers(folder), folder, tied=tied
        )

    def push(
        self,
        tensors: Iterable[tuple[str, Any]],
        expected: Callable[[], probe.Probe],
        what: object = "the learner",
        *,
        tied: str | None = None,
        at_once: bool = True,
    ) -> Loaded:
        """Puts weights, by their names in a Hugging Face folder, into the live engine and proves them with a probe.

        at_once: False leaves the proof to the next batch that is asked for, whatever it is: the probe is one row more
        in it instead of a batch of its own, and NotProven is raised in place of the answers.

        tied: how the name of a matrix ends that is input and output, if there is one. An engine keeps it once; a CPU's
        packs a copy for each name that it comes by, and multiplies with the head's: it is pushed by that name alone."""
        begin = time.perf_counter()
        self._wake()
        if tied and self._has_head:
            tensors = (("lm_head.weight" if name.endswith(tied) else name, tensor) for name, tensor in tensors)
        tensors = self._without_plain(tensors)
        self._wrong, self._owed = f"a push of {what} did not end", None
        wanted = expected()
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors})
        except (AssertionError, KeyError, RuntimeError, ValueError) as error:
            self._wrong = f"vLLM refused the weights: {type(error).__name__}: {error}"
            return Loaded(False, self._wrong)
        self._owe(what, wanted)
        if at_once:
            self._run([], [])
        return Loaded(not self._wrong, self._wrong, self.gap_nats, time.perf_counter() - begin)

    def prove(self) -> float | None:
        """The gap in nats of the weights that are held, proven now if that is owed; None: they came without a probe.

        Raises NotProven."""
        self._answer([], [])
        return self.gap_nats

    def _without_plain(self, tensors: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """What vLLM must prepare. Plain vectors are copied into its own: it would take 0.2 ms for each."""
        for name, tensor in tensors:
            plain = self._plain.get(name)
            if plain is None or plain.shape != tensor.shape:
                yield name, tensor
            else:
                plain.data.copy_(tensor)

    def rest(self) -> None:
        """Gives a GPU's memory back until the next call; the weights wait in the machine's memory. On a CPU nothing."""
        if not self._cpu and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True

    def _owe(self, what: object, expected: probe.Probe) -> None:
        """The engine holds other weights: what it computes of this probe next decides whether it answers."""
        self._wrong, self._owed = "", (what, probe.beginning(expected, self.max_tokens))
        self.gap_nats = None

    def _judge(self, logprobs: np.ndarray) -> None:
        """Compares what the engine computed of the probe that is owed, and remembers the verdict."""
        assert self._owed is not None
        (what, expected), self._owed = self._owed, None
        self._wrong = f"the proof of {what} did not end"
        gap, most = probe.gap_nats(expected, logprobs), probe.TOLERANCE_NATS[self.dtype]
        self.gap_nats = gap
        self._wrong = "" if gap <= most else (
            f"the probe of {what} is {gap:.3g} nats off; at most {most:g} is rounding in {self.dtype}"
        )  # fmt: skip

    def _params(self, **values: Any) -> Any:
        from vllm import SamplingParams

        return SamplingParams(flat_logprobs=True, detokenize=False, ignore_eos=True, **values)

    def _answer(self, rows: list[list[int]], params: list[Any]) -> list[Any]:
        """What the engine makes of rows. Raises NotProven where its weights are not, or turn out not to be."""
        self._ready()
        outputs = self._run(rows, params)
        self._ready()
        return outputs

    def _run(self, rows: list[list[int]], params: list[Any]) -> list[Any]:
        """One batch, and the proof that is owed with it."""
        if self._owed:
            rows = [*rows, self._owed[1].tokens]
            params = [*params, self._params(temperature=0, max_tokens=1, prompt_logprobs=0)]
        if not rows:
            return []
        # What earlier calls left in the cache would change how rows are batched, and so the last bits of the answers.
        self._llm.reset_prefix_cache()
        outputs = self._llm.generate([{"prompt_token_ids": row} for row in rows], params, use_tqdm=False)
        if self._owed:
            self._judge(_values(outputs.pop().prompt_logprobs))
        return outputs

    def _ready(self) -> None:
        if self._wrong:
            raise probe.NotProven(f"the engine holds weights that are not proven: {self._wrong}")
        self._wake()

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def _check(self, rows: Sequence[Sequence[int]], most: int) -> None:
        for number, row in enumerate(rows):
            if not 0 < len(row) <= most:
                raise ValueError(f"row {number}: {len(row)} tokens; expected 1 to {most}")
            if min(row) < 0 or max(row) >= self._vocabulary:
                raise ValueError(f"row {number}: tokens {min(row)} to {max(row)}; expected 0 to {self._vocabulary - 1}")


def _values(flat: Any) -> np.ndarray:
    """The log-probabilities in vLLM's flat list: one a position, none for a row's first token."""
    return np.asarray(flat.logprobs, np.float32)


def _has_head(model: Any) -> bool:
    """Whether vLLM's model multiplies with a head; some have none, and take the input's matrix."""
    return hasattr(model, "lm_head")


def _plain(model: Any) -> dict[str, Any]:
    """Vectors of vLLM's model that it takes as they are, norms for one: no loader of its own joins or cuts them."""
    return {name: p for name, p in model.named_parameters() if p.ndim == 1 and not hasattr(p, "weight_loader")}


def _tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """Every tensor of a model's folder by its name."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                yield name, tensors.get_tensor(name)
