"""Search spaces: parsed strictly, with errors that name line and key; a trial's values depend on seed and number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.recipe import reader, search_space
from pipelines.recipe.reader import RecipeTemplate
from pipelines.recipe.search_space import Space, draw
from tests.toy_stages import TABLE

HEAD = "sources: {s: {kind: chinese}}\nstages:\n  corpus: {}\n  tokenizer: {}\n  tokens: {}\n"
RATE = ("stages", "pretrain", "rate")


def read(folder: Path, text: str, overrides: Sequence[str] = ()) -> RecipeTemplate:
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return reader.read(folder / "recipe.yaml", TABLE, overrides=overrides)


def error(folder: Path, text: str) -> str:
    """The message for a recipe that `rayse run` or `rayse sweep` refuses, without the folder."""
    with pytest.raises(UserError) as caught:
        template = read(folder, text)
        template.fill(draw(template.spaces, 1, 0)[0] if template.spaces else None)
    return str(caught.value).replace(f"{folder}/", "")


def space(kind: str, *bounds: float | str) -> Space:
    return Space(RATE, kind, bounds)


def test_a_space_replaces_a_value_and_run_uses_its_default(tmp_path: Path) -> None:
    text = (
        HEAD + "  pretrain: {rate: {log_uniform: [1e-4, 1e-2], default: 3e-3}, word: {choose: [a, 中文], default: b}}\n"
    )
    template = read(tmp_path, text)
    assert [(s.name, s.kind, s.bounds, s.default) for s in template.spaces] == [
        ("pretrain.rate", "log_uniform", (1e-4, 1e-2), 3e-3),
        ("pretrain.word", "choose", ("a", "中文"), "b"),
    ]
    plain = reader.load(tmp_path / "recipe.yaml", TABLE)
    assert plain.entry("pretrain").options.model_dump()["rate"] == 3e-3
    assert plain.tree["stages"]["pretrain"] == {"rate": 3e-3, "word": "b"}  # what submit ships
    trial = template.fill({RATE: 1e-4, ("stages", "pretrain", "word"): "中文"})
    assert trial.entry("pretrain").options.model_dump()["word"] == "中文"


def test_spaces_may_be_nested_and_under_base(tmp_path: Path) -> None:
    deep = HEAD + "  pretrain: {schedule: {warmup: {uniform: [0.0, 0.5]}}, weights: {en: {choose: [0.5, 1.0]}}}\n"
    assert [s.name for s in read(tmp_path, deep).spaces] == ["pretrain.schedule.warmup", "pretrain.weights.en"]
    base = read(tmp_path, "base: {model: {choose: [a/b, c/d]}}\n" + HEAD).spaces
    assert [s.name for s in base] == ["base.model"]


def test_set_replaces_a_space_by_a_value(tmp_path: Path) -> None:
    text = HEAD + "  pretrain: {rate: {uniform: [0.1, 0.2]}}\n"
    template = read(tmp_path, text, overrides=["pretrain.rate=0.5"])
    assert template.spaces == ()
    assert template.fill().entry("pretrain").options.model_dump()["rate"] == 0.5


@pytest.mark.parametrize(
    ("pretrain", "message"),
    [
        ("{rate: {log_uniform: [1e-2, 1e-4]}}",
         "6: pretrain.rate.log_uniform: expected 2 numbers, [from, to], the lower first; got [0.01, 0.0001]"),
        ("{rate: {log_uniform: [0, 1]}}", "pretrain.rate.log_uniform: expected 2 numbers, [from, to] above 0"),
        ("{rate: {uniform: [1, 2, 3]}}", "pretrain.rate.uniform: expected 2 numbers, [from, to]; got [1, 2, 3]"),
        ("{rate: {uniform: [a, b]}}", "pretrain.rate.uniform: expected 2 numbers"),
        ("{rate: {uniform: [true, 2]}}", "pretrain.rate.uniform: expected 2 numbers"),
        ("{rate: {uniform: [0, 1e999]}}", "pretrain.rate.uniform: expected 2 numbers"),
        ("{rate: {uniform: 1}}", "pretrain.rate.uniform: expected 2 numbers"),
        ("{times: {range: [1, 9]}}", "pretrain.times.range: expected 3 numbers, [from, to, step]; got [1, 9]"),
        ("{times: {range: [1, 9, -1]}}", "times.range: expected 3 numbers, [from, to, step], the step above 0"),
        ("{rate: {range: [0, 1, 1e-9]}}", "rate.range: expected 3 numbers, [from, to, step] of at most 10,000"),
        ("{rate: {choose: []}}", "pretrain.rate.choose: expected a list of values, such as [1e-3, 3e-3]; got []"),
        ("{rate: {choose: 0.1}}", "pretrain.rate.choose: expected a list of values"),
        ("{rate: {choose: [0.1, 0.1]}}", "pretrain.rate.choose: expected each value once"),
        ("{rate: {choose: [0.1], uniform: [0, 1]}}",
         "pretrain.rate.uniform: expected one space for one value, got choose and uniform"),
        ("{rate: {choose: [0.1], defualt: 1}}",
         "pretrain.rate.defualt: unknown key of a search space. Did you mean default? (Spaces: {choose: [1, 2]}, "),
        ("{rate: {chose: [0.1, 0.2]}}",
         "6: pretrain.rate: input should be a valid number; got {'chose': [0.1, 0.2]} (A search space is written "),
        ("{rate: {uniform: [2.0, 3.0]}}", "6: pretrain.rate: input should be less than 1; got 2."),
        ("{times: {uniform: [1, 9]}}", "6: pretrain.times: input should be a valid integer"),
        ("{choose: [{rate: 0.1}, {rate: 0.2}]}",
         "6: stages.pretrain: a search space can only replace an option of a stage, or a key of base"),
        ("{from: {choose: [tokens]}}", "pretrain.from: a search space can only replace"),
        ("{}\ncluster: {pretrain: {workers: {choose: [1, 2]}}}", "7: cluster.pretrain.workers: a search space can"),
        ("{}\nevaluate: {times: {choose: [1, 2]}}", "7: evaluate.times: a search space can only replace"),
        ("{}\nseed: {choose: [1, 2]}", "7: seed: a search space can only replace"),
    ],
)  # fmt: skip
def test_an_invalid_space_is_reported_with_line_and_key(tmp_path: Path, pretrain: str, message: str) -> None:
    assert message in error(tmp_path, f"{HEAD}  pretrain: {pretrain}\n")


def test_without_a_default_a_run_is_refused_with_the_remedy(tmp_path: Path) -> None:
    read(tmp_path, HEAD + "  pretrain:\n    rate: {uniform: [0.1, 0.2]}\n")
    with pytest.raises(UserError, match=r"recipe.yaml:7: pretrain.rate: a search space without a default; add "
                                        r"`default: …`, or try its values with `rayse sweep`"):  # fmt: skip
        reader.load(tmp_path / "recipe.yaml", TABLE)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("{}", "7: sweep.metric: missing; it has no default"),
        ("{metric: heldout/x}", "7: sweep.mode: missing: the figure's name does not tell whether less (min) or more"),
        ("{metric: a/loss_nats, watch: x}", "7: sweep.watch_mode: missing: the figure's name does not tell"),
        ("{metric: a/loss_nats, mode: lowest}", "7: sweep.mode: input should be 'min' or 'max'; got 'lowest'"),
        ("{metric: a/loss_nats, trails: 3}", "7: sweep.trails: unknown key. Did you mean sweep.trials?"),
        ("{metric: a/loss_nats, until: pretrian}", "7: sweep.until: no stage 'pretrian'. Did you mean pretrain?"),
        ("{metric: a/loss_nats, grace: 0}", "7: sweep.grace: input should be greater than 0"),
        ("[a]", "7: sweep: expected keys and values, got a list"),
    ],
)
def test_an_invalid_sweep_section_is_reported_by_run_too(tmp_path: Path, sweep: str, message: str) -> None:
    assert f"recipe.yaml:{message}" in error(tmp_path, f"{HEAD}  pretrain: {{}}\nsweep: {sweep}\n")


@pytest.mark.parametrize(
    ("name", "mode"),
    [("heldout/bits_per_byte", "min"), ("train/loss_nats", "min"), ("heldout/exact_match", "max"), ("loss", "min"),
     ("heldout/win_rate", "max"), ("reward", "max"), ("train/tokens_per_s", "max"), ("heldout/reply_tokens", None)],
)  # fmt: skip
def test_the_direction_follows_from_the_name_or_is_not_guessed(name: str, mode: str | None) -> None:
    assert search_space.direction_of(name) == mode


def test_points_of_lists_and_ranges_are_all_their_values() -> None:
    assert space("choose", "a", "b").points == ("a", "b")
    assert space("range", 1, 9, 2).points == (1, 3, 5, 7, 9)
    assert space("range", 1, 8, 2).points == (1, 3, 5, 7)
    assert space("range", 0.1, 0.5, 0.1).points == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert space("uniform", 0, 1).points is None


def test_values_are_within_bounds_and_evenly_spread_on_their_scale() -> None:
    values = [v[RATE] for v in draw([space("log_uniform", 1e-4, 1e-1)], 30, 7)]
    assert all(1e-4 <= value <= 1e-1 for value in values)
    decades = [sum(1 for v in values if 10.0**-n <= v < 10.0 ** (1 - n)) for n in (4, 3, 2)]
    assert all(9 <= count <= 11 for count in decades), decades  # 30 random ones would vary by 2.6
    assert all(float(f"{value:.4g}") == value for value in values)
    plain = sorted(v[RATE] for v in draw([space("uniform", 0, 1)], 100, 7))
    gaps = [high - low for low, high in zip([0, *plain], [*plain, 1], strict=True)]
    assert max(gaps) < 2.7 / 100  # the golden ratio's sequence leaves no gap beyond φ² ÷ n


def test_two_spaces_are_covered_jointly() -> None:
    pair = [Space(("base", "a"), "uniform", (0.0, 1.0)), Space(("base", "b"), "uniform", (0.0, 1.0))]
    for seed in range(20):
        points = [(v["base", "a"], v["base", "b"]) for v in draw(pair, 32, seed)]
        cells = {(int(4 * a % 4), int(4 * b % 4)) for a, b in points}
        assert len(cells) >= 15  # 32 random points leave 2 of the 16 cells empty


def test_trials_depend_on_the_seed_and_more_trials_keep_the_first() -> None:
    for spaces in ([space("uniform", 0, 1)], [space("range", 1, 100, 1)], [space("range", 1, 10_001, 1), Space(
            ("base", "x"), "choose", ("a", "b"))]):  # fmt: skip
        few, many = draw(spaces, 5, 3), draw(spaces, 20, 3)
        assert many[:5] == few and len(many) == 20
        assert draw(spaces, 20, 3) == many != draw(spaces, 20, 4)
        assert len({repr(values) for values in many}) == 20


def test_all_combinations_are_tried_once() -> None:
    spaces = [space("choose", 0.1, 0.2, 0.3), Space(("base", "x"), "range", (1, 4, 1))]
    assert search_space.num_combinations(spaces) == 12
    trials = draw(spaces, 100, 0)
    assert {tuple(values.values()) for values in trials} == {(a, b) for a in (0.1, 0.2, 0.3) for b in (1, 2, 3, 4)}
    assert len(trials) == 12
    assert search_space.num_combinations([*spaces, Space(("base", "y"), "uniform", (0.0, 1.0))]) is None
    assert math.prod([3, 4]) == len(trials)
