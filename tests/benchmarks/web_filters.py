"""The decisions of the presets gopher, c4 and fineweb, against those of datatrove on the same texts.

    python -m tests.benchmarks.web_filters PYTHON FILE.jsonl.gz|FILE.warc.gz…

PYTHON: the interpreter of another environment, which has datatrove, spacy and jieba; this file runs there too, with
texts on its standard input. Prints the share of equal decisions by preset and language, and texts that differ.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PRESETS = ("gopher", "c4", "fineweb")
SPACY = {"en": "eng_Latn", "zh": "cmn_Hani"}
SHOWN = 8  # texts that differ


def main(python: str, files: list[str]) -> None:
    """Prints the agreement on the documents of these files."""
    texts = list(documents(files))
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    for preset in PRESETS:
        start = time.monotonic()
        ours = ours_on(preset, texts)
        ours_s = time.monotonic() - start
        done = subprocess.run([python, __file__, preset], input=lines, capture_output=True, text=True, check=True)
        theirs = [json.loads(line) for line in done.stdout.splitlines()]
        seconds = theirs.pop()
        print(f"{preset}: {len(texts) / ours_s:,.0f} documents/s; datatrove {len(texts) / seconds:,.0f}")
        for language in sorted({text["language"] for text in texts}):
            show(language, [row for row in zip(texts, ours, theirs, strict=True) if row[0]["language"] == language])


def show(language: str, rows: list[tuple[dict[str, str], str, str]]) -> None:
    """Prints the agreement in a language. rows: text, our reason to drop it and theirs, empty where it is kept."""
    different = [row for row in rows if bool(row[1]) != bool(row[2])]
    kept = sum(not reason for _, reason, _ in rows)
    share = 1 - len(different) / len(rows)
    print(f"  {language}: {share:.2%} of {len(rows):,} decisions are equal; {kept:,} documents are kept")
    for (ours, theirs), number in Counter(row[1:] for row in different).most_common(SHOWN):
        print(f"    {number:5} {ours or 'kept'} here, {theirs or 'kept'} there")


def documents(files: Iterable[str]) -> Iterator[dict[str, str]]:
    """The texts of the files, normalised, with their languages; of crawls the English and Chinese ones."""
    from pipelines.data.sources import SOURCES
    from pipelines.data.sources.source import Row
    from pipelines.data.text.languages import identify
    from pipelines.data.text.normalise import normalise

    for file in files:
        kind = "warc" if ".warc" in file else "jsonl"
        source = SOURCES[kind].model_validate({"kind": kind, "path": str(Path(file).absolute()), "language": "auto"})
        for row in (row for part in source.parts() for row in source.read(part)):
            text = normalise(row.text) if isinstance(row, Row) else ""
            language = identify(text) if text else ""
            if language in SPACY:
                yield {"text": text, "language": language}


def ours_on(preset: str, texts: list[dict[str, str]]) -> list[str]:
    """The reason for which the preset drops each text; empty if it is kept."""
    import pyarrow as pa

    from pipelines.data.corpus.filters import Filters, apply_filters
    from pipelines.data.text.document_stats import document_stats
    from pipelines.data.text.measures import hash_texts

    column = pa.array([text["text"] for text in texts], pa.string())
    documents = document_stats(column, [text["language"] for text in texts], hash_texts(column))
    filters = Filters.model_validate({"preset": preset, "language": None}).enabled()
    return [verdict.reason for verdict in apply_filters(filters, documents)]


def theirs(preset: str) -> None:
    """Prints the reason of datatrove's filters for each text of standard input, then the seconds that it took."""
    from datatrove.data import Document  # pyright: ignore[reportMissingImports]

    filters = {language: pipeline(preset, language) for language in SPACY}
    texts = [json.loads(line) for line in sys.stdin]
    reasons, start = [], time.monotonic()
    for number, text in enumerate(texts):
        document, reason = Document(text=text["text"], id=str(number)), ""
        for filter_ in filters[text["language"]]:
            result = filter_.filter(document)
            if result is not True:
                reason = result[1] if isinstance(result, tuple) else filter_.name
                break
        reasons.append(reason)
    for reason in [*reasons, time.monotonic() - start]:
        print(json.dumps(reason))


def pipeline(preset: str, language: str) -> list[Any]:
    """datatrove's filters with the published limits: examples/fineweb.py, and FineWeb2's configs/cmn_Hani.yml."""
    from datatrove.pipeline.filters import (  # pyright: ignore[reportMissingImports]
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    spacy = {"language": SPACY[language]}
    c4 = C4QualityFilter(filter_no_terminal_punct=preset == "c4", **spacy)
    if preset == "c4":
        return [c4]
    if language == "en":
        gopher, own = [GopherRepetitionFilter(**spacy), GopherQualityFilter(**spacy)], FineWebQualityFilter(**spacy)
    else:
        top = ((2, 0.256), (3, 0.201), (4, 0.171))
        repeated = ((5, 0.198), (6, 0.182), (7, 0.167), (8, 0.154), (9, 0.14), (10, 0.127))
        gopher = [
            GopherRepetitionFilter(dup_para_frac=0, dup_line_char_frac=0, dup_para_char_frac=0, dup_line_frac=0.287,
                                   top_n_grams=top, dup_n_grams=repeated, **spacy),
            GopherQualityFilter(max_avg_word_length=5, min_avg_word_length=1, max_non_alpha_words_ratio=0.735,
                                stop_words=list("的年在月是和日了於·為有被人中为他與後也而由"), **spacy),
        ]  # fmt: skip
        own = FineWebQualityFilter(short_line_thr=999, char_duplicates_ratio=0.1, line_punct_thr=0.106,
                                   new_line_ratio=0.178, **spacy)  # fmt: skip
    return gopher if preset == "gopher" else [*gopher, c4, own]


if __name__ == "__main__":
    if len(sys.argv) == 2:
        theirs(sys.argv[1])
    else:
        main(sys.argv[1], sys.argv[2:])
