"""Figures of a report: readable names and units, the same in the terminal table and on the page."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipelines import cli
from pipelines.recipe import reader
from pipelines.report.card import Card, card
from pipelines.report.figures import FIGURES, MAX_FIGURES, SEPARATOR, Figure, caption, headlines, name_and_value
from pipelines.report.page import page
from pipelines.store.artifacts import Manifest, Store
from pipelines.store.facts import Facts
from pipelines.store.runs import RunRecord, StageRecord
from pipelines.verbs.report import table

TRAINING: Facts = {"train/loss_nats": 2.3123, "train/tokens_per_s": 10_934.1, "train/parameters": 2_115_654}
CHAT: Facts = {
    "heldout/exact_match": 0.8225, "heldout/exact_match_en": 0.754, "heldout/exact_match_zh": 0.891,
    "heldout/exact_match_baseline": 0.022, "heldout/declined_unsafe": 0.83, "heldout/declined_safe": 0.275,
    "heldout/answer_f1": 0.85, "heldout/reply_tokens": 12.25, "heldout/bits_per_byte": 2.1,
    "heldout/bits_per_byte_en": 2.003, "heldout/bits_per_byte_zh": 2.646,
}  # fmt: skip
# Facts of the demo's stages, those of evaluations included.
DEMO: dict[str, Facts] = {
    "corpus": {"documents/read": 51_489, "documents/kept": 33_305, "documents/held_out": 2664,
               "corpus/documents_per_s": 6021.4},
    "tokenizer": {"text/bytes_per_token": 3.5, "text/bytes_per_token_en": 3.4, "text/bytes_per_token_zh": 4.14,
                  "tokenizer/vocabulary": 4096},
    "tokens": {"tokens/train": 5_850_123, "rows/train": 22_853, "documents/train": 30_641, "tokens/held_out": 512_345},
    "pretrain": {**TRAINING, "heldout/bits_per_byte": 2.1, "heldout/bits_per_byte_en": 2.003,
                 "heldout/bits_per_byte_zh": 2.646},
    "conversations": {"conversations/train": 24_560, "conversations/held_out": 1280,
                      "conversations/dropped_duplicate": 1234, "turns/cut": 12},
    "sft": {**TRAINING, **CHAT},
    "preferences": {"pairs/train": 24_560, "pairs/held_out": 1280, "pairs/dropped_duplicate": 1234},
    "reward_model": {**TRAINING, "heldout/accuracy": 0.934, "heldout/accuracy_low": 0.92,
                     "heldout/accuracy_length_only": 0.5, "heldout/accuracy_bag_of_characters": 0.47,
                     "heldout/calibration_error": 0.0312},
    "ppo": {**TRAINING, **CHAT, "heldout/win_rate": 0.517, "heldout/win_rate_low": 0.509,
            "heldout/win_rate_prompts": 1413, "heldout/kl_nats": 0.6162,
            "rollout/tokens_per_s": 21_034.0, "publish/logprob_gap": 8.5e-7},
    "quantise": {"model/bytes_before": 8_462_616, "model/bytes": 4_507_408, "engine/tokens_per_s_before": 10_934.0,
                 "engine/tokens_per_s": 11_774.0, "heldout/bits_per_byte_change": 0.0006,
                 "heldout/bits_per_byte": 2.11, "heldout/bits_per_byte_en": 2.01, "heldout/bits_per_byte_zh": 2.65},
    "guard": {"guard/precision_en": 0.93, "guard/precision_zh": 0.89, "guard/recall_en": 0.97,
              "guard/recall_zh": 0.98, "guard/check_ms": 0.71},
    "serve": {"latency/first_token_s_p50": 0.0271, "latency/reply_s_p50": 0.0274, "guard/declined_unsafe": 1.0,
              "guard/declined_safe": 0.24, "served/exact_match": 0.81, "start/ready_s": 36.2,
              "latency/first_request_ratio": 1.9},
}  # fmt: skip
COST: Facts = {"run/wall_s": 89.94, "run/peak_memory_bytes": int(5.5 * 2**30), "run/attempts": 1}


@pytest.fixture
def report(tmp_path: Path) -> Card:
    """The report card of the demo."""
    store = Store(tmp_path / "store").create()
    demo = reader.load("demo", cli._stages())
    assert list(DEMO) == [entry.name for entry in demo.entries]
    record = RunRecord.begin(store, recipe="demo", path=demo.path, seed=7)
    for number, entry in enumerate(demo.entries):
        fingerprint, kind = f"{number:016x}", entry.stage.makes
        draft = store.draft(fingerprint, wait=False)
        manifest = Manifest(
            kind=kind, fingerprint=fingerprint, stage=entry.stage.kind, name=entry.name, stage_version=1, seed=7,
            options={}, code="c0de", facts={**DEMO[entry.name], **COST}, machine={"cpu": "AMD EPYC", "cores": 2},
        )  # fmt: skip
        store.commit(draft, manifest)
        record.stages[entry.name] = StageRecord(kind=entry.stage.kind, makes=kind, fingerprint=fingerprint)
    record.end(store, "done")
    return card(store)


def lines(report: Card, width: int) -> list[str]:
    screen = io.StringIO()
    Console(file=screen, width=width, highlight=False, markup=False, emoji=False).print(table(report, width))
    return [line.rstrip() for line in screen.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_row_of_the_demos_table_wraps_and_each_has_at_most_four_named_figures(report: Card, width: int) -> None:
    title, header, *rows = lines(report, width)
    assert title == "demo · done · AMD EPYC × 2"
    assert header.split() == ["stage", "time", "memory", "figures"]
    assert [row.split()[0] for row in rows] == [*DEMO, "run"]
    names = [figure.name for figures in FIGURES.values() for figure in figures]
    for row in rows[:-1]:
        assert len(row) <= width
        figures = row.split(" GiB  ")[1].split(SEPARATOR)
        assert 1 <= len(figures) <= MAX_FIGURES == 4
        for text in figures:
            assert any(text.startswith(f"{name} ") for name in names), text
            assert "/" not in text.replace("tokens/s", "").replace("documents/s", ""), text


def test_the_table_has_the_figures_that_matter_most_for_each_stage(report: Card) -> None:
    rows = {line.split()[0]: line.split(" GiB  ")[-1] for line in lines(report, 100)[2:]}
    assert rows["pretrain"] == "bits per byte 2.00 (en), 2.65 (zh) · loss 2.31 nats"
    assert rows["reward_model"].startswith("accuracy 93.4% (≥ 92.0%) · length baseline 50.0%")
    assert rows["ppo"] == "win rate 51.7% (≥ 50.9%) · exact match 82.2% · KL 0.62 nats"
    assert rows["quantise"] == "model size 8.5 → 4.5 MB · generation 10,934 → 11,774 tokens/s"
    assert rows["guard"] == "precision 93% (en), 89% (zh) · recall 97% (en), 98% (zh)"
    assert rows["serve"] == "first token 27 ms · unsafe declined 100% · harmless declined 24%"


def test_the_page_has_the_same_names_and_the_keys_of_all_facts(report: Card, tmp_path: Path) -> None:
    html = page(Store(tmp_path / "store"), report)
    for name, facts in DEMO.items():
        for text in headlines(report.artifacts[name].kind, facts):
            assert text in html
        for key, value in facts.items():
            label, number = name_and_value(key, value)
            assert label in html and key in html and number in html


def test_figures_are_in_order_and_the_first_is_never_left_out() -> None:
    assert headlines("model", DEMO["sft"], width=5) == ["exact match 82.2%"]
    four = [
        "exact match 82.2%",
        "harmless declined 27.5%",
        "unsafe declined 83.0%",
        "bits per byte 2.00 (en), 2.65 (zh)",
    ]
    assert headlines("model", DEMO["sft"]) == four
    assert headlines("model", {}) == headlines("unknown", TRAINING) == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("heldout/bits_per_byte_zh", 2.646, ("bits per byte (zh)", "2.65")),
        ("heldout/win_rate_low", 0.509, ("win rate (at least)", "50.9%")),
        ("model/bytes_before", 8_462_616, ("model size (before)", "8.5 MB")),
        ("run/peak_memory_bytes", 2**30, ("peak memory", "1.0 GiB")),
        ("serve/chosen", "quantised", ("serve/chosen", "quantised")),
        ("words/written", 1234, ("words/written", "1,234")),
    ],
)
def test_every_fact_has_a_name_and_a_value(key: str, value: float | str, expected: tuple[str, str]) -> None:
    assert name_and_value(key, value) == expected


def test_a_caption_has_the_name_and_unit_of_a_series() -> None:
    assert caption("train/loss_nats") == "loss, nats"
    assert caption("reward/mean") == "mean reward"
    assert caption("a/b") == "a/b"


def test_a_figure_combines_languages_lower_bound_and_earlier_value() -> None:
    figure = Figure("a/b", "b", ".1f", "s", by_language=True)
    assert figure.text({"a/b": 1.0, "a/b_zh": 2.0}) == "b 2.0 s (zh)"
    assert figure.text({"a/b": 1.0, "a/b_before": 0.5, "a/b_low": 0.9}) == "b 0.5 → 1.0 s (≥ 0.9 s)"
    assert figure.text({"a/c": 1.0}) is None
