"""A stage that trains nothing but behaves as one that does: steps, live figures, a checkpoint in its draft.

python -m tests.toy_training sweep RECIPE …    the program with this table of stages
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from pydantic import Field

from pipelines.errors import UserError
from pipelines.stage import Facts, Options, Work
from tests.toy_stages import TABLE as TOYS


class TrainingOptions(Options):
    rate: float = Field(0.1, gt=0, lt=1, description="0.01 is the best")
    flavour: str = Field("plain", description="sweet is better, bitter fails")
    steps: int = Field(20, ge=1)
    step_s: float = Field(0.01, ge=0)
    extra: dict[str, float] | None = None

    def identity(self) -> dict:
        return super().identity() | {"step_s": None}


def loss(options: TrainingOptions, step: int) -> float:
    """Falls with the steps towards what the options are worth, the lowest at a rate of 0.01."""
    worth = abs(options.rate - 0.01) * 10 + (0.0 if options.flavour == "sweet" else 0.5)
    return worth + 3 / step


def run(work: Work) -> Facts:
    options: TrainingOptions = work.options
    checkpoint = work.draft.path / "step"
    begun = int(checkpoint.read_text()) if checkpoint.is_file() else 0
    for step in range(begun + 1, options.steps + 1):
        time.sleep(options.step_s)
        if options.flavour == "bitter" and step == 3:
            raise UserError("step 3: the loss is nan; lower rate")
        checkpoint.write_text(str(step))
        work.progress.update(step, options.steps, "steps", loss=loss(options, step), steps_per_s=1 / 3)
    (work.draft.out / "text.txt").write_text(f"{options.rate} {options.flavour}", encoding="utf-8")
    return {"heldout/loss_nats": loss(options, options.steps), "run/begun": begun}


TABLE = TOYS | {"pretrain": replace(TOYS["pretrain"], options=TrainingOptions, run=run)}


if __name__ == "__main__":
    from pipelines import stages
    from pipelines.cli import main
    from tests import toy_training  # by this name, not as __main__: a trial's process imports it

    stages.STAGES = toy_training.TABLE  # what pipelines.cli imports when a verb is called

    sys.argv[0] = "rayse"
    main()
