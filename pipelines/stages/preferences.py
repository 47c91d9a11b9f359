"""Preference pairs: the user's, and those that the rule of embedded tasks makes of earlier conversations.

    sources       ──comparisons──► pairs ──side of the prompt in conversations, else its hash──┐
    conversations ──embedded.pairs, split by split─────────────────────────────────────────────┼──► train, held_out
                  ──training prompts──► the model before ──replies that the rule turns down────┘

A prompt that conversations train on is never held out here, nor the other way round.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeInt

from pipelines.stage import ClusterOptions, Facts, Options, Stage, Work

if TYPE_CHECKING:
    from pipelines.data.dialogues.conversations import Conversation
    from pipelines.data.dialogues.preferences import Pair
    from pipelines.data.sources.bad_rows import RejectedRows


class PreferencesOptions(Options):
    embedded: bool = Field(True, description="make pairs of the embedded tasks among the conversations")
    wrong_per_prompt: int = Field(1, ge=1, le=3, description="wrong answers held against each right one")
    written: NonNegativeInt = Field(
        0,
        description="replies that the model before writes to each embedded training prompt, at temperature 1; those "
        "that the rule turns down are rejected in pairs of their own",
    )
    written_tokens: int = Field(32, ge=1, le=4096, description="longest of them; one cut off there makes no pair")
    held_out: float = Field(0.1, ge=0, le=0.5, description="of each language's pairs from sources, by whole prompts")
    max_held_out: NonNegativeInt = Field(1000, description="held-out pairs from sources, of each language at most")
    max_bad_rows: NonNegativeInt = Field(
        100, description="rows that hold no pair: set aside in rejected.jsonl; beyond, the run stops"
    )


class PreferencesCluster(ClusterOptions):
    """Of the engine that writes, where no evaluation has one up already."""

    threads: int | None = Field(None, ge=1, description="of the engine on a CPU; default: one for each core")
    gpus: float = Field(0, ge=0, le=1, description="share of a GPU for the engine")
    start_s: float = Field(900, gt=0, description="seconds for the engine to stand")
    answer_s: float = Field(600, gt=0, description="seconds for 64 replies")


def run(work: Work) -> Facts:
    """Writes the pairs into work.draft.out. Raises UserError for too many bad rows, or no pair at all."""
    from pipelines.data.dialogues import embedded, preferences, prompt_splits
    from pipelines.data.sources.bad_rows import REJECTED, BadRowLimit, RejectedRows
    from pipelines.errors import UserError

    options: PreferencesOptions = work.options
    aside = RejectedRows(work.draft.out / REJECTED, BadRowLimit(options.max_bad_rows, work.name))
    counts: Counter[str] = Counter()
    given = read(work, aside, counts)
    known = {split: _conversations(work, split) for split in (preferences.TRAIN, preferences.HELD_OUT)}
    keys = [prompt_splits.key(pair.prompt) for pair in given]
    chosen = prompt_splits.held_out(
        zip(keys, (pair.language for pair in given), strict=True),
        share=options.held_out,
        most=options.max_held_out,
        seed=work.seed,
        train={prompt_splits.key(one.prompt) for one in known[preferences.TRAIN]},
        held={prompt_splits.key(one.prompt) for one in known[preferences.HELD_OUT]},
    )
    facts: Facts = {}
    for split, held in ((preferences.TRAIN, False), (preferences.HELD_OUT, True)):
        pairs = [pair for key, pair in zip(keys, given, strict=True) if (key in chosen) is held]
        if options.embedded:
            made = embedded.pairs(known[split], wrong_per_prompt=options.wrong_per_prompt, seed=work.seed)
            pairs = made + ([] if held else turned_down(work, known[split])) + pairs
        if not pairs and not held:
            raise UserError(f"{work.name}: no pairs; the recipe has no sources with rows: preferences that hold any, "
                            f"and no earlier stage made conversations of embedded tasks. Add one of them")  # fmt: skip
        preferences.write(work.draft.out / split, pairs)
        facts |= _counted(split.removesuffix(".parquet"), pairs)
    aside.write()
    return facts | dict(sorted(counts.items())) | aside.facts("pairs")


def read(work: Work, aside: RejectedRows, counts: Counter[str]) -> list[Pair]:
    """The pairs of the sources, each once; what cannot be read is set aside."""
    from pipelines.data.dialogues.comparisons import comparison
    from pipelines.data.dialogues.conversations import OPEN_TASK
    from pipelines.data.dialogues.preferences import Pair
    from pipelines.data.sources import bad_rows

    found: dict[tuple[str, ...], Pair] = {}
    tell = lambda number: work.progress.update(number, number, "rows")  # noqa: E731
    text = lambda told: "\n".join([*(turn["content"] for turn in told.prompt), told.chosen])  # noqa: E731
    for name, source, language, told in bad_rows.parse_records(work.sources, aside, comparison, text, tell):
        pair = Pair(name, language, source, OPEN_TASK, "given", told.prompt, told.chosen, told.rejected)
        words = (*(turn["content"] for turn in told.prompt), told.chosen, told.rejected)
        counts["pairs/dropped_duplicate"] += words in found
        found.setdefault(words, pair)
    counts["pairs/read"] = len(found) + counts["pairs/dropped_duplicate"]
    return list(found.values())


def turned_down(work: Work, known: list[Conversation]) -> list[Pair]:
    """Pairs whose rejected reply the model before wrote itself."""
    from cluster.resources import cores
    from pipelines.data.dialogues import embedded
    from pipelines.data.tokens.chat import Chat
    from pipelines.evaluator import EngineSettings
    from pipelines.inference.model_config import context_length
    from pipelines.inference.reply import Sampling

    options, cluster = work.options, work.cluster
    embedded_talks = [one for one in known if one.source == embedded.SOURCE]
    if not options.written or not embedded_talks:
        return []
    model: Path = work.inputs["model"].local()
    chat, evaluator = Chat.open(model), work.evaluator
    assert evaluator is not None, "the run gives its evaluator to a stage that asks models"
    context = context_length(model)
    asked = [(one, chat.prompt(one.prompt)) for one in embedded_talks]
    asked = [(one, tokens) for one, tokens in asked if len(tokens) + options.written_tokens <= context]
    settings = evaluator.settings or EngineSettings(
        cluster.threads or cores(),
        context,
        gpus=cluster.gpus,
        start_s=cluster.start_s,
        answer_s=cluster.answer_s,
        cache=work.cache,
    )
    evaluator.load(model, settings, work.progress.note)
    replies = evaluator.generate(
        [tokens for _, tokens in asked for _ in range(options.written)],
        sampling=Sampling(max_new_tokens=options.written_tokens, stop_ids=chat.stop_ids),
        seeds=work.seed,
        tell=lambda done, total: work.progress.update(done, total, "replies"),
    )
    texts = [chat.text(reply.tokens) if reply.finish == "stop" else "" for reply in replies]
    pairs = []
    for number, (one, _) in enumerate(asked):
        own = texts[number * options.written : (number + 1) * options.written]
        pairs += embedded.turned_down(one, own)
    return pairs


def _conversations(work: Work, split: str) -> list[Conversation]:
    """A split of the earlier conversations; none where no stage made them."""
    from pipelines.data.dialogues import conversations

    made = work.inputs.get("conversations")
    return [] if made is None else conversations.read(made.local() / split)


def _counted(split: str, pairs: list[Pair]) -> Facts:
    """How many there are, in all, by rule and by language, and how long the two sides are on average."""
    cells = Counter(f"pairs/{split}_{kind}" for pair in pairs for kind in (pair.rule, pair.language))
    facts: Facts = {f"pairs/{split}": len(pairs), **dict(sorted(cells.items()))}
    for side in ("chosen", "rejected") if pairs else ():
        facts[f"pairs/{split}_{side}_characters"] = sum(len(getattr(pair, side)) for pair in pairs) / len(pairs)
    return facts


STAGE = Stage(
    kind="preferences",
    version=1,
    makes="preferences",
    takes=("conversations",),
    options=PreferencesOptions,
    cluster=PreferencesCluster,
    needs_for=lambda options: ("model",) if options.written and options.embedded else (),
    asks=True,
    run=run,
    rows="preferences",
)
