"""What `rayse plan` says of training, compared with training as it is: memory of a rank, and time.

    python -m tests.benchmarks planning              every setting; one to three minutes each on two cores
    python -m tests.benchmarks.planning [NAME …]     some of them

Every setting trains a few steps in new processes of one thread each: random weights in a folder, rows full of random
documents, without Ray; or stages of a recipe: PPO, where a step is an iteration, evaluate and quantise, where it is all
that the engines do. Memory is the most that a process held in its steps (anonymous), time that of all its steps. The
processor's time is beside it: on a shared machine steps take longer than that. docs/planning.md has the comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

WORLD, LENGTH, STEPS = 2, 512, 4
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Setting:
    """A way to train. rows: of a micro-batch, of which a rank has two in a step."""

    size: str
    dtype: str = "float32"
    zero_stage: int = 1
    recompute: str = "none"
    lora: bool = False
    rows: int = 2
    vocabulary: int = 32_768
    pairs: bool = False  # DPO, on pairs of many lengths, instead of next tokens of full rows


SETTINGS = {
    "36m": Setting("36m"),
    "36m, ZeRO 3": Setting("36m", zero_stage=3),
    "36m, bfloat16": Setting("36m", "bfloat16"),
    "36m, recomputed": Setting("36m", recompute="full", rows=8),
    "36m, LoRA": Setting("36m", lora=True),
    "125m": Setting("125m"),
    "125m, ZeRO 3, bfloat16": Setting("125m", "bfloat16", zero_stage=3),
    "125m, LoRA, 4 rows": Setting("125m", lora=True, rows=4),
    "350m, LoRA, recomputed": Setting("350m", recompute="full", lora=True),
    # The constants of pipelines/learning/estimates.py were chosen on those above, and not on these:
    "14m, 8 rows": Setting("14m", rows=8),
    "36m, LoRA, bfloat16, 4 rows": Setting("36m", "bfloat16", lora=True, rows=4),
    "125m, recomputed, 4 rows": Setting("125m", recompute="full", rows=4),
    "36m, DPO": Setting("36m", rows=4, pairs=True),
    "36m, DPO, LoRA": Setting("36m", rows=4, pairs=True, lora=True),
}


@dataclass(frozen=True)
class PpoSetting:
    """PPO with iterations of 16 prompts and two replies to each, of so many tokens at most."""

    size: str
    reply_tokens: int = 64
    lora: bool = False
    advantage: str = "gae"


PPO_SETTINGS = {
    "36m, PPO": PpoSetting("36m"),
    "36m, PPO with LoRA, groups": PpoSetting("36m", lora=True, advantage="group"),
    "125m, PPO with LoRA": PpoSetting("125m", reply_tokens=32, lora=True),
}
ENGINE_SETTINGS = {"14m, engines": "14m", "36m, engines": "36m", "125m, engines": "125m"}  # evaluate and quantise
LORA = "{rank: 16, alpha: 32.0}"
RECIPE = """\
name: planned
seed: 7
base: {{model: model}}
stages:
  conversations: {{builtin_tasks: true, rows_per_task: 40, held_out_rows_per_task: 2}}
  ppo:
    {{iterations: 4, prompts_per_iteration: 16, max_new_tokens: {reply_tokens}, rewards: {{length: 1.0}},
     held_out_prompts: 8, lora: {lora}, advantage: {advantage}}}
cluster:
  ppo: {{workers: 2, dtype: float32, micro_batch_rows: 16}}
"""
ENGINES_RECIPE = """\
name: planned
seed: 7
base: {{model: {model}}}
sources:
  essays: {{kind: chinese, language: zh}}
stages:
  corpus: {{}}
  conversations: {{builtin_tasks: true, rows_per_task: 2, held_out_rows_per_task: 4}}
  sft: {{lora: {{rank: 4}}, batch_tokens: 1024}}
  quantise: {{held_out_bytes: 40_000}}
evaluate: {{held_out_bytes: 40_000}}
"""


def train(folder: Path, setting: Setting) -> None:
    """Runs in every process; rank 0 writes its figures."""
    import ray.train.torch  # noqa: F401 (a rank of the stage imports it: its memory counts)

    from pipelines.inference import hardware
    from pipelines.learning import adapters, loop
    from pipelines.learning.batch import PackedRows
    from pipelines.learning.engine import OptimizerPlan
    from pipelines.learning.lesson import next_token
    from pipelines.learning.model import from_folder
    from pipelines.learning.pairs import PairRows, dpo_lesson
    from pipelines.learning.precision import stored_dtype
    from pipelines.learning.saving import save_proven
    from pipelines.learning.schedule import Schedule
    from tests.learning.processes import PlainWorker

    loop.peak_flops_per_s = hardware.peak_flops_per_s  # measured for long: processes.py shortens them
    loop.copy_bytes_per_s = hardware.copy_bytes_per_s
    rows = PairRows(folder / "pairs.arrow") if setting.pairs else PackedRows(folder / "train")
    optimizer = OptimizerPlan("adamw", learning_rate=1e-4, adam_learning_rate=1e-4, weight_decay=0.0, clip_norm=1.0)
    plan = loop.TrainingPlan(
        out=folder / "out", seed=1, total_steps=STEPS, batch_rows=WORLD * 2 * setting.rows, optimizer=optimizer,
        schedule=Schedule("wsd", STEPS, warmup=0, decay=1), micro_batch_rows=setting.rows,
        zero_stage=setting.zero_stage, dtype=setting.dtype, hidden_size=0, checkpoint_every_steps=1000,
        log_every_steps=1, recompute=setting.recompute,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    plan.out.mkdir(exist_ok=True)
    open_model = partial(from_folder, folder / "model")

    def make(model: Any) -> Any:
        if isinstance(rows, PairRows):
            dtype = stored_dtype(folder / "model")
            return dpo_lesson(model, rows, beta=0.1, label_smoothing=0.0, dtype=dtype, batch_pairs=setting.rows)
        return next_token(model, rows, stored_dtype(folder / "model"))

    def make_lesson(dtype: Any) -> Any:
        if not setting.lora:
            return make(open_model(dtype))
        lora = adapters.Lora(rank=16, alpha=32.0, dropout=0.0)
        return adapters.lesson(make, open_model, save_proven, lora, seed=1, dtype=dtype)

    worker = PlainWorker(folder / "checkpoints")
    facts = loop.train(worker, plan, make_lesson)
    if worker.rank == 0:
        (folder / "figures.json").write_text(json.dumps(facts))


def measure(setting: Setting) -> dict[str, Any]:
    """Trains in new processes. Returns the loop's facts, plan/memory_error and plan/time_error among them."""
    from pipelines.learning import model
    from pipelines.learning.saving import save
    from pipelines.learning.shapes import SIZES
    from tests.learning.packed import write_tokens
    from tests.learning.processes import in_processes

    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as name:
        folder = Path(name)
        num_rows = WORLD * 2 * setting.rows * STEPS
        if setting.pairs:
            write_pairs(folder / "pairs.arrow", num_rows, setting.vocabulary)
        write_tokens(folder, num_rows=num_rows, length=LENGTH, vocabulary=setting.vocabulary)
        llama = model.from_scratch(SIZES[setting.size], vocabulary=setting.vocabulary, length=LENGTH, seed=1)
        (folder / "model").mkdir()
        save(llama, llama.named_parameters(), folder / "model")
        del llama
        in_processes(train, WORLD, folder, setting, method="spawn")
        return json.loads((folder / "figures.json").read_text())


def write_pairs(file: Path, number: int, vocabulary: int) -> None:
    """Pairs of random tokens; sequences of 20 to LENGTH tokens, half of them below 130."""
    import numpy as np
    import pyarrow as pa

    from pipelines.data.dialogues.tokenized_pairs import SCHEMA

    rng = np.random.default_rng(0)
    lengths_N2 = np.clip(rng.lognormal(np.log(130), 0.7, (number, 2)), 20, LENGTH).astype(int)
    rows = [
        {"chosen": rng.integers(0, vocabulary, chosen), "rejected": rng.integers(0, vocabulary, rejected),
         "prompt_tokens": 10, "row": row}
        for row, (chosen, rejected) in enumerate(lengths_N2)
    ]  # fmt: skip
    with pa.ipc.new_file(str(file), SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(rows, SCHEMA))


def measure_ppo(setting: PpoSetting) -> dict[str, Any]:
    """Runs the stage as `rayse run` does, in a Ray of its own. Returns its facts."""
    recipe = RECIPE.format(**asdict(setting) | {"lora": LORA if setting.lora else "null"})
    return measure_recipe(recipe, setting.size, "ppo")["ppo"]


def measure_recipe(recipe: str, size: str | None, until: str) -> dict[str, dict[str, Any]]:
    """Runs a recipe as `rayse run` does, in a Ray of its own. Returns facts by stage.

    size: of a new model in the folder `model`; None: the recipe's base is elsewhere."""
    from tests.benchmarks import bench_model

    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as name:
        folder = Path(name)
        if size:
            bench_model.write(folder / "model", size=size)
        (folder / "recipe.yaml").write_text(recipe)
        rayse = [sys.executable, "-m", "pipelines"]
        in_folder: dict[str, Any] = {"cwd": folder, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "check": True}
        subprocess.run([*rayse, "run", "recipe.yaml", "--until", until], stdout=subprocess.DEVNULL, **in_folder)
        report = subprocess.run([*rayse, "report", "--json", "--store", "store"], capture_output=True, **in_folder)
        return json.loads(report.stdout)


def measure_engines(base: str) -> dict[str, dict[str, Any]]:
    """Facts of evaluate and of quantise. base: a size, or a folder of a model with a chat template."""
    is_size = base in ENGINE_SETTINGS.values()
    recipe = ENGINES_RECIPE.format(model="model" if is_size else Path(base).absolute())
    stages = measure_recipe(recipe, base if is_size else None, "quantise")
    evaluation = {
        fact.replace("/evaluate_", "/"): value for fact, value in stages["sft"].items() if "/evaluate_" in fact
    }
    return {"evaluate": evaluation, "quantise": stages["quantise"]}


def main(names: list[str] | None = None) -> dict[str, float]:
    """Prints a JSON line a setting, with planned and measured values. names: also folders of models, for engines.

    Returns plan/memory_error and plan/time_error of each setting."""
    figures: dict[str, float] = {}
    for name in names or runnable():
        began_s = cpu_s()
        if name in PPO_SETTINGS:
            facts = measure_ppo(PPO_SETTINGS[name])
            step_s = sum(value for fact, value in facts.items() if fact.startswith("iteration/"))
            figures |= print_line(name, facts, step_s, began_s)
        elif name in SETTINGS:
            facts = measure(SETTINGS[name])
            figures |= print_line(name, facts, facts["train/tokens"] / STEPS / facts["train/tokens_per_s"], began_s)
        else:
            for stage, facts in measure_engines(ENGINE_SETTINGS.get(name, name)).items():
                figures |= print_line(f"{name}: {stage}", facts, facts["time/engine_s"], began_s)
    return figures


def runnable() -> list[str]:
    """All settings but those in bfloat16 on a CPU without instructions for it, where one takes half an hour."""
    from pipelines.inference.model_config import has_bfloat16

    slow = [] if has_bfloat16("cpu") else [name for name, each in SETTINGS.items() if each.dtype == "bfloat16"]
    if slow:
        print(f"left out, since this CPU has no instructions for bfloat16: {'; '.join(slow)}", file=sys.stderr)
    return [name for name in (*SETTINGS, *PPO_SETTINGS, *ENGINE_SETTINGS) if name not in slow]


def cpu_s() -> float:
    """Seconds of the processor's time that ended processes of this one's have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def print_line(name: str, facts: dict[str, Any], step_s: float, began_s: float) -> dict[str, float]:
    """Prints a setting's figures, and returns its errors. began_s: cpu_s before it."""
    memory = facts["memory/rank_bytes"]
    line = {
        "name": name,
        "memory_gib": round(memory / 2**30, 3),
        "planned_gib": round(memory * (1 + facts["plan/memory_error"]) / 2**30, 3),
        "memory_error": round(facts["plan/memory_error"], 3),
        "step_s": round(step_s, 2),
        "planned_s": round(step_s * (1 + facts["plan/time_error"]), 2),
        "time_error": round(facts["plan/time_error"], 3),
        "cpu_s": round(cpu_s() - began_s, 1),
    }
    print(json.dumps(line), flush=True)
    return {f"{fact}: {name}": facts[fact] for fact in ("plan/memory_error", "plan/time_error")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "names",
        nargs="*",
        help=f"which of {'; '.join((*SETTINGS, *PPO_SETTINGS, *ENGINE_SETTINGS))}; or a model's folder",
    )
    main(parser.parse_args().names)
