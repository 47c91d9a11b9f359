"""Makes the first guard: rules, and a small classifier that learns from conversations what must be declined.

    conversations (unsafe against all else) + corpus (harmless text) + embedded words ──► guard.safetensors, guard.json

Serving checks with it what users say and what the model replies. Judged on held-out conversations. One process, numpy.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from pipelines.stage import Facts, Options, Stage, Work


class GuardOptions(Options):
    beta: float = Field(
        0.5, gt=0, le=10, description="over 1: rather decline a harmless text; under 1: rather let an unsafe one pass"
    )
    harmless_texts: int = Field(1500, ge=10, description="of conversations, to learn from, of each language at most")
    corpus_texts: int = Field(1500, ge=0, description="pieces of the corpus, harmless too, of each language at most")


def run(work: Work) -> Facts:
    """Writes the guard into work.draft.out. Raises UserError where no conversation is marked unsafe."""
    from pipelines.data.dialogues import conversations
    from pipelines.data.guard import learning
    from pipelines.errors import UserError

    options: GuardOptions = work.options
    folder = work.inputs["conversations"].local()
    train, held_out = (conversations.read(folder / split) for split in (conversations.TRAIN, conversations.HELD_OUT))
    unsafe = sum(one.safety == "unsafe" for one in train)
    if unsafe < learning.PARTS or unsafe == len(train):
        raise UserError(
            f"{work.name}: {unsafe} of {len(train)} training conversations are unsafe ones; expected some, and others "
            f"that are not. Let the stage conversations have `embedded: true`"
        )
    pieces = learning.drawn_pieces(documents(work, "train"), most=options.corpus_texts, seed=work.seed)
    texts = learning.examples(train, held_out, pieces, most=options.harmless_texts, seed=work.seed)
    work.progress.note(f"{len(texts):,} short texts, {sum(one.unsafe for one in texts):,} of them unsafe")
    guard = learning.learn(texts, beta=options.beta, tell=lambda done, total: work.progress.update(done, total, "fits"))
    guard.save(work.draft.out)
    pieces = learning.drawn_pieces(documents(work, "held_out"), most=options.corpus_texts, seed=work.seed)
    return {
        "guard/texts": len(texts),
        "guard/texts_unsafe": sum(one.unsafe for one in texts),
        **learning.figures(guard, held_out, pieces),
    }


def documents(work: Work, split: str) -> Iterator[tuple[str, str, str]]:
    """(id, language, text) of the corpus, if there is one."""
    from pipelines.data.corpus import corpora

    if "corpus" in work.inputs and work.options.corpus_texts:
        for batch in corpora.batches(work.inputs["corpus"].local(), split, ("id", "language", "text")):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


STAGE = Stage(
    kind="guard",
    version=1,
    makes="guard",
    needs=("conversations",),
    takes=("corpus",),
    options=GuardOptions,
    run=run,
)
