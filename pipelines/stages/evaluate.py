"""Judges a model on held-out data, through the run's one evaluator. It follows each stage that makes a model.

    corpus, tokens ──► material ──every metric──► requests ──evaluator──► answers ──► facts, figures.json, samples.json

What is missing (no corpus, tokens of another tokenizer, a previous model of another shape) leaves its figures out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipelines.stage import ClusterOptions, Facts, Options, Stage, Work

if TYPE_CHECKING:
    import numpy as np

    from pipelines.evaluator import EngineSettings
    from pipelines.metrics.metric import Answers, Material, Requests


class EvaluateOptions(Options):
    held_out_bytes: int = Field(150_000, ge=1000, description="text of each language that is judged")
    context: int = Field(4096, ge=16, le=1_048_576, description="longest row judged, at most what the model can see")
    samples: int = Field(3, ge=0, le=100, description="held-out texts of each language whose beginnings are continued")
    prompt_tokens: int = Field(32, ge=1, le=4096, description="length of such a beginning")
    reply_tokens: int = Field(64, ge=1, le=4096, description="longest continuation")
    temperature: float = Field(0.8, ge=0, le=10, description="of samples; 0 takes the likeliest token")


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

    model = work.inputs["model"].local()
    settings = _settings(work, model)
    material = _material(work, model, settings.max_tokens)
    asked = {name: metric.requests(material) for name, metric in METRICS.items()}
    wanted = {name: requests for name, requests in asked.items() if requests is not None}
    before = _previous_answers(work, model, settings, {n: r for n, r in wanted.items() if r.compares})
    answers = _answers(work, model, settings, wanted) if wanted else {}
    facts: Facts = {}
    rows: list[dict[str, Any]] = []
    for name, requests in wanted.items():
        score = METRICS[name].score(material, requests, answers[name], before.get(name))
        facts |= score.facts
        rows += score.rows
    _write(work.draft.out / "figures.json", facts)
    _write(work.draft.out / "samples.json", rows)
    return facts


def _settings(work: Work, model: Path) -> EngineSettings:
    from pipelines.evaluator import EngineSettings
    from pipelines.rollout import sampler

    cluster: EvaluateCluster = work.cluster
    return EngineSettings(
        threads=cluster.threads or len(os.sched_getaffinity(0)),
        max_tokens=min(work.options.context, sampler.context(model)),
        kv_cache_bytes=cluster.kv_cache_bytes,
        gpus=cluster.gpus,
        start_s=cluster.start_s,
        answer_s=cluster.answer_s,
        cache=work.cache,
    )


def _material(work: Work, model: Path, context: int) -> Material:
    """What there is to judge this model with."""
    from pipelines.data.tokenizing import Encoder
    from pipelines.metrics import held_out
    from pipelines.metrics.metric import Material
    from pipelines.rollout.reply import Sampling

    options: EvaluateOptions = work.options
    encoder = Encoder.open(model)
    documents = []
    if "corpus" in work.inputs:
        corpus = work.inputs["corpus"].local()
        documents = held_out.choose(corpus, bytes_per_language=options.held_out_bytes, seed=work.seed)
    if not documents:
        work.progress.note("no held-out text: nothing to measure bits per byte on")
    return Material(
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
    )


def _unigram(work: Work, model: Path) -> dict[str, np.ndarray] | None:
    """Counts of each token in the training text of each language, if they were counted with this model's tokenizer."""
    import pyarrow.parquet as pq

    if "tokens" not in work.inputs:
        return None
    tokens = work.inputs["tokens"].local()
    if not _same_tokenizer(tokens / "tokenizer", model):
        work.progress.note("the tokens were made with another tokenizer than this model's: no unigram figure")
        return None
    table = pq.read_table(tokens / "unigram.parquet")
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _same_tokenizer(first: Path, second: Path) -> bool:
    return (first / "tokenizer.json").read_bytes() == (second / "tokenizer.json").read_bytes()


def _previous_answers(
    work: Work, model: Path, settings: EngineSettings, wanted: dict[str, Requests]
) -> dict[str, Answers]:
    """What the model before this one in the lineage answers to the same requests.

    Only one that the live engine can take in turn: the same shape, the same tokenizer."""
    from pipelines.rollout import sampler

    if "previous" not in work.inputs or not wanted:
        return {}
    previous = work.inputs["previous"].local()
    if sampler.shape(previous) != sampler.shape(model) or not _same_tokenizer(previous, model):
        work.progress.note("the model before has another shape or tokenizer: its answers are not shown beside these")
        return {}
    return _answers(work, previous, settings, wanted)


def _answers(work: Work, model: Path, settings: EngineSettings, wanted: dict[str, Requests]) -> dict[str, Answers]:
    """Asks a model everything, showing progress."""
    from pipelines.metrics.metric import Answers

    evaluator = work.evaluator
    assert evaluator is not None, "the run gives an evaluator to every evaluation"
    evaluator.load(model, settings, work.progress.note)
    answers = {}
    for name, requests in wanted.items():
        rows = [row.tokens for row in requests.rows]
        prompts = [prompt.tokens for prompt in requests.prompts]
        seeds = [prompt.seed for prompt in requests.prompts]
        answers[name] = Answers(
            logprobs=evaluator.logprobs(rows, _tell(work, f"rows of {name}", sum(map(len, rows)))),
            replies=evaluator.generate(
                prompts, sampling=requests.sampling, seeds=seeds, tell=_tell(work, f"replies of {name}")
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


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


STAGE = Stage(
    kind="evaluate",
    version=1,
    makes="evaluation",
    needs=("model",),
    takes=("corpus", "tokens"),
    options=EvaluateOptions,
    cluster=EvaluateCluster,
    run=run,
)
