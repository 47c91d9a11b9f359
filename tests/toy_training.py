"""A stage that trains no model but behaves as if it did: steps, live figures, a checkpoint in its draft.

python -m tests.toy_training sweep RECIPE …    the program with this table of stages
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

from pydantic import Field

from pipelines.errors import UserError
from pipelines.stage import Facts, Options, Work
from tests.toy_stages import TABLE as TOYS


class TrainingOptions(Options):
    rate: float = Field(0.1, gt=0, lt=1, description="Learning rate; the loss is lowest at 0.01")
    flavour: str = Field("plain", description="Choice with an effect on the loss: sweet lowers it, bitter fails")
    steps: int = Field(20, ge=1, description="Number of steps")
    step_s: float = Field(0.01, ge=0, description="Time of a step, in seconds")
    extra: dict[str, float] | None = Field(None, description="Options without effect")

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"step_s": None}


def loss(options: TrainingOptions, step: int) -> float:
    """Loss that falls with the steps to a floor set by the options, lowest at a rate of 0.01."""
    floor = abs(options.rate - 0.01) * 10 + (0.0 if options.flavour == "sweet" else 0.5)
    return floor + 3 / step


def run(work: Work) -> Facts:
    options: TrainingOptions = work.options
    checkpoint = work.draft.path / "step"
    completed_steps = int(checkpoint.read_text()) if checkpoint.is_file() else 0
    for step in range(completed_steps + 1, options.steps + 1):
        time.sleep(options.step_s)
        if options.flavour == "bitter" and step == 3:
            raise UserError("step 3: the loss is nan; lower rate")
        unfinished = checkpoint.with_suffix(".new")  # a kill may come between the file's making and its text
        unfinished.write_text(str(step))
        unfinished.replace(checkpoint)
        work.progress.update(step, options.steps, "steps", loss=loss(options, step), steps_per_s=1 / 3)
    (work.draft.out / "text.txt").write_text(f"{options.rate} {options.flavour}", encoding="utf-8")
    return {"heldout/loss_nats": loss(options, options.steps), "run/resumed_after_step": completed_steps}


TABLE = TOYS | {"pretrain": replace(TOYS["pretrain"], options=TrainingOptions, run=run)}


if __name__ == "__main__":
    from pipelines import stages
    from pipelines.cli import main
    from tests import toy_training  # by this name, not as __main__, because a trial's process imports it

    stages.STAGES = toy_training.TABLE  # what pipelines.cli imports when a verb is called

    sys.argv[0] = "rayse"
    main()
