"""The iteration that PPO is measured against: TRL's GRPOTrainer, each rank a process of its own.

    python -m tests.benchmarks.trl_loop '{"model": …, "prompts": …, …}'     with RANK, WORLD_SIZE, … as under torchrun

TRL 1.16 has no PPO any more. GRPO does less: there is no critic to ask and to teach. It writes replies with
transformers' own `generate`: with `use_vllm` it dies at its first push of weights on a CPU, where vLLM packs them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from serve.hosting.front import free_port
from tests.benchmarks.digits_reward import digits


@dataclass(frozen=True)
class Job:
    """What both sides do: so many iterations, each of so many replies of exactly so many tokens."""

    model: str
    prompts: list[list[dict[str, str]]]
    prompts_per_iteration: int
    replies_per_prompt: int
    reply_tokens: int
    epochs: int
    minibatches: int
    iterations: int
    learning_rate: float = 1e-5
    kl_coefficient: float = 0.05
    seed: int = 7
    extra: dict[str, Any] = field(default_factory=dict)  # more of GRPOConfig, for trials

    @property
    def replies(self) -> int:
        return self.prompts_per_iteration * self.replies_per_prompt

    @property
    def steps(self) -> int:
        """Optimiser steps of an iteration."""
        return self.epochs * self.minibatches


@dataclass
class Told:
    """What a rank saw. ends: clock at the end of each optimiser step; the rest summed over all iterations."""

    ends: list[float] = field(default_factory=list)
    generate_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    reply_tokens: int = 0


def run(job: Job) -> Told:
    """One rank's life."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    told, world = Told(), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            told.ends.append(time.perf_counter())

    class Timed(GRPOTrainer):
        def _generate_single_turn(self, prompt_ids: Any, *given: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            found = super()._generate_single_turn(prompt_ids, *given, **named)
            told.generate_s.append(time.perf_counter() - begin)
            told.prompt_tokens += sum(map(len, prompt_ids))
            told.reply_tokens += sum(map(len, found[0]))
            return found

    def reward(completions: list[Any], **given: Any) -> list[float | None]:
        return [*digits([messages[0]["content"] for messages in completions])]

    with tempfile.TemporaryDirectory() as folder:
        plan = {
            "output_dir": folder, "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "seed": job.seed,
            "ddp_backend": "gloo" if world > 1 else None, "model_init_kwargs": {"dtype": "float32"},
            "max_steps": job.iterations * job.steps, "num_iterations": job.epochs,
            "steps_per_generation": job.minibatches, "gradient_accumulation_steps": 1,
            "per_device_train_batch_size": job.replies // (world * job.minibatches),
            "num_generations": job.replies_per_prompt, "max_completion_length": job.reply_tokens,
            "generation_kwargs": {"min_new_tokens": job.reply_tokens}, "temperature": 1.0,
            "beta": job.kl_coefficient, "learning_rate": job.learning_rate, "lr_scheduler_type": "constant",
            "save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True,
        }  # fmt: skip
        Timed(
            model=job.model,
            reward_funcs=reward,
            args=GRPOConfig(**{**plan, **job.extra}),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in job.prompts]),
            callbacks=[Clock()],
        ).train()
    return told


def measure(job: Job, *, world: int, threads: int) -> list[Told]:
    """What each rank saw, in processes that have just started."""
    port, ranks = free_port(), []
    for rank in range(world):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        quiet = {"HF_HUB_OFFLINE": 1, "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
        ours = {name: str(value) for name, value in {**place, **quiet, "OMP_NUM_THREADS": threads}.items()}
        ranks.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.trl_loop", json.dumps(asdict(job))],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | ours,
                cwd=Path(__file__).parents[2],
            )
        )  # fmt: skip
    found = []
    try:
        for process in ranks:
            out, errors = process.communicate(timeout=900)
            if process.returncode:
                raise RuntimeError(f"TRL ended with {process.returncode}: {errors[-2000:]}")
            found.append(Told(**json.loads(out.splitlines()[-1])))
    finally:
        for process in ranks:
            process.kill()
    return found


if __name__ == "__main__":
    print(json.dumps(asdict(run(Job(**json.loads(sys.argv[1]))))))
