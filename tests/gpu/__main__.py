"""Measures training on one GPU, and compares its results with the CPU's: one JSON line a measurement (`make gpu`).

    python -m tests.gpu                    everything, about eight minutes on one H100
    python -m tests.gpu sizes adapters     these parts alone
    python -m tests.gpu --dry-run          on this CPU with tiny models: whether the script itself works

Needs torch, transformers, DeepSpeed and PEFT, but not Ray; the part "four_bit" needs bitsandbytes, and "rollout" vLLM,
without which it says so. A measurement that fails is a line with the key "error", and exit code 1 at the end.
--out FILE appends the lines.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.attention import varlen

from tests.gpu import attention, correctness, profile, rollout, speed
from tests.gpu.machine import Machine, describe

PARTS: dict[str, Callable[[Machine], Iterator[tuple[str, Callable[[], dict[str, Any]]]]]] = {
    "attention": attention.measurements,
    "correctness": correctness.measurements,
    "sizes": speed.sizes,
    "profile": profile.measurements,
    "bare": speed.bare,
    "adapters": speed.adapters_part,
    "four_bit": speed.four_bit,
    "not_compiled": speed.not_compiled,
    "zero": speed.zero,
    "rollout": rollout.measurements,
}


def main() -> int:
    """Parses the command line and runs the requested parts. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)}; default: all")
    parser.add_argument("--dry-run", action="store_true", help="tiny models on this CPU")
    parser.add_argument("--out", type=Path, help="file that the lines are appended to")
    parser.add_argument("--seconds", type=float, default=450, help="no measurement begins after so long; default 450")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if not arguments.dry_run and not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} sees no GPU; run this on a machine with one, or try --dry-run")
    with tempfile.TemporaryDirectory(prefix="rayse-gpu-") as folder:
        return run(arguments, Path(folder))


def run(arguments: argparse.Namespace, folder: Path) -> int:
    """Runs the parts in a process group of one rank."""
    begin = time.monotonic()
    machine = Machine("cpu" if arguments.dry_run else "cuda:0", folder)
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    backend = "gloo" if arguments.dry_run else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, init_method=f"file://{folder / 'group'}", rank=0, world_size=1)
    let_grouped_heads_pass()
    failed = False

    def line(name: str, figures: dict[str, Any]) -> None:
        text = json.dumps({"name": name, "at_s": round(time.monotonic() - begin, 1), **figures})
        print(text, flush=True)
        if arguments.out is not None:
            with arguments.out.open("a", encoding="utf-8") as out:
                out.write(text + "\n")

    line("machine", describe(machine))
    for part in arguments.parts or PARTS:
        for name, measure in PARTS[part](machine):
            if time.monotonic() - begin > arguments.seconds:
                line(name, {"error": f"not begun: {arguments.seconds:.0f} s are over"})
                failed = True
                continue
            figures = measured(machine, measure)
            failed |= "error" in figures
            line(name, figures)
    return int(failed)


def measured(machine: Machine, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures of a measurement, or its error; and what it has left in the GPU's memory."""
    begin = time.monotonic()
    figures: dict[str, Any]
    try:
        figures = measure()
    except Exception as error:
        traceback.print_exc()
        figures = {"error": f"{type(error).__name__}: {error}"[:400]}
    gc.collect()
    torch.compiler.reset()  # otherwise many models in one process meet the limit of recompilations
    figures["took_s"] = round(time.monotonic() - begin, 1)
    if machine.on_gpu:
        torch.cuda.empty_cache()
        figures["left_gib"] = round(torch.cuda.memory_allocated() / 2**30, 3)
    return figures


def let_grouped_heads_pass() -> None:
    """Before torch 2.13 varlen_attn takes fewer key-value heads than query heads without being told so."""
    if "enable_gqa" not in inspect.signature(varlen.varlen_attn).parameters:
        original = varlen.varlen_attn
        varlen.varlen_attn = lambda *args, enable_gqa, **settings: original(*args, **settings)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # gloo's threads may abort a process that is being taken down (tests/learning/processes.py)
