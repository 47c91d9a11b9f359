"""The stage `corpus` on one large file of each kind that is read in ranges: time and CPU time.

python -m tests.benchmarks.corpus_kinds [--bytes 60000000]

tests.benchmarks.corpus_text ──English, N bytes──► lines.txt, table.csv, rows.jsonl ──► the stage on each
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import tempfile
from pathlib import Path

from pipelines.data.corpus import cleaning, duplicates
from pipelines.data.corpus.documents import utf8_bytes
from pipelines.data.sources import SOURCES
from pipelines.stages.corpus.options import CorpusOptions
from tests.benchmarks import corpus_large, corpus_text

FILES = {
    "lines.txt": {"kind": "text", "split": "lines"},
    "table.csv": {"kind": "csv"},
    "rows.jsonl": {"kind": "jsonl"},
}


def main(num_bytes: int) -> dict[str, float]:
    """Seconds, and seconds of CPU, of the stage on each file, the start of Ray included."""
    cleaning.warm_up(CorpusOptions().filters.enabled())
    duplicates.warm_up()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), num_bytes)
        for name, options in FILES.items():
            source = SOURCES[options["kind"]].model_validate({"path": str(Path(folder) / name), **options})
            measured = corpus_large.run_stage({"text": source}, CorpusOptions())
            figures |= {f"corpus/{name}_s": measured.wall_s, f"corpus/{name}_cpu_s": measured.cpu_s}
            figures[f"corpus/{name}_documents"] = float(measured.facts["documents/read"])
    return figures


def write(folder: Path, num_bytes: int) -> None:
    """Writes the same documents to each file; a line of text is a document whose lines are joined."""
    texts = corpus_text.documents([])["en"]
    sizes = itertools.accumulate(map(utf8_bytes, corpus_text.stretched(texts, "en")))
    num_documents = next(number for number, size in enumerate(sizes, 1) if size >= num_bytes)
    documents = list(itertools.islice(corpus_text.stretched(texts, "en"), num_documents))
    lines, table, rows = (folder / name for name in FILES)
    lines.write_text("".join(" ".join(text.split("\n")) + "\n" for text in documents), encoding="utf-8")
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *enumerate(documents)])
    with rows.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=60_000_000)
    print(json.dumps(main(parser.parse_args().bytes), indent=1))
