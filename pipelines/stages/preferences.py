"""Makes preference pairs for reward models and DPO: the user's, and pairs on the prompts of earlier conversations.

    sources ──parse_preferences──► pairs ──side of the prompt in the conversations, else its hash──┐
                        └──► replies with labels ──by prompt──► pairs ─────────────────────────────┤
    ai_feedback ──pairs that a judge labelled──as those of sources, or in their place──────────────┤
    conversations ──built-in tasks: rules, split by split──────────────────────────────────────────┼──► train, held_out
                  ──training prompts──► replies of the model that the verifier rejects─────────────┘

A prompt on which conversations train is never held out here, nor the other way round.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import AliasChoices, Field, NonNegativeInt

from pipelines.dialogue_options import DialogueOptions
from pipelines.engines import EngineCluster
from pipelines.stage import Facts, RowLimit, Stage, Work

if TYPE_CHECKING:
    from pipelines.data.dialogues.conversations import Conversation
    from pipelines.data.dialogues.preferences import Pair
    from pipelines.data.tokens.chat import Chat
    from pipelines.dialogue_rows import DialogueRows


class PreferencesOptions(DialogueOptions):
    builtin_tasks: bool = Field(
        True,
        validation_alias=AliasChoices("builtin_tasks", "embedded"),  # the latter is its name in older recipes
        description="Whether to make pairs on the prompts of the built-in tasks among the conversations",
    )
    wrong_per_prompt: int = Field(
        1, ge=1, le=3, description="Pairs for each prompt with a checkable answer, each with another wrong answer"
    )
    model_replies: NonNegativeInt = Field(
        0,
        description="Replies that the model before writes to each training prompt of the built-in tasks, at "
        "temperature 1; those that the rule-based verifier rejects become the rejected replies of further pairs",
    )
    max_new_tokens: int = Field(
        32,
        ge=1,
        le=4096,
        description="Maximum length of a model's reply, in tokens; a reply cut off there makes no pair",
    )
    held_out: float = Field(
        0.1, ge=0, le=0.5, description="Fraction of each language's source pairs that is held out, by whole prompts"
    )
    max_held_out: NonNegativeInt = Field(1000, description="Maximum number of held-out source pairs of each language")
    pairs_per_prompt: int = Field(
        10,
        ge=1,
        description="Maximum number of pairs made of one row with several replies, or of the labelled replies to one "
        "prompt; those with the widest difference of ratings come first",
    )
    max_bad_rows: RowLimit | None = Field(
        None,
        description="Maximum number of rows that hold no pair (in rejected.jsonl) before the stage fails, or "
        "their share of each source's rows, such as 1%. Default: 100 rows, and 5% of each source's rows (of few: 5, "
        "but at most half)",
    )


def run(work: Work) -> Facts:
    """Writes both splits into work.draft.out. Raises UserError for too many bad rows, or without a training pair."""
    from pipelines.data.dialogues import builtin_tasks, preferences
    from pipelines.dialogue_rows import DialogueRows, synthetic_source, with_synthetic

    options: PreferencesOptions = work.options
    work, judge = with_synthetic(work, "ai_feedback", "preferences"), synthetic_source(work, "ai_feedback")
    rows = DialogueRows(work, "preferences", "pairs")
    from_sources, facts = read_sources(rows, options, judge)
    train, held_out = (_read_conversations(work, split) for split in (preferences.TRAIN, preferences.HELD_OUT))
    train_rows, held_out_rows = rows.split(from_sources, train, held_out)
    train_pairs: list[Pair] = []
    held_out_pairs: list[Pair] = []
    if options.builtin_tasks:
        train_pairs += builtin_tasks.make_pairs(train, wrong_per_prompt=options.wrong_per_prompt, seed=work.seed)
        held_out_pairs += builtin_tasks.make_pairs(held_out, wrong_per_prompt=options.wrong_per_prompt, seed=work.seed)
        pairs, prompt_facts = model_reply_pairs(work, train)
        train_pairs += pairs
        facts |= prompt_facts
    train_pairs += train_rows
    held_out_pairs += held_out_rows
    if not train_pairs:
        raise rows.nothing_left("the recipe has no sources with rows: preferences that hold any, and no earlier stage "
                                "made conversations of the built-in tasks. Add one of them")  # fmt: skip
    preferences.write(work.draft.out / preferences.TRAIN, train_pairs)
    preferences.write(work.draft.out / preferences.HELD_OUT, held_out_pairs)
    return {**_split_facts("train", train_pairs), **_split_facts("held_out", held_out_pairs), **facts}


def read_sources(rows: DialogueRows, options: PreferencesOptions, judge: str | None) -> tuple[list[Pair], Facts]:
    """Reads the pairs of the sources without duplicates; sets rows aside that cannot or shall not be used.

    judge: name of the source with pairs that a judge labelled; None without one."""
    from pipelines.data.dialogues import preference_rows, source_rows
    from pipelines.data.dialogues.preference_records import parse_preferences

    keep_thoughts = options.thoughts == "keep"
    parse = partial(parse_preferences, keep_thoughts=keep_thoughts, max_pairs=options.pairs_per_prompt)
    counts = Counter({"pairs/read": 0, "pairs/dropped_duplicate": 0})
    gathered = preference_rows.gather(
        rows.read(parse), max_pairs=options.pairs_per_prompt, rejected=rows.rejected, counts=counts
    )
    gathered = preference_rows.without_relabelled(gathered, judge, rows.rejected, counts)
    kept = source_rows.without_near_duplicates(
        preference_rows.without_duplicates(gathered, rows.rejected, counts),
        lambda row: (row.text, source_rows.system_text(row.pairs[0].prompt) + row.pairs[0].tools, row.row_ids),
        options.near_duplicates,
        rows.rejected,
    )
    return [pair for row in kept for pair in row.as_pairs()], rows.finish(counts)


def model_reply_pairs(work: Work, conversations: list[Conversation]) -> tuple[list[Pair], Facts]:
    """Pairs on the built-in tasks' prompts whose rejected reply was written by the model before; facts about the
    prompts that cannot be used."""
    from cluster.resources import cores
    from pipelines.data.dialogues import builtin_tasks
    from pipelines.data.tokens.chat import Chat
    from pipelines.evaluator import EngineSettings
    from pipelines.inference.model_config import context_length
    from pipelines.inference.reply import Sampling

    options: PreferencesOptions = work.options
    cluster: EngineCluster = work.cluster
    builtin = [conversation for conversation in conversations if conversation.source == builtin_tasks.SOURCE]
    if not options.model_replies or not builtin:
        return [], {}
    model: Path = work.inputs["model"].local()
    chat, evaluator = Chat.open(model), work.evaluator
    assert evaluator is not None, "uses_evaluator: the run passes its evaluator"
    running = evaluator.settings  # it may hold fewer tokens than the model attends to
    limit = min(context_length(model), running.max_tokens) if running else context_length(model)
    prompts, facts = _prompts_for_replies(work, chat, builtin, limit - options.max_new_tokens)
    if not prompts:
        return [], facts
    settings = running or EngineSettings(
        cluster.threads or cores(),
        # Of a whole context the keys and values may take more than all else: 8.8 GiB of Qwen3-0.6B's.
        max(len(tokens) for _, tokens in prompts) + options.max_new_tokens,
        kv_cache_bytes=cluster.kv_cache_bytes,
        gpus=cluster.gpus_on(work.session),
        start_s=cluster.start_s,
        answer_s=cluster.answer_s,
        cache=work.cache,
    )
    evaluator.load(model, settings, work.progress.note)
    replies = evaluator.generate(
        [tokens for _, tokens in prompts for _ in range(options.model_replies)],
        sampling=Sampling(max_new_tokens=options.max_new_tokens, stop_ids=chat.stop_ids),
        seeds=work.seed,
        on_progress=lambda done, total: work.progress.update(done, total, "replies"),
    )
    texts = [chat.text(reply.tokens) if reply.finish == "stop" else "" for reply in replies]
    pairs: list[Pair] = []
    for index, (conversation, _) in enumerate(prompts):
        first = index * options.model_replies
        pairs += builtin_tasks.pairs_from_model_replies(conversation, texts[first : first + options.model_replies])
    return pairs, facts


def _prompts_for_replies(
    work: Work, chat: Chat, conversations: list[Conversation], max_tokens: int
) -> tuple[list[tuple[Conversation, list[int]]], Facts]:
    """The prompts of at most max_tokens tokens that the chat template takes; facts about the others."""
    from pipelines.data.tokens.chat_refusals import TemplateRows

    template = TemplateRows(chat, "prompts of the built-in tasks", area="prompts")
    rows = [(f"conversation {conversation.id}", conversation.prompt) for conversation in conversations]
    taken = list(template.taken(rows, chat.prompts([messages for _, messages in rows])))
    prompts = [(conversations[index], tokens) for index, tokens in taken if len(tokens) <= max_tokens]
    facts, num_left_out = template.facts, len(taken) - len(prompts)
    for note in template.notes:
        work.progress.note(note)
    if num_left_out:
        facts["prompts/left_out"] = num_left_out
        work.progress.note(f"{num_left_out:,} prompts of the built-in tasks get no replies: with one they are longer "
                           f"than the model's context")  # fmt: skip
    return prompts, facts


def _read_conversations(work: Work, split: str) -> list[Conversation]:
    """A split of the earlier conversations; empty where no stage made any."""
    from pipelines.data.dialogues import conversations

    artifact = work.inputs.get("conversations")
    return [] if artifact is None else conversations.read(artifact.local() / split)


def _split_facts(split: str, pairs: list[Pair]) -> Facts:
    """Numbers of pairs of a split: in all, by rule and by language; and the mean length of both sides in characters."""
    cells = Counter(f"pairs/{split}_{value}" for pair in pairs for value in (pair.rule, pair.language))
    facts: Facts = {f"pairs/{split}": len(pairs), **dict(sorted(cells.items()))}
    if pairs:
        facts[f"pairs/{split}_chosen_characters"] = sum(len(pair.said[0]) for pair in pairs) / len(pairs)
        facts[f"pairs/{split}_rejected_characters"] = sum(len(pair.said[1]) for pair in pairs) / len(pairs)
    return facts


STAGE = Stage(
    kind="preferences",
    version=11,
    makes="preferences",
    takes=("conversations", "ai_feedback"),
    options=PreferencesOptions,
    cluster=EngineCluster,
    needs_for=lambda options: ("model",) if options.model_replies and options.builtin_tasks else (),
    uses_evaluator=True,
    run=run,
    rows="preferences",
)
