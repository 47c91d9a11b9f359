"""Quantises a model, measures both, and records which one to serve on this machine.

    model ──────────────────────────────────────────────► vLLM ──► bits per byte, tokens/s ─┐
      └──llmcompressor──► model in 8 or 4 bits, smaller ──► vLLM ──► the same ────────────────┴──► choice.json

Both run on the same rows and prompts, with the same threads, each in a fresh process: so no evaluation follows. Whether
int8 is faster depends on the processor's instructions, so it is measured. The original to be served is the artifact's
parent.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipelines.engines import EngineCluster
from pipelines.stage import Facts, Options, Stage, Work

if TYPE_CHECKING:
    from pipelines.evaluator import Evaluator
    from pipelines.inference.estimates import Comparison
    from pipelines.metrics.metric import Material

CHOICE = "choice.json"
QUALITIES = ("heldout/bits_per_byte", "heldout/loss_nats")
BEFORE = re.compile(r"(bits_per_byte|loss_nats)")  # in the name of a figure, which gets _before for the original model
NUM_PROMPTS = 64  # of a timed round: as many as the engine runs at once
PROMPT_TOKENS, REPLY_TOKENS = 32, 64  # of each, at most, as far as the model's context allows
NUM_CONVERSATIONS = 200  # held-out ones that are scored, at most
WARM_UP_TOKENS = 4  # of each reply, before rounds are timed
NUM_ROUNDS = 3  # timed, at most; the fastest counts, since other work can only slow one down
ENOUGH_S = 20.0  # of timed rounds: long ones vary little


class QuantiseOptions(Options):
    scheme: Literal["int8", "fp8", "int4"] = Field(
        "int8", description="Quantisation scheme; int8: weights and activations, on CPUs and GPUs; fp8: on GPUs from "
                            "Ada and Hopper on; int4: weights, calibrated on the corpus, on GPUs")  # fmt: skip
    calibration_documents: int = Field(
        256, ge=1, description="Number of documents of the corpus, about, that int4 is calibrated on, a row each"
    )
    serve: Literal["auto", "quantised", "original"] = Field(
        "auto", description="Model to serve; auto: the faster one here, if quantising raised bits per byte by less "
                            "than max_change")  # fmt: skip
    max_change: float = Field(
        0.01,
        gt=0,
        le=1,
        description="Fraction by which bits per byte, or the loss on replies, may grow for "
        "auto to choose the quantised model",
    )
    held_out_bytes: int = Field(
        150_000, ge=1000, description="Bytes of held-out text of each language, at most, as in evaluate"
    )
    context: int | None = Field(None, ge=16, le=1_048_576, description="Tokens of a row at most, as in evaluate")


class QuantiseCluster(EngineCluster):
    quantise_s: float = Field(7200, gt=0, description="Seconds within which quantising must be done")


@dataclass(frozen=True)
class Measured:
    """Measurements of an engine. quality: bits per byte of held-out text, in all and by language; without text the loss
    on the replies of held-out conversations; empty without either."""

    quality: Facts
    tokens_per_s: float
    comparison: Comparison | None = None  # of its engine, and the seconds that its work took
    seconds: float = 0.0


def run(work: Work) -> Facts:
    from pipelines.learning import quantising
    from pipelines.training import copy_tokenizer

    model, out = work.inputs["model"].local(), work.draft.out
    check(work, model)
    material = held_out_material(work, model)
    quantiser = quantise(work, model)
    copy_tokenizer(model, out)
    before, after = compare(work, (model, out), material)
    return {
        **{BEFORE.sub(r"\1_before", name): value for name, value in before.quality.items()},
        **after.quality,
        "model/bytes_before": quantising.weight_bytes(model),
        "model/bytes": quantising.weight_bytes(out),
        "engine/tokens_per_s_before": before.tokens_per_s,
        "engine/tokens_per_s": after.tokens_per_s,
        **choose(work, before, after),
        **estimation_errors(quantiser, (before, after)),
    }


def check(work: Work, model: Path) -> None:
    """Raises UserError where the options do not fit the model or this machine, before an engine is started."""
    from pipelines.errors import UserError
    from pipelines.inference.model_config import quantisation
    from pipelines.learning.quantising import SCHEMES
    from pipelines.store.provenance import int8_saturates

    options: QuantiseOptions = work.options
    if quantisation(model):
        raise UserError(f"{work.name}: the model {model} is quantised already; select another with `from:`")
    if not SCHEMES[options.scheme].on_cpu and not work.cluster.gpus_on(work.session):
        fit = ", ".join(name for name, scheme in SCHEMES.items() if scheme.on_cpu)
        raise UserError(
            f"{work.name}: scheme {options.scheme} is not run by vLLM on CPUs; expected {fit}, or a GPU: cluster: "
            f"{{{work.name}: {{gpus: 1}}}}"
        )
    if options.scheme == "int8" and not work.cluster.gpus_on(work.session) and int8_saturates():
        work.progress.note(
            "this CPU has no VNNI: its INT8 products saturate where numbers are large, so the quantised model may be "
            "worse here than on a newer CPU; heldout/* shows by how much"
        )
    if SCHEMES[options.scheme].calibrated and "corpus" not in work.inputs:
        raise UserError(f"{work.name}: scheme {options.scheme} is calibrated on text; put a stage corpus before it")


def held_out_material(work: Work, model: Path) -> Material:
    """The held-out text that evaluations use, as material for this model; without text the held-out conversations."""
    from pipelines.data.dialogues import conversations
    from pipelines.data.tokens.chat import Chat
    from pipelines.data.tokens.tokenizing import Encoder
    from pipelines.errors import UserError
    from pipelines.inference.model_config import context_length, scoring_context
    from pipelines.inference.reply import Sampling
    from pipelines.metrics import held_out
    from pipelines.metrics.metric import Material

    options: QuantiseOptions = work.options
    corpus = work.inputs["corpus"].local() if "corpus" in work.inputs else None
    documents = held_out.choose_documents(corpus, bytes_per_language=options.held_out_bytes, seed=work.seed)
    context = min(options.context or scoring_context(model), context_length(model))
    material = Material(encoder=Encoder.open(model), context=context, seed=work.seed, documents=documents)
    if documents:
        return material
    if "conversations" not in work.inputs:
        work.progress.note("neither held-out text nor conversations: what quantising changes is not measured")
        return material
    split = conversations.read(work.inputs["conversations"].local() / conversations.HELD_OUT)
    chosen = held_out.choose_conversations(split, max_conversations=NUM_CONVERSATIONS, seed=work.seed)
    sampling = Sampling(temperature=0.0, max_new_tokens=1)  # conversations are only scored
    try:
        return replace(material, chat=Chat.open(model), conversations=chosen, chat_sampling=sampling)
    except UserError as error:
        work.progress.note(f"what quantising changes is not measured: {error}")
        return material


def compare(work: Work, folders: tuple[Path, Path], material: Material) -> list[Measured]:
    """Bits per byte and speed of both models. On a CPU with both engines up, so that whatever else the machine does
    slows both; on a GPU one after the other."""
    if work.cluster.gpus_on(work.session):
        return [measured for folder in folders for measured in measure(work, [folder], material)]
    return measure(work, folders, material)


def measure(work: Work, folders: Sequence[Path], material: Material) -> list[Measured]:
    """Bits per byte and speed of models, each in a fresh engine; the engines take turns."""
    from concurrent.futures import ThreadPoolExecutor

    from pipelines.evaluator import EngineSettings, Evaluator

    cluster: QuantiseCluster = work.cluster
    settings = EngineSettings(
        threads=threads(work), max_tokens=material.context, kv_cache_bytes=cluster.kv_cache_bytes,
        gpus=cluster.gpus_on(work.session),        start_s=cluster.start_s, answer_s=cluster.answer_s, cache=work.cache,
    )  # fmt: skip
    engines = [Evaluator(work.session) for _ in folders]
    try:
        with ThreadPoolExecutor(len(engines)) as pool:
            list(pool.map(lambda engine, folder: engine.load(folder, settings, work.progress.note), engines, folders))
        qualities = [quality(work, engine, material) for engine in engines]
        rates = speeds(engines, material)
        comparisons = [engine.compare(work.progress.note) for engine in engines]
        return [Measured(q, rate, *c) for q, rate, c in zip(qualities, rates, comparisons, strict=True)]
    finally:
        for engine in engines:
            engine.close()


def quality(work: Work, engine: Evaluator, material: Material) -> Facts:
    """Measured.quality of an engine."""
    from pipelines.metrics import bits_per_byte, reply_loss
    from pipelines.metrics.exchanges import chat_prompts
    from pipelines.metrics.metric import Outputs

    metric = bits_per_byte if material.documents else reply_loss
    requests = bits_per_byte.windows_of_documents(material) if material.documents else chat_prompts(material)
    if requests is None or requests.is_empty:
        return {}
    rows = [row.tokens for row in requests.rows]
    logprobs = engine.logprobs(rows, lambda done, total: work.progress.update(done, total, "rows"))
    facts = metric.score(material, requests, Outputs(logprobs=logprobs), None).facts
    kept = (*QUALITIES, *(f"heldout/bits_per_byte_{language}" for language in material.languages))
    return {name: facts[name] for name in kept if name in facts}


def speeds(engines: Sequence[Evaluator], material: Material) -> list[float]:
    """Tokens per second of each engine: 64 replies at once, of one length, greedy; both have as many rounds."""
    import numpy as np

    from pipelines.inference.reply import Sampling

    prompt_tokens = min(PROMPT_TOKENS, material.context // 4)
    sampling = Sampling(temperature=0.0, max_new_tokens=min(REPLY_TOKENS, material.context // 2))
    rng = np.random.default_rng(material.seed)
    prompts = rng.integers(0, material.encoder.vocabulary, (NUM_PROMPTS, prompt_tokens)).tolist()
    rates: list[list[float]] = [[] for _ in engines]
    for engine in engines:
        engine.generate(prompts, sampling=replace(sampling, max_new_tokens=WARM_UP_TOKENS))
    began = time.perf_counter()
    for _ in range(NUM_ROUNDS):
        for engine_rates, engine in zip(rates, engines, strict=True):
            start = time.perf_counter()
            replies = engine.generate(prompts, sampling=sampling)
            engine_rates.append(sum(len(reply.tokens) for reply in replies) / (time.perf_counter() - start))
        if time.perf_counter() - began > ENOUGH_S:
            break
    return [max(engine_rates) for engine_rates in rates]


def estimation_errors(quantiser: Comparison, engines: Sequence[Measured]) -> Facts:
    """plan/memory_error and plan/time_error: by which fraction the formulas of `rayse plan` are above (or, negative,
    below) what was taken: memory of the process that was largest, time of both engines' work, without their start."""
    from pipelines.inference.estimates import Comparison

    of_engines = [measured.comparison for measured in engines if measured.comparison is not None]
    processes = [quantiser, *of_engines]
    largest = max(processes, key=lambda process: process.memory_bytes)
    comparison = Comparison(
        largest.memory_bytes,
        largest.planned_bytes,
        sum(each.planned_s for each in of_engines) if all(each.planned_s for each in of_engines) else 0.0,
    )
    return {**comparison.errors(sum(measured.seconds for measured in engines))}


def quantise(work: Work, model: Path) -> Comparison:
    """Writes the quantised model into the artifact, in a separate process that ends afterwards. Returns the memory that
    it took, and that the plan says."""
    from cluster.gang import Gang
    from cluster.resources import Resources
    from pipelines.inference.estimates import Comparison
    from pipelines.learning import quantising

    options: QuantiseOptions = work.options
    cluster: QuantiseCluster = work.cluster
    work.session.start()
    resources = Resources(1, cpus_per_worker=0, gpus_per_worker=cluster.gpus_on(work.session), threads=threads(work))
    name = "pipelines.learning.quantising:Quantiser"
    with Gang(name, 1, resources=resources, name=work.name, threads=threads(work)) as gang:
        rows = calibration(work, model)
        (memory_bytes,) = gang.call(
            "quantise", model, work.draft.out, options.scheme, rows, deadline_s=cluster.quantise_s
        )
    work.progress.note(f"quantised to {options.scheme}")
    planned_bytes = sum(quantising.process_bytes(quantising.weight_bytes(model)).values())
    return Comparison(memory_bytes, planned_bytes, 0.0)


def calibration(work: Work, model: Path) -> list[list[int]]:
    """Beginnings of about calibration_documents training documents as token ids; empty where the scheme needs none."""
    from pipelines.data.corpus import excerpts
    from pipelines.data.tokens.tokenizing import Encoder
    from pipelines.inference.model_config import context_length
    from pipelines.learning.quantising import SCHEMES

    options: QuantiseOptions = work.options
    if not SCHEMES[options.scheme].calibrated:
        return []
    corpus = work.inputs["corpus"].local()
    excerpt = excerpts.choose(corpus, "train", min_bytes=0, seed=work.seed)
    fraction = options.calibration_documents / max(sum(excerpt.split_rows.values()), 1)
    fractions = dict.fromkeys(excerpt.split_rows, fraction)
    rows = Encoder.open(model).encode(list(excerpt.sample(fractions, work.seed)))
    return [row[: context_length(model)].tolist() for row in rows if len(row)]


def choose(work: Work, before: Measured, after: Measured) -> Facts:
    """Chooses the model to serve, and writes choice.json for the server."""
    from pipelines.store.artifacts import write_json

    options: QuantiseOptions = work.options
    faster = "quantised" if after.tokens_per_s > before.tokens_per_s else "original"
    facts: Facts = {"serve/faster": faster}
    chosen = faster if options.serve == "auto" else options.serve
    for name in (name for name in QUALITIES if name in after.quality):
        change = float(after.quality[name]) / float(before.quality[name]) - 1
        facts[f"{name}_change"] = change
        if change > options.max_change:
            what = "bits per byte" if name == QUALITIES[0] else "the loss on replies"
            work.progress.note(f"{what} grew by {change:.1%}, more than {options.max_change:.1%}")
            chosen = "original" if options.serve == "auto" else chosen
    facts["serve/chosen"] = chosen
    speeds = f"{after.tokens_per_s:,.0f} tokens/s, {before.tokens_per_s:,.0f} before"
    work.progress.note(f"to serve: {chosen} ({speeds}; serve: {options.serve})")
    record = {"serve": chosen, "requested": options.serve, "faster": faster}
    write_json(work.draft.out / CHOICE, record)
    return facts


def threads(work: Work) -> int:
    from cluster.resources import cores

    return work.cluster.threads or cores()


STAGE = Stage(
    kind="quantise",
    version=3,
    makes="model",
    needs=("model",),
    takes=("corpus", "conversations"),
    options=QuantiseOptions,
    cluster=QuantiseCluster,
    run=run,
    evaluated=False,
)
