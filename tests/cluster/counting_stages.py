"""A recipe with one cheap stage, in which two workers of Ray Train count, with checkpoints. For tests that stop a run.

python -m tests.cluster.counting_stages run RECIPE …      `rayse` with this stage instead of the real ones
"""

from __future__ import annotations

import sys

from pydantic import Field

from pipelines.stage import ClusterOptions, Facts, Options, Stage, Work

RECIPE = "name: counting\nstages:\n  count: {steps: 10}\n"


class CountOptions(Options):
    steps: int = Field(20, ge=1, description="Steps to count; a checkpoint follows every second one")


def run(work: Work) -> Facts:
    """Counts in two workers and writes the total. Waits before step 6 until there is a file `open` in the store."""
    options: CountOptions = work.options
    assert work.cache is not None
    work.session.start()
    from cluster.resources import Resources
    from cluster.workers import run_workers
    from tests.cluster import loops

    result = run_workers(
        loops.count,
        {"steps": options.steps, "gate": {6: str(work.cache.parent / "open")}},
        resources=Resources(workers=2),
        storage=work.draft.path,
        name="training",
        on_progress=lambda line: work.progress.update(line["step"], options.steps, "steps"),
        on_message=work.progress.note,
    )
    (work.draft.out / "total.txt").write_text(f"{result['total']}\n")
    return {"count/resumed_step": result["resumed"]["step"] if result["resumed"] else 0}


TABLE = {
    stage.kind: stage
    for stage in (
        Stage(kind="count", version=1, makes="corpus", options=CountOptions, cluster=ClusterOptions, run=run),
    )
}

if __name__ == "__main__":
    from pipelines import stages
    from pipelines.cli import main
    from tests.cluster import counting_stages  # not as __main__: code digests are by module name

    stages.STAGES = counting_stages.TABLE  # pipelines.cli imports it when a verb is called

    sys.argv[0] = "rayse"
    main()
