"""Probe: a row of tokens with the log-probabilities its model gives them, to prove that an engine runs that model.

    learner ──export──► folder/probe.json        engine ──log-probabilities of the same row──► gap ≤ tolerance: proven

The exporter of a model records the probe beside the weights. For a folder without one (a model from elsewhere) it is
computed with transformers on the CPU.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FILE = "probe.json"
LENGTH = 16  # tokens: a wrong matrix anywhere moves all of them
TOLERANCE_NATS = {"float32": 1e-4, "bfloat16": 0.5, "float16": 0.1}
"""The largest gap of a token between two programs that run the same weights: rounding. 16-bit logits of size 16 are
exact to 16 × 2⁻⁹ = 0.03 (bfloat16) or 16 × 2⁻¹² (float16) each, after many other roundings: 0.3 nats were seen."""


class NotProven(ValueError):
    """An engine holds weights that were refused, whose push or proof did not end, or that give other log-probabilities
    than their learner."""


@dataclass(frozen=True)
class Probe:
    """tokens: ids [T]; logprobs: nats [T-1], of every token but the first, after those before it; dtype: the type that
    they were computed in."""

    tokens: list[int]
    logprobs: list[float]
    dtype: str = "float32"


@dataclass(frozen=True)
class PushResult:
    """Result of a sampler's `load` or `push`. After weights that were refused or failed their proof the engine serves
    no request until others are proven; a model of another shape leaves it as it was."""

    pushed: bool
    reason: str = ""  # why not pushed: "another shape", or how the proof failed
    gap_nats: float | None = None  # of the proof; None: refused, or not proven yet
    seconds: float = 0.0  # of the push, and of the proof where it is made now


def tokens(vocabulary: int, context: int) -> list[int]:
    """The row of tokens for models of this vocabulary: random, and always the same."""
    return np.random.default_rng(0).integers(0, vocabulary, min(LENGTH, context)).tolist()


def from_logits(row: list[int], logits_TV: np.ndarray, dtype: str = "float32") -> Probe:
    """The probe of a row from a model's logits [T, V] for it; dtype: of the model."""
    logits = np.asarray(logits_TV, np.float64)[:-1]
    top = logits.max(axis=1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return Probe(list(row), (logits[np.arange(len(row) - 1), row[1:]] - total).tolist(), dtype)


def truncated(probe: Probe, max_tokens: int) -> Probe:
    """The probe's first tokens: in a causal model their log-probabilities do not depend on later ones."""
    return Probe(probe.tokens[:max_tokens], probe.logprobs[: max_tokens - 1], probe.dtype)


def write(folder: Path, probe: Probe) -> None:
    """Records a probe beside a model's weights."""
    values = {"tokens": probe.tokens, "logprobs": [round(value, 7) for value in probe.logprobs], "dtype": probe.dtype}
    text = json.dumps(values)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> Probe | None:
    """The probe recorded in a model's folder, if there is one."""
    file = folder / FILE
    return Probe(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def by_transformers(folder: Path) -> Probe:
    """The probe of a model's folder, computed by transformers on the CPU, in the type that the folder has."""
    import torch
    from transformers import AutoModelForCausalLM

    # Eager attention alone has the soft caps of Gemma 2.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager").eval()
    row = tokens(model.config.vocab_size, model.config.max_position_embeddings)
    with torch.no_grad():
        logits_TV = model(torch.tensor([row])).logits[0]
    return from_logits(row, logits_TV.float().numpy(), str(model.dtype).removeprefix("torch."))


def tolerance_nats(probe: Probe, engine_dtype: str) -> float:
    """The largest gap of a token that is rounding, where the engine computes in engine_dtype."""
    return max(TOLERANCE_NATS[probe.dtype], TOLERANCE_NATS[engine_dtype])


def gap_nats(probe: Probe, logprobs: np.ndarray) -> float:
    """The largest difference of a token between the probe and an engine's log-probabilities [T-1] of its row.

    Infinity where one of the engine's is no number."""
    gap = np.abs(np.asarray(probe.logprobs) - np.asarray(logprobs, np.float64)).max()
    return float(gap) if np.isfinite(gap) else float("inf")
