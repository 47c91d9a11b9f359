"""Model FLOPs utilisation (MFU): operations that training takes ÷ operations that the hardware could have done.

products of square matrices (inference/hardware.py) ──► peak FLOP/s, summed ─────┐
shape of the model ──► FLOPs of a token ──× tokens per second────────────────────┴──► train/mfu, at most 1
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipelines.learning.shapes import ModelShape, Weight


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


def training_flops(model: ModelShape, length: int) -> TrainingFlops:
    """Operations of one token in a row of `length` tokens: 6·N + 12·L·H·Q·T (Chowdhery et al. 2022, PaLM, appendix B).

    N: parameters that multiply, so all but the input embedding and experts that a token does not visit; a frozen one
    counts 4, having no gradient. L layers, H heads of Q columns, T tokens of a row. Attention counts in full, as
    there, though causal attention over packed documents needs less than half of it; products that are computed twice to
    save memory count once."""
    inner = sum((6 if weight.trained else 4) * size for weight, size in _multiplied(model))
    head = model.head
    return TrainingFlops(
        inner + 3 * attention_flops(model, length),
        0 if head is None else (6 if head.trained else 4) * head.numel,
    )


def layers_forward_flops(model: ModelShape) -> float:
    """Operations of a token in the products of all layers, forward: without attention and the output embedding."""
    return 2 * sum(size for _, size in _multiplied(model))


def attention_flops(model: ModelShape, length: float) -> float:
    """Operations of a token's attention to a row of `length` tokens, forward: 4·L·H·Q·T."""
    config = model.config
    columns = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return 4 * config["num_hidden_layers"] * config["num_attention_heads"] * columns * length


def muon_flops(model: ModelShape, iterations: int = 5) -> float:
    """Operations of a step of Muon: to orthogonalise each trained matrix n × m of a linear layer, n ≤ m.

    A square one by Newton-Schulz iterations of three products (Jordan et al. 2024), others by products of n × n and
    four with the matrix itself (Dao 2026, Gram Newton-Schulz, with one restart), as DeepSpeed does both."""
    total = 0.0
    for weight in (weight for weight in model.of_role("linear") if weight.trained):
        n, m = sorted(weight.shape)
        total += 2 * n**3 * 3 * iterations if n == m else 2 * n**3 * (3 * iterations - 1) + 4 * 2 * n**2 * m
    return total


def _multiplied(model: ModelShape) -> Iterator[tuple[Weight, int]]:
    """Weights between the embeddings, and how many numbers of each a token is multiplied with: of a mixture's experts
    those that it visits."""
    visited: int | None = model.config.get("num_experts_per_tok")
    for weight in model.of_role("linear", "experts", "other"):
        if weight.role == "experts" and visited is not None:
            yield weight, weight.numel // weight.shape[0] * visited
        else:
            yield weight, weight.numel


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

    def predicted(self, step_flops: float) -> float:
        """Share of the tokens that the output embedding predicts, by the operations of a step; 1 where it has none."""
        if not self.flops.per_predicted_token:
            return 1.0
        return (step_flops / self.tokens_per_step - self.flops.per_token) / self.flops.per_predicted_token

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
