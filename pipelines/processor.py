"""What the CPU of this machine can do."""

from __future__ import annotations


def cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16; without them they are 5 × slower than float32."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
