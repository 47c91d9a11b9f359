"""The report on a run, read from the store: JSON, a table, and a self-contained page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.report.card import card
from pipelines.report.figures import plain_number
from pipelines.report.page import page
from pipelines.stage import Facts
from pipelines.store.artifacts import Manifest, Store
from pipelines.store.runs import RunRecord, StageRecord
from pipelines.verbs.report import show_report
from tests.toy_stages import ROOT, ToyProject

EVIL = "<script>alert('en')</script><img src=http://evil.example/x.png> {{ 7 * 7 }} & 中文"
BITS = {"": 2.2, "_en": 2.1, "_zh": 3.0}
FACTS: dict[str, Facts] = {
    "corpus": {"documents/read": 1000, "documents/kept": 900, "documents/held_out": 50,
               "documents/dropped_too_short": 70, "documents/dropped_duplicate_near": 30,
               "documents/dropped_symbols": 0},
    "tokenizer": {"text/bytes_per_token_en": 3.4, "text/bytes_per_token_zh": 4.1},
    "tokens": {"tokens/train": 850_000, "rows/train": 3321},
    "pretrain": {"train/tokens_per_s": 5100.5, "train/loss_nats": 4.2, "train/device": "cpu"},
    "evaluate": {f"heldout/bits_per_byte{kind}{code}": value * times for code, value in BITS.items()
                 for kind, times in (("", 1), ("_uniform", 2), ("_unigram", 1.5))},
    "ppo": {"rollout/tokens_per_s": 900.0},
    "chat_evaluation": {"heldout/exact_match": 0.7, "heldout/exact_match_en": 0.8, "heldout/exact_match_zh": 0.6,
              "heldout/exact_match_baseline_en": 0.1, "heldout/win_rate": 0.612, "heldout/win_rate_low": 0.55,
              "heldout/win_rate_prompts": 480, "heldout/bits_per_byte": 2.5, "heldout/bits_per_byte_en": 2.4,
              "heldout/bits_per_byte_uniform_en": 4.2},
}  # fmt: skip
RUN = {"run/wall_s": 12.5, "run/peak_memory_bytes": 2**30, "run/attempts": 1}


def commit(store: Store, kind: str, name: str, parents: dict[str, str], files: dict[str, str], **run: float) -> str:
    fingerprint = f"{len(list(store.artifacts())) + 1:016x}"
    draft = store.draft(fingerprint, wait=False)
    for file, text in files.items():
        (draft.out / file).write_text(text, encoding="utf-8")
    facts = {**FACTS[name], **RUN, **{f"run/{key}": value for key, value in run.items()}}
    sources = {"books": {"identity": {"kind": "text"}, "files": ["ab"]}} if kind == "corpus" else {}
    machine = {"cpu": "A CPU <of> some kind", "cores": 2, "instructions": ["avx2"]}
    store.commit(draft, Manifest(kind=kind, fingerprint=fingerprint, stage=name, name=name, stage_version=1, seed=7,
                                 options={}, code="c0de", facts=facts, parents=parents, sources=sources,
                                 packages={"torch": "2.13.0"}, machine=machine))  # fmt: skip
    return fingerprint


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store after one run from corpus to evaluation."""
    store = Store(tmp_path / "store").create()
    corpus = commit(store, "corpus", "corpus", {}, {"a": "1"})
    tokenizer = commit(store, "tokenizer", "tokenizer", {"corpus": corpus}, {"a": "1"})
    tokens = commit(store, "tokens", "tokens", {"corpus": corpus, "tokenizer": tokenizer}, {"a": "1"})
    curve = [{"train/tokens": n * 1000, "train/loss_nats": 9 - n / 10, "train/learning_rate": 1e-3} for n in range(20)]
    model = commit(store, "model", "pretrain", {"tokens": tokens},
                   {"curve.jsonl": "".join(json.dumps(point) + "\n" for point in curve)},
                   attempts=2, wall_s=100.0, peak_memory_bytes=3 * 2**30)  # fmt: skip
    samples = [
        {"metric": "samples", "language": "en", "prompt": EVIL, "reply": EVIL},
        {"metric": "samples", "language": "zh", "prompt": "床前", "reply": "明月光"},
    ]
    evaluation = commit(store, "evaluation", "evaluate", {"model": model, "corpus": corpus},
                    {"samples.json": json.dumps(samples)}, wall_s=20.0)  # fmt: skip
    record = RunRecord.begin(store, recipe="small [/] :smile: <b>", path=Path("recipe.yaml"), seed=7)
    for name, kind, fingerprint in (("corpus", "corpus", corpus), ("tokenizer", "tokenizer", tokenizer),
                                    ("tokens", "tokens", tokens), ("pretrain", "model", model)):  # fmt: skip
        record.stages[name] = StageRecord(kind=name, makes=kind, fingerprint=fingerprint)
    record.stages["pretrain"].evaluation = evaluation
    record.end(store, "done")
    return store


def test_facts_are_flat_under_each_stage_with_totals_under_run(store: Store) -> None:
    facts = card(store).facts
    assert list(facts) == ["corpus", "tokenizer", "tokens", "pretrain", "run"]
    assert facts["corpus"] == FACTS["corpus"] | RUN
    evaluation = {"run/evaluate_wall_s": 20.0, "run/evaluate_peak_memory_bytes": 2**30}
    cost = {"run/wall_s": 100.0, "run/peak_memory_bytes": 3 * 2**30, "run/attempts": 2}
    assert facts["pretrain"] == FACTS["pretrain"] | FACTS["evaluate"] | cost | evaluation
    assert facts["run"] == {
        "run/wall_s": 3 * 12.5 + 100 + 20,
        "run/peak_memory_bytes": 3 * 2**30,
        "run/attempts": 2,
    }
    assert all(isinstance(value, int | float | str) for stage_facts in facts.values() for value in stage_facts.values())


def test_a_stage_that_is_not_made_yet_is_left_out(store: Store) -> None:
    (store.root / "artifacts" / "tokens" / f"{3:016x}" / "manifest.json").write_text("{")
    assert list(card(store).facts) == ["corpus", "tokenizer", "pretrain", "run"]


def test_the_latest_run_of_a_recipe_is_reported(store: Store) -> None:
    record = RunRecord.begin(store, recipe="other", path=Path("other.yaml"), seed=1)
    record.end(store, "failed", "the disk is <full>")
    assert card(store).record.recipe == "other"
    assert card(store).facts == {"run": {"run/wall_s": 0, "run/peak_memory_bytes": 0, "run/attempts": 0}}
    assert "the disk is &lt;full&gt;" in page(store, card(store))
    assert "corpus" in card(store, "small [/] :smile: <b>").facts
    with pytest.raises(UserError, match="no run of 'absent' yet"):
        card(store, "absent")


def test_json_is_one_object_and_the_same_every_time(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for _ in range(2):
        show_report(store, recipe=None, out=None, as_json=True)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert json.loads(printed[0]) == card(store).facts
    assert not (store.root / "report.html").exists()


VOID = ("meta", "br", "img", "link", "input")  # tags without an end tag


class Parsed(HTMLParser):
    """The tags, links, handlers, styles and text of a page. Fails if a tag is not closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.open: list[str] = []
        self.styles: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key.split(":")[-1] in ("src", "href", "data", "action", "srcset", "poster"):
                self.links.append(value or "")
            if key.startswith("on"):
                self.handlers.append(key)
            if key == "style":
                self.styles.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.styles if self.open and self.open[-1] == "style" else self.texts).append(data)


@pytest.fixture
def parsed(store: Store) -> Iterator[Parsed]:
    yield Parsed(page(store, card(store)))


def test_the_page_loads_no_resource_and_runs_no_script(parsed: Parsed) -> None:
    assert not set(parsed.tags) & {"script", "link", "iframe", "object", "embed", "img", "form", "base"}
    assert parsed.handlers == []
    assert [link for link in parsed.links if not link.startswith("#")] == []
    style = " ".join(parsed.styles)
    assert "@import" not in style
    assert [url for url in re.findall(r"url\(([^)]*)\)", style) if not url.startswith("#")] == []
    assert parsed.open == []


def test_the_page_escapes_samples_and_names(parsed: Parsed) -> None:
    text = "".join(parsed.texts)
    assert text.count(EVIL) == 2
    assert "small [/] :smile: <b>" in text
    assert "A CPU <of> some kind × 2 (avx2)" in text
    assert "床前" in text and "明月光" in text


def test_the_page_has_the_figures_the_plots_and_the_lineage(store: Store, parsed: Parsed) -> None:
    text = " ".join("".join(parsed.texts).split())
    assert parsed.tags.count("svg") == 4  # the funnel, the loss, the learning rate, the bits per byte
    assert "2.10bits per byte, English 50% below uniform, 33% below unigram" in text.replace("English50", "English 50")
    assert "3.00" in text and "bits per byte, 中文" in text
    assert "too short" in text and "duplicate near" in text and "symbols" not in text.split("Stages")[0]
    for value in (" 850", " 50", " 70", " 30"):  # kept for training, held out, dropped
        assert value in text
    for number in range(1, 5):
        assert f"{number:016x}" in text
    assert "source books" in text
    assert "no longer in the store" not in text
    assert page(store, card(store)) == page(store, card(store))


@pytest.fixture
def aligned(store: Store) -> Parsed:
    """The page of a run with PPO."""
    curve = [{"ppo/iteration": n, "reward/mean": n / 4, "ppo/kl_nats": 1.5, "rollout/note": "x"} for n in range(9)]
    curve[3]["ppo/entropy_nats"] = 2.0
    model = commit(store, "model", "ppo", {"model": f"{4:016x}"},
                   {"curve.jsonl": "".join(json.dumps(point) + "\n" for point in curve)})  # fmt: skip
    row = {"metric": "replies", "language": "zh", "task": "number_words", "prompt": EVIL, "reply": "十二",
           "answer": "12", "right": False, "reply_before": "三" * 500, "right_before": True}  # fmt: skip
    rows = [row, row | {"language": "en", "reply": "twelve"}, {"metric": "samples", "language": "en", "prompt": "a",
                                                               "reply": "b"}]  # fmt: skip
    evaluation = commit(store, "evaluation", "chat_evaluation", {"model": model}, {"samples.json": json.dumps(rows)})
    record = RunRecord.begin(store, recipe="aligned", path=Path("recipe.yaml"), seed=7)
    record.stages["ppo"] = StageRecord(kind="ppo", makes="model", fingerprint=model, evaluation=evaluation)
    record.end(store, "done")
    return Parsed(page(store, card(store)))


def test_replies_are_beside_those_of_the_model_before_in_each_language(aligned: Parsed) -> None:
    text = " ".join("".join(aligned.texts).split())
    assert text.index("Englishpromptbeforepporight") < text.index("中文promptbeforepporight")
    assert text.count(EVIL) == 2 and text.count("number words") == 2
    assert "十二" in text and "twelve" in text and "三" * 300 in text and "三" * 401 not in text
    assert aligned.open == [] and not set(aligned.tags) & {"script", "img"}


def test_every_numeric_series_of_a_curve_is_plotted(aligned: Parsed) -> None:
    text = "".join(aligned.texts)
    for caption in ("mean reward", "ppo/kl_nats", "ppo/entropy_nats", "iteration"):
        assert caption in text
    assert aligned.tags.count("svg") == 4  # three series, the bits per byte
    assert "rollout/note" not in text and "ppo/iteration" not in text


def test_the_page_starts_with_exact_match_and_win_rate(aligned: Parsed) -> None:
    text = " ".join("".join(aligned.texts).split("Stages")[0].split())
    assert "80%exact match, Englishppo, on held-out prompts; baseline 10%" in text
    assert "60%exact match, 中文" in text
    assert "61.2%win rate of ppo over the model before" in text
    assert "at least 55.0% with 95% confidence, 480 prompts" in text


def test_a_missing_parent_is_reported(store: Store) -> None:
    (store.root / "artifacts" / "tokenizer" / f"{2:016x}").rename(store.root / "gone")
    assert "no longer in the store" in page(store, card(store))


def test_the_table_is_printed_and_the_page_written(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    show_report(store, recipe=None, out=None, as_json=False)
    output = capsys.readouterr().out
    assert "small [/] :smile: <b> · done · A CPU <of> some kind × 2" in " ".join(output.split())
    assert re.search(r"pretrain +120\.0 s +3\.0 GiB +bits per byte 2.10 \(en\), 3.00 \(zh\)", output)
    assert f"report: {store.root}/report.html" in output
    assert (store.root / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    show_report(store, recipe=None, out=store.root / "deep" / "card.html", as_json=False)
    assert (store.root / "deep" / "card.html").is_file()
    with pytest.raises(UserError, match=r"card.html/x: cannot be written \(.*\); name another file with --out"):
        show_report(store, recipe=None, out=store.root / "deep" / "card.html" / "x", as_json=False)


def test_benchmarks_in_the_store_are_added_to_stages_that_trained(store: Store) -> None:
    (store.root / "bench.json").write_text('{"train/tokens_per_s_bare": 5500.0}')
    facts = card(store).facts
    assert facts["pretrain"]["train/tokens_per_s_bare"] == 5500.0
    assert "train/tokens_per_s_bare" not in facts["corpus"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567, "1,234,567"), (0, "0"), (12.0, "12"), (0.123456, "0.1235"), (3.14159, "3.142"), (5100.5, "5,100"),
     ("cpu", "cpu"), (-2, "-2"), (1e-7, "1e-07")],
)  # fmt: skip
def test_numbers_of_unknown_unit_are_readable(value: float | int | str, text: str) -> None:
    assert plain_number(value) == text


def test_the_report_on_a_real_run(tmp_path: Path) -> None:
    project = ToyProject(tmp_path)
    project.run()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "report", "--json", "--store", str(project.store.root)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert list(facts) == ["corpus", "tokenizer", "tokens", "pretrain", "run"]
    for stage_facts in facts.values():
        assert stage_facts["run/wall_s"] > 0 and stage_facts["run/peak_memory_bytes"] > 10e6
    total = sum(stage_facts["run/wall_s"] for name, stage_facts in facts.items() if name != "run")
    assert facts["run"]["run/wall_s"] == pytest.approx(total + facts["pretrain"]["run/evaluate_wall_s"], abs=1e-3)
