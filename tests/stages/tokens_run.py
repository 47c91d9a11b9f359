"""Runs the stages tokenizer and tokens in a separate process, so that a test can kill it or measure its memory.

    python -m tests.stages.tokens_run CORPUS FOLDER OPTIONS [UNIT]

OPTIONS: of both stages, JSON {stage: {key: value}}. With UNIT, such as parts, the process kills itself by SIGKILL when
the stage tokens first reports progress in it. Prints the facts of both stages with those of a run's meter, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from cluster.session import Session
from pipelines.run.meter import Meter
from pipelines.stages import tokenizer, tokens
from tests.stages.working import RecordedProgress, work_of


class Killing(RecordedProgress):
    """Progress that kills this process at its first update in a unit."""

    def __init__(self, unit: str | None) -> None:
        super().__init__()
        self.unit = unit

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        if unit == self.unit:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    corpus, folder, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    unit = sys.argv[4] if len(sys.argv) > 4 else None
    inputs, facts = {"corpus": corpus}, {}
    with Session(on_message=str) as session:
        for stage in (tokenizer.STAGE, tokens.STAGE):
            cluster = {"tasks": 1} if stage is tokens.STAGE else {}
            work = work_of(stage, folder / stage.kind, session, inputs, options.get(stage.kind, {}), cluster)
            meter = Meter(folder / f"{stage.kind}-attempts").start()
            work = replace(work, progress=Killing(unit if stage is tokens.STAGE else None))
            facts[stage.kind] = stage.run(work) | meter.stop()
            inputs[stage.makes] = work.draft.out
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
