"""Model FLOPs utilisation (MFU): operations that training takes ÷ operations that the hardware could have done.

products of square matrices (inference/hardware.py) ──► peak FLOP/s, summed ─────┐
shape of the model ──► FLOPs of a token ──× tokens per second────────────────────┴──► train/mfu, at most 1
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from transformers import PreTrainedModel

from pipelines.learning.model import expert_parameters, whole_shape


@dataclass(frozen=True)
class Elapsed:
    """Number, duration and operations of some steps."""

    steps: int = 0
    seconds: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Elapsed) -> Elapsed:
        return Elapsed(self.steps + other.steps, self.seconds + other.seconds, self.flops + other.flops)


@dataclass(frozen=True)
class TrainingFlops:
    """Floating-point operations of forward and backward."""

    per_token: float  # of everything but the output embedding
    per_predicted_token: float  # of the output embedding, which the loss applies only where a token is predicted

    def total(self, tokens: float, predicted_tokens: float) -> float:
        """Operations of so many tokens, some of which predict another."""
        return tokens * self.per_token + predicted_tokens * self.per_predicted_token


def training_flops(model: PreTrainedModel, length: int) -> TrainingFlops:
    """Operations of one token in a row of `length` tokens: 6·N + 12·L·H·Q·T (Chowdhery et al. 2022, PaLM, appendix B).

    N: parameters that multiply, so all but the input embedding and experts that a token does not visit; a frozen one
    counts 4, having no gradient. L layers, H heads of Q columns, T tokens of a row. Attention counts in full, as
    there, though causal attention over packed documents needs less than half of it; products that are computed twice to
    save memory count once."""

    def of(parameter: Any) -> int:
        return 6 if parameter.requires_grad else 4

    config = cast(Any, model.config)
    head = model.get_output_embeddings()
    tables = [table.weight for table in (model.get_input_embeddings(), head) if table is not None]
    inner = [p for p in model.parameters() if not any(p is table for table in tables)]
    columns = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rows = 12 * config.num_hidden_layers * config.num_attention_heads * columns * length
    idle = _idle_expert_flops(model, of)
    return TrainingFlops(
        _multiply_flops(inner, of) - idle + rows, 0 if head is None else _multiply_flops([head.weight], of)
    )


def _idle_expert_flops(model: PreTrainedModel, of: Callable[[Any], int]) -> int:
    """Operations that a token spares in the experts of a mixture that it does not visit."""
    names, visited = set(expert_parameters(model)), getattr(model.config, "num_experts_per_tok", None)
    if visited is None or not names:
        return 0
    stacks = [parameter for name, parameter in model.named_parameters() if name in names]
    return sum(_multiply_flops([p], of) * (whole_shape(p)[0] - visited) // whole_shape(p)[0] for p in stacks)


def _multiply_flops(parameters: Iterable[Any], of: Callable[[Any], int]) -> int:
    """Operations of a token in these matrices. of: of one weight: 2 for its output, 2 for its input's gradient, and 2
    for its own where it learns."""
    return sum(of(parameter) * whole_shape(parameter).numel() for parameter in parameters)


@dataclass
class Meter:
    """Tokens a second while steps are made, and model FLOPs utilisation."""

    tokens_per_step: int
    flops: TrainingFlops
    peak_flops_per_s: float  # of all workers together
    _step_end: float = field(default_factory=time.perf_counter)
    _window: Elapsed = Elapsed()  # since `recent` was last called

    def step_done(self, predicted_tokens: int) -> Elapsed:
        """Ends a step. Returns its duration, including whatever came since the previous one, and its operations."""
        now = time.perf_counter()
        step = Elapsed(1, now - self._step_end, self.flops.total(self.tokens_per_step, predicted_tokens))
        self._step_end = now
        self._window += step
        return step

    def recent(self) -> dict[str, float]:
        """Figures of the steps since the last call."""
        window, self._window = self._window, Elapsed()
        return self.figures(window)

    def figures(self, elapsed: Elapsed) -> dict[str, float]:
        """train/tokens_per_s and train/mfu."""
        return {
            "train/tokens_per_s": elapsed.steps * self.tokens_per_step / elapsed.seconds,
            "train/mfu": elapsed.flops / elapsed.seconds / self.peak_flops_per_s,
        }
