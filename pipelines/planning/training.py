"""Estimates of the stages that train: pretrain, sft, prefix_tuning, dpo, reward_model, ppo.

Time is that of learning/estimates.py, and for ppo the replies' too. What is not known before the data is read (how many
tokens a conversation has) is estimated from the sources' size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipelines.inference.estimates import Speed
from pipelines.inference.model_config import dtype_in
from pipelines.learning import estimates
from pipelines.learning.dealing import largest_rows, num_micro_batches
from pipelines.learning.estimates import TrainingWork
from pipelines.learning.memory import Setting
from pipelines.learning.shapes import ModelShape
from pipelines.learning.throughput import training_flops
from pipelines.planning.data import BYTES_PER_TOKEN, EXCHANGE_TOKENS, PairLengths, pair_lengths, source_bytes
from pipelines.planning.machines import Machines, gib
from pipelines.planning.models import begins_as_base, config_of, with_adapters, without_head
from pipelines.recipe.reader import Entry, Recipe
from pipelines.rollout import estimates as rollout_estimates
from pipelines.rollout.footprint import Rollouts


class NotPlanned(Exception):
    """A stage that cannot be estimated yet; the message says why."""


KINDS = ("pretrain", "sft", "prefix_tuning", "dpo", "reward_model", "ppo")
CHAT_LENGTH = 512  # tokens of a row of conversations, by default
CHECKPOINTS = 2  # of the newest, while the next one is written


@dataclass(frozen=True)
class Estimate:
    """What a stage would cost. memory: bytes of a rank by part; time_s: None where the amount of data is not known."""

    memory: Mapping[str, int]
    disk_bytes: int
    time_s: float | None
    tokens: int | None
    parameters: int
    trained: int | None  # None: the stage trains nothing
    where: str  # such as 8 × H100
    fits: bool
    why: str  # what does not fit and what would, or what the estimate rests on
    changes: Mapping[str, Any]  # options of the stage and of its cluster that would make it fit; None: without the key
    note: str = ""  # what of the data the stage would leave out

    @property
    def rank_bytes(self) -> int:
        return sum(self.memory.values())

    def facts(self) -> dict[str, Any]:
        """As `rayse plan --json` prints it."""
        return {
            "memory/rank_bytes": self.rank_bytes, "memory/parts": dict(self.memory), "time/estimate_s": self.time_s,
            "disk/bytes": self.disk_bytes, "fits": self.fits, "why": self.why, "model/parameters": self.parameters,
            "model/trained": self.trained, "train/tokens": self.tokens,
        }  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A stage that trains, and everything of it that memory and time depend on."""

    kind: str
    config: Mapping[str, Any]
    model: ModelShape  # its frozen weights marked
    setting: Setting
    lora: Mapping[str, Any] | None
    machines: Machines
    rows: int  # of a micro-batch
    one_row_tokens: int  # of a micro-batch of one row
    step_rows: int | None  # of an optimizer step, over all workers, where the stage has such rows
    length: int  # tokens of a row
    mean_tokens: float  # of such a row, or of both sides of a pair
    padded: float  # tokens that are computed for each of them
    threads: int  # of a worker on a CPU
    tokens: int | None  # to train on, in all
    options: Mapping[str, Any]
    in_recipe: frozenset[str]  # options that the recipe sets
    kv_cache_bytes: int | None
    note: str  # see Estimate

    @property
    def on_gpu(self) -> bool:
        return self.setting.device == "cuda"


def estimate(recipe: Recipe, entry: Entry, machines: Machines) -> Estimate:
    """What an entry of one of KINDS would cost on these machines.

    Raises UserError where its base is not found, NotPlanned for a config of a kind not known here."""
    try:
        job = job_of(recipe, entry, machines)
        memory = memory_of(job)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # configs name things in many ways
        raise NotPlanned(f"the config of its model is of a kind not known here ({error})") from error
    problem = misfit(job, memory)
    why, changes = problem or _basis(job), remedy(job) if problem else {}
    if problem:
        fix = (
            f"{written(changes)} would fit"
            if changes
            else "nothing that was tried would fit: take larger ones, or more"
        )
        why += f"; {fix}"
    parameters, trained = job.model.parameters, job.model.trained
    return Estimate(
        memory, disk_bytes(job, parameters, trained), time_s(job), job.tokens, parameters, trained,
        where=_where(job), fits=not problem, why=why, changes=changes, note=job.note,
    )  # fmt: skip


def job_of(recipe: Recipe, entry: Entry, machines: Machines) -> Job:
    """Everything of an entry that memory and time depend on."""
    options, cluster = entry.options.model_dump(), entry.cluster.model_dump()
    config = config_of(recipe, entry)
    on_gpu = machines.on_gpu if cluster["gpus_per_worker"] == "auto" else cluster["gpus_per_worker"] > 0
    device = "cuda" if on_gpu else "cpu"
    dtype = cluster["dtype"]
    if entry.stage.kind == "ppo" and dtype == "auto":
        dtype = dtype_in(config)
    context = int(config.get("max_position_embeddings") or 2**31)
    pairs = pair_lengths(recipe, entry, context) if "batch_pairs" in options else None
    rows, row_tokens, padded = _micro_batch(recipe, entry, context, pairs)
    length = row_tokens // 2 if "batch_pairs" in options else row_tokens
    step_rows = options["batch_tokens"] // row_tokens if "batch_tokens" in options else options.get("batch_pairs")
    setting = Setting(
        tokens=rows * row_tokens, device=device,
        dtype=_dtype(dtype, device, int(config.get("hidden_size") or 0)), world=cluster["workers"],
        zero_stage=cluster["zero_stage"], recompute=cluster["recompute"], offload=cluster["offload"] == "optimizer",
        compiled=on_gpu and cluster["zero_stage"] < 3 and cluster.get("compile", False) in (True, "auto"),
        four_bit=bool(options.get("lora") and options["lora"]["qlora"]), muon=_uses_muon(recipe, entry),
        logits_again=entry.stage.kind == "dpo",
    )  # fmt: skip
    lora = options.get("lora")
    adapters = {kind: options[kind] for kind in ("lora", "ia3") if options.get(kind) is not None}
    if entry.stage.kind == "prefix_tuning":
        adapters["prefix"] = {name: options[name] for name in ("num_virtual_tokens", "projection")}
    model = _shape(entry.stage.kind, config, adapters)
    one_row = row_tokens if pairs is None else pairs.drawn_steps(options["batch_pairs"], cluster["workers"], 1).largest
    return Job(
        entry.stage.kind, config, model, setting, lora, machines, rows, one_row, step_rows, length,
        (pairs and pairs.mean_tokens) or row_tokens, padded, cluster["threads_per_worker"],
        _tokens(recipe, entry, pairs), options, frozenset(entry.options.model_fields_set),
        cluster.get("kv_cache_bytes"), "" if pairs is None else pairs.note(entry.name, context),
    )  # fmt: skip


def _dtype(name: str, device: str, hidden_size: int) -> str:
    """The type in training. On a CPU `auto` is measured there, as training does."""
    if name != "auto" or device == "cuda":
        return "bfloat16" if name == "auto" else name
    from pipelines.learning.precision import dtype_of, name_of

    return name_of(dtype_of(name, device, hidden_size))


def _shape(kind: str, config: Mapping[str, Any], adapters: dict[str, Any]) -> ModelShape:
    """The weights that a stage of a kind trains, with these adapters."""
    shape = with_adapters(json.dumps(config), json.dumps(adapters))
    return without_head(shape) if kind == "reward_model" else shape


def _uses_muon(recipe: Recipe, entry: Entry) -> bool:
    """By its options, or by their default: where no model before it is another's."""
    options = entry.options.model_dump()
    if options.get("lora") or options.get("ia3") or "optimizer" not in options:
        return False
    return (options["optimizer"] or ("adamw" if begins_as_base(recipe, entry) else "muon")) == "muon"


def _micro_batch(recipe: Recipe, entry: Entry, context: int, lengths: PairLengths | None) -> tuple[int, int, float]:
    """Rows of a micro-batch (pairs of two replies where the stage has pairs), tokens of each, and Job.padded.

    context: tokens that the model attends to; lengths: of pairs, where the stage has pairs."""
    options, cluster = entry.options.model_dump(), entry.cluster.model_dump()
    rows, workers = cluster["micro_batch_rows"], cluster["workers"]
    if "batch_tokens" in options:
        length = _row_length(recipe, entry, context)
        return largest_rows(max(1, options["batch_tokens"] // length), workers, rows), length, 1.0
    if lengths is None:  # ppo
        return rows, EXCHANGE_TOKENS // 2 + options["max_new_tokens"], 1.0
    drawn = lengths.drawn_steps(options["batch_pairs"], workers, rows)
    pairs = largest_rows(options["batch_pairs"], workers, rows)
    return pairs, drawn.largest // pairs, drawn.padded


def _row_length(recipe: Recipe, entry: Entry, context: int) -> int:
    options = entry.options.model_dump()
    if "conversations" in entry.inputs:
        return options["length"] or min(context - options.get("num_virtual_tokens", 0), CHAT_LENGTH)
    return recipe.entry(entry.inputs["tokens"]).options.model_dump()["length"]


def _tokens(recipe: Recipe, entry: Entry, lengths: PairLengths | None) -> int | None:
    """Tokens to train on; None where the data has no file whose size would tell."""
    options = entry.options.model_dump()
    if entry.stage.kind == "ppo":
        replies = options["iterations"] * options["prompts_per_iteration"] * options["replies_per_prompt"]
        return replies * options["epochs"] * (EXCHANGE_TOKENS // 2 + options["max_new_tokens"])
    if options.get("budget_tokens"):
        return options["budget_tokens"]
    size = source_bytes(recipe, entry)
    if size is None:
        return None
    per_byte = 1 / BYTES_PER_TOKEN if lengths is None else lengths.per_record_byte
    return round(options["epochs"] * size * per_byte)


def memory_of(job: Job) -> dict[str, int]:
    """Bytes of a rank by part."""
    if job.kind == "ppo":
        return rollout_estimates.process_bytes(job.model, _critic(job), job.setting, _rollouts(job))
    return estimates.process_bytes(job.model, job.setting)


def _rollouts(job: Job) -> Rollouts:
    """What an iteration of ppo generates: prompts of a usual length, and replies as long as they may be."""
    options = job.options
    return Rollouts(
        replies=options["prompts_per_iteration"] * options["replies_per_prompt"],
        tokens=job.length,
        reply_tokens=options["max_new_tokens"],
        max_tokens=job.length,
        epochs=options["epochs"],
        has_reference=job.lora is None,
        has_reward_model="reward_model" in options["rewards"],
        kv_cache_bytes=job.kv_cache_bytes,
        minibatches=options["minibatches"],
    )


def _critic(job: Job) -> ModelShape | None:
    """The critic of ppo, where it is a model that learns: as large as the policy's base."""
    options = job.options
    if options["critic_body"] == "frozen" or options["advantage"] == "group":
        return None
    return with_adapters(json.dumps(job.config), "{}")


def misfit(job: Job, memory: Mapping[str, int]) -> str:
    """What does not fit, as a phrase; empty where all does."""
    machines, workers = job.machines, job.setting.world
    if job.on_gpu and not machines.on_gpu:
        return f"a GPU for each of {workers} workers is asked for, {machines} has none"
    if job.step_rows is not None and job.step_rows < workers:
        return f"a step has {job.step_rows} rows for {workers} workers"
    if job.on_gpu and workers > machines.count:
        return f"{workers} workers need a GPU each, {machines} has {machines.count}"
    together = 1 if job.on_gpu else -(-workers // machines.nodes)
    needed = together * sum(memory.values())
    if needed <= machines.memory_bytes:
        return ""
    who = "a rank needs" if together == 1 else f"{together} ranks of a node need"
    largest = max(memory, key=lambda part: memory[part])
    return (
        f"{who} {gib(needed)} of {gib(machines.memory_bytes)} that {machines.name} has, most of it for {largest} "
        f"({gib(together * memory[largest])})"
    )


def remedy(job: Job) -> dict[str, Any]:
    """The first of a few changes of options that would make the job fit, cheapest first; empty where none does."""
    for changes, changed in _remedies(job):
        if not misfit(changed, memory_of(changed)):
            return changes
    return {}


def written(changes: Mapping[str, Any]) -> str:
    """Changes as a recipe has them: micro_batch_rows: 1, lora: {rank: 16}, lora.qlora: true, without ia3."""
    return ", ".join(
        f"without {key}" if value is None else f"{key}: {json.dumps(value).replace(chr(34), '')}"
        for key, value in changes.items()
    )


LORA = {"rank": 16, "alpha": 32.0, "dropout": 0.0, "targets": None, "rslora": False, "dora": False, "qlora": False}
COMBINATIONS = (
    ("rows",), ("recompute",), ("rows", "recompute"), ("zero",), ("rows", "recompute", "zero"),
    ("rows", "recompute", "offload"), ("rows", "recompute", "zero", "offload"),
    ("rows", "recompute", "zero", "workers"), ("rows", "recompute", "lora"), ("rows", "recompute", "lora", "qlora"),
)  # fmt: skip


def _remedies(job: Job) -> Iterator[tuple[dict[str, Any], Job]]:
    """Changes of options, each with the changed job."""
    machines, world = job.machines, job.setting.world
    if job.on_gpu and not machines.on_gpu:
        return
    if job.on_gpu and world > machines.count:
        fewer = _with(job, world=machines.count)
        yield {"workers": machines.count}, fewer
        yield from (({"workers": machines.count} | changes, changed) for changes, changed in _remedies(fewer))
        return
    if job.step_rows is not None and job.step_rows < world:
        option = {"batch_tokens": world * job.length} if "batch_tokens" in job.options else {"batch_pairs": world}
        larger = replace(job, step_rows=world)
        yield option, larger
        yield from ((option | changes, changed) for changes, changed in _remedies(larger))
        return
    for names in COMBINATIONS:
        changes, changed = {}, job
        for name in names:
            change = _change(changed, name)
            if change is not None:
                options, changed = change
                changes |= options
        if len(changes) == len(names) or (changes and "rows" in names):
            yield changes, changed


def _change(job: Job, name: str) -> tuple[dict[str, Any], Job] | None:
    """One change of a job; None where it is so already, or does not apply."""
    setting = job.setting
    if name == "rows" and job.rows > 1:
        return {"micro_batch_rows": 1}, replace(_with(job, tokens=job.one_row_tokens), rows=1)
    if name == "recompute" and setting.recompute != "full":
        return {"recompute": "full"}, _with(job, recompute="full")
    if name == "zero" and setting.zero_stage < 3 and setting.world > 1:
        return {"zero_stage": 3}, _with(job, zero_stage=3)
    if name == "offload" and job.on_gpu and not setting.offload:
        return {"offload": "optimizer"}, _with(job, offload=True)
    if name == "workers" and job.machines.count > setting.world:
        return {"workers": job.machines.count}, _with(job, world=job.machines.count)
    if name == "lora" and job.lora is None and job.kind not in ("pretrain", "prefix_tuning"):
        model = _shape(job.kind, job.config, {"lora": LORA})
        options: dict[str, Any] = {"lora": {"rank": 16}}
        # Neither IA3 nor Muon and its second learning rate go with LoRA.
        options |= {key: None for key in ("ia3", "adam_learning_rate") if key in job.in_recipe}
        if job.options.get("optimizer") == "muon":
            options["optimizer"] = "adamw"
        return options, replace(_with(job, muon=False), lora=LORA, model=model)
    if name == "qlora" and job.lora is not None and not setting.four_bit and job.kind != "ppo":
        return {"lora.qlora": True}, _with(job, four_bit=True)
    return None


def _with(job: Job, **changes: Any) -> Job:
    return replace(job, setting=replace(job.setting, **changes))


def time_s(job: Job) -> float | None:
    """Seconds of training, without the start of processes; of ppo with its replies, of dpo with its reference's."""
    machines = job.machines
    if job.tokens is None or (job.on_gpu and not machines.on_gpu):
        return None
    workers = job.setting.world if job.on_gpu else min(job.setting.world * job.threads, machines.count)
    in_16_bits = machines.bfloat16_flops_per_s if not job.on_gpu and job.setting.item_bytes == 2 else None
    speed = Speed(
        workers * (in_16_bits or machines.flops_per_s), workers * machines.bytes_per_s, machines.operation_s,
        machines.read_bytes_per_s,
    )  # fmt: skip
    if job.kind == "ppo":
        iteration_s = rollout_estimates.iteration_seconds(job.model, _critic(job), job.setting, _rollouts(job), speed)
        return job.options["iterations"] * iteration_s
    step_rows = job.step_rows or job.rows * job.setting.world
    computed = job.tokens * job.padded
    work = TrainingWork(
        flops=training_flops(job.model, job.length).total(computed, computed), tokens=computed, length=job.length,
        steps=job.tokens / (step_rows * job.mean_tokens),
        micro_batches=num_micro_batches(step_rows, job.setting.world, job.rows),
    )  # fmt: skip
    seconds = estimates.seconds(job.model, job.setting, speed, work)
    if job.kind != "dpo":
        return seconds
    once = job.tokens / job.options["epochs"]  # each pair by the reference, before the first step; sorted, unpadded
    return seconds + estimates.forward_seconds(job.model, job.setting, speed, once, job.length)


def disk_bytes(job: Job, parameters: int, trained: int) -> int:
    """Bytes of the store at most: the model, and checkpoints of masters and moments while it is trained."""
    item = 2 if dtype_in(job.config) in ("bfloat16", "float16") else 4
    models = 2 if job.kind == "ppo" and job.options["critic_body"] == "learnt" else 1
    saved = 4 * trained if job.kind == "prefix_tuning" else item * parameters  # the adapter alone, in float32
    return saved + CHECKPOINTS * models * 12 * trained


def _basis(job: Job) -> str:
    no_time = "; no time: how much data there is shows once it is read" if job.tokens is None else ""
    return f"on {_where(job)}{no_time}"


def _where(job: Job) -> str:
    return f"{job.setting.world} × {job.machines.name if job.on_gpu else 'CPU'}"
