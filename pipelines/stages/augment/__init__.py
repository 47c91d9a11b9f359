"""Augments conversations: a model of the store, or one behind an endpoint, writes rows from those of the sources.

    sources, rows of an augment stage before ──► seeds ──prompts──► Writer ──answers──► rules ──► rows.jsonl
                                                   ▲                                      └─────► dropped.jsonl
    instructions: new prompts (Self-Instruct) and replies · rewrites: of prompts or replies · translations: en ↔ zh

A later `conversations` stage reads the rows beside its sources. Every answer is in the draft before the next request
depends on it, so a run that was killed sends none again.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from pipelines.dialogue_options import DialogueOptions
from pipelines.engines import Endpoint, WriterCluster
from pipelines.stage import Facts, RowLimit, Stage, Work

OPTIONS_OF = {
    "instructions": ("examples", "instructions_per_request", "max_similarity"),
    "rewrites": ("rewrite", "style", "variants"),
}


class AugmentOptions(DialogueOptions):
    method: Literal["instructions", "rewrites", "translations"] = Field(
        "instructions",
        description="What the model writes: instructions unlike the seeds, with replies; rewrites of the seeds' last "
        "prompt or reply; or translations of the seeds from English to Chinese and from Chinese to English",
    )
    rows: PositiveInt = Field(100, description="Number of rows to write; fewer where requests or seeds run out")
    max_requests: PositiveInt = Field(
        1000, description="Maximum number of requests to the model; an instruction with its reply takes up to two"
    )
    endpoint: Endpoint | None = Field(
        None, description="Endpoint that writes, as url, model, key_env, …; default: the nearest model before the stage"
    )
    temperature: float = Field(0.8, ge=0, le=2, description="Sampling temperature of the answers; 0: greedy")
    max_new_tokens: int = Field(
        512, ge=1, le=32_768, description="Maximum length of an answer, in tokens; one that is cut off makes no row"
    )
    context: int = Field(
        4096, ge=16, description="Tokens of a prompt with its answer at most, where the model can attend to so many"
    )
    examples: int = Field(
        8, ge=1, le=50, description="Number of examples in a prompt for instructions, one of four of them a new one"
    )
    instructions_per_request: int = Field(4, ge=1, le=20, description="Number of instructions that a prompt requests")
    max_similarity: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Similarity (Jaccard, of pairs of neighbouring words) from which on an instruction repeats a seed "
        "or an earlier one and is dropped",
    )
    rewrite: Literal["prompt", "reply"] = Field(
        "prompt", description="What rewrites change: the last prompt, which keeps its reply, or the last reply"
    )
    style: str = Field("", description="Instruction that is added to the prompt for rewrites: Write it as a haiku.")
    variants: int = Field(1, ge=1, le=100, description="Number of rewrites of each seed")
    template: dict[Literal["en", "zh"], str] = Field(
        {},
        description="Prompts in place of the built-in ones, by language: with {examples} and {number} for "
        "instructions, {text} and {style} for rewrites, {text} for translations into the language",
    )
    refusals: Literal["keep", "drop"] = Field(
        "drop", description="What becomes of seeds and replies that refuse, by their wording: keep or drop them"
    )
    min_rating: float | None = Field(
        None,
        description="Rows with a lower rating (a column rating, score, reward …) are no seeds, as those labelled bad "
        "never are; default: ratings are not read",
    )
    max_bad_rows: RowLimit | None = Field(
        None,
        description="Maximum number of rows that hold no conversation (in rejected.jsonl) before the stage fails, or "
        "their share of each source's rows, such as 1%. Default: 100 rows, and 5% of each source's rows (of few: 5, "
        "but at most half)",
    )

    @model_validator(mode="after")
    def _options_of_the_method(self) -> Self:
        for method, keys in OPTIONS_OF.items():
            for key in keys if method != self.method else ():
                if key in self.model_fields_set:
                    raise ValueError(f"{key}: only method: {method} has it, and this is {self.method}; remove it")
        if self.derives and self.thoughts == "keep" and "thoughts" in self.model_fields_set:
            raise ValueError(f"thoughts: {self.method} are written without thoughts; expected remove, or no thoughts")
        place = "{examples}" if self.method == "instructions" else "{text}"
        for language, text in self.template.items():
            if place not in text:
                raise ValueError(f"template.{language}: has no {place}, which is filled in; add it")
        return self

    @property
    def derives(self) -> bool:
        """Whether each row is made from one seed."""
        return self.method != "instructions"

    def identity(self) -> dict[str, Any]:
        """Where the key is, and what tokens cost, do not change the rows."""
        return super().identity() | {"endpoint": None if self.endpoint is None else self.endpoint.identity()}


def run(work: Work) -> Facts:
    """Writes rows, what is dropped and the prompts into work.draft.out. Raises UserError without seeds, or where every
    answer was dropped."""
    from pipelines.data.dialogues.synthetic import rows as synthetic
    from pipelines.stages.augment.augmentation import Augmentation
    from pipelines.stages.augment.derived import rewrites, translations
    from pipelines.stages.augment.instructions import instructions

    augmentation = Augmentation.open(work)
    methods = {"instructions": instructions, "rewrites": rewrites, "translations": translations}
    methods[work.options.method](augmentation)
    earlier = synthetic.read(work.inputs["augmented"].local()) if "augmented" in work.inputs else []
    written = augmentation.written
    augmentation.requests.check(written)
    written.write(work.draft.out, augmentation.templates_used, earlier)
    carried: Facts = {"augment/earlier_rows": len(earlier)} if earlier else {}
    return {**augmentation.seed_facts, **augmentation.requests.facts, **written.facts("augment"), **carried}


STAGE = Stage(
    kind="augment",
    version=8,
    makes="augmented",
    takes=("augmented",),
    needs_for=lambda options: () if options.endpoint else ("model",),
    options=AugmentOptions,
    cluster=WriterCluster,
    uses_evaluator=True,
    run=run,
    rows="conversations",
)
