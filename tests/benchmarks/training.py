"""Training throughput of the stage `pretrain` (Ray Train, DeepSpeed, checkpoints, metrics) against a bare loop.

    python -m tests.benchmarks.training [--steps 60] [--size 2m]

Both train the same model from the same weights on the same rows, with two processes of one thread each, and end at the
same loss. The bare loop runs before and after the stage, with SDPA under a dense mask and torch's Muon as it is, and
with the stage's kernels: attention document by document, and Muon in the type that it has in the stage (bare_loop.py).
The figures are medians over intervals of five steps, so that other work of the machine for a moment does not change
them. Goals: 0.9 times the bare loop's speed or more, 0.95 times with the same kernels, and in the type that a recipe
trains in by default on this machine 0.95 times the bare loop, which computes in float32.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.stage import Facts

WORLD, LENGTH, VOCABULARY, BATCH_ROWS = 2, 256, 4096, 8
INTERVAL = 5  # steps of a measured interval


def run_bare(tokens: Path, size: str, steps: int, seed: int, *, same_kernels: bool) -> tuple[list[float], list[float]]:
    """Loss of each step of the bare loop, and tokens/s of each interval."""
    import torch.multiprocessing

    from pipelines.learning import model
    from pipelines.learning.batch import DataOrder, PackedRows
    from pipelines.learning.shapes import SIZES
    from serve.hosting.front import free_port
    from tests.benchmarks.bare_loop import Shape, run

    model_size = SIZES[size]
    llama = model.from_scratch(model_size, vocabulary=VOCABULARY, length=LENGTH, seed=seed)
    weights = {n.removeprefix("model."): w for n, w in llama.state_dict().items() if n != "lm_head.weight"}
    shape = Shape(VOCABULARY, model_size.hidden, model_size.layers, model_size.heads, model_size.intermediate)
    rows = PackedRows(tokens / "train")
    order = DataOrder(len(rows), BATCH_ROWS, seed)
    packed = [rows.read(order.rows_of_step(step)) for step in range(steps)]
    batches = [[b.tokens_BT.numpy(), b.positions_BT.numpy(), b.labels_BT.numpy()] for b in packed]
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    torch.multiprocessing.spawn(run, (WORLD, free_port(), shape, weights, batches, same_kernels, results), nprocs=WORLD)
    rank_losses, rank_seconds = zip(*(results.get() for _ in range(WORLD)), strict=True)
    losses = [float(sum(summands)) for summands in zip(*rank_losses, strict=True)]
    seconds = rank_seconds[0]  # ranks end each step together
    starts = range(0, steps - INTERVAL + 1, INTERVAL)
    interval_s = [sum(seconds[start : start + INTERVAL]) for start in starts]
    return losses, [INTERVAL * BATCH_ROWS * LENGTH / s for s in interval_s]


def run_stage(folder: Path, tokens: Path, size: str, steps: int, seed: int, dtype: str) -> tuple[Facts, list[float]]:
    """Facts of the stage, run as a recipe runs it, and tokens/s of each interval. dtype: as in `cluster.pretrain`."""
    from cluster.session import Session
    from pipelines.stage import Work
    from pipelines.stages import pretrain
    from pipelines.store.artifacts import Draft
    from pipelines.training import TrainCluster
    from tests.stages.working import RecordedProgress

    batch_tokens = BATCH_ROWS * LENGTH
    # A constant rate and no clipping, as the bare loop has it: both must end at the same loss.
    as_bare = {"warmup_fraction": 0, "decay_fraction": 0, "clip_norm": 0, "adam_learning_rate": 3e-3}
    options = pretrain.PretrainOptions.model_validate(
        {"size": size, "batch_tokens": batch_tokens, "budget_tokens": steps * batch_tokens, **as_bare}
    )
    cluster = TrainCluster.model_validate({"workers": WORLD, "dtype": dtype, "log_every_steps": INTERVAL})
    folder.mkdir()
    progress = RecordedProgress()
    with Session(on_message=str) as session:
        work = Work(
            name="pretrain", options=options, cluster=cluster, seed=seed, sources={}, draft=Draft(folder, "bench"),
            inputs={"tokens": SimpleNamespace(local=lambda: tokens, facts={})},  # pyright: ignore[reportArgumentType]
            progress=progress, session=session,
        )  # fmt: skip
        facts = pretrain.run(work)
    return facts, [float(figures["tokens_per_s"]) for *_, figures in progress.updates]


def main(size: str = "2m", steps: int = 60) -> dict[str, float]:
    """Figures: train/tokens_per_s, train/tokens_per_s_bare, train/ratio_to_bare, the same with _same_kernels, and with
    _default_dtype; losses, GEMM peak, parameters."""
    from tests.learning.packed import write_tokens

    seed = 7
    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as folder:
        tokens = Path(folder) / "tokens"
        tokens.mkdir()
        write_tokens(tokens, num_rows=max(512, steps * BATCH_ROWS), length=LENGTH, vocabulary=VOCABULARY)
        losses, plain = run_bare(tokens, size, steps, seed, same_kernels=False)
        _, same = run_bare(tokens, size, steps, seed, same_kernels=True)
        facts, stage = run_stage(Path(folder) / "draft", tokens, size, steps, seed, "float32")
        default_facts, default = run_stage(Path(folder) / "default", tokens, size, steps, seed, "auto")
        same += run_bare(tokens, size, steps, seed, same_kernels=True)[1]
        plain += run_bare(tokens, size, steps, seed, same_kernels=False)[1]
    stage_tokens_per_s, bare_tokens_per_s = median(stage), median(plain)
    last_tenth = losses[-max(1, steps // 10) :]
    reported = ("train/mfu", "train/gemm_gflops", "train/parameters", "train/loss_nats")
    return {name: float(facts[name]) for name in reported} | {
        "train/loss_nats_bare": sum(last_tenth) / len(last_tenth),
        "train/tokens_per_s": stage_tokens_per_s,
        "train/tokens_per_s_bare": bare_tokens_per_s,
        "train/ratio_to_bare": stage_tokens_per_s / bare_tokens_per_s,
        "train/tokens_per_s_bare_same_kernels": median(same),
        "train/ratio_to_bare_same_kernels": stage_tokens_per_s / median(same),
        "train/tokens_per_s_default_dtype": median(default),
        "train/ratio_to_bare_default_dtype": median(default) / bare_tokens_per_s,
        "train/default_dtype_loss_nats": float(default_facts["train/loss_nats"]),
    }


if __name__ == "__main__":
    from tests.benchmarks.goals import print_figures

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="2m")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    figures = main(arguments.size, arguments.steps)
    print_figures(figures)
