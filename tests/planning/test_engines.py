"""What evaluating and quantising would take: how it follows the recipe and the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.planning.engines import HeldOut, _work, estimate_engine
from pipelines.planning.machines import GIB, parse
from pipelines.planning.training import Estimate
from pipelines.recipe import reader
from pipelines.stages import STAGES
from pipelines.stages.evaluate import EvaluateOptions

PARAMETERS = 134_515_008  # of SmolLM2-135M, published
RECIPE = """\
name: tune
base: {model: smollm2-135m}
sources:
  chats: {kind: jsonl, rows: conversations, path: chats.jsonl}
  texts: {kind: jsonl, path: texts.jsonl, language: en}
stages:
  corpus: {held_out: 0.5}
  conversations: {held_out: 0.5, max_held_out: 1000}
  sft: {}
  second: {stage: sft, from: sft}
  quantise: {held_out_bytes: 40_000}
evaluate: {held_out_bytes: 40_000}
"""
CPUS = "1x2xCPU:16GiB:0.1TFLOPS"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "chats.jsonl").write_text("x" * 400_000)
    (folder / "texts.jsonl").write_text("x" * 400_000)
    return folder


def planned(folder: Path, stage: str, nodes: str, *overrides: str, model: str = "sft") -> Estimate:
    recipe = reader.load(folder / "recipe.yaml", STAGES, overrides=overrides)
    entry = recipe.evaluate if stage == "evaluate" else recipe.entry(stage)
    assert entry is not None
    return estimate_engine(recipe, entry, model, parse(nodes))


def test_an_evaluation_takes_an_engine(folder: Path) -> None:
    cost = planned(folder, "evaluate", CPUS)
    assert cost.parameters == PARAMETERS and cost.trained is None and cost.where == "1 × CPU"
    assert cost.memory["KV cache"] == GIB // 2 and cost.memory["weights"] in (2 * PARAMETERS, 4 * PARAMETERS)
    assert cost.fits and cost.disk_bytes == 0
    on_gpu = planned(folder, "evaluate", "1x1xH100")
    assert on_gpu.where == "1 × H100" and on_gpu.memory["weights"] == 2 * PARAMETERS  # bfloat16, as it is stored


def test_time_follows_what_is_held_out(folder: Path) -> None:
    def time_s(*overrides: str, model: str = "sft") -> float:
        seconds = planned(folder, "evaluate", CPUS, *overrides, model=model).time_s
        assert seconds is not None
        return seconds

    whole = time_s()
    operations = 2 * PARAMETERS * 2 * 40_000 / 4  # 40 kB of text, by this model and by its base, and nothing else
    assert whole > operations / 0.2e12
    assert time_s("evaluate.held_out_prompts=10") < time_s("evaluate.held_out_prompts=100") < whole
    assert time_s("evaluate.held_out_bytes=400000") == time_s("evaluate.held_out_bytes=300000"), "half of the file"
    few = time_s("conversations.max_held_out=10")
    assert few < time_s("conversations.max_held_out=50")


def test_quantising_on_cpus_has_two_engines_at_once(folder: Path) -> None:
    cost = planned(folder, "quantise", CPUS, model="second")
    assert cost.where == "2 × CPU" and cost.fits
    linear = 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
    assert cost.disk_bytes == 2 * (PARAMETERS - linear) + linear  # what is not quantised stays in bfloat16
    assert planned(folder, "quantise", "1x1xH100", model="second").where == "1 × H100"


def test_quantising_reads_the_text_that_comes_after_its_model(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "name: smaller\nbase: {model: smollm2-135m}\nsources: {texts: {kind: jsonl, path: texts.jsonl, language: en}}\n"
        "stages: {corpus: {held_out: 0.5}, quantise: {held_out_bytes: 400_000}}\n"
    )
    (tmp_path / "texts.jsonl").write_text("x" * 800_000)

    def time_s(*overrides: str) -> float:
        seconds = planned(tmp_path, "quantise", CPUS, *overrides, model="base").time_s
        assert seconds is not None
        return seconds

    operations = 2 * PARAMETERS * 2 * 360_000 / 4  # by both engines
    assert time_s() - time_s("quantise.held_out_bytes=40000") > operations / 0.2e12


def test_a_gpu_replies_to_more_prompts_at_once() -> None:
    held_out = HeldOut(text_tokens=0, languages=0, conversations=256, base=False, previous=False)
    options = EvaluateOptions(samples=0, chat_reply_tokens=32).model_dump()
    steps = [_work(held_out, options, on_cpu=on_cpu).steps for on_cpu in (True, False)]
    assert steps == [4 * 32, 32]


def test_only_replies_at_a_temperature_are_drawn() -> None:
    held_out = HeldOut(text_tokens=0, languages=2, conversations=10, base=False, previous=True)
    options = EvaluateOptions(samples=3, reply_tokens=64, chat_reply_tokens=32)
    work = _work(held_out, options.model_dump(), on_cpu=True)
    assert work.reply_tokens == 2 * (6 * 64 + 10 * 32)
    assert work.drawn_tokens == 2 * 6 * 64, "replies to conversations are greedy"


def test_engines_that_do_not_fit_are_named(folder: Path) -> None:
    needed = sum(planned(folder, "quantise", CPUS, model="second").memory.values())
    tight = f"1x2xCPU:{1.5 * needed / GIB:.1f}GiB:0.1TFLOPS"  # of one it would fit
    cost = planned(folder, "quantise", tight, model="second")
    assert not cost.fits and "2 of its engines need" in cost.why and "that CPU has" in cost.why
    assert planned(folder, "evaluate", tight).fits
