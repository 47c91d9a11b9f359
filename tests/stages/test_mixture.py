"""Mixtures by groups of documents and orders in phases: weights, order, and what is refused. On a real Ray."""

from __future__ import annotations

import io
import json
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.session import Session
from pipelines.errors import UserError
from pipelines.stage import Facts
from pipelines.stages import tokens as tokens_stage
from pipelines.stages.tokenizer import STAGE as TOKENIZER
from pipelines.stages.tokenizer import TokenizerOptions
from pipelines.stages.tokens import TokensOptions
from tests.stages.test_tokens import (
    DOCUMENTS,
    HELD_OUT,
    PARTS,
    SHARDED,
    bytes_of,
    documents_of_file,
    framed,
    run,
    write_corpus,
)

TEXTS = [text for _, text in DOCUMENTS]

GROUPS: dict[str, Any] = {
    "by": "domain",
    "weights": {"prose": 0.7, "code": 0.2, "law": 0.1},
    "groups": {"prose": ["news", "小说"]},
}
DOMAINS = ["news", "小说", "code", "law", None]  # of documents in turn


def write_grouped(folder: Path) -> Path:
    """The corpus, with sources, domains and scores of the documents; those in Chinese have no score."""
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
                "quality": pa.array([score_of(text) if language == "en" else None for language, text in rows],
                                    pa.float32()),
            })  # fmt: skip
            pq.write_table(table, folder / split / f"part-{number:05}.parquet")
    return folder


def score_of(text: str) -> float:
    """A score that goes with neither the length of a text nor its place."""
    return zlib.crc32(text.encode()) / 2**28 - 8


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(corpus, tokenizer)"""
    folder = tmp_path_factory.mktemp("grouped")
    corpus = write_grouped(folder / "corpus")
    vocabulary = TokenizerOptions.model_validate({"vocabulary": 512, "sample_bytes": 10_000})
    return corpus, run(TOKENIZER, folder / "tokenizer", vocabulary, corpus=corpus)[0]


class Ordered:
    """Runs the stage tokens on the corpus of groups, with rows that are longer than a shard: documents are whole."""

    def __init__(self, session: Session, grouped: tuple[Path, Path]) -> None:
        self.session, (self.corpus, self.tokenizer) = session, grouped

    def __call__(self, folder: Path, order: Any, tasks: int | None = None, **options: Any) -> tuple[Path, Facts]:
        values = TokensOptions.model_validate({"length": 4096, "shard_tokens": 1000, "order": order, **options})
        return run(tokens_stage.STAGE, folder, values, session=self.session, tasks=tasks, corpus=self.corpus,
                   tokenizer=self.tokenizer)  # fmt: skip

    def phases(self, folder: Path, num_phases: int) -> list[list[int]]:
        """The documents of each phase, as their numbers in DOCUMENTS; every one is used once."""
        numbers = {tuple(ids): n for n, ids in enumerate(framed(self.tokenizer, [text for _, text in DOCUMENTS]))}
        phases: list[list[int]] = [[] for _ in range(num_phases)]
        for file in sorted((folder / "train").iterdir()):
            phase = int(pa.ipc.open_file(str(file)).schema.metadata[b"rayse.phase"])
            assert not any(phases[phase + 1 :])  # files stand in the order of their phases
            phases[phase] += [numbers[tuple(document)] for document in documents_of_file(file)]
        assert sorted(number for phase in phases for number in phase) == list(range(len(DOCUMENTS)))
        return phases


@pytest.fixture
def ordered(session: Session, grouped: tuple[Path, Path]) -> Ordered:
    return Ordered(session, grouped)


def check_ascending(phases: list[list[int]], values: dict[int, float]) -> None:
    """These documents' values ascend from phase to phase, and not within, where they are shuffled."""
    in_phases = [part for phase in phases if (part := [values[number] for number in phase if number in values])]
    assert len(in_phases) >= 5  # of one level in one phase, they may leave the next without any
    for before, after in pairwise(in_phases):
        assert max(before) <= min(after)
    assert any(part != sorted(part) for part in in_phases)


def test_an_order_by_length_reads_short_documents_first_in_each_language(ordered: Ordered, tmp_path: Path) -> None:
    folder, facts = ordered(tmp_path, "length")
    phases, lengths = ordered.phases(folder, 10), [len(ids) for ids in framed(ordered.tokenizer, TEXTS)]
    num_phases = json.loads((folder / "meta.json").read_text())["num_phases"]
    assert facts["tokens/phases"] == num_phases == sum(map(bool, phases))
    by_language = {code: {n: lengths[n] for n in range(len(TEXTS)) if DOCUMENTS[n][0] == code} for code in ("en", "zh")}
    check_ascending(phases, {n: float(length) for n, length in by_language["en"].items()})
    for sizes in by_language.values():  # documents of one length are in one phase
        tokens = [sum(sizes.get(number, 0) for number in phase) for phase in phases]
        assert max(tokens) < 0.1 * sum(tokens) + max(sizes.values()) * list(sizes.values()).count(max(sizes.values()))


def test_an_order_by_quality_writes_the_same_bytes_in_any_number_of_tasks(ordered: Ordered, tmp_path: Path) -> None:
    (folder, _), (again, _) = (ordered(tmp_path / str(tasks), "quality", tasks) for tasks in (1, 2))
    assert bytes_of(folder) == bytes_of(again)
    phases = ordered.phases(folder, 10)
    check_ascending(phases, {n: score_of(text) for n, (language, text) in enumerate(DOCUMENTS) if language == "en"})
    assert sum(any(DOCUMENTS[n][0] == "zh" for n in phase) for phase in phases) >= 7  # without a score: in all phases


def test_an_order_by_sources_reads_one_after_another_with_the_weights_of_the_mixture(
    ordered: Ordered, tmp_path: Path
) -> None:
    order = [["source 1"], ["source 0"]]
    phases = ordered.phases(ordered(tmp_path / "a", order)[0], 2)
    sources = [i % 2 for part in PARTS for i in range(len(part))]
    assert [{sources[number] for number in phase} for phase in phases] == [{1}, {0}]
    half = {"by": "source", "weights": {"source 0": 0.5, "source 1": 0.5}}
    facts = ordered(tmp_path / "b", order, mixture=half)[1]
    assert facts["mixture/fraction_source 0"] == pytest.approx(0.5, abs=0.03)
    assert facts["tokens/phases"] == 2
    one = {"by": "source", "weights": {"source 0": 1}}
    assert ordered(tmp_path / "c", order, mixture=one)[1]["tokens/phases"] == 1  # the first has no rows
    all_of = "expected each source of the corpus in one phase: source 0, source 1"
    for number, (names, problem) in enumerate({
        ("source 1", "b"): f"tokens.order: source 0 is in no phase; {all_of}",
        ("source 1", "source 0", "b"): f"tokens.order: b is no source of the corpus; {all_of}",
    }.items()):  # fmt: skip
        with pytest.raises(UserError) as error:
            ordered(tmp_path / f"wrong {number}", [[name] for name in names])
        assert str(error.value) == problem


def test_an_order_by_quality_needs_scores(grouped: tuple[Path, Path], tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", held_out=HELD_OUT)
    options = TokensOptions.model_validate({"order": "quality"})
    with pytest.raises(
        UserError, match=r"corpus has no column quality; set corpus.quality_model .keep_fraction: 1 only"
    ):
        run(tokens_stage.STAGE, tmp_path / "tokens", options, corpus=corpus, tokenizer=grouped[1])


@pytest.mark.parametrize(
    ("order", "problem"),
    [
        ("best", "Input should be 'shuffled', 'quality' or 'length'"),
        ([["web"]], "expected two phases or more with a source in each"),
        ([["web"], []], "expected two phases or more with a source in each"),
        ([["web"], ["books", "web"]], "web is named twice"),
    ],
)
def test_orders_that_mean_nothing_are_refused(order: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        TokensOptions.model_validate({"order": order})


def test_training_tokens_have_the_weights_of_groups_of_documents(
    session: Session, grouped: tuple[Path, Path], tmp_path: Path
) -> None:
    """Groups are values of a key of meta, one of two values; documents without the key are not used."""
    options, output = TokensOptions.model_validate({**SHARDED, "mixture": GROUPS}), io.StringIO()
    corpus, tokenizer = grouped
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


def test_a_group_whose_weight_is_0_is_said_to_have_none(
    session: Session, grouped: tuple[Path, Path], tmp_path: Path
) -> None:
    weights = {"prose": 0, "code": 0.5, "law": 0.5}
    options = TokensOptions.model_validate({**SHARDED, "mixture": {**GROUPS, "weights": weights}})
    corpus, tokenizer = grouped
    output = io.StringIO()
    _, facts = run(tokens_stage.STAGE, tmp_path, options, session=session, output=output, corpus=corpus,
                   tokenizer=tokenizer)  # fmt: skip
    number = sum(DOMAINS[i % len(DOMAINS)] in ("news", "小说") for part in PARTS for i in range(len(part)))
    expected = f"{number + 15} documents are not used, as their domain has no weight: prose ({number}), no domain (15)"
    assert expected in output.getvalue() and "0% of prose" not in output.getvalue()
    assert facts["mixture/tokens_prose"] == 0


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
