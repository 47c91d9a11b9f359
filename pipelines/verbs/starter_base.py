"""`rayse init --base MODEL DATA…`: a starter recipe that continues an open model on a user's files.

    files ──sniffing──► stages ──base's config.json, nodes──► plan ──misfits──► changed options ──► recipe.yaml

text → corpus, tokens, pretrain; conversations → sft; preferences → dpo; then quantise. Sft and dpo train LoRA.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.console import print_json
from pipelines.errors import UserError
from pipelines.planning.machines import GIB, Machines, parse, this_machine
from pipelines.planning.models import base_config
from pipelines.planning.training import KINDS, Estimate, NotPlanned, estimate
from pipelines.recipe import reader
from pipelines.recipe.reader import Recipe
from pipelines.stage import Stage
from pipelines.training import WorkerOptions
from pipelines.verbs.plan import duration
from pipelines.verbs.starter_sources import (
    BYTES_PER_TOKEN,
    HELD_OUT_FRACTION,
    DetectedSource,
    detect,
    opening,
    plain,
    print_sources,
    sft_epochs,
    source_lines,
    write,
)

MAX_ROW_TOKENS = 1024  # of a row of text, where the model attends to so many
MAX_STEP_TOKENS = 65_536
MIN_STEPS = 100  # of continued pretraining, as long as a step has two rows
LORA = {"rank": 16}
GENERAL_TEXT = {  # by language, of the text that comes with Rayse
    "en": "{kind: docstrings, language: en, limit_bytes: 2_000_000}",
    "zh": "{kind: chinese, language: zh}",
}
COMMENTS = {
    "pretrain": "One epoch of your text, all weights; longer, or on narrow text, the model forgets more.",
    "conversations": "Your conversations; some are held out for the evaluation.",
    "sft": "Adapters beside the frozen base, merged at the end; without `lora` all weights are trained.",
    "preferences": "Your pairs alone.",
    "dpo": "Against the model before it as the reference.",
    "quantise": "INT8, with bits per byte or loss before and after.",
}

Table = dict[str, dict[str, Any]]


def write_recipe(data: list[Path], base: str, nodes: str | None, out: Path, stages: Mapping[str, Stage], *,
                 as_json: bool) -> None:  # fmt: skip
    """`rayse init --base`: prints what each file contains and what training takes, and writes the recipe.

    base: a folder, hub id or GGUF file; nodes: that the recipe is for, default this machine. Raises UserError if the
    recipe exists, a file is of no known kind, no stage trains on the files, or the base's config cannot be read."""
    detected = detect(data, out)
    sources = detected.sources
    if as_json and detected.refusal:
        print_json({"recipe": None, **detected.facts()})
    detected.check()
    config = base_config(base)
    machines = parse(nodes) if nodes else this_machine()
    options = stage_options(sources, config)
    model = str(Path(base).expanduser().absolute()) if os.path.exists(os.path.expanduser(base)) else base

    cluster: Table = {name: {"workers": machines.count} for name in options if name in KINDS and machines.on_gpu}

    def text() -> str:
        return recipe_text(out, model, sources, options, cluster, machines)

    def estimate_of(name: str) -> Estimate:
        recipe = _read(text(), out, stages)
        return estimate(recipe, recipe.entry(name), machines)

    try:
        estimates, no_plan = _fit(options, cluster, estimate_of), ""
    except NotPlanned as reason:
        estimates, no_plan = {}, str(reason)
    write(out, text())
    if as_json:
        plans = {name: cost.facts() for name, cost in estimates.items()}
        return print_json({"recipe": str(out), **detected.facts(), "plan": plans})
    print_sources(detected)
    if no_plan:
        print(f"what it takes is not known: {no_plan}")
    for name, cost in estimates.items():
        takes = f"{cost.rank_bytes / GIB:.1f} GiB a worker, {duration(cost.time_s)}"
        print(f"{name}: on {cost.where}, {takes}" + ("" if cost.fits else f". DOES NOT FIT: {cost.why}"))
    print(f"{out}: written\nnext: rayse run {out}")


def stage_options(sources: list[DetectedSource], config: Mapping[str, Any]) -> Table:
    """The stages that read these sources, with options that are not the default's. config: of the base."""
    rows = {source.rows for source in sources}
    table: Table = {}
    if "text" in rows:
        text_bytes = sum(sum(source.amount.text_bytes.values()) for source in sources if source.rows == "text")
        length = min(MAX_ROW_TOKENS, int(config.get("max_position_embeddings") or MAX_ROW_TOKENS))
        tokens = max(length, round(text_bytes * (1 - HELD_OUT_FRACTION) / BYTES_PER_TOKEN))
        step_rows = MAX_STEP_TOKENS // length
        while step_rows > 2 and tokens < MIN_STEPS * step_rows * length:
            step_rows //= 2
        batch = step_rows * length
        table |= {"corpus": {}, "tokens": {"length": length},
                  "pretrain": {"budget_tokens": max(tokens, batch), "batch_tokens": batch}}  # fmt: skip
    if "conversations" in rows:
        table |= {"conversations": {}, "sft": {"lora": dict(LORA), "epochs": sft_epochs(sources)}}
    if "preferences" in rows:
        table["preferences"] = {"builtin_tasks": False, "model_replies": False}
        table["dpo"] = {"lora": dict(LORA)}
    if "text" not in rows and table:
        table = {"corpus": {}} | table
    if not table:
        raise UserError(
            f"these files have only {' and '.join(sorted(rows))}, which no stage trains on; expected running text, "
            f"conversations or preference pairs"
        )
    return table | {"quantise": {}}


def _fit(options: Table, cluster: Table, estimate_of: Callable[[str], Estimate]) -> dict[str, Estimate]:
    """Changes options and cluster, in place, so that each stage that trains fits where it can. Returns the estimates.

    estimate_of: of a stage, by its name, with the options and cluster as they are then."""
    estimates: dict[str, Estimate] = {}
    for name in (name for name in options if name in KINDS):
        estimates[name] = estimate_of(name)
        if not estimates[name].changes:
            continue
        for key, value in estimates[name].changes.items():
            if key == "lora.qlora":
                options[name]["lora"] |= {"qlora": True}
            else:
                (cluster if key in WorkerOptions.model_fields else options).setdefault(name, {})[key] = value
        estimates[name] = estimate_of(name)
    return estimates


def _read(text: str, out: Path, stages: Mapping[str, Stage]) -> Recipe:
    """The recipe, read as it will be from its place."""
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=out.absolute().parent, encoding="utf-8") as draft:
            draft.write(text)
            draft.flush()
            return reader.load(draft.name, stages)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); name another recipe with --out") from None


def recipe_text(
    out: Path, model: str, sources: list[DetectedSource], options: Table, cluster: Table, machines: Machines
) -> str:
    """The recipe as YAML, with comments. model: the base as the recipe has it."""
    lines = [*opening(out), f"base: {plain({'model': model})}", "sources:", *source_lines(sources)]
    if not any(source.rows == "text" for source in sources):
        lines += _general_text(sources)
    lines.append("stages:")
    for name, values in options.items():
        if name in COMMENTS:
            lines.append(f"  # {COMMENTS[name]}")
        lines.append(f"  {name}: {plain(values)}")
    if cluster:
        lines += [f"# So that it fits {machines}; change it for other machines, and ask `rayse plan`.", "cluster:"]
        lines += [f"  {name}: {plain(values)}" for name, values in cluster.items()]
    return "\n".join(lines) + "\n"


def _general_text(sources: list[DetectedSource]) -> list[str]:
    """Sources of general text in the languages of the user's rows."""
    names, languages = {source.name for source in sources}, {source.language for source in sources}
    lines = ["  # For the evaluation alone: how much of what the base knew is retained."]
    for language, text in GENERAL_TEXT.items():
        if languages & {language, "auto"}:
            name = f"general_{language}"
            lines.append(f"  {name if name not in names else 'rayse_' + name}: {text}")
    return lines
