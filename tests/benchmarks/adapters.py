"""Training of LoRA adapters beside a 135M model: our loop, a bare loop of torch and PEFT, and Hugging Face's Trainer.

    python -m tests.benchmarks.adapters [--steps 5] [--length 512]

Two processes of one thread each, gloo between them; 8 rows a step in micro-batches of 2, every row one document of 512
random tokens; LoRA of rank 16 at every linear layer; a random Llama of SmolLM2-135M's shape (49,152 tokens of
vocabulary), in the type that this CPU is faster in. Ours: DeepSpeed ZeRO 1, float32 masters, chunked cross-entropy,
checkpoints off. Bare: PEFT's model in DistributedDataParallel, fused AdamW, transformers' attention and loss. Trainer:
the same model under transformers.Trainer. Medians of the steps but the first; peaks of a process's resident memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

WORLD, BATCH_ROWS, MICRO_ROWS, RANK, ALPHA = 2, 8, 2, 16, 32
VOCABULARY = 49_152
SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
         "num_key_value_heads": 3, "max_position_embeddings": 2048, "tie_word_embeddings": True}  # fmt: skip
LORA = {"r": RANK, "lora_alpha": ALPHA, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def write_model(folder: Path, dtype: str) -> None:
    """A random model in bfloat16, or in this type."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **SHAPE)).to(getattr(torch, dtype)).save_pretrained(folder)


def ours(folder: Path, dtype: str, steps: int) -> list[float]:
    """Times of the ends of all steps."""
    from pipelines.learning import adapters
    from pipelines.learning.batch import PackedRows
    from pipelines.learning.engine import OptimizerPlan
    from pipelines.learning.lesson import next_token
    from pipelines.learning.loop import TrainingPlan, train
    from pipelines.learning.model import from_folder
    from pipelines.learning.precision import DTYPES
    from pipelines.learning.schedule import Schedule
    from tests.learning.processes import PlainWorker

    ends = [time.perf_counter()]

    class TimedWorker(PlainWorker):
        def progress(self, step: int, figures: dict[str, float]) -> None:
            ends.append(time.perf_counter())

    plan = TrainingPlan(
        out=folder / "out", seed=1, total_steps=steps, batch_rows=BATCH_ROWS,
        optimizer=OptimizerPlan("adamw", 1e-4, 1e-4, weight_decay=0.0, clip_norm=1.0),
        schedule=Schedule("wsd", steps, 0), micro_batch_rows=MICRO_ROWS, zero_stage=1, dtype=dtype, hidden_size=576,
        checkpoint_every_steps=10**6, log_every_steps=1,
    )  # fmt: skip
    lora, rows = adapters.Lora(RANK, ALPHA, 0.0), PackedRows(folder / "train")
    make: Any = partial(next_token, rows=rows, dtype=DTYPES[dtype])  # as sft has it: what it saves has the model's type

    def lesson(dtype: Any) -> Any:
        open_model = partial(from_folder, folder / "model")
        return adapters.lesson(make, open_model, lambda *_: None, lora, seed=1, dtype=dtype)

    (folder / "out").mkdir(exist_ok=True)
    worker: Any = TimedWorker(folder / "checkpoints")
    train(worker, plan, lesson)
    return ends


def peft_model(folder: Path, dtype: str) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=getattr(torch, dtype))
    return get_peft_model(model, LoraConfig(**LORA), autocast_adapter_dtype=False)


def rows_of_tokens(folder: Path) -> Any:
    """All rows. int64 [N, T]."""
    import numpy as np
    import torch

    from pipelines.learning.batch import PackedRows

    rows = PackedRows(folder / "train")
    return rows.read(np.arange(len(rows))).tokens_BT.to(torch.int64)


def bare(folder: Path, dtype: str, steps: int) -> list[float]:
    """Times of the ends of all steps."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    model = DistributedDataParallel(peft_model(folder, dtype).train())
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(learnt, lr=1e-4, weight_decay=0.0, fused=True)
    tokens_NT, ends = rows_of_tokens(folder), [time.perf_counter()]
    for step in range(steps):
        rows = tokens_NT[step * BATCH_ROWS : (step + 1) * BATCH_ROWS][dist.get_rank() :: WORLD]
        pieces = rows.split(MICRO_ROWS)
        for number, piece in enumerate(pieces, 1):
            model.require_backward_grad_sync = number == len(pieces)
            (model(input_ids=piece, labels=piece).loss / len(pieces)).backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        adam.step()
        adam.zero_grad()
        ends.append(time.perf_counter())
    return ends


def trainer(folder: Path, dtype: str, steps: int) -> list[float]:
    """Times of the ends of all steps."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    # accelerate asks for an address, though the process group is there already, and would choose its own threads.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    ends: list[float] = [time.perf_counter()]

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=steps, per_device_train_batch_size=MICRO_ROWS,
        gradient_accumulation_steps=BATCH_ROWS // WORLD // MICRO_ROWS, use_cpu=True, ddp_backend="gloo",
        optim="adamw_torch_fused", learning_rate=1e-4, max_grad_norm=1.0, save_strategy="no", report_to=[],
        logging_strategy="no", disable_tqdm=True, ddp_find_unused_parameters=False,
    )  # fmt: skip
    dataset: Any = [{"input_ids": row, "labels": row} for row in rows_of_tokens(folder)]
    Trainer(peft_model(folder, dtype).train(), arguments, train_dataset=dataset, callbacks=[Clock()]).train()
    assert torch.distributed.get_world_size() == WORLD
    return ends


def process(folder: Path, name: str, dtype: str, steps: int, results: Any) -> None:
    """One rank of one side: puts its name, the seconds of each step, and its peak memory in bytes."""
    import torch

    torch.manual_seed(1)
    ends = {"ours": ours, "bare": bare, "trainer": trainer}[name](folder, dtype, steps)
    seconds = [after - before for before, after in pairwise(ends[1:])]  # the first step warms up
    results.put((name, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def main(steps: int = 5, length: int = 512) -> dict[str, float]:
    """Figures: adapters/tokens_per_s, ratio_to_bare, ratio_to_trainer, and the peaks of memory."""
    import torch.multiprocessing

    from pipelines.learning.precision import dtype_of, name_of
    from tests.learning.packed import write_tokens
    from tests.learning.processes import in_processes

    dtype = name_of(dtype_of("auto", "cpu", SHAPE["hidden_size"]))
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as name:
        folder = Path(name)
        write_model(folder / "model", dtype)
        write_tokens(folder, num_rows=steps * BATCH_ROWS, length=length, vocabulary=VOCABULARY)
        for side in ("bare", "ours", "trainer", "bare"):
            results = torch.multiprocessing.get_context("spawn").SimpleQueue()
            place = folder / f"{side}-{len(seconds)}"
            place.mkdir()
            for part in ("model", "train", "meta.json"):
                (place / part).symlink_to(folder / part)
            in_processes(process, WORLD, place, side, dtype, steps, results)
            for _ in range(WORLD):
                side, side_seconds, peak = results.get()
                seconds[side] = seconds.get(side, []) + side_seconds
                peaks[side] = max(peaks.get(side, 0), peak)
    step_s = {side: median(values) for side, values in seconds.items() if values}
    figures = {
        "adapters/tokens_per_s": BATCH_ROWS * length / step_s["ours"],
        "adapters/ratio_to_bare": step_s["bare"] / step_s["ours"],
        "adapters/ratio_to_trainer": step_s["trainer"] / step_s["ours"],
    }
    return figures | {f"adapters/peak_gib_{side}": peak / 2**30 for side, peak in peaks.items()}


if __name__ == "__main__":
    from tests.benchmarks.goals import print_figures

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--length", type=int, default=512)
    print_figures(main(**vars(parser.parse_args())))
