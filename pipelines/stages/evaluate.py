"""Evaluates a model on held-out data, through the run's one evaluator. It follows each stage that makes a model.

    corpus, tokens, conversations ──► material ──► request sets ──evaluator──► outputs ──every metric──► facts, rows

What is missing (no corpus, no conversations yet, tokens of another tokenizer, a previous model of another shape) leaves
its figures out. Facts go into figures.json, texts for people into samples.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipelines.engines import EngineCluster
from pipelines.stage import Facts, Options, Stage, Work

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.dialogues.conversations import Conversation
    from pipelines.evaluator import EngineSettings
    from pipelines.metrics.metric import Material, Outputs, Requests
    from pipelines.store.artifacts import Artifact


class EvaluateOptions(Options):
    held_out_bytes: int = Field(150_000, ge=1000, description="Bytes of held-out text of each language, at most")
    context: int | None = Field(
        None, ge=16, le=1_048_576, description="Tokens of a row at most, where the model can attend to so many; "
        "default: 4,096, and fewer for a large vocabulary, at least 512"
    )  # fmt: skip
    samples: int = Field(3, ge=0, le=100, description="Number of held-out texts of each language that are continued")
    prompt_tokens: int = Field(32, ge=1, le=4096, description="Tokens of a held-out text before its continuation")
    reply_tokens: int = Field(64, ge=1, le=4096, description="Tokens of a continuation at most")
    temperature: float = Field(0.8, ge=0, le=10, description="Sampling temperature of continuations; 0: greedy")
    held_out_prompts: int = Field(600, ge=1, description="Number of held-out conversations to reply to, at most")
    chat_reply_tokens: int = Field(32, ge=1, le=4096, description="Tokens of a reply to a conversation at most")
    chat_temperature: float = Field(0, ge=0, le=10, description="Sampling temperature of those replies; 0: greedy")
    shots: int = Field(4, ge=0, le=64, description="Number of examples in a few-shot prompt of the base model")
    sample_replies: int = Field(2, ge=0, le=100, description="Number of sample replies of each task and language")


def run(work: Work) -> Facts:
    from pipelines.metrics import METRICS, REQUEST_SETS
    from pipelines.metrics.metric import Outputs
    from pipelines.store.artifacts import write_json

    model = work.inputs["model"].local()
    settings = _settings(work, model)
    material = _material(work, model, settings.max_tokens)
    made = {key: make(material) for key, make in REQUEST_SETS.items()}
    requests = {key: request_set for key, request_set in made.items() if request_set and not request_set.is_empty}
    not_used = _conversations_not_used(work, material, made["replies"])
    if work.evaluator is not None:
        work.evaluator.count_anew()
    # This model last: the evaluator then holds it when the next evaluation starts with it.
    others = _outputs_of_others(work, model, settings, requests)
    outputs = _outputs(work, model, settings, _for_model(requests, "current"))
    facts: Facts = {}
    rows: list[dict[str, Any]] = []
    for metric in METRICS.values():
        key = metric.requests
        if key in requests:
            score = metric.score(material, requests[key], outputs.get(key, Outputs()), others.get(key))
            facts |= score.facts
            rows += score.rows
    facts |= not_used
    write_json(work.draft.out / "figures.json", facts)
    write_json(work.draft.out / "samples.json", rows)
    return facts | (_estimation_errors(work) if requests else {})


def _estimation_errors(work: Work) -> Facts:
    """plan/memory_error and plan/time_error: by which fraction the formulas of `rayse plan` are above (or, negative,
    below) what the engine took: memory since its process began, time of this evaluation, without its start."""
    if work.evaluator is None or work.evaluator.settings is None:  # there was nothing to request
        return {}
    comparison, seconds = work.evaluator.compare(work.progress.note)
    return {**comparison.errors(seconds)}


def _conversations_not_used(work: Work, material: Material, requests: Requests | None) -> Facts:
    """heldout/not_used_<reason>: numbers of held-out conversations that are not evaluated; a note says them too."""
    if requests is None or not requests.not_used:
        return {}
    why = {
        "too_long": f"longer than the context, {material.context}, with a reply of "
        f"{work.options.chat_reply_tokens} tokens",
        "template_refuses": "refused by the model's chat template",
        "tools": "with calls of tools, which the model's chat template does not write",
    }
    reasons = ", ".join(f"{count} {why[reason]}" for reason, count in requests.not_used.items())
    work.progress.note(
        f"{sum(requests.not_used.values())} of {len(material.conversations)} held-out conversations are left out: "
        f"{reasons}"
    )
    return {f"heldout/not_used_{reason}": count for reason, count in requests.not_used.items()}


GOES_TO = {"current": ("current",), "previous": ("previous",), "both": ("current", "previous"),
           "current and base": ("current", "base")}  # fmt: skip


def _for_model(requests: Mapping[str, Requests], model: str) -> dict[str, Requests]:
    """The request sets that go to this model: "current", "previous" or "base"."""
    return {key: request_set for key, request_set in requests.items() if model in GOES_TO[request_set.models]}


def _settings(work: Work, model: Path) -> EngineSettings:
    from cluster.resources import cores
    from pipelines.evaluator import EngineSettings
    from pipelines.inference.model_config import context_length, scoring_context

    cluster: EngineCluster = work.cluster
    return EngineSettings(
        threads=cluster.threads or cores(),
        max_tokens=min(work.options.context or scoring_context(model), context_length(model)),
        kv_cache_bytes=cluster.kv_cache_bytes,
        gpus=cluster.gpus_on(work.session),
        start_s=cluster.start_s,
        answer_s=cluster.answer_s,
        cache=work.cache,
    )


def _material(work: Work, model: Path, context: int) -> Material:
    """Everything that this model is measured with."""
    from pipelines.data.tokens.tokenizing import Encoder
    from pipelines.inference.reply import Sampling
    from pipelines.metrics import held_out
    from pipelines.metrics.metric import Material

    options: EvaluateOptions = work.options
    encoder = Encoder.open(model)
    corpus = work.inputs["corpus"].local() if "corpus" in work.inputs else None
    documents = held_out.choose_documents(corpus, bytes_per_language=options.held_out_bytes, seed=work.seed)
    if not documents:
        work.progress.note("no held-out text: bits per byte are not measured")
    return Material(
        encoder=encoder,
        context=context,
        seed=work.seed,
        documents=documents,
        unigram_counts=_unigram_counts(work, model),
        num_samples=options.samples,
        prompt_tokens=options.prompt_tokens,
        sampling=Sampling(
            temperature=options.temperature, max_new_tokens=options.reply_tokens, stop_ids=(encoder.eos_id,)
        ),
        max_reply_rows=options.sample_replies,
        num_shots=options.shots,
        continues_base="base" in work.inputs,
        **_chat_material(work, model),
    )


def _chat_material(work: Work, model: Path) -> dict[str, Any]:
    """The part of the material for replies in a chat: empty before the recipe's first conversations."""
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
        work.progress.note(f"no replies are evaluated: {error}")
        return {}
    folder = work.inputs["conversations"].local()
    split = conversations.read(folder / conversations.HELD_OUT)
    previous_is_base = "previous" in work.inputs and _knows_text_alone(work.inputs["previous"])
    return {
        "chat": chat,
        "conversations": held_out.choose_conversations(
            split, max_conversations=options.held_out_prompts, seed=work.seed
        ),
        "chat_sampling": Sampling(
            temperature=options.chat_temperature, max_new_tokens=options.chat_reply_tokens, stop_ids=stop_ids
        ),
        "previous_is_base": previous_is_base,
        "shots": _shots(folder) if previous_is_base else (),
    }


def _knows_text_alone(model: Artifact) -> bool:
    """Whether a model has only been pretrained: here, or elsewhere and without a chat template."""
    from pipelines.data.tokens.chat import Chat
    from pipelines.errors import UserError

    if model.manifest.stage != "base":
        return model.manifest.stage == "pretrain"
    try:
        Chat.open(model.local())
    except UserError:
        return True
    return False


def _shots(folder: Path) -> list[Conversation]:
    """Training conversations with an answer that can be checked."""
    from pipelines.data.dialogues import conversations

    return [c for c in conversations.read(folder / conversations.TRAIN) if c.answer is not None]


def _unigram_counts(work: Work, model: Path) -> dict[str, np.ndarray] | None:
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


def _outputs_of_others(
    work: Work, model: Path, settings: EngineSettings, requests: Mapping[str, Requests]
) -> dict[str, Outputs]:
    """Outputs of the base and of the previous model in the lineage for the requests that go to them. Empty for one with
    another tokenizer."""
    from pipelines.data.tokens.tokenizing import same_tokenizer

    of_folder: dict[Path, dict[str, Requests]] = {}  # once, where both are the same
    for name in ("base", "previous"):
        requested = _for_model(requests, name)
        if name not in work.inputs or not requested:
            continue
        folder = work.inputs[name].local()
        if same_tokenizer(folder, model):
            of_folder.setdefault(folder, {}).update(requested)
        else:
            work.progress.note(f"the {name} model has another tokenizer: no comparison with it")
    outputs: dict[str, Outputs] = {}
    for folder, requested in of_folder.items():
        outputs |= _outputs(work, folder, settings, requested, suffix=", model before")
    return outputs


def _outputs(
    work: Work, model: Path, settings: EngineSettings, requests: Mapping[str, Requests], *, suffix: str = ""
) -> dict[str, Outputs]:
    """Runs a model on every request set, showing progress."""
    from pipelines.metrics.metric import Outputs

    if not requests:
        return {}
    evaluator = work.evaluator
    assert evaluator is not None, "the run passes an evaluator to every evaluation"
    evaluator.load(model, settings, work.progress.note)
    outputs = {}
    for key, request_set in requests.items():
        rows = [row.tokens for row in request_set.rows]
        prompts = [prompt.tokens for prompt in request_set.prompts]
        seeds = [prompt.seed for prompt in request_set.prompts]
        show_rows = _show_progress(work, f"rows of {key}{suffix}", num_tokens=sum(map(len, rows)))
        show_prompts = _show_progress(work, f"prompts of {key}{suffix}")
        outputs[key] = Outputs(
            logprobs=evaluator.logprobs(rows, on_progress=show_rows),
            replies=evaluator.generate(prompts, sampling=request_set.sampling, seeds=seeds, on_progress=show_prompts),
        )
    return outputs


def _show_progress(work: Work, unit: str, *, num_tokens: int = 0) -> Callable[[int, int], None]:
    """Shows the number of requests that are done, and tokens per second where the number of tokens is known."""
    start = time.monotonic()

    def show(done: int, total: int) -> None:
        speed = {"tokens_per_s": num_tokens * done / total / (time.monotonic() - start)} if num_tokens else {}
        work.progress.update(done, total, unit, **speed)

    return show


STAGE = Stage(
    kind="evaluate",
    version=8,
    makes="evaluation",
    needs=("model",),
    takes=("corpus", "tokens", "conversations"),
    uses_evaluator=True,
    options=EvaluateOptions,
    cluster=EngineCluster,
    run=run,
)
