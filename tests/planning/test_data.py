"""Lengths of preference pairs, as the plan estimates them from a user's file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.planning import training
from pipelines.planning.data import EXCHANGE_TOKENS, PairLengths, pair_lengths, source_bytes
from pipelines.planning.machines import parse
from pipelines.planning.training import Estimate, estimate, job_of
from pipelines.recipe import reader
from pipelines.recipe.reader import Entry, Recipe
from pipelines.stages import STAGES

RECIPE = """\
name: align
sources:
  pairs: {kind: jsonl, rows: preferences, path: pairs.jsonl}
base: {model: meta-llama/Llama-3.1-8B-Instruct}
stages:
  preferences: {builtin_tasks: false}
  dpo: {}
"""
WORD = "four"  # bytes, as many as the plan takes a token to have


def recipe_of(folder: Path, tokens_of_pairs: list[tuple[int, int, int]], *overrides: str) -> Recipe:
    """A recipe with pairs of so many tokens: prompt, chosen and rejected."""
    (folder / "recipe.yaml").write_text(RECIPE)
    rows = [
        {"prompt": WORD * prompt, "chosen": WORD * chosen, "rejected": WORD * rejected}
        for prompt, chosen, rejected in tokens_of_pairs
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return reader.load(folder / "recipe.yaml", STAGES, overrides=overrides)


def test_lengths_of_the_pairs_in_a_file(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [(10, 90, 50)] * 99 + [(10, 1990, 50)])
    lengths = pair_lengths(recipe, recipe.entry("dpo"), 8192)
    assert lengths.sides == [(100, 60)] * 99 + [(2000, 60)]
    tokens = 99 * (100 + 60) + 2000 + 60
    text_bytes = 4 * (99 * 150 + 2050)
    assert lengths.per_record_byte == pytest.approx(tokens / text_bytes)


def test_pairs_that_the_stage_leaves_out_do_not_count(tmp_path: Path) -> None:
    rows = [(10, 90, 50)] * 3 + [(10, 1990, 50)]
    recipe = recipe_of(tmp_path, rows, "dpo.max_tokens=1024")
    assert pair_lengths(recipe, recipe.entry("dpo"), 8192).sides == [(100, 60)] * 3
    whole = recipe_of(tmp_path, rows)
    assert pair_lengths(whole, whole.entry("dpo"), 1024).sides == [(100, 60)] * 3
    assert pair_lengths(whole, whole.entry("dpo"), 8192).sides == [(100, 60)] * 3 + [(2000, 60)]


def test_a_plan_says_how_many_pairs_are_left_out(tmp_path: Path) -> None:
    rows = [(10, 90, 50)] * 15 + [(10, 990, 50)] * 5

    def cost(*overrides: str) -> Estimate:
        recipe = recipe_of(tmp_path, rows, *overrides)
        return estimate(recipe, recipe.entry("dpo"), parse("1x8xH100"))

    assert cost().note == ""
    short = cost("dpo.max_tokens=512")
    assert short.note == (
        "dpo: about 5 of the first 20 pairs are longer than 512 tokens, and are left out; max_tokens: 1024 leaves out "
        "few, but takes more memory and time"
    )
    assert cost("dpo.max_tokens=1024").note == ""
    text_bytes = 4 * (15 * 150 + 5 * 1050)
    size = (tmp_path / "pairs.jsonl").stat().st_size
    assert short.tokens == pytest.approx(size * 15 * (100 + 60) / text_bytes, abs=1)  # of those that it takes


def test_a_limit_is_proposed_only_where_it_leaves_out_fewer_pairs(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [(10, 90, 50)] * 49 + [(10, 990, 50)], "dpo.max_tokens=512")
    assert estimate(recipe, recipe.entry("dpo"), parse("1x8xH100")).note == (
        "dpo: about 1 of the first 50 pairs are longer than 512 tokens, and are left out; a larger max_tokens takes "
        "them, with more memory and time"
    )


def test_a_file_without_pairs_is_planned_at_a_usual_length(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [])
    (tmp_path / "pairs.jsonl").write_text("not a pair\n")
    assert pair_lengths(recipe, recipe.entry("dpo"), 8192) == PairLengths([(EXCHANGE_TOKENS, EXCHANGE_TOKENS)], 0.25)


def test_the_largest_micro_batch() -> None:
    """Rows are as long as the longest side; others share a row where they have room."""
    pairs = [(100, 100)] * 499 + [(2000, 60)]

    def largest(pairs: list[tuple[int, int]], number: int) -> int:
        return PairLengths(pairs, 0.5).drawn_steps(number, 1, number).largest

    assert largest(pairs, 1) == 2 * 2000, "60 tokens in a row of 2,000"
    assert largest(pairs, 8) == 2 * 2000, "1,460 tokens in the second row"
    assert largest(pairs[:9], 8) == 2 * 8 * 100
    assert largest(pairs[:1], 8) == 2 * 8 * 100, "more pairs than were read"
    assert largest([(101, 100), (60, 60)], 2) == 4 * 101, "no two sides share a row"


def test_tokens_that_are_computed_for_each_of_a_pair() -> None:
    """Padding in rows, and the rank that others wait for."""

    def padded(pairs: list[tuple[int, int]], number: int, workers: int) -> float:
        return PairLengths(pairs, 0.5).drawn_steps(number, workers, number).padded

    assert padded([(100, 100)], 8, 2) == 1
    assert padded([(100, 50)], 1, 1) == 200 / 150
    assert padded([(100, 50)], 2, 1) == 1, "the two short sides share a row"
    assert padded([(100, 100)], 3, 2) == pytest.approx(2 * 400 / 600), "one rank has two pairs, the other one"


def test_one_pair_at_a_time_takes_what_the_longest_does(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [(10, 90, 50)] * 49 + [(10, 990, 50)], "cluster.dpo.micro_batch_rows=4")
    job = job_of(recipe, recipe.entry("dpo"), parse("1x8xH100"))
    assert job.rows == 4 and job.one_row_tokens == 2 * 1000


def test_bytes_of_the_sources(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [(10, 90, 50)])
    size = (tmp_path / "pairs.jsonl").stat().st_size
    assert source_bytes(recipe, recipe.entry("dpo")) == size


def test_longer_pairs_take_more_memory_and_more_time(tmp_path: Path) -> None:
    def cost(reply: int) -> Estimate:
        recipe = recipe_of(tmp_path, [(10, reply, reply // 2)] * 50)
        return estimate(recipe, recipe.entry("dpo"), parse("1x8xH100"))

    short, long = cost(100), cost(1000)
    assert long.memory["activations"] > 5 * short.memory["activations"]
    assert long.time_s is not None and short.time_s is not None and long.time_s > 5 * short.time_s


def test_pairs_are_read_once_for_memory_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path, [(10, 90, 50)] * 9)
    calls: list[tuple[Recipe, Entry, int]] = []

    def counted(recipe: Recipe, entry: Entry, context: int) -> PairLengths:
        calls.append((recipe, entry, context))
        return pair_lengths(recipe, entry, context)

    monkeypatch.setattr(training, "pair_lengths", counted)
    cost = estimate(recipe, recipe.entry("dpo"), parse("1x8xH100"))
    assert cost.tokens is not None and cost.memory["activations"] > 0
    assert len(calls) == 1
