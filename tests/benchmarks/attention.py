"""Attention of packed rows, document by document, against scaled_dot_product_attention with a dense mask of T × T.

    python -m tests.benchmarks.attention [--length 2048] [--documents 8]

Attention alone, forward and backward: 2 rows, 4 heads of 64 columns, one thread, float32. The dense side gets its
block-diagonal mask ready-made. The sides take turns; medians.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter

ROWS, ROUNDS = 2, 5


def main(length: int = 2048, documents: int = 8) -> dict[str, float]:
    """Figures: attention/ratio_to_dense, attention/step_s, attention/step_dense_s."""
    import torch
    import torch.nn.functional as F

    from pipelines.learning.attention import Documents, document_attention

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    heads = [torch.randn(ROWS, 4, length, 64, generator=generator, requires_grad=True) for _ in range(3)]
    query, key, value = heads
    positions = torch.arange(length).remainder(length // documents).expand(ROWS, -1)
    segments = torch.arange(length) // (length // documents)
    mask = (segments[:, None] == segments) & torch.ones(length, length, dtype=torch.bool).tril()

    def step(ours: bool) -> float:
        start = perf_counter()
        if ours:
            out, _ = document_attention(None, query, key, value, None, documents=Documents.of(positions))
        else:
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out.sum().backward()
        return perf_counter() - start

    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(1 + ROUNDS):
        for ours in (True, False):
            seconds[ours].append(step(ours))
    ours_s, dense_s = (median(seconds[side][1:]) for side in (True, False))
    return {"attention/ratio_to_dense": dense_s / ours_s, "attention/step_s": ours_s, "attention/step_dense_s": dense_s}


if __name__ == "__main__":
    from tests.benchmarks.goals import print_figures

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--documents", type=int, default=8)
    print_figures(main(**vars(parser.parse_args())))
