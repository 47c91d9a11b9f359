"""The quality model: it tells texts apart that it has not seen, and drops the worst of a language alone."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.corpus import quality_model
from pipelines.data.corpus.checks import Candidates
from pipelines.data.corpus.quality_model import Measured, QualityModel, area_under_curve, train
from pipelines.data.text.document_stats import document_stats
from pipelines.data.text.measures import hash_texts
from pipelines.errors import UserError
from pipelines.stage import Facts
from pipelines.stages.corpus.quality import without_model
from tests.stages.corpus_work import english, sentence

SHOUTING = ("BUY", "now!!!", "click", "HERE", "free", "win", "$$$", "cheap", "the", "of", "deal", "today")


def shouts(rng: random.Random) -> str:
    return " ".join(rng.choices(SHOUTING, k=40))


@pytest.fixture(scope="module")
def measured() -> Measured:
    rng = random.Random(5)
    random_text = [shouts(rng) if number % 2 else sentence(rng) for number in range(200)]
    result = train([english(rng) for _ in range(120)], random_text, keep_fraction=0.5)
    assert result is not None
    return result


def test_reference_text_scores_higher_than_random_text(measured: Measured) -> None:
    rng = random.Random(6)
    assert (measured.num_trained, measured.num_measured) == (160, 160)
    assert measured.auc > 0.75  # half of the random text is of the same kind
    good, bad = ([measured.model.score(kind(rng)) for _ in range(30)] for kind in (english, shouts))
    assert max(bad) < measured.model.threshold <= sorted(good)[3]


def test_the_threshold_keeps_the_fraction_of_unseen_random_text(measured: Measured) -> None:
    rng = random.Random(7)
    scores = [measured.model.score(shouts(rng) if number % 2 else sentence(rng)) for number in range(300)]
    assert np.mean(np.array(scores) >= measured.model.threshold) == pytest.approx(0.5, abs=0.08)


def test_only_low_documents_of_languages_with_a_model_are_dropped(measured: Measured, tmp_path: Path) -> None:
    rng = random.Random(8)
    texts, languages = [english(rng), shouts(rng), shouts(rng), "天地人山水"], ["en", "en", "en", "zh"]
    array = pa.array(texts)
    hashed = hash_texts(array)
    documents = document_stats(array, languages, hashed)
    QualityModel({"en": measured.model}).save(tmp_path / "model.safetensors", {"quality/auc_en": 0.9})
    assert quality_model.facts_of(tmp_path / "model.safetensors") == {"quality/auc_en": 0.9}
    opened = QualityModel.open(tmp_path / "model.safetensors", good=["books"])
    ids = ["0", "1", "2", "3"]
    result = opened.apply(Candidates("web", ids, documents, hashed, kept=[0, 1, 3]))
    assert list(result.dropped) == [1]  # 2 was dropped before
    assert result.dropped[1].reason == "low_quality"
    assert result.dropped[1].problem.endswith(f"< {measured.model.threshold:.4f} (quality_model.keep_fraction)")
    scores = result.columns["quality"].to_pylist()
    assert scores[0] == pytest.approx(measured.model.score(texts[0])) and scores[2:] == [None, None]
    assert result.counts == Counter({"quality/scored_documents_en": 2, "quality/low_documents_en": 1})
    reference = opened.apply(Candidates("books", ids, documents, hashed, kept=[0, 1, 3]))
    assert not reference.dropped and reference.columns["quality"].to_pylist() == scores


def test_a_fraction_of_1_keeps_documents_that_score_lower_than_all_that_were_measured(tmp_path: Path) -> None:
    rng = random.Random(5)
    result = train([english(rng) for _ in range(60)], [sentence(rng) for _ in range(60)], keep_fraction=1)
    assert result is not None
    QualityModel({"en": result.model}).save(tmp_path / "model.safetensors", {})
    opened = QualityModel.open(tmp_path / "model.safetensors", good=[])
    array = pa.array([shouts(rng) for _ in range(20)])
    hashed = hash_texts(array)
    documents = document_stats(array, ["en"] * 20, hashed)
    checked = opened.apply(Candidates("web", [""] * 20, documents, hashed, kept=range(20)))
    assert not checked.dropped and checked.counts == Counter({"quality/scored_documents_en": 20})
    assert b"Infinity" not in (tmp_path / "model.safetensors").read_bytes()  # which is no JSON


def test_too_few_texts_make_no_model() -> None:
    assert train(["good"] * 49, ["bad"] * 500, 0.5) is None


def test_languages_without_a_model_are_noted_and_none_with_one_is_an_error() -> None:
    def of(language: str, reference: int, random_text: int) -> Facts:
        sides = {"reference": reference, "random": random_text}
        return {f"quality/{side}_documents_{language}": number for side, number in sides.items()}

    english_facts: Facts = {**of("en", 80, 900), "quality/auc_en": 0.9}
    assert without_model(english_facts, "corpus.quality_model") is None
    assert without_model({**english_facts, **of("zh", 0, 300)}, "corpus.quality_model") == (
        "corpus.quality_model: needs 50 documents of both sides; not scored, all kept: zh: 0 reference, 300 random"
    )
    problem = r"corpus.quality_model: needs 50 .* no language has them \(en: 49 reference, 900 random; zh: 0 reference"
    with pytest.raises(UserError, match=problem):
        without_model({**of("zh", 0, 300), **of("en", 49, 900)}, "corpus.quality_model")
    with pytest.raises(UserError, match="no document is left by the filters"):
        without_model({}, "corpus.quality_model")


def test_area_under_curve_is_the_fraction_of_pairs() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 9, 40) / 9, rng.integers(0, 7, 30) / 9
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert area_under_curve(positive, negative) == pytest.approx(np.mean(pairs))
