"""Encodes the corpus and packs it into rows of tokens, mixed by language and shuffled once.

    corpus parts ──Ray Data: encode──► blocks of token ids ──mix, concatenate──► stream ──cut, shuffle──► train.arrow

Finished blocks stay in the draft, so a resumed run does not encode them again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeFloat, field_validator

from pipelines.stage import ClusterOptions, Facts, Options, Stage, Work

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from pipelines.data.tokens.tokenizing import Encoder


class TokensOptions(Options):
    """Corpus and tokenizer → packed rows of tokens."""

    length: int = Field(256, ge=16, le=1_048_576, description="Tokens of a row: the length of training sequences")
    mixture: dict[str, NonNegativeFloat] | None = Field(
        None,
        description="Mixture weights of training tokens by language, {en: 0.8, zh: 0.2}; default: every document once",
    )
    min_language_fraction: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Minimum fraction of training tokens of each language, reached by repeating its documents; used "
        "without a mixture",
    )
    max_repeats: float = Field(
        1.0, gt=0, le=100, description="Maximum number of times a document is used to reach the mixture or fraction"
    )

    @field_validator("mixture")
    @classmethod
    def _has_positive_weight(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        if weights is not None and not any(weights.values()):
            raise ValueError("expected at least one language with a weight above 0, such as {en: 0.8, zh: 0.2}")
        return weights


class TokensCluster(ClusterOptions):
    """Resources to encode the corpus."""

    cpus: float = Field(1, ge=0, description="Logical CPUs of a task that encodes one part of the corpus")


def run(work: Work) -> Facts:
    """Writes packed rows and the tokenizer into work.draft.out. Raises UserError for a mixture that is impossible."""
    from pipelines.data.tokens.tokenizing import Encoder
    from pipelines.store.artifacts import write_json
    from pipelines.training import copy_tokenizer

    tokenizer = work.inputs["tokenizer"].local()
    encoder = Encoder.open(tokenizer)
    corpus = work.inputs["corpus"].local()
    blocks = {split: _encode(work, corpus, split, tokenizer) for split in ("train", "held_out")}
    facts = _write_train(work, blocks["train"], encoder)
    facts |= _write_held_out(work, blocks["held_out"], encoder)
    (work.draft.out / "tokenizer").mkdir(exist_ok=True)
    copy_tokenizer(tokenizer, work.draft.out / "tokenizer")
    meta = {
        "length": work.options.length,
        "vocabulary": encoder.vocabulary,
        "num_rows": facts["rows/train"],
        "num_tokens": facts["tokens/train"],
        "bos_id": encoder.bos_id,
        "eos_id": encoder.eos_id,
        "pad_id": encoder.pad_id,
    }
    write_json(work.draft.out / "meta.json", meta)
    return facts


def encode_part(part: Path, block: Path, tokenizer: Path) -> None:
    """Encodes one Parquet part into an Arrow file with the language and framed tokens of each document."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.data.tokens.tokenizing import Encoder

    encoder = Encoder.open(tokenizer)
    schema = _block_schema()
    partial = block.with_suffix(".partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in pq.ParquetFile(part).iter_batches(columns=["language", "text"], batch_size=1024):
            documents = [encoder.frame(ids) for ids in encoder.encode(batch.column("text").to_pylist())]
            writer.write_batch(pa.record_batch([batch.column("language"), _list_array(documents)], schema=schema))
    os.replace(partial, block)


def _block_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([("language", pa.string()), ("tokens", pa.large_list(pa.int32()))])


def _list_array(arrays: list[np.ndarray]) -> pa.LargeListArray:
    import numpy as np
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int64)
    values = np.concatenate(arrays) if arrays else np.zeros(0, np.int32)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values, pa.int32()))


def _encode(work: Work, corpus: Path, split: str, tokenizer: Path) -> list[Path]:
    """Encodes the parts of a split that are not encoded yet, in parallel. Returns the split's blocks in order."""
    from pipelines.data.corpus import corpora

    folder = work.draft.folder(f"encoded/{split}")
    pairs = [(part, folder / f"{part.stem}.arrow") for part in corpora.parts(corpus, split)]
    missing = [
        {"part": str(part), "block": str(block), "tokenizer": str(tokenizer)}
        for part, block in pairs
        if not block.exists()
    ]
    if missing:
        import ray.data

        work.session.start()
        rows = ray.data.from_items(missing, override_num_blocks=len(missing))
        done = rows.map(_encode_row, num_cpus=work.cluster.cpus)
        for number, _ in enumerate(done.iter_rows(), 1):
            work.progress.update(number, len(missing), f"{split} parts")
    return [block for _, block in pairs]


def _encode_row(row: dict[str, Any]) -> dict[str, Any]:
    encode_part(Path(row["part"]), Path(row["block"]), Path(row["tokenizer"]))
    return {"block": row["block"]}


def _documents(blocks: list[Path]) -> tuple[pa.LargeListArray, np.ndarray]:
    """Memory-maps all documents of the blocks. Returns (column of token lists, language of each document)."""
    import pyarrow as pa

    tables = [pa.ipc.open_file(pa.memory_map(str(block))).read_all() for block in blocks]
    table = pa.concat_tables(tables) if tables else _block_schema().empty_table()
    return table.column("tokens"), table.column("language").to_numpy(zero_copy_only=False)


def _concatenate(work: Work, name: str, tokens: pa.ChunkedArray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenates the documents in this order, on disk.

    Returns (token ids int32 [N], bool [N]: True where a document begins)."""
    import numpy as np

    from pipelines.data.tokens.ragged import RaggedColumn

    column = RaggedColumn(tokens)
    lengths = column.lengths[order]
    total = int(lengths.sum())
    folder = work.draft.folder("stream")
    stream = np.memmap(folder / f"{name}.int32", np.int32, "w+", shape=(max(total, 1),))[:total]
    starts = np.zeros(total, bool)
    ends = np.cumsum(lengths)
    starts[ends - lengths] = True
    for document, end in zip(order, ends, strict=True):
        ids = column[document]
        stream[end - len(ids) : end] = ids
    return stream, starts


def _write_train(work: Work, blocks: list[Path], encoder: Encoder) -> Facts:
    import numpy as np

    from pipelines.data.tokens import packing

    options: TokensOptions = work.options
    tokens, languages = _documents(blocks)
    lengths = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in tokens.chunks])
    corpus_tokens = {str(name): int(lengths[languages == name].sum()) for name in sorted(set(languages))}
    if options.mixture is not None:
        repeats = packing.mixture_repeats(corpus_tokens, options.mixture, options.max_repeats)
    else:
        repeats = packing.min_fraction_repeats(corpus_tokens, options.min_language_fraction, options.max_repeats)
    order = packing.choose_documents(languages, repeats, work.seed)
    stream, starts = _concatenate(work, "train", tokens, order)
    _write_unigram(work, stream, starts, languages[order], encoder)
    rows = 0
    total = -(-len(stream) // options.length)
    file = work.draft.out / "train.arrow"
    for rows in packing.write_rows(file, stream, starts, length=options.length, pad_id=encoder.pad_id, seed=work.seed):
        work.progress.update(rows, total, "rows")
    facts: Facts = {"rows/train": rows, "tokens/train": len(stream), "documents/train": len(order)}
    for language in corpus_tokens:
        num_tokens = int(lengths[order][languages[order] == language].sum())
        facts[f"tokens/train_{language}"] = num_tokens
        facts[f"tokens/fraction_{language}"] = num_tokens / max(len(stream), 1)
        facts[f"tokens/repeats_{language}"] = repeats.get(language, 0.0)
    return facts


def _write_held_out(work: Work, blocks: list[Path], encoder: Encoder) -> Facts:
    import numpy as np

    from pipelines.data.tokens import packing

    tokens, _ = _documents(blocks)
    stream, starts = _concatenate(work, "held_out", tokens, np.arange(len(tokens)))
    file = work.draft.out / "held_out.arrow"
    rows = 0
    for rows in packing.write_rows(file, stream, starts, length=work.options.length, pad_id=encoder.pad_id, seed=None):
        work.progress.update(rows, -(-len(stream) // work.options.length), "held-out rows")
    return {"rows/held_out": rows, "tokens/held_out": len(stream)}


def _write_unigram(work: Work, stream: np.ndarray, starts: np.ndarray, languages: np.ndarray, encoder: Encoder) -> None:
    """Counts the tokens of the training text by language, for unigram baselines. languages: of each document."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = sorted(set(languages))
    codes = np.searchsorted(names, languages)
    token_codes = codes[np.cumsum(starts) - 1]
    columns = {}
    for code, name in enumerate(names):
        counts = np.bincount(stream[token_codes == code], minlength=encoder.vocabulary)
        counts[[i for i in (encoder.bos_id, encoder.eos_id) if i is not None]] = 0  # framing is not text
        columns[str(name)] = pa.array(counts.astype(np.int64))
    pq.write_table(pa.table(columns), work.draft.out / "unigram.parquet", compression="zstd")


STAGE = Stage(
    kind="tokens",
    version=1,
    makes="tokens",
    needs=("corpus", "tokenizer"),
    options=TokensOptions,
    cluster=TokensCluster,
    run=run,
)
