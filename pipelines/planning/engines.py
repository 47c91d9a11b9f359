"""Estimates of the stages that run an engine and train nothing: evaluate, quantise.

How much they read is not known before the data is: texts and conversations count by the limits in their options, and
by the sizes of the sources' files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.inference import engine_size
from pipelines.inference.engine_size import ITEM_BYTES
from pipelines.inference.estimates import Engine, EngineWork, Speed, engine_bytes, engine_seconds
from pipelines.inference.model_config import dtype_in, engine_dtype_of, scored_tokens
from pipelines.learning.shapes import ModelShape
from pipelines.planning.data import BYTES_PER_TOKEN, EXCHANGE_TOKENS, file_bytes
from pipelines.planning.machines import Machines, gib
from pipelines.planning.models import config_of, with_adapters
from pipelines.planning.training import Estimate, NotPlanned
from pipelines.recipe.reader import Entry, Recipe

ENGINE_KINDS = ("evaluate", "quantise")
STORED_BYTES = {"int8": 1.0, "fp8": 1.0, "int4": 0.5}  # of a linear layer's weight
# Of quantise: prompts at once, tokens of each, of its reply, and of one before; rounds at most, until so many seconds.
TIMED = EngineWork(64, 64 * 32, 64 * 64, steps=64)
WARM_UP = EngineWork(64, 64 * 32, 64 * 4, steps=4)
MAX_ROUNDS, ENOUGH_S = 3, 20.0


def estimate_engine(recipe: Recipe, entry: Entry, evaluated: str, machines: Machines) -> Estimate:
    """What the evaluation of a stage's model, or quantising it, would cost.

    evaluated: name of the stage that makes the model. Raises UserError where its base is not known, NotPlanned for a
    config of a kind not known here."""
    made_by = recipe.entry(evaluated)
    options, quantises = entry.options.model_dump(), entry.stage.kind == "quantise"
    try:
        config = config_of(recipe, made_by)
        model = with_adapters(json.dumps(config), "{}")
        engine, speed = _engine(model, dtype_in(config), entry, machines)
        held_out = _held_out(recipe, made_by, entry)
        work = _of_both(held_out, engine, speed) if quantises else _work(held_out, options, on_cpu=engine.on_cpu)
        time_s, memory = engine_seconds(engine, work, speed), engine_bytes(engine)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # configs name things in many ways
        raise NotPlanned(f"the config of its model is of a kind not known here ({error})") from error
    engines = 2 if quantises and engine.on_cpu else 1  # on a CPU the original and the quantised model at once
    needed = engines * sum(memory.values())
    fits = needed <= machines.memory_bytes
    where = f"{engines} × {'CPU' if engine.on_cpu else machines.name}"
    why = f"on {where}"
    if not fits:
        why = f"{engines} of its engines need {gib(needed)} of {gib(machines.memory_bytes)} that {machines.name} has; "
        why += "lower context or kv_cache_bytes, or take a larger one"
    disk = _quantised_bytes(model, dtype_in(config), options["scheme"]) if quantises else 0
    return Estimate(memory, disk, time_s, None, engine.parameters, None, where, fits, why, {})


def _engine(model: ModelShape, stored: str, entry: Entry, machines: Machines) -> tuple[Engine, Speed]:
    """The engine, and the speed of its threads or GPU. stored: type of the model's weights."""
    options, cluster, config = entry.options.model_dump(), entry.cluster.model_dump(), model.config
    on_cpu = not machines.on_gpu or cluster["gpus"] == 0
    dtype, parameters = engine_dtype_of(stored, on_cpu=on_cpu), model.parameters
    context = config["max_position_embeddings"]
    max_tokens = min(options["context"] or scored_tokens(config["vocab_size"], context), context)
    weights = ITEM_BYTES[dtype] * parameters
    if on_cpu:
        size, limit = engine_size.CPU, engine_size.MAX_EVALUATOR_KV_BYTES
        rate = machines.flops_per_s if dtype == "float32" else machines.bfloat16_flops_per_s or machines.flops_per_s
        threads = min(cluster["threads"] or machines.per_node, machines.per_node)
        speed = Speed(
            threads * rate, threads * machines.bytes_per_s, machines.operation_s,
            machines.read_bytes_per_s, machines.busy_operation_s if threads > 1 else machines.operation_s,
        )  # fmt: skip
    else:
        size, speed = engine_size.GPU, Speed(machines.flops_per_s, machines.bytes_per_s)
        beside = machines.memory_bytes - weights - engine_size.WORKSPACE_BYTES
        limit = int(engine_size.GPU_KV_FRACTION * max(0, beside))
    cache = cluster["kv_cache_bytes"] or engine_size.kv_bytes(config, max_tokens, dtype, size=size, max_bytes=limit)
    return Engine(config, parameters, weights, dtype, max_tokens, cache, on_cpu), speed


@dataclass(frozen=True)
class HeldOut:
    """What a model is measured with. base, previous: whether those models are measured too."""

    text_tokens: int
    languages: int
    conversations: int
    base: bool
    previous: bool


def _held_out(recipe: Recipe, made_by: Entry, entry: Entry) -> HeldOut:
    """What is held out before a stage that makes a model; for quantise what it has as inputs itself."""
    names = [each.name for each in recipe.entries]
    if entry.stage.kind == "quantise":
        before = {kind: recipe.entry(name) for kind, name in entry.inputs.items()}
    else:
        before = {each.stage.makes: each for each in recipe.entries[: names.index(made_by.name)]}
    corpus, rows = before.get("corpus") or before.get("images"), before.get("conversations")
    languages = len({str(source.language) for source in corpus.sources.values()}) if corpus else 0
    text = languages * entry.options.model_dump()["held_out_bytes"]
    return HeldOut(
        text_tokens=round(_at_most(text, corpus) / BYTES_PER_TOKEN),
        languages=languages,
        conversations=_conversations(rows) if rows else 0,
        base=names[0] == "base" and made_by.name != "base",
        previous="model" in made_by.inputs,
    )


def _at_most(limit: float, entry: Entry | None) -> float:
    """A limit, or the part of an entry's files that it holds out."""
    size = file_bytes(entry) if entry else None
    return limit if entry is None or size is None else min(limit, entry.options.model_dump()["held_out"] * size)


def _conversations(entry: Entry) -> int:
    """Held-out conversations: of rows of a usual size, or of the built-in tasks as many as are asked for."""
    options = entry.options.model_dump()
    size = file_bytes(entry)
    if size is None or options["builtin_tasks"]:
        return 2**31
    return min(options["max_held_out"], max(1, round(_at_most(size, entry) / (EXCHANGE_TOKENS * BYTES_PER_TOKEN))))


def _of_both(held_out: HeldOut, engine: Engine, speed: Speed) -> EngineWork:
    """All that the two engines of quantise do: they score the text, and write replies in rounds."""
    rows = held_out.text_tokens // 512 or 200
    each = _scoring(rows, held_out.text_tokens or min(rows, held_out.conversations) * EXCHANGE_TOKENS) + WARM_UP
    rounds = min(MAX_ROUNDS, 1 + int(ENOUGH_S / (2 * engine_seconds(engine, TIMED, speed))))
    return sum([each, each] + 2 * rounds * [TIMED], EngineWork())


def _work(held_out: HeldOut, options: Mapping[str, Any], *, on_cpu: bool) -> EngineWork:
    """All that the engine of an evaluation does. Of a conversation the prompt is half."""
    text = _scoring(max(1, held_out.text_tokens // 512), held_out.text_tokens)
    work = text + text if held_out.base else text
    for _ in range(1 + held_out.previous):
        rows = options["samples"] * held_out.languages
        work += _replies(rows, options["prompt_tokens"], options["reply_tokens"], options["temperature"], on_cpu=on_cpu)
        rows, prompt_tokens = min(options["held_out_prompts"], held_out.conversations), EXCHANGE_TOKENS // 2
        work += _scoring(rows, rows * EXCHANGE_TOKENS)
        work += _replies(rows, prompt_tokens, options["chat_reply_tokens"], options["chat_temperature"], on_cpu=on_cpu)
    return work


def _replies(rows: int, prompt_tokens: int, reply_tokens: int, temperature: float, *, on_cpu: bool) -> EngineWork:
    steps = -(-rows // engine_size.size_of(on_cpu=on_cpu).num_rows) * reply_tokens
    written = rows * reply_tokens
    return EngineWork(rows, rows * prompt_tokens, written, steps, drawn_tokens=written if temperature > 0 else 0)


def _scoring(rows: int, tokens: int) -> EngineWork:
    return EngineWork(rows, tokens, scored_tokens=tokens)


def _quantised_bytes(model: ModelShape, stored: str, scheme: str) -> int:
    """Bytes of the quantised model's file. stored: type of the weights that are not quantised."""
    linear = sum(weight.numel for weight in model.of_role("linear"))
    return round(ITEM_BYTES[stored] * (model.parameters - linear) + STORED_BYTES[scheme] * linear)
