"""Makes preference pairs by AI feedback: a judge compares two replies twice, with their positions swapped.

    training prompts ──the model writes two replies──┐
    pairs of an earlier preferences stage ───────────┴──► judge: A, B │ B, A ──both agree──► rows.jsonl
                                                                           └──otherwise────► dropped.jsonl

Constitutional AI's feedback (Bai et al. 2022), with the swapped positions of Zheng et al. 2023 against the preference
for the first place. A later `preferences` stage reads the rows beside its sources. Every answer is in the draft, so a
run that was killed sends no request again.
"""

from __future__ import annotations

from pipelines.engines import WriterCluster
from pipelines.stage import Facts, Stage, Work
from pipelines.stages.ai_feedback.options import AiFeedbackOptions


def run(work: Work) -> Facts:
    """Writes rows, what is dropped and the judge's prompts into work.draft.out. Raises UserError without prompts, or
    where no pair is left."""
    from pipelines.stages.ai_feedback.labelling import Labelling

    labelling = Labelling(work)
    facts = labelling.run()
    labelling.requests.check(labelling.written)
    labelling.written.write(work.draft.out, labelling.templates_used, [])
    return {**facts, **labelling.requests.facts, **labelling.written.facts("ai_feedback"), **labelling.shares}


STAGE = Stage(
    kind="ai_feedback",
    version=4,
    makes="ai_feedback",
    needs_for=lambda options: options.needs,
    options=AiFeedbackOptions,
    cluster=WriterCluster,
    uses_evaluator=True,
    run=run,
)
