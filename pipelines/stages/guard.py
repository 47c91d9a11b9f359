"""Makes the guard: rules, a small classifier that learns from conversations what must be refused, and an encoder.

    conversations (unsafe and other) + corpus (harmless) + lexicon + written texts ──► guard.safetensors, guard.json
                                                               encoder of the program ──► encoder.safetensors

Serving checks the users' messages and the model's replies with it. Evaluated on held-out conversations. Runs in one
process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from pipelines.stage import Facts, Options, Stage, Work

if TYPE_CHECKING:
    from pipelines.data.guard.classifier import Guard


class GuardOptions(Options):
    beta: float = Field(
        0.85,  # on the written pairs as many unsafe ones are declined as harmless ones pass, in cross-validation
        gt=0,
        le=10,
        description="Weight of recall against precision in the F-beta that thresholds maximise: over 1 fewer unsafe "
        "texts pass, under 1 fewer harmless texts are declined",
    )
    harmless_texts: int = Field(
        1500, ge=10, description="Maximum number of harmless texts of each language taken from conversations"
    )
    thresholds: dict[Literal["en", "zh"], float] = Field(
        default={},
        description="Lowest score of a request that is declined, from 0 to 1, of a language: {en: 0.4} declines more; "
        "default: the score that maximises F-beta in cross-validation, or the higher one by which 0.98 of the ordinary "
        "lines that it is trained on pass (without `encoder` 0.905 of the English and 0.975 of the Chinese ones)",
    )
    reply_thresholds: dict[Literal["en", "zh"], float] = Field(
        default={},
        description="Lowest score of a part of a reply that is declined, from 0 to 1, of a language: {en: 0.9} "
        "declines less; default: 0.85, or that of `thresholds` where it is higher",
    )
    encoder: bool = Field(
        True,
        description="Whether requests that are not harmless by their words are judged by their meaning too, by an "
        "encoder that this program brings (multilingual-e5-small with adapters): 10 to 25 ms of a CPU's core each",
    )
    corpus_texts: int = Field(
        1500, ge=0, description="Maximum number of windows of each language taken from the corpus, as harmless texts"
    )

    @field_validator("thresholds", "reply_thresholds")
    @classmethod
    def _probabilities(cls, thresholds: dict[str, float]) -> dict[str, float]:
        for language, threshold in thresholds.items():
            if not 0 <= threshold <= 1:
                raise ValueError(f"{language}: expected a score from 0 to 1, got {threshold}")
        return thresholds


def run(work: Work) -> Facts:
    """Writes the guard into work.draft.out. Raises UserError where too few conversations are unsafe, or all are."""
    from pipelines.data.dialogues import conversations
    from pipelines.data.guard import evaluation, training
    from pipelines.data.guard.encoder import TRAINED, close_all
    from pipelines.errors import UserError

    options: GuardOptions = work.options
    folder = work.inputs["conversations"].local()
    train = conversations.read(folder / conversations.TRAIN)
    held_out = conversations.read(folder / conversations.HELD_OUT)
    num_unsafe = sum(conversation.safety == "unsafe" for conversation in train)
    if num_unsafe < training.NUM_FOLDS or num_unsafe == len(train):
        raise UserError(
            f"{work.name}: {num_unsafe} of {len(train)} training conversations are unsafe; expected at least "
            f"{training.NUM_FOLDS}, and others that are not. Set `builtin_tasks: true` in the stage conversations"
        )
    windows = training.sample_windows(documents(work, "train"), max_per_language=options.corpus_texts, seed=work.seed)
    texts = training.training_texts(train, held_out, windows, max_harmless=options.harmless_texts, seed=work.seed)
    num_unsafe_texts = sum(text.unsafe for text in texts)
    work.progress.note(f"{len(texts):,} short texts, {num_unsafe_texts:,} of them unsafe")
    guard = training.train_guard(
        texts, beta=options.beta, encoder=TRAINED if options.encoder else None,
        on_progress=lambda done, total: work.progress.update(done, total, "fits"),
    )  # fmt: skip
    guard = with_thresholds(guard, options)
    guard.save(work.draft.out)
    windows = training.sample_windows(
        documents(work, "held_out"), max_per_language=options.corpus_texts, seed=work.seed
    )
    facts = evaluation.evaluation_facts(guard, held_out, windows)
    close_all()
    return {
        "guard/texts": len(texts),
        "guard/texts_unsafe": num_unsafe_texts,
        **facts,
    }


def with_thresholds(guard: Guard, options: GuardOptions) -> Guard:
    """The guard with the thresholds of the recipe in place of its own; a reply is not declined at a lower score than a
    text by its words, unless the recipe says so."""
    requests = "thresholds" if guard.encoder is None else "request_thresholds"
    guard = replace(guard, **{requests: getattr(guard, requests) | dict(options.thresholds)})
    replies = {language: max(score, guard.thresholds[language]) for language, score in guard.reply_thresholds.items()}
    return replace(guard, reply_thresholds=replies | dict(options.reply_thresholds))


def documents(work: Work, split: str) -> Iterator[tuple[str, str, str]]:
    """(id, language, text) of each document of the corpus; none without a corpus, or if no text of it is requested."""
    from pipelines.data.corpus import corpora

    if "corpus" in work.inputs and work.options.corpus_texts:
        for batch in corpora.batches(work.inputs["corpus"].local(), split, ("id", "language", "text")):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


STAGE = Stage(
    kind="guard",
    version=12,
    makes="guard",
    needs=("conversations",),
    takes=("corpus",),
    options=GuardOptions,
    run=run,
)
