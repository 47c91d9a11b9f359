"""Mixtures by groups of documents: weights, what is not used, and what is refused. On a real Ray."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.session import Session
from pipelines.errors import UserError
from pipelines.stages import tokens as tokens_stage
from pipelines.stages.tokenizer import STAGE as TOKENIZER
from pipelines.stages.tokenizer import TokenizerOptions
from pipelines.stages.tokens import TokensOptions
from tests.stages.test_tokens import HELD_OUT, PARTS, SHARDED, framed, run

GROUPS: dict[str, Any] = {
    "by": "domain",
    "weights": {"prose": 0.7, "code": 0.2, "law": 0.1},
    "groups": {"prose": ["news", "小说"]},
}
DOMAINS = ["news", "小说", "code", "law", None]  # of documents in turn


def write_grouped(folder: Path) -> Path:
    """The corpus, with sources and domains of the documents."""
    for split, parts in (("train", PARTS), ("held_out", [HELD_OUT])):
        (folder / split).mkdir(parents=True)
        for number, rows in enumerate(parts):
            domains = [DOMAINS[i % len(DOMAINS)] for i in range(len(rows))]
            table = pa.table({
                "id": [f"{number}:{i}" for i in range(len(rows))],
                "source": [f"source {i % 2}" for i in range(len(rows))],
                "language": [language for language, _ in rows], "text": [text for _, text in rows],
                "meta": pa.array([[("domain", d)] if d else [("a", "b")] for d in domains],
                                 pa.map_(pa.string(), pa.string())),
            })  # fmt: skip
            pq.write_table(table, folder / split / f"part-{number:05}.parquet")
    return folder


def test_training_tokens_have_the_weights_of_groups_of_documents(session: Session, tmp_path: Path) -> None:
    """Groups are values of a key of meta, one of two values; documents without the key are not used."""
    options, output = TokensOptions.model_validate({**SHARDED, "mixture": GROUPS}), io.StringIO()
    corpus = write_grouped(tmp_path / "corpus")
    vocabulary = TokenizerOptions.model_validate({"vocabulary": 512, "sample_bytes": 10_000})
    tokenizer, _ = run(TOKENIZER, tmp_path / "tokenizer", vocabulary, corpus=corpus)
    _, facts = run(tokens_stage.STAGE, tmp_path / "draft", options, session=session, output=output,
                        corpus=corpus, tokenizer=tokenizer)  # fmt: skip
    documents: dict[str, list[str]] = {"prose": [], "code": [], "law": []}
    for part in PARTS:
        for i, (_, text) in enumerate(part):
            if domain := DOMAINS[i % len(DOMAINS)]:
                documents[{"code": "code", "law": "law"}.get(domain, "prose")].append(text)
    tokens = {group: sum(map(len, framed(tokenizer, texts))) for group, texts in documents.items()}
    scarcest = min(tokens, key=lambda group: 4 * tokens[group] / GROUPS["weights"][group])
    for group, weight in GROUPS["weights"].items():
        assert facts[f"mixture/fraction_{group}"] == pytest.approx(weight, abs=0.03)
        total = 4 * tokens[scarcest] / GROUPS["weights"][scarcest]
        assert facts[f"mixture/repeats_{group}"] == pytest.approx(weight * total / tokens[group])
    assert sum(int(facts[f"mixture/tokens_{group}"]) for group in documents) == facts["tokens/train"]
    assert int(facts["tokens/train_en"]) + int(facts["tokens/train_zh"]) == facts["tokens/train"]
    assert facts["mixture/documents_without_weight"] == sum(len(part) // 5 for part in PARTS) == 15
    assert facts["mixture/held_out_tokens_prose"] == facts["tokens/held_out"]
    assert "15 documents are not used, as their domain has no weight: no domain (15)" in output.getvalue()
    for by, problem in (("source", "prose has a weight, but .* expected sources of the corpus: source 0, source 1"),
                        ("language", "expected languages of the corpus: en, zh")):  # fmt: skip
        wrong = TokensOptions.model_validate({"mixture": {"by": by, "weights": {"prose": 1}}})
        with pytest.raises(UserError, match=problem):
            run(tokens_stage.STAGE, tmp_path / by, wrong, session=session, corpus=corpus, tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("mixture", "problem"),
    [
        ({"by": "source", "weights": {"a": 0}}, "expected at least one group with a weight above 0"),
        ({"by": "source", "weights": {"a": 1}, "groups": {"b": ["c"]}}, "groups.b has no weight"),
        ({"by": "source", "weights": {"a": 1, "c": 1}, "groups": {"a": ["c"]}}, "c is in two groups"),
        ({"by": "source", "weight": {"a": 1}}, "weight\n"),
        ({"weights": {"a": 1}}, "by\n.*Field required"),
    ],
)
def test_groups_that_do_not_fit_together_are_refused(mixture: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        TokensOptions.model_validate({"mixture": mixture})


def test_weights_by_language_keep_their_identity() -> None:
    """What a recipe could say before there were groups has the fingerprint that it had."""
    identity = {"length": 256, "mixture": {"en": 0.7, "zh": 0.3}, "min_language_fraction": 0.0, "max_repeats": 1.0,
                "shard_tokens": 100_000_000}  # fmt: skip
    assert TokensOptions.model_validate({"mixture": {"en": 0.7, "zh": 0.3}}).identity() == identity
    assert TokensOptions.model_validate({}).identity() == identity | {"mixture": None}
    grouped = TokensOptions.model_validate({"mixture": {"by": "source", "weights": {"a": 1}}}).identity()
    assert grouped["max_repeats"] == 4 and grouped["mixture"]["by"] == "source"
