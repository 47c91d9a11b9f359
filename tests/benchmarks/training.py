"""Training tokens a second: the real path (Ray Train, DeepSpeed, checkpoints, figures) against a bare loop, same run.

    python -m tests.benchmarks.training [--steps 60] [--size 2m]

Both train the same model from the same weights on the same rows, with two processes of one thread each, and end at the
same loss. The bare loop runs before and after the real path, and what counts is the median over pieces of five steps,
so that a machine that is busy for a moment does not decide. Goal: a ratio of 0.9 or more.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.stage import Facts

GOAL = 0.9
WORLD, LENGTH, VOCABULARY, BATCH_ROWS = 2, 256, 4096, 8
PIECE = 5  # steps


def bare(tokens: Path, size: str, steps: int, seed: int) -> tuple[list[float], list[float]]:
    """Losses of the bare loop, and tokens a second of each piece."""
    import torch.multiprocessing

    from pipelines.learning import model
    from pipelines.learning.batch import DataOrder, PackedRows
    from tests.benchmarks.bare_loop import Shape, run

    wanted = model.SIZES[size]
    llama = model.from_scratch(wanted, vocabulary=VOCABULARY, length=LENGTH, seed=seed)
    weights = {n.removeprefix("model."): w for n, w in llama.state_dict().items() if n != "lm_head.weight"}
    shape = Shape(VOCABULARY, wanted.hidden, wanted.layers, wanted.heads, wanted.intermediate)
    rows = PackedRows(tokens / "train.arrow")
    order = DataOrder(len(rows), BATCH_ROWS, seed)
    batches = [rows.read(order.rows_of_step(step)) for step in range(steps)]
    columns = [[b.tokens_BT.numpy(), b.positions_BT.numpy(), b.labels_BT.numpy()] for b in batches]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    torch.multiprocessing.spawn(run, (WORLD, port, shape, weights, columns, results), nprocs=WORLD)
    shares, seconds = zip(*(results.get() for _ in range(WORLD)), strict=True)
    pieces = [sum(seconds[0][start : start + PIECE]) for start in range(0, steps - PIECE + 1, PIECE)]
    return [sum(parts) for parts in zip(*shares, strict=True)], [PIECE * BATCH_ROWS * LENGTH / s for s in pieces]


def real(folder: Path, tokens: Path, size: str, steps: int, seed: int) -> tuple[Facts, list[float]]:
    """Facts of the stage as a recipe runs it, and tokens a second of each piece."""
    from cluster.session import Session
    from pipelines.stage import Work
    from pipelines.stages import pretrain
    from pipelines.store.artifacts import Draft
    from pipelines.training import TrainCluster
    from tests.stages.working import RecordedProgress

    batch = BATCH_ROWS * LENGTH
    # A constant rate and no clipping, as the bare loop has it: both must end at the same loss.
    as_bare = {"warmup_share": 0, "decay_share": 0, "clip_norm": 0, "adam_learning_rate": 3e-3}
    options = pretrain.PretrainOptions.model_validate(
        {"size": size, "batch_tokens": batch, "budget_tokens": steps * batch, **as_bare}
    )
    cluster = TrainCluster.model_validate({"workers": WORLD, "dtype": "float32", "log_every_steps": PIECE})
    folder.mkdir()
    told = RecordedProgress()
    with Session(on_message=str) as session:
        work = Work(
            name="pretrain", options=options, cluster=cluster, seed=seed, sources={}, draft=Draft(folder, "bench"),
            inputs={"tokens": SimpleNamespace(local=lambda: tokens)},  # pyright: ignore[reportArgumentType]
            progress=told, session=session,
        )  # fmt: skip
        facts = pretrain.run(work)
    return facts, [float(figures["tokens_per_s"]) for *_, figures in told.updates]


def main(size: str = "2m", steps: int = 60) -> dict[str, float]:
    """Measures both: train/tokens_per_s, train/tokens_per_s_bare, train/ratio_to_bare and what explains them."""
    from tests.learning.packed import write_tokens

    seed = 7
    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as place:
        tokens = Path(place) / "tokens"
        tokens.mkdir()
        write_tokens(tokens, num_rows=max(512, steps * BATCH_ROWS), length=LENGTH, vocabulary=VOCABULARY)
        losses, first = bare(tokens, size, steps, seed)
        facts, ours = real(Path(place) / "draft", tokens, size, steps, seed)
        _, second = bare(tokens, size, steps, seed)
    last_tenth = losses[-max(1, steps // 10) :]
    kept = ("train/mfu", "train/gemm_gflops", "train/parameters", "train/loss_nats")
    return {name: float(facts[name]) for name in kept} | {
        "train/loss_nats_bare": sum(last_tenth) / len(last_tenth),
        "train/tokens_per_s": median(ours),
        "train/tokens_per_s_bare": median(first + second),
        "train/ratio_to_bare": median(ours) / median(first + second),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="2m")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    found = main(arguments.size, arguments.steps)
    print(json.dumps(found, indent=1))
    ratio = found["train/ratio_to_bare"]
    print(f"ratio {ratio:.2f}, goal {GOAL}: {'met' if ratio >= GOAL else 'missed'}")
