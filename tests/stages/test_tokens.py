"""The stages `tokenizer` and `tokens` on a corpus of a few documents, their tasks on a real Ray."""

from __future__ import annotations

import io
import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from cluster.session import Session
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.errors import UserError
from pipelines.learning.batch import PackedRows
from pipelines.run.progress import RunLog
from pipelines.stage import Facts, Options, Stage, Work
from pipelines.stages import tokenizer as tokenizer_stage
from pipelines.stages import tokens as tokens_stage
from pipelines.stages.tokenizer import TokenizerOptions
from pipelines.stages.tokens import TokensCluster, TokensOptions
from pipelines.store.artifacts import Artifact, Draft, Manifest
from pipelines.store.digests import FileDigests
from tests.runs import ROOT
from tests.stages.deadly import lose_workers

ENGLISH = [f"Document {i} tells of {i * i} things, and then of {i % 7} more." * (1 + i % 3) for i in range(60)]
CHINESE = [f"第{i}篇文章讲了{i * i}件事情，然后又讲了{i % 7}件。" * (1 + i % 3) for i in range(20)]
DOCUMENTS = [("en", text) for text in ENGLISH] + [("zh", text) for text in CHINESE]
PARTS = [DOCUMENTS[:50], DOCUMENTS[50:74], DOCUMENTS[74:75], DOCUMENTS[75:]]
HELD_OUT = [("en", "A text that nobody trained on, about 3 things."), ("zh", "一篇没有人学过的文章。")]
Rows = list[tuple[str, str]]


def write_corpus(folder: Path, *, held_out: Rows, train: list[Rows] = PARTS, row_group: int | None = None) -> Path:
    for split, parts in (("train", train), ("held_out", [held_out] if held_out else [])):
        (folder / split).mkdir(parents=True)
        for number, rows in enumerate(parts):
            table = pa.table({"id": [f"{number}:{i}" for i in range(len(rows))],
                              "language": [row[0] for row in rows], "text": [row[1] for row in rows]})  # fmt: skip
            pq.write_table(table, folder / split / f"part-{number:05}.parquet", row_group_size=row_group)
    return folder


def artifact(folder: Path, kind: str) -> Artifact:
    manifest = Manifest(kind=kind, fingerprint="f", stage=kind, name=kind, stage_version=1, seed=7, options={}, code="")
    return Artifact(folder, manifest, FileDigests(folder.parent / "digests.json"))


def run(
    stage: Stage, folder: Path, options: Options, seed: int = 7, *, session: Session | None = None,
    output: io.StringIO | None = None, tasks: int | None = None, **inputs: Path,
) -> tuple[Path, Facts]:  # fmt: skip
    """Runs a stage. Returns (its output folder, its facts)."""
    cluster = TokensCluster(tasks=tasks) if stage is tokens_stage.STAGE else stage.cluster()
    work = Work(name=stage.kind, options=options, cluster=cluster, seed=seed, sources={},
                inputs={kind: artifact(path, kind) for kind, path in inputs.items()},
                draft=Draft(folder, "f"), progress=RunLog(output or io.StringIO()),
                session=session or Session())  # fmt: skip
    facts = stage.run(work)
    assert session or not work.session.started
    return work.draft.out, facts


class Tokens:
    """Runs the stage tokens on one Ray."""

    def __init__(self, session: Session, corpus: Path, tokenizer: Path) -> None:
        self.session, self.corpus, self.tokenizer = session, corpus, tokenizer

    def __call__(self, folder: Path, seed: int = 7, tasks: int | None = None, output: io.StringIO | None = None,
                 **options: Any) -> tuple[Path, Facts]:  # fmt: skip
        values = TokensOptions.model_validate({"length": 32, **options})
        return run(tokens_stage.STAGE, folder, values, seed, session=self.session, tasks=tasks, output=output,
                   corpus=self.corpus, tokenizer=self.tokenizer)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus", held_out=HELD_OUT)


@pytest.fixture(scope="module")
def tokenizer(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = TokenizerOptions.model_validate({"vocabulary": 512, "sample_bytes": 10_000})
    return run(tokenizer_stage.STAGE, tmp_path_factory.mktemp("tokenizer"), options, corpus=corpus)[0]


@pytest.fixture(scope="module")
def tokens(session: Session, corpus: Path, tokenizer: Path) -> Tokens:
    return Tokens(session, corpus, tokenizer)


@pytest.fixture(scope="module")
def packed(tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Facts]:
    """Every document once, in one shard."""
    return tokens(tmp_path_factory.mktemp("packed"))


SHARDED: dict[str, Any] = {"length": 32, "shard_tokens": 1000}


@pytest.fixture(scope="module")
def sharded(tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Facts]:
    """Every document once, in three shards."""
    return tokens(tmp_path_factory.mktemp("sharded"), **SHARDED)


def documents_of(folder: Path) -> list[list[int]]:
    """Reassembles the documents of packed rows that are not shuffled, of all shards."""
    documents: list[list[int]] = []
    for file in sorted(folder.glob("part-*.arrow")):
        for row in pa.ipc.open_file(pa.memory_map(str(file))).read_all().to_pylist():
            for token, segment, position in zip(row["tokens"], row["segments"], row["positions"], strict=True):
                if segment and position == 0 and token == 1:  # the bos token: otherwise a document continues here
                    documents.append([])
                if segment:
                    documents[-1].append(token)
    return documents


def framed(tokenizer: Path, texts: list[str]) -> list[list[int]]:
    encoder = Encoder.open(tokenizer)
    return [encoder.frame(ids).tolist() for ids in encoder.encode(texts)]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


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


def test_every_training_document_is_packed_once(packed: tuple[Path, Facts], tokenizer: Path) -> None:
    folder, facts = packed
    expected = framed(tokenizer, [text for _, text in DOCUMENTS])
    assert [file.name for file in (folder / "train").iterdir()] == ["part-00000.arrow"]
    rows = pa.ipc.open_file(pa.memory_map(str(folder / "train" / "part-00000.arrow"))).read_all()
    segments = np.array(rows["segments"].to_pylist())
    ids = np.array(rows["tokens"].to_pylist())[segments > 0]
    assert np.bincount(ids).tolist() == np.bincount(np.concatenate(expected)).tolist()
    num_tokens = sum(map(len, expected))
    assert facts["tokens/train"] == num_tokens
    assert facts["rows/train"] == rows.num_rows == -(-num_tokens // 32)
    assert facts["documents/train"] == len(DOCUMENTS)
    assert facts["tokens/shards"] == 1
    meta = json.loads((folder / "meta.json").read_text())
    vocabulary = Encoder.open(tokenizer).vocabulary
    assert meta == {"length": 32, "vocabulary": vocabulary, "num_rows": rows.num_rows, "num_tokens": num_tokens,
                    "bos_id": 1, "eos_id": 2, "pad_id": 0}  # fmt: skip
    assert (folder / "tokenizer" / "tokenizer.json").read_bytes() == (tokenizer / "tokenizer.json").read_bytes()
    assert (folder / "tokenizer" / "chat_template.jinja").is_file()


def test_held_out_documents_keep_their_order(packed: tuple[Path, Facts], tokenizer: Path) -> None:
    folder, facts = packed
    expected = framed(tokenizer, [text for _, text in HELD_OUT])
    assert documents_of(folder / "held_out") == expected
    assert facts["tokens/held_out"] == sum(map(len, expected))


def test_unigram_counts_equal_the_tokens_of_each_languages_training_text(
    packed: tuple[Path, Facts], tokenizer: Path
) -> None:
    table = pq.read_table(packed[0] / "unigram.parquet").to_pydict()
    encoder = Encoder.open(tokenizer)
    for language in ("en", "zh"):
        ids = np.concatenate(encoder.encode([text for text_language, text in DOCUMENTS if text_language == language]))
        assert table[language] == np.bincount(ids, minlength=encoder.vocabulary).tolist()  # framing is not text


def test_training_tokens_have_the_weights_of_the_mixture(tokens: Tokens, tmp_path: Path) -> None:
    _, facts = tokens(tmp_path, mixture={"en": 0.5, "zh": 0.5}, max_repeats=3, output=(output := io.StringIO()))
    assert "% of en is used, as zh is used 3 times (max_repeats: 3)" in output.getvalue()
    assert facts["tokens/fraction_zh"] == pytest.approx(0.5, abs=0.03)
    assert facts["tokens/fraction_en"] == pytest.approx(0.5, abs=0.03)
    assert max(facts["tokens/repeats_en"], facts["tokens/repeats_zh"]) == pytest.approx(3)
    for name in ("en", "fr"):  # the parts need not be encoded again
        shutil.copytree(tmp_path / "ranked", tmp_path / name / "ranked")
    _, facts = tokens(tmp_path / "en", mixture={"en": 1, "zh": 0}, output=(output := io.StringIO()))
    assert (facts["tokens/fraction_en"], facts["tokens/train_zh"]) == (1, 0)
    number = sum(language == "zh" for language, _ in DOCUMENTS)
    assert f"{number} documents are not used, as their language has no weight: zh ({number})" in output.getvalue()
    message = "mixture: fr has a weight, but the corpus has no text in it; expected languages of the corpus: en, zh"
    with pytest.raises(UserError, match=message):
        tokens(tmp_path / "fr", mixture={"en": 0.5, "fr": 0.5})


def test_shards_have_every_document_exactly_as_often_as_it_is_repeated(
    tokens: Tokens, tokenizer: Path, tmp_path: Path
) -> None:
    """A row is longer than a shard, so that documents are whole. Two of seven in zh are used three times."""
    folder, facts = tokens(tmp_path, length=4096, shard_tokens=1000, mixture={"en": 0.6, "zh": 0.4}, max_repeats=2.29)
    repeats = {language: Fraction(float(facts[f"tokens/repeats_{language}"])) for language in ("en", "zh")}
    expected: list[str] = []
    ranks: Counter[str] = Counter()
    for number, part in enumerate(PARTS):
        for index in np.random.default_rng([7, number]).permutation(len(part)):
            language, text = part[index]
            before, ranks[language] = ranks[language], ranks[language] + 1
            due = [math.floor(rank * repeats[language] + Fraction(1, 2)) for rank in (before, before + 1)]
            expected += [text] * (due[1] - due[0])
    assert float(repeats["zh"]) == pytest.approx(2.29) and 0 < repeats["en"] < 1
    assert expected.count(CHINESE[0]) in (2, 3) and len(expected) == facts["documents/train"]
    shards = [documents_of_file(file) for file in sorted((folder / "train").iterdir())]
    assert len(shards) == facts["tokens/shards"] and len(shards) >= 3
    written = sorted(document for shard in shards for document in shard)
    assert written == sorted(framed(tokenizer, expected))
    homes = Counter(tuple(document) for shard in shards for document in {tuple(document) for document in shard})
    assert set(homes.values()) == {1}  # all copies of a document are in one shard
    assert max(map(len, shards)) < 2 * min(map(len, shards))


def documents_of_file(file: Path) -> list[list[int]]:
    """The documents of a file whose only row holds them all."""
    (row,) = pa.ipc.open_file(pa.memory_map(str(file))).read_all().to_pylist()
    documents: list[list[int]] = [[] for _ in range(max(row["segments"]))]
    for token, segment in zip(row["tokens"], row["segments"], strict=True):
        if segment:
            documents[segment - 1].append(token)
    return documents


def test_readers_get_every_row_of_all_shards_once_and_a_batch_has_rows_of_many(sharded: tuple[Path, Facts]) -> None:
    folder, facts = sharded
    files = sorted((folder / "train").iterdir())
    tables = [pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files]
    shard_of = {
        (tuple(row["tokens"]), tuple(row["positions"])): n for n, t in enumerate(tables) for row in t.to_pylist()
    }
    rows = PackedRows(folder / "train")
    assert len(rows) == facts["rows/train"] == sum(table.num_rows for table in tables) == len(shard_of)
    batch = rows.read(np.arange(len(rows)))
    read = [
        (tuple(ids), tuple(positions))
        for ids, positions in zip(batch.tokens_BT.tolist(), batch.positions_BT.tolist(), strict=True)
    ]
    assert sorted(read) == sorted(shard_of)
    assert len(files) >= 3 and {shard_of[row] for row in read[:16]} == set(range(len(files)))


@pytest.mark.parametrize("tasks", [1, 2])
def test_the_same_seed_writes_the_same_bytes_over_files_of_a_killed_run_by_any_number_of_tasks(
    tokens: Tokens, packed: tuple[Path, Facts], tmp_path: Path, tasks: int
) -> None:
    half = f".{'0123456789abcdef' * 2}"
    for name in ("out/tokenizer/tokenizer.json", f"out/train/{half}", "out/unigram.parquet", f"ranked/train/{half}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half" * 1000)
    folder, facts = tokens(tmp_path, tasks=tasks)
    assert bytes_of(folder) == bytes_of(packed[0])
    assert facts == packed[1]


@pytest.mark.slow
def test_a_worker_that_is_lost_while_encoding_and_while_packing_does_not_change_the_result(
    tokens: Tokens, sharded: tuple[Path, Facts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_workers(monkeypatch, tmp_path / "lost")
    folder, facts = tokens(tmp_path / "tokens", **SHARDED)
    assert {file.name for file in (tmp_path / "lost").iterdir()} == {"encode_part", "write_shard"}
    assert bytes_of(folder) == bytes_of(sharded[0])
    assert facts == sharded[1]


def test_another_seed_writes_other_training_rows(tokens: Tokens, packed: tuple[Path, Facts], tmp_path: Path) -> None:
    before, after = bytes_of(packed[0]), bytes_of(tokens(tmp_path, seed=8)[0])
    assert after["train/part-00000.arrow"] != before["train/part-00000.arrow"]
    assert after["held_out/part-00000.arrow"] == before["held_out/part-00000.arrow"]


def test_a_corpus_without_held_out_text_is_encoded(session: Session, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", held_out=[])
    options = TokenizerOptions.model_validate({"vocabulary": 512, "sample_bytes": 10_000})
    tokenizer, facts = run(tokenizer_stage.STAGE, tmp_path / "tokenizer", options, corpus=corpus)
    assert list(facts) == ["tokenizer/vocabulary"]
    folder, facts = Tokens(session, corpus, tokenizer)(tmp_path / "tokens")
    assert facts["rows/held_out"] == facts["tokens/held_out"] == 0
    assert len(PackedRows(folder / "held_out")) == 0


def test_token_ids_beyond_two_bytes_are_kept(session: Session, tmp_path: Path) -> None:
    words = {f"w{i}": i for i in range(70_000)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w2", "pad_token": "w0"}))
    corpus = write_corpus(tmp_path / "corpus", train=[[("en", "w69999 w5 w65536")]], held_out=[])
    folder, _ = Tokens(session, corpus, tmp_path / "tokenizer")(tmp_path / "tokens")
    assert PackedRows(folder / "train").read(np.arange(1)).tokens_BT[0, :5].tolist() == [69_999, 5, 65_536, 2, 0]


@pytest.mark.parametrize("mixture", [{"en": -0.1, "zh": 1}, {"en": 0, "zh": 0}, {}])
def test_a_mixture_without_positive_weights_is_refused(mixture: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="mixture"):
        TokensOptions.model_validate({"mixture": mixture})


# ---- kills and memory, of a driver in its own process ----------------------------------------------------------------


def start(corpus: Path, folder: Path, options: dict[str, Any], *unit: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.stages.tokens_run", str(corpus), str(folder), json.dumps(options), *unit]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_a_driver_that_is_killed_while_encoding_and_while_packing_resumes(
    sharded: tuple[Path, Facts], session: Session, corpus: Path, tmp_path: Path
) -> None:
    options = {"tokenizer": {"vocabulary": 512, "sample_bytes": 10_000}, "tokens": SHARDED}
    draft = tmp_path / "killed" / "tokens"

    def finished() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in draft.rglob("part-*.arrow")}

    seen: dict[str, int] = {}
    for unit in ("parts", "files of rows"):
        done = start(corpus, tmp_path / "killed", options, unit)
        assert done.returncode == -9, done.stderr[-4000:]
        after = finished()
        assert seen.items() <= after.items() and len(after) > len(seen)  # a finished file is not written again
        seen = after
    assert any("/out/train/" in name for name in seen)
    folder, facts = Tokens(session, corpus, tmp_path / "killed" / "tokenizer" / "out")(draft, **SHARDED)
    assert seen.items() <= finished().items()
    assert bytes_of(folder) == bytes_of(sharded[0])
    assert facts == sharded[1]


@pytest.mark.slow
def test_the_drivers_memory_does_not_depend_on_the_corpus(tmp_path: Path) -> None:
    """2 and 16 MB of text; the tokens of the larger corpus alone would take 30 MB, and 12 bytes each in rows."""
    peaks: dict[int, dict[str, float]] = {}
    for times in (1, 8):
        random = np.random.default_rng(times)
        words = [f"{''.join(map(chr, random.integers(97, 123, 6)))}" for _ in range(5000)]
        parts = [[("en", " ".join(random.choice(words, 300))) for _ in range(500)] for _ in range(2 * times)]
        corpus = write_corpus(tmp_path / f"corpus{times}", held_out=HELD_OUT, train=parts, row_group=50)
        options = {"tokenizer": {"vocabulary": 512, "sample_bytes": 200_000}, "tokens": {"shard_tokens": 2_000_000}}
        done = start(corpus, tmp_path / f"run{times}", options)
        assert done.returncode == 0, done.stderr[-4000:]
        facts = json.loads(done.stdout.splitlines()[-1])
        assert facts["tokens"]["tokens/train"] > 800_000 * times
        peaks[times] = {stage: facts[stage]["driver/peak_memory_bytes"] for stage in facts}
    for stage in peaks[1]:
        assert peaks[8][stage] - peaks[1][stage] <= 50e6, peaks
