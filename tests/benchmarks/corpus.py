"""Throughput of the stage `corpus` on real docstrings, against a plain loop over the same functions; or on much text.

    python -m tests.benchmarks.corpus [--json]
    python -m tests.benchmarks.corpus --bytes 500000000 [--text FILE…] [--peer datatrove --peer-python PYTHON]

With --bytes: tests.benchmarks.corpus_large, on text of that size.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.data.corpus import cleaning, duplicates, splitting
from pipelines.data.sources import SOURCES
from pipelines.data.sources.source import Source
from pipelines.stage import Work
from pipelines.stages.corpus import STAGE
from pipelines.stages.corpus.options import CorpusCluster, CorpusOptions
from tests.benchmarks import corpus_large, goals
from tests.benchmarks.corpus_large import SilentProgress

if TYPE_CHECKING:
    from cluster.session import Session

MEGABYTES = 20


def main(megabytes: int = MEGABYTES) -> dict[str, float]:
    """Figures: documents/s and seconds of the stage, and of one process without Ray.

    The stage runs twice on a Ray that has just started: the first run starts its workers, the second reuses them."""
    source = SOURCES["docstrings"].model_validate({"limit_bytes": megabytes * 1_000_000})
    cleaning.warm_up()  # numba compiles once on a machine
    list(source.read(source.parts()[0]))  # reads files into the page cache, for both measurements
    bare_s, documents = run_bare(source)
    (stage_s, stage_documents), (warm_s, warm_documents) = run_stage_twice(source)
    if not documents == stage_documents == warm_documents:
        read = f"the stage read {stage_documents} and {warm_documents} documents"
        raise RuntimeError(f"{read}; expected {documents}, as the plain loop")
    return {
        "corpus/documents_per_s": documents / stage_s,
        "corpus/documents_per_s_warm": documents / warm_s,
        "corpus/documents_per_s_bare": documents / bare_s,
        "corpus/warm_over_bare": bare_s / warm_s,
        "corpus/stage_s": stage_s,
        "corpus/stage_s_bare": bare_s,
    }


def run_bare(source: Source) -> tuple[float, int]:
    """(seconds, documents) of reading, cleaning and deduplicating in the calling process."""
    start = time.monotonic()
    options = CorpusOptions()
    parts = source.parts()
    batches = list(
        cleaning.clean(
            "documentation",
            source,
            parts,
            rules=options.rules(source, seed=0),
            permutations=options.permutations,
        )
    )
    keys = np.concatenate([column_bytes(batch, "key") for batch in batches])
    signatures = np.concatenate([column_bytes(batch, "signature") for batch in batches])
    sizes = np.concatenate([batch.documents.column("text_bytes").to_numpy() for batch in batches])
    kept = splitting.first_occurrences(keys.view(np.uint64))
    deduplicate(keys.view(np.uint64)[kept], signatures.view(np.uint32)[kept], sizes[kept], options.near_duplicates or 1)
    return time.monotonic() - start, sum(batch.counts["documents/read"] for batch in batches)


def deduplicate(keys_D2: np.ndarray, signatures_DP: np.ndarray, text_bytes_D: np.ndarray, threshold: float) -> None:
    """Looks for near duplicates as the tasks do, in one bucket."""
    marks = duplicates.band_marks(signatures_DP, keys_D2, threshold)
    hashes, keys, rows = (column.to_numpy() for column in marks.columns)
    members, starts = duplicates.candidate_groups(hashes, keys, duplicates.document_numbers(0, rows))
    documents = np.unique(members)
    pairs = duplicates.near_duplicates(
        members, starts, documents, signatures_DP[documents], text_bytes_D[documents], threshold
    )
    duplicates.worse_duplicates(*(column.to_numpy() for column in pairs.columns))


def column_bytes(batch: cleaning.CleanedBatch, name: str) -> np.ndarray:
    """Bytes of a fixed-width column: uint8 [documents, width]."""
    values = batch.documents.column(name).combine_chunks()
    return np.frombuffer(values.buffers()[1], np.uint8).reshape(-1, values.type.byte_width)


def run_stage_twice(source: Source) -> list[tuple[float, int]]:
    """(seconds, documents) of two runs of the stage on one local Ray."""
    from cluster.session import Session

    with Session(on_message=lambda text: None) as session:
        return [run_stage(source, session) for _ in range(2)]


def run_stage(source: Source, session: Session) -> tuple[float, int]:
    """(seconds, documents) of one run of the stage on an empty draft."""
    from pipelines.store.artifacts import Draft

    with tempfile.TemporaryDirectory() as folder:
        work = Work(
            name="corpus",
            options=CorpusOptions(),
            cluster=CorpusCluster(),
            seed=0,
            inputs={},
            sources={"documentation": source},
            draft=Draft(Path(folder), "benchmark"),
            progress=SilentProgress(),
            session=session,
        )
        start = time.monotonic()
        facts = STAGE.run(work)
        return time.monotonic() - start, int(facts["documents/read"])


def command_line() -> dict[str, float]:
    """Parses the command line, and prints and returns the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.corpus", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
    parser.add_argument("--bytes", type=int, help="size of the text that is made, for tests.benchmarks.corpus_large")
    parser.add_argument(
        "--text", type=Path, nargs="*", default=[], help="JSON lines to make the text of, column `text`"
    )
    parser.add_argument("--peer", choices=["datatrove"], help="what the stage is compared with")
    parser.add_argument("--peer-python", help="interpreter that has the peer; default: $RAYSE_PEER_PYTHON")
    parser.add_argument("--peer-bytes", type=int, default=10_000_000, help="size of the peer's share of the text")
    options = parser.parse_args()
    python = corpus_large.peer_interpreter(options.peer, options.peer_python)
    if options.bytes is None:
        figures = main()
    else:
        figures = corpus_large.main(options.bytes, options.text, python, options.peer_bytes)
    if options.json:
        print(json.dumps(figures))
    else:
        goals.print_figures(figures)
    return figures


if __name__ == "__main__":
    command_line()
