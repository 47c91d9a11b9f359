"""datatrove's side of tests.benchmarks.corpus: the same files through its filters and its MinHash, in one process.

Its steps are called as its LocalPipelineExecutor calls them, which cannot copy a pipeline with the words of Chinese.

    PYTHONPATH=. PYTHON -m tests.benchmarks.datatrove_corpus FOLDER

PYTHON: an interpreter that has datatrove, spacy, jieba, tokenizers, orjson and xxhash before 4. FOLDER: that of
<language>.jsonl. Prints seconds of CPU by phase and the number of documents, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from tests.benchmarks.web_filters import SPACY, pipeline

BANDS, ROWS = 18, 7  # as Rayse's default of 128 hash functions and a similarity of 0.8


def main(folder: Path) -> None:
    """Runs FineWeb's filters, then the four steps of MinHash, language by language."""
    from datatrove.pipeline.dedup import (  # pyright: ignore[reportMissingImports]
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig  # pyright: ignore[reportMissingImports]
    from datatrove.pipeline.readers import JsonlReader  # pyright: ignore[reportMissingImports]
    from datatrove.pipeline.writers.jsonl import JsonlWriter  # pyright: ignore[reportMissingImports]

    config = MinhashConfig(num_buckets=BANDS, hashes_per_bucket=ROWS)
    seconds: dict[str, float] = dict.fromkeys(("filters", "signatures", "duplicates"), 0.0)
    documents = 0
    for language, code in SPACY.items():
        file = folder / f"{language}.jsonl"
        documents += sum(1 for _ in file.open("rb"))
        with tempfile.TemporaryDirectory() as name:
            out = Path(name)

            def run(phase: str, steps: list[Any], tasks: int = 1) -> None:
                start = cpu_s()
                for rank in range(tasks):
                    data = None
                    for step in steps:
                        data = step(data, rank, tasks)
                    if data:
                        deque(data, maxlen=0)
                seconds[phase] += cpu_s() - start

            reader = JsonlReader(str(folder), glob_pattern=file.name)
            run("filters", [reader, *pipeline("fineweb", language), JsonlWriter(str(out / "kept"), compression=None)])
            if not any((out / "kept").rglob("*.jsonl")):  # such as poems, which are no web pages
                continue
            kept = JsonlReader(str(out / "kept"))
            run("signatures", [kept, MinhashDedupSignature(str(out / "signatures"), config, code)])
            buckets = MinhashDedupBuckets(str(out / "signatures"), str(out / "buckets"), config=config)
            run("duplicates", [buckets], tasks=BANDS)
            run("duplicates", [MinhashDedupCluster(str(out / "buckets"), str(out / "remove"), config)])
            writer = JsonlWriter(str(out / "corpus"))
            run("duplicates", [JsonlReader(str(out / "kept")), MinhashDedupFilter(str(out / "remove")), writer])
    print(json.dumps({"documents": documents, "seconds": seconds}))


def cpu_s() -> float:
    """CPU seconds of this process and of those it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main(Path(sys.argv[1]))
