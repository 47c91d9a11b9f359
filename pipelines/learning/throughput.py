"""How fast a device multiplies, and how much multiplying a token takes: what a share of the peak is made of."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch


def gemm_flops_per_s(device: str, dtype: torch.dtype, *, seconds: float = 0.2) -> float:
    """Measured rate of large square matrix products on this process's threads or GPU: 2·n³ operations each."""
    size = 8192 if device.startswith("cuda") else 768
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    product = a @ b  # the first one also starts threads and picks kernels
    _wait(device)
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        torch.mm(a, b, out=product)
        _wait(device)
        count += 1
    return 2 * size**3 * count / spent


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def multiplies_bfloat16(device: str) -> bool:
    """Whether the device has instructions for bfloat16 products: 4 × as fast as float32, otherwise 5 × slower."""
    if device.startswith("cuda"):
        return True
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def training_flops_per_token(config: Any, num_parameters: int, length: int) -> float:
    """Floating-point operations of forward and backward for one token: 6·N + 12·L·H·Q·T.

    Chowdhery et al. 2022 (PaLM), appendix B. config: a transformers configuration; N counts parameters that multiply:
    all, less an input embedding that is not also the output embedding; L layers, H heads of Q columns, T tokens of a
    row. Attention counts in full, as there, though causal attention over packed documents needs less than half of it.
    """
    multiplying = num_parameters
    if not config.tie_word_embeddings:
        multiplying -= config.vocab_size * config.hidden_size
    columns = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 6 * multiplying + 12 * config.num_hidden_layers * config.num_attention_heads * columns * length


@dataclass
class Meter:
    """Tokens a second while steps are made, and the share of the measured peak that they are."""

    tokens_per_step: int
    flops_per_token: float
    peak_flops_per_s: float  # of all workers together
    _lap: float = field(default_factory=time.perf_counter)  # when the last step ended
    _asked: float = field(default_factory=time.perf_counter)  # the end of the last step that `speed` counted
    _steps: int = 0

    def lap(self) -> float:
        """A step ended. Seconds since the one before, with whatever came between them."""
        now = time.perf_counter()
        seconds, self._lap = now - self._lap, now
        self._steps += 1
        return seconds

    def speed(self) -> dict[str, float]:
        """Over the steps since the last time it was asked for."""
        figures = self.over(self._steps, self._lap - self._asked)
        self._asked, self._steps = self._lap, 0
        return figures

    def over(self, steps: int, seconds: float) -> dict[str, float]:
        """Over so many steps and seconds."""
        rate = steps * self.tokens_per_step / seconds
        return {"train/tokens_per_s": rate, "train/peak_share": rate * self.flops_per_token / self.peak_flops_per_s}
