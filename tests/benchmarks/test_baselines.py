"""Baseline files of the benchmarks: one a machine, merged when saved, compared within a stated noise band."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import baselines, corpus_filters, goals
from tests.benchmarks.__main__ import main
from tests.benchmarks.baselines import Figure, comparison
from tests.benchmarks.goals import Goal

MACHINE = {"cpu": "Intel(R) Xeon(R) Processor", "cores": 2, "instructions": ["avx2", "avx512f"]}


def baseline(value: float) -> Figure:
    return Figure(value, "s", "2026-11-23", "python -m tests.benchmarks ppo")


def test_a_machine_has_its_own_file(tmp_path: Path) -> None:
    assert baselines.path_for(MACHINE).name == "intel-r-xeon-r-processor-2-cores-avx2-avx512f.json"
    assert baselines.path_for({**MACHINE, "cores": 4}) != baselines.path_for(MACHINE)
    assert baselines.read(tmp_path / "absent.json") == {}


def test_saving_keeps_the_figures_that_were_not_measured(tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    baselines.save(file, {"ppo/iteration_s": 1.0, "startup/ray_s": 2.5}, dict.fromkeys(
        ("ppo/iteration_s", "startup/ray_s"), "make bench"), "2026-11-23")  # fmt: skip
    baselines.save(file, {"ppo/iteration_s": 0.9}, {"ppo/iteration_s": "make bench"}, "2026-11-26")
    assert baselines.read(file) == {
        "ppo/iteration_s": Figure(0.9, "s", "2026-11-26", "make bench"),
        "startup/ray_s": Figure(2.5, "s", "2026-11-23", "make bench"),
    }


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("ppo/iteration_s", 1.09, "within noise"),
        ("ppo/iteration_s", 1.2, "WORSE"),
        ("ppo/iteration_s", 0.8, "better"),
        ("train/tokens_per_s", 0.8, "WORSE"),
        ("train/tokens_per_s", 1.2, "better"),
        ("train/ratio_to_bare", 0.8, "WORSE"),
        ("train/tokens_per_s_bare", 0.5, "reference"),
        ("ppo/trl_iteration_s", 2.0, "reference"),
    ],
)
def test_a_change_beyond_the_noise_band_is_worse_or_better(name: str, value: float, verdict: str) -> None:
    assert comparison(name, value, baseline(1.0)).endswith(f": {verdict}")


def test_a_missed_gate_is_an_exit_status_and_a_missed_goal_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(corpus_filters, "TEXT_BYTES", 50_000)
    monkeypatch.setattr(corpus_filters, "TRIALS", 1)
    for gate, status, error in ((0, 0, ""), (1e12, 1, "gates missed: filters/length_over_bare\n")):
        monkeypatch.setattr(goals, "GATES", {"filters/length_over_bare": Goal(gate)})
        assert main(["corpus_filters", "--store", str(tmp_path)]) == status
        printed = capsys.readouterr()
        assert printed.err == error and "filters/length_over_bare" in printed.out
    assert goals.missed_gates({"train/ratio_to_bare": 0.1}) == []  # far below its goal


def test_the_table_shows_goal_and_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    goals.print_figures({"train/ratio_to_bare": 0.5, "ppo/iteration_s": 2.0}, {"ppo/iteration_s": baseline(1.0)})
    printed = capsys.readouterr().out
    assert "goal ≥ 0.9: MISSED" in printed
    assert "was 1.00 on 2026-11-23, +100%: WORSE" in printed
    assert "goals: 0 of 1 met" in printed
    assert "1 figures worse by more than the noise band of 10%: ppo/iteration_s" in printed


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("train/tokens_per_s", "tokens/s"),
        ("train/gemm_gflops", "GFLOP/s"),
        ("train/loss_nats", "nats"),
        ("publish/logprob_gap", "nats"),
        ("serve/guard_ms", "ms"),
        ("serve/ratio_to_bare_32", "ratio"),
        ("serve/tokens_per_s_8", "tokens/s"),
        ("corpus/warm_over_bare", "ratio"),
        ("ppo/publish_s", "s"),
        ("ppo/publish_fraction", "fraction"),
        ("knowledge/build_mb_per_cpu_s", "MB/s"),
        ("knowledge/passages", "passages"),
    ],
)
def test_a_figures_name_says_its_unit(name: str, unit: str) -> None:
    assert baselines.unit_of(name)[0] == unit
