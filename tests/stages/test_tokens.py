"""The stages `tokenizer` and `tokens` on a corpus of a few documents. Ray is not started: the tests encode the blocks
as the stage's tasks do (tests/test_end_to_end.py runs the tasks)."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.session import Session
from pipelines.data.corpus import corpora
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.errors import UserError
from pipelines.run.progress import RunLog
from pipelines.stage import Facts, Options, Stage, Work
from pipelines.stages import tokenizer as tokenizer_stage
from pipelines.stages import tokens as tokens_stage
from pipelines.stages.tokenizer import TokenizerOptions
from pipelines.stages.tokens import TokensOptions
from pipelines.store.artifacts import Artifact, Draft, Manifest
from pipelines.store.digests import FileDigests

ENGLISH = [f"Document {i} tells of {i * i} things, and then of {i % 7} more." * (1 + i % 3) for i in range(60)]
CHINESE = [f"第{i}篇文章讲了{i * i}件事情，然后又讲了{i % 7}件。" * (1 + i % 3) for i in range(20)]
DOCUMENTS = [("en", text) for text in ENGLISH] + [("zh", text) for text in CHINESE]
HELD_OUT = [("en", "A text that nobody trained on, about 3 things."), ("zh", "一篇没有人学过的文章。")]


def write_corpus(folder: Path, *, held_out: list[tuple[str, str]]) -> Path:
    for split, parts in (("train", [DOCUMENTS[:50], DOCUMENTS[50:]]), ("held_out", [held_out] if held_out else [])):
        (folder / split).mkdir(parents=True)
        for number, rows in enumerate(parts):
            table = pa.table({"id": [f"{number}:{i}" for i in range(len(rows))],
                              "language": [row[0] for row in rows], "text": [row[1] for row in rows]})  # fmt: skip
            pq.write_table(table, folder / split / f"part-{number:05}.parquet")
    return folder


def artifact(folder: Path, kind: str) -> Artifact:
    manifest = Manifest(kind=kind, fingerprint="f", stage=kind, name=kind, stage_version=1, seed=7, options={}, code="")
    return Artifact(folder, manifest, FileDigests(folder.parent / "digests.json"))


def run(
    stage: Stage, folder: Path, options: Options, seed: int = 7, output: io.StringIO | None = None, **inputs: Path
) -> tuple[Path, Facts]:
    """Runs a stage. Returns (its output folder, its facts)."""
    session = Session()
    work = Work(name=stage.kind, options=options, cluster=stage.cluster(), seed=seed, sources={},
                inputs={kind: artifact(path, kind) for kind, path in inputs.items()},
                draft=Draft(folder, "f"), progress=RunLog(output or io.StringIO()), session=session)  # fmt: skip
    facts = stage.run(work)
    assert not session.started
    return work.draft.out, facts


def tokens(folder: Path, corpus: Path, tokenizer: Path, options: dict[str, Any], seed: int = 7) -> tuple[Path, Facts]:
    for split in corpora.SPLITS:
        for part in corpora.parts(corpus, split):
            block = folder / "encoded" / split / f"{part.stem}.arrow"
            block.parent.mkdir(parents=True, exist_ok=True)
            tokens_stage.encode_part(part, block, tokenizer)
    return run(tokens_stage.STAGE, folder, TokensOptions.model_validate({"length": 32} | options), seed,
               corpus=corpus, tokenizer=tokenizer)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus", held_out=HELD_OUT)


@pytest.fixture(scope="module")
def tokenizer(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = TokenizerOptions.model_validate({"vocabulary": 512, "sample_bytes": 10_000})
    return run(tokenizer_stage.STAGE, tmp_path_factory.mktemp("tokenizer"), options, corpus=corpus)[0]


def documents_of(file: Path) -> list[list[int]]:
    """Reassembles the documents of a file of packed rows that are not shuffled."""
    rows = pa.ipc.open_file(pa.memory_map(str(file))).read_all().to_pylist()
    documents: list[list[int]] = []
    for row in rows:
        for token, segment, position in zip(row["tokens"], row["segments"], row["positions"], strict=True):
            if segment and position == 0 and token == 1:  # the bos token: otherwise a document continues here
                documents.append([])
            if segment:
                documents[-1].append(token)
    return documents


def framed(tokenizer: Path, texts: list[str]) -> list[list[int]]:
    encoder = Encoder.open(tokenizer)
    return [encoder.frame(ids).tolist() for ids in encoder.encode(texts)]


def test_the_tokenizer_measures_bytes_per_token_of_held_out_text(corpus: Path, tmp_path: Path) -> None:
    output = io.StringIO()
    options = TokenizerOptions.model_validate({"vocabulary": 5000, "sample_bytes": 10_000})
    folder, facts = run(tokenizer_stage.STAGE, tmp_path, options, output=output, corpus=corpus)
    encoder = Encoder.open(folder)
    sizes = {language: len(text.encode()) for language, text in HELD_OUT}
    lengths = {language: len(encoder.encode([text])[0]) for language, text in HELD_OUT}
    assert facts["text/bytes_per_token_en"] == sizes["en"] / lengths["en"]
    assert facts["text/bytes_per_token_zh"] == sizes["zh"] / lengths["zh"]
    assert facts["text/bytes_per_token"] == sum(sizes.values()) / sum(lengths.values())
    assert facts["tokenizer/vocabulary"] == encoder.vocabulary < 5000
    assert f"the text gives {encoder.vocabulary:,} tokens; 5,000 were requested" in output.getvalue()


def test_the_tokenizer_is_deterministic_and_has_tokens_for_the_small_language(corpus: Path, tmp_path: Path) -> None:
    options = TokenizerOptions.model_validate({"vocabulary": 600, "sample_bytes": 10_000})
    made = [run(tokenizer_stage.STAGE, tmp_path / str(i), options, corpus=corpus)[0] for i in range(2)]
    assert (made[0] / "tokenizer.json").read_bytes() == (made[1] / "tokenizer.json").read_bytes()
    (ids,) = Encoder.open(made[0]).encode(["文章"])
    assert len(ids) == 1


def test_every_training_document_is_packed_once(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    folder, facts = tokens(tmp_path, corpus, tokenizer, {})
    expected = framed(tokenizer, [text for _, text in DOCUMENTS])
    rows = pa.ipc.open_file(pa.memory_map(str(folder / "train.arrow"))).read_all()
    segments = np.array(rows["segments"].to_pylist())
    packed = np.array(rows["tokens"].to_pylist())[segments > 0]
    assert np.bincount(packed).tolist() == np.bincount(np.concatenate(expected)).tolist()
    num_tokens = sum(map(len, expected))
    assert facts["tokens/train"] == num_tokens
    assert facts["rows/train"] == rows.num_rows == -(-num_tokens // 32)
    assert facts["documents/train"] == len(DOCUMENTS)
    meta = json.loads((folder / "meta.json").read_text())
    vocabulary = Encoder.open(tokenizer).vocabulary
    assert meta == {"length": 32, "vocabulary": vocabulary, "num_rows": rows.num_rows, "num_tokens": num_tokens,
                    "bos_id": 1, "eos_id": 2, "pad_id": 0}  # fmt: skip
    assert (folder / "tokenizer" / "tokenizer.json").read_bytes() == (tokenizer / "tokenizer.json").read_bytes()
    assert (folder / "tokenizer" / "chat_template.jinja").is_file()


def test_held_out_documents_keep_their_order(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    folder, facts = tokens(tmp_path, corpus, tokenizer, {})
    expected = framed(tokenizer, [text for _, text in HELD_OUT])
    assert documents_of(folder / "held_out.arrow") == expected
    assert facts["tokens/held_out"] == sum(map(len, expected))


def test_unigram_counts_equal_the_tokens_of_each_languages_training_text(
    corpus: Path, tokenizer: Path, tmp_path: Path
) -> None:
    folder, _ = tokens(tmp_path, corpus, tokenizer, {})
    table = pq.read_table(folder / "unigram.parquet").to_pydict()
    encoder = Encoder.open(tokenizer)
    for language in ("en", "zh"):
        ids = np.concatenate(encoder.encode([text for text_language, text in DOCUMENTS if text_language == language]))
        assert table[language] == np.bincount(ids, minlength=encoder.vocabulary).tolist()  # framing is not text


def test_training_tokens_have_the_weights_of_the_mixture(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    _, facts = tokens(tmp_path, corpus, tokenizer, {"mixture": {"en": 0.5, "zh": 0.5}, "max_repeats": 3})
    assert facts["tokens/fraction_zh"] == pytest.approx(0.5, abs=0.03)
    assert facts["tokens/fraction_en"] == pytest.approx(0.5, abs=0.03)
    assert max(facts["tokens/repeats_en"], facts["tokens/repeats_zh"]) == pytest.approx(3)
    _, facts = tokens(tmp_path / "en", corpus, tokenizer, {"mixture": {"en": 1}})
    assert (facts["tokens/fraction_en"], facts["tokens/train_zh"]) == (1, 0)
    message = "mixture: fr has a weight, but the corpus has no text in it; expected languages of the corpus: en, zh"
    with pytest.raises(UserError, match=message):
        tokens(tmp_path / "fr", corpus, tokenizer, {"mixture": {"en": 0.5, "fr": 0.5}})


def test_the_same_seed_writes_the_same_bytes_over_files_of_a_killed_run(
    corpus: Path, tokenizer: Path, tmp_path: Path
) -> None:
    def bytes_of(folder: Path) -> dict[str, bytes]:
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    first, _ = tokens(tmp_path / "1", corpus, tokenizer, {})
    (tmp_path / "2" / "out" / "tokenizer").mkdir(parents=True)
    (tmp_path / "2" / "stream").mkdir()
    for name in ("out/train.arrow", "stream/train.int32", "out/tokenizer/tokenizer.json"):
        (tmp_path / "2" / name).write_bytes(b"half" * 1000)
    second, _ = tokens(tmp_path / "2", corpus, tokenizer, {})
    assert bytes_of(first) == bytes_of(second)
    third, _ = tokens(tmp_path / "3", corpus, tokenizer, {}, seed=8)
    assert bytes_of(third)["train.arrow"] != bytes_of(first)["train.arrow"]
    assert bytes_of(third)["held_out.arrow"] == bytes_of(first)["held_out.arrow"]


def test_a_corpus_without_held_out_text_is_encoded(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", held_out=[])
    options = TokenizerOptions.model_validate({"vocabulary": 512, "sample_bytes": 10_000})
    tokenizer, facts = run(tokenizer_stage.STAGE, tmp_path / "tokenizer", options, corpus=corpus)
    assert list(facts) == ["tokenizer/vocabulary"]
    folder, facts = tokens(tmp_path / "tokens", corpus, tokenizer, {})
    assert facts["rows/held_out"] == facts["tokens/held_out"] == 0
    assert pa.ipc.open_file(str(folder / "held_out.arrow")).read_all().num_rows == 0


@pytest.mark.parametrize("mixture", [{"en": -0.1, "zh": 1}, {"en": 0, "zh": 0}, {}])
def test_a_mixture_without_positive_weights_is_refused(mixture: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="mixture"):
        TokensOptions.model_validate({"mixture": mixture})
