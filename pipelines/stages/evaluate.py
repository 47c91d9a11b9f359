"""Judges a model on held-out data, through the run's one evaluator. It follows each stage that makes a model.

    corpus, tokens, conversations ──► material ──every metric──► requests ──evaluator──► answers ──► facts, rows

What is missing (no corpus, no conversations yet, tokens of another tokenizer, a previous model of another shape) leaves
its figures out. Facts go into figures.json, what people read into samples.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipelines.stage import ClusterOptions, Facts, Options, Stage, Work

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.dialogues.conversations import Conversation
    from pipelines.evaluator import EngineSettings
    from pipelines.metrics.metric import Answers, Material, Requests

UNTAUGHT = ("pretrain", "base")  # stages whose models have only ever seen plain text


class EvaluateOptions(Options):
    held_out_bytes: int = Field(150_000, ge=1000, description="text of each language that is judged")
    context: int = Field(4096, ge=16, le=1_048_576, description="longest row judged, at most what the model can see")
    samples: int = Field(3, ge=0, le=100, description="held-out texts of each language whose beginnings are continued")
    prompt_tokens: int = Field(32, ge=1, le=4096, description="length of such a beginning")
    reply_tokens: int = Field(64, ge=1, le=4096, description="longest continuation")
    temperature: float = Field(0.8, ge=0, le=10, description="of samples; 0 takes the likeliest token")
    held_out_prompts: int = Field(600, ge=1, description="held-out conversations that are replied to, at most")
    chat_reply_tokens: int = Field(32, ge=1, le=4096, description="longest reply to them")
    chat_temperature: float = Field(0, ge=0, le=10, description="of those replies; 0 takes the likeliest token")
    shots: int = Field(4, ge=0, le=64, description="examples in a prompt of the base model, which knows no chat")
    shown_replies: int = Field(2, ge=0, le=100, description="replies of each task and language that people are shown")


class EvaluateCluster(ClusterOptions):
    threads: int | None = Field(None, ge=1, description="of the evaluator on a CPU; default: one for each core")
    gpus: float = Field(0, ge=0, le=1, description="share of a GPU that the evaluator keeps; stages then have the rest")
    kv_cache_bytes: int | None = Field(
        None, ge=2**24, description="memory for keys and values; default: enough, up to 4 GiB"
    )
    start_s: float = Field(900, gt=0, description="seconds for the evaluator to stand")
    answer_s: float = Field(600, gt=0, description="seconds for a batch: 64 replies or 33,000 tokens")


def run(work: Work) -> Facts:
    from pipelines.metrics import METRICS
    from pipelines.metrics.metric import Answers
    from pipelines.store.artifacts import write_json

    model = work.inputs["model"].local()
    settings = _settings(work, model)
    material = _material(work, model, settings.max_tokens)
    asked = {name: metric.requests(material) for name, metric in METRICS.items()}
    wanted = {name: requests for name, requests in asked.items() if requests is not None}
    first: dict[int, str] = {}  # who asks the same shares the answers of the first to ask
    for name, requests in wanted.items():
        first.setdefault(id(requests), name)
    once = {name: wanted[name] for name in first.values()}
    before = _previous_answers(work, model, settings, {n: r for n, r in once.items() if r.asks != "model"})
    answers = _answers(work, model, settings, {n: r for n, r in once.items() if r.asks != "previous"})
    facts: Facts = {}
    rows: list[dict[str, Any]] = []
    for name, requests in wanted.items():
        asker = first[id(requests)]
        score = METRICS[name].score(material, requests, answers.get(asker, Answers()), before.get(asker))
        facts |= score.facts
        rows += score.rows
    write_json(work.draft.out / "figures.json", facts)
    write_json(work.draft.out / "samples.json", rows)
    return facts


def _settings(work: Work, model: Path) -> EngineSettings:
    from cluster.resources import cores
    from pipelines.evaluator import EngineSettings
    from pipelines.inference.model_config import context_length

    cluster: EvaluateCluster = work.cluster
    return EngineSettings(
        threads=cluster.threads or cores(),
        max_tokens=min(work.options.context, context_length(model)),
        kv_cache_bytes=cluster.kv_cache_bytes,
        gpus=cluster.gpus,
        start_s=cluster.start_s,
        answer_s=cluster.answer_s,
        cache=work.cache,
    )


def _material(work: Work, model: Path, context: int) -> Material:
    """What there is to judge this model with."""
    from pipelines.data.tokens.tokenizing import Encoder
    from pipelines.inference.reply import Sampling
    from pipelines.metrics import held_out
    from pipelines.metrics.metric import Material

    options: EvaluateOptions = work.options
    encoder = Encoder.open(model)
    corpus = work.inputs["corpus"].local() if "corpus" in work.inputs else None
    documents = held_out.choose(corpus, bytes_per_language=options.held_out_bytes, seed=work.seed)
    if not documents:
        work.progress.note("no held-out text: nothing to measure bits per byte on")
    material = Material(
        encoder=encoder,
        context=context,
        seed=work.seed,
        documents=documents,
        unigram=_unigram(work, model),
        num_samples=options.samples,
        prompt_tokens=options.prompt_tokens,
        sampling=Sampling(
            temperature=options.temperature, max_new_tokens=options.reply_tokens, stop_ids=(encoder.eos_id,)
        ),
        num_shown=options.shown_replies,
        num_shots=options.shots,
        **_talk(work, model),
    )
    asked = len(material.asked.prompts) if material.asked is not None else 0
    if asked < len(material.conversations):
        work.progress.note(
            f"{len(material.conversations) - asked} of {len(material.conversations)} held-out conversations are left "
            f"out: with a reply of {options.chat_reply_tokens} tokens they are longer than the context, {context}"
        )
    return material


def _talk(work: Work, model: Path) -> dict[str, Any]:
    """What of the material is for replies in a chat: none before the recipe's first conversations."""
    from pipelines.data.dialogues import conversations
    from pipelines.data.tokens.chat import Chat
    from pipelines.errors import UserError
    from pipelines.inference.reply import Sampling
    from pipelines.metrics import held_out

    if "conversations" not in work.inputs:
        return {}
    options: EvaluateOptions = work.options
    try:
        chat = Chat.open(model)
        stop_ids = chat.stop_ids
    except UserError as error:
        work.progress.note(f"no replies are judged: {error}")
        return {}
    folder = work.inputs["conversations"].local()
    split = conversations.read(folder / conversations.HELD_OUT)
    previous_is_base = "previous" in work.inputs and work.inputs["previous"].manifest.stage in UNTAUGHT
    return {
        "chat": chat,
        "conversations": held_out.choose_conversations(split, most=options.held_out_prompts, seed=work.seed),
        "chat_sampling": Sampling(
            temperature=options.chat_temperature, max_new_tokens=options.chat_reply_tokens, stop_ids=stop_ids
        ),
        "previous_is_base": previous_is_base,
        "shots": _shots(folder) if previous_is_base else (),
    }


def _shots(folder: Path) -> list[Conversation]:
    """Training conversations with an answer that can be checked."""
    from pipelines.data.dialogues import conversations

    return [one for one in conversations.read(folder / conversations.TRAIN) if one.answer is not None]


def _unigram(work: Work, model: Path) -> dict[str, np.ndarray] | None:
    """Counts of each token in the training text of each language, if they were counted with this model's tokenizer."""
    import pyarrow.parquet as pq

    from pipelines.data.tokens.tokenizing import same_tokenizer

    if "tokens" not in work.inputs:
        return None
    tokens = work.inputs["tokens"].local()
    if not same_tokenizer(tokens / "tokenizer", model):
        work.progress.note("the tokens were made with another tokenizer than this model's: no unigram figure")
        return None
    table = pq.read_table(tokens / "unigram.parquet")
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _previous_answers(
    work: Work, model: Path, settings: EngineSettings, wanted: dict[str, Requests]
) -> dict[str, Answers]:
    """What the model before this one in the lineage answers to the same requests.

    Only one that the live engine can take in turn: the same shape, the same tokenizer."""
    from pipelines.data.tokens.tokenizing import same_tokenizer
    from pipelines.inference.model_config import shape

    if "previous" not in work.inputs or not wanted:
        return {}
    previous = work.inputs["previous"].local()
    if shape(previous) != shape(model) or not same_tokenizer(previous, model):
        work.progress.note("the model before has another shape or tokenizer: nothing is compared with its answers")
        return {}
    return _answers(work, previous, settings, wanted, who=" by the model before")


def _answers(
    work: Work, model: Path, settings: EngineSettings, wanted: dict[str, Requests], *, who: str = ""
) -> dict[str, Answers]:
    """Asks a model everything, showing progress."""
    from pipelines.metrics.metric import Answers

    if not wanted:
        return {}
    evaluator = work.evaluator
    assert evaluator is not None, "the run gives an evaluator to every evaluation"
    evaluator.load(model, settings, work.progress.note)
    answers = {}
    for name, requests in wanted.items():
        rows = [row.tokens for row in requests.rows]
        prompts = [prompt.tokens for prompt in requests.prompts]
        seeds = [prompt.seed for prompt in requests.prompts]
        answers[name] = Answers(
            logprobs=evaluator.logprobs(rows, _tell(work, f"rows of {name}{who}", sum(map(len, rows)))),
            replies=evaluator.generate(
                prompts, sampling=requests.sampling, seeds=seeds, tell=_tell(work, f"replies of {name}{who}")
            ),
        )
    return answers


def _tell(work: Work, unit: str, num_tokens: int = 0) -> Callable[[int, int], None]:
    """Shows how many requests are answered, and how fast where it is known how many tokens they are."""
    begin = time.monotonic()

    def tell(done: int, total: int) -> None:
        speed = {"tokens_per_s": num_tokens * done / total / (time.monotonic() - begin)} if num_tokens else {}
        work.progress.update(done, total, unit, **speed)

    return tell


STAGE = Stage(
    kind="evaluate",
    version=2,
    makes="evaluation",
    needs=("model",),
    takes=("corpus", "tokens", "conversations"),
    uses_evaluator=True,
    options=EvaluateOptions,
    cluster=EvaluateCluster,
    run=run,
)
