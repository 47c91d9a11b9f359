"""The stage `evaluate` through the real evaluator: figures against transformers, and what missing inputs leave out."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.tokenizing import Encoder
from pipelines.digests import FileDigests
from pipelines.evaluator import Evaluator
from pipelines.stage import Facts, Work
from pipelines.stages.evaluate import STAGE, EvaluateCluster, EvaluateOptions
from pipelines.store import Artifact, Draft, Manifest
from tests import tiny_models
from tests.tiny_models import CONTEXT, Tiny

OPTIONS = EvaluateOptions.model_validate(
    {"held_out_bytes": 20_000, "samples": 2, "prompt_tokens": 12, "reply_tokens": 10}
)


class Notes:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: list[tuple[float, float]] = []

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        self.done.append((done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)


def artifact(folder: Path, kind: str) -> Artifact:
    manifest = Manifest(
        kind=kind, fingerprint=folder.name, stage=kind, name=kind, stage_version=1, seed=0, options={}, code=""
    )
    return Artifact(folder, manifest, FileDigests(folder.parent / "digests.json"))


def tokens_artifact(folder: Path, tiny: Tiny, tokenizer: Path) -> Path:
    """What the stage `tokens` leaves for evaluations: counts of training tokens by language, and its tokenizer."""
    encoder = Encoder.open(tokenizer)
    counts = {
        language: pa.array(np.bincount(np.concatenate(encoder.encode(texts[2:])), minlength=encoder.vocabulary))
        for language, texts in tiny.texts.items()
    }
    (folder / "tokenizer").mkdir(parents=True)
    pq.write_table(pa.table(counts), folder / "unigram.parquet")
    shutil.copy(tokenizer / "tokenizer.json", folder / "tokenizer")
    return folder


def evaluate(evaluator: Evaluator, out: Path, inputs: dict[str, Path], **changes: Any) -> tuple[Facts, Path, Notes]:
    """Runs the stage as a run would; its facts, its files, what it told."""
    notes = Notes()
    work = Work(
        name="pretrain",
        options=OPTIONS.model_copy(update=changes),
        cluster=EvaluateCluster.model_validate({"threads": 1, "answer_s": 120}),
        seed=7,
        inputs={kind: artifact(path, kind) for kind, path in inputs.items()},
        sources={},
        draft=Draft(out, "0" * 16),
        progress=notes,
        session=evaluator._session,
        evaluator=evaluator,
    )
    return STAGE.run(work), work.draft.out, notes


@pytest.fixture(scope="module")
def inputs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    held_out = {language: texts[:2] for language, texts in tiny.texts.items()}
    corpus = tiny_models.write_corpus(folder / "corpus", held_out)
    return {"model": tiny.first, "corpus": corpus, "tokens": tokens_artifact(folder / "tokens", tiny, tiny.first)}


def test_figures_equal_transformers_and_samples_are_written(
    evaluator: Evaluator, inputs: dict[str, Path], tiny: Tiny, tmp_path: Path
) -> None:
    facts, out, notes = evaluate(evaluator, tmp_path, inputs)
    encoder = Encoder.open(tiny.first)
    for language, texts in tiny.texts.items():
        nats, num_bytes = 0.0, 0
        assert sum(len(text.encode()) for text in texts[:2]) <= OPTIONS.held_out_bytes, "documents are read whole"
        for text in texts[:2]:
            ids = encoder.tokenizer.encode(text, add_special_tokens=False).ids
            cut = [[encoder.bos_id or 0, *ids[i : i + CONTEXT - 1]] for i in range(0, len(ids), CONTEXT - 1)]
            nats -= sum(float(found.sum()) for found in tiny_models.reference_logprobs(tiny.first, cut))
            num_bytes += len(text.encode())
        assert facts[f"heldout/bits_per_byte_{language}"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
        uniform = float(facts[f"heldout/bits_per_byte_uniform_{language}"])
        assert 0 < float(facts[f"heldout/bits_per_byte_unigram_{language}"]) < uniform
    assert json.loads((out / "figures.json").read_text()) == facts
    rows = json.loads((out / "samples.json").read_text(encoding="utf-8"))
    assert [row["language"] for row in rows] == ["en", "en", "zh", "zh"]
    for row in rows:
        assert any(text.startswith(row["prompt"]) for text in tiny.texts[row["language"]]) and row["reply"]
    assert notes.done[-1] == (4, 4)


def test_the_same_inputs_give_the_same_bytes_whatever_the_engine_did_between(
    evaluator: Evaluator, inputs: dict[str, Path], tiny: Tiny, tmp_path: Path
) -> None:
    evaluate(evaluator, tmp_path / "one", inputs)
    evaluate(evaluator, tmp_path / "between", inputs | {"model": tiny.second})
    evaluate(evaluator, tmp_path / "two", inputs)
    for name in ("figures.json", "samples.json"):
        first = (tmp_path / "one" / "out" / name).read_bytes()
        assert first == (tmp_path / "two" / "out" / name).read_bytes()
        assert first != (tmp_path / "between" / "out" / name).read_bytes()


def test_the_model_before_continues_the_same_prompts(
    evaluator: Evaluator, inputs: dict[str, Path], tiny: Tiny, tmp_path: Path
) -> None:
    _, alone, _ = evaluate(evaluator, tmp_path / "alone", inputs | {"model": tiny.second})
    _, out, _ = evaluate(evaluator, tmp_path / "both", inputs | {"previous": tiny.second})
    before = json.loads((alone / "samples.json").read_text(encoding="utf-8"))
    rows = json.loads((out / "samples.json").read_text(encoding="utf-8"))
    assert [row["reply_before"] for row in rows] == [row["reply"] for row in before]
    assert [row["reply_before"] for row in rows] != [row["reply"] for row in rows]


def test_a_model_before_of_another_shape_is_left_out_and_told(
    evaluator: Evaluator, inputs: dict[str, Path], tiny: Tiny, tmp_path: Path
) -> None:
    _, out, notes = evaluate(evaluator, tmp_path, inputs | {"previous": tiny.other})
    assert "reply_before" not in json.loads((out / "samples.json").read_text(encoding="utf-8"))[0]
    assert any("another shape or tokenizer" in note for note in notes.notes)


def test_tokens_of_another_tokenizer_give_no_unigram_figure(
    evaluator: Evaluator, inputs: dict[str, Path], tiny: Tiny, tmp_path: Path
) -> None:
    from pipelines.data import tokenizing

    tokenizing.save(tokenizing.train(tiny.texts["en"], 600), tmp_path / "tokenizer", max_tokens=CONTEXT)
    tokens = tokens_artifact(tmp_path / "tokens", tiny, tmp_path / "tokenizer")
    facts, _, notes = evaluate(evaluator, tmp_path / "draft", inputs | {"tokens": tokens})
    assert "heldout/bits_per_byte_en" in facts and "heldout/bits_per_byte_unigram_en" not in facts
    assert any("another tokenizer" in note for note in notes.notes)


def test_without_a_corpus_nothing_is_asked_and_nothing_claimed(
    evaluator: Evaluator, inputs: dict[str, Path], tmp_path: Path
) -> None:
    facts, out, notes = evaluate(evaluator, tmp_path, {"model": inputs["model"]})
    assert facts == {} and json.loads((out / "samples.json").read_text()) == []
    assert any("no held-out text" in note for note in notes.notes)
