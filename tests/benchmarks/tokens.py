"""Throughput of the stage `tokens` on real docstrings, against a plain loop over the same functions.

python -m tests.benchmarks.tokens [MEGABYTES]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.sources import SOURCES
from pipelines.data.sources.source import Row
from pipelines.data.tokens import packing, tokenizing

if TYPE_CHECKING:
    from cluster.session import Session

MEGABYTES = 40
NUM_PARTS = 4
LENGTH = 256
VOCABULARY = 4096


def main(megabytes: int = MEGABYTES) -> dict[str, float]:
    """Figures: tokens/s of the stage and of one process without Ray, which uses every core for encoding, too.

    The stage runs twice on a Ray that has just started: the first run starts its workers, the second reuses them."""
    from cluster.session import Session

    with tempfile.TemporaryDirectory(prefix="rayse-bench-") as name:
        corpus, tokenizer = Path(name) / "corpus", Path(name) / "tokenizer"
        texts = write_corpus(corpus, megabytes)
        tokenizer.mkdir()
        trained = tokenizing.train(texts[:: max(1, megabytes // 4)], VOCABULARY)
        tokenizing.save(trained, tokenizer, max_tokens=LENGTH)
        bare_s, tokens = run_bare(texts, tokenizer, Path(name))
        with Session(on_message=str) as session:
            runs = [run_stage(Path(name) / f"draft{n}", corpus, tokenizer, session) for n in range(2)]
    (stage_s, stage_tokens), (warm_s, warm_tokens) = runs
    if not tokens == stage_tokens == warm_tokens:
        raise RuntimeError(f"the stage packed {stage_tokens} and {warm_tokens} tokens; expected {tokens}, as bare")
    return {
        "tokens/tokens_per_s": tokens / stage_s,
        "tokens/tokens_per_s_warm": tokens / warm_s,
        "tokens/tokens_per_s_bare": tokens / bare_s,
        "tokens/warm_over_bare": bare_s / warm_s,
    }


def write_corpus(folder: Path, megabytes: int) -> list[str]:
    """Writes the docstrings of this environment as a corpus of NUM_PARTS files. Returns the texts."""
    source = SOURCES["docstrings"].model_validate({"limit_bytes": megabytes * 1_000_000})
    rows = (row for part in source.parts() for row in source.read(part))
    texts = [row.text for row in rows if isinstance(row, Row) and row.text]
    (folder / "train").mkdir(parents=True)
    for number in range(NUM_PARTS):
        part = texts[number * len(texts) // NUM_PARTS : (number + 1) * len(texts) // NUM_PARTS]
        ids = [f"{number}/{row}" for row in range(len(part))]
        table = pa.table({"id": ids, "language": ["en"] * len(part), "text": part})
        pq.write_table(table, folder / "train" / f"part-{number:05}.parquet", compression="zstd")
    return texts


def run_bare(texts: list[str], tokenizer: Path, folder: Path) -> tuple[float, int]:
    """(seconds, tokens) of encoding, concatenating and writing rows in the calling process."""
    start = time.monotonic()
    encoder = tokenizing.Encoder.open(tokenizer)
    documents = [encoder.frame(ids) for i in range(0, len(texts), 1024) for ids in encoder.encode(texts[i : i + 1024])]
    stream = np.concatenate([documents[n] for n in np.random.default_rng(0).permutation(len(documents))])
    starts = stream == encoder.bos_id
    for _ in packing.write_rows(folder / "bare", stream, starts, length=LENGTH, pad_id=encoder.pad_id, seed=0):
        continue
    return time.monotonic() - start, len(stream)


def run_stage(draft: Path, corpus: Path, tokenizer: Path, session: Session) -> tuple[float, int]:
    """(seconds, tokens) of one run of the stage on an empty draft."""
    from pipelines.stages import tokens
    from tests.stages.working import work_of

    work = work_of(tokens.STAGE, draft, session, {"corpus": corpus, "tokenizer": tokenizer}, {"length": LENGTH}, {})
    start = time.monotonic()
    facts = tokens.STAGE.run(work)
    return time.monotonic() - start, int(facts["tokens/train"])


if __name__ == "__main__":
    for name, value in main(*map(int, sys.argv[1:2])).items():
        print(f"{name:<32} {value:>12,.2f}")
