"""Retrieval: whether the right passage is found, how fast, and whether it helps a model to answer.

    python -m tests.benchmarks.knowledge [--json] [--embeddings] [--passages 100000] [--model FOLDER [--questions 60]]

220 manuals and 240 questions of knowledge_manuals.py, half in each language. --embeddings also measures the search by
meaning, and questions in the other language (ten minutes on two cores). --model: a Hugging Face folder of a chat
model, which answers the second half of the questions of each language through a server, with the documents and
without; the first half is for choosing the form of the prompt (--first 0). Goal: at least twice as many replies with
the fact.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipelines.blocks import pack
from pipelines.data.knowledge.index import EMBEDDINGS, SUMMARY, Index
from pipelines.data.sources import SOURCES
from pipelines.data.text.embeddings import DIMENSIONS, embedder
from pipelines.metrics.pair_figures import wilson_low
from pipelines.stages.knowledge import blocks, indexing
from tests.benchmarks.knowledge_manuals import Question, manual, questions

NUM_MANUALS, NUM_QUESTIONS = 110, 120  # of each language
TOP = 5
NUM_LOOKUPS = 50
ANSWER_TOKENS, AT_ONCE = 32, 8


def build(folder: Path, num_manuals: int, *, embeddings: bool) -> tuple[Index, float, int]:
    """Writes manuals in both languages and their index, in this process, as one task does.

    Returns the index, the CPU seconds of cutting and indexing, and the bytes of the text."""
    documents = folder / "manuals"
    documents.mkdir(parents=True)
    for language in ("en", "zh"):  # one file: opening 100,000 is no work of the index
        lines = (json.dumps({"text": manual(number, language)[2]}) for number in range(num_manuals))
        (documents / f"{language}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = SOURCES["jsonl"].model_validate(
        {"kind": "jsonl", "path": str(documents), "rows": "documents", "language": "auto"}
    )
    parts = pack(source.at(folder).each_part())
    block, out = folder / "block.parquet", folder / "out"
    out.mkdir()
    began = time.process_time()
    blocks.cut_block({"path": str(block), "source": "manuals", "parts": parts, "kept": ""}, sources={"manuals": source},
                        passage_words=160, overlap_words=30)  # fmt: skip
    indexing.write_index({"path": str(out / SUMMARY)}, blocks=[str(block)], embedded=[])
    seconds = time.process_time() - began
    if embeddings:
        files = []
        num_passages = len(Index(out))
        for begin in range(0, num_passages, indexing.EMBEDDED_AT_ONCE):
            files.append(str(folder / f"{begin:09}.npy"))
            indexing.embed_passages({"path": files[-1], "block": str(block), "begin": begin})
        indexing.write_index({"path": str(out / SUMMARY)}, blocks=[str(block)], embedded=files)
    return Index(out), seconds, sum(file.stat().st_size for file in documents.iterdir())


def holds(text: str, value: str) -> bool:
    """Whether a text holds a number, with or without a comma after its thousands, and not as a part of a longer one.

    >>> holds("After 1,234 days.", "1234"), holds("Number 12345.", "1234")
    (True, False)
    """
    return re.search(rf"(?<!\d){value}(?!\d)", re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)) is not None


def is_right(question: Question, heading: str, text: str) -> bool:
    """Whether a passage is the one section that answers a question."""
    return heading.endswith(question.heading) and holds(text, question.answer)


def hit_rate(index: Index, asked: Sequence[Question], by: Sequence[str]) -> float:
    """Fraction of the questions whose right passage is among the first TOP."""
    found = [any(is_right(question, hit.passage["heading"], hit.passage["text"])
                 for hit in index.search(question.text, TOP, by=by)) for question in asked]  # fmt: skip
    return sum(found) / len(found)


def quality(index: Index, num_manuals: int) -> dict[str, float]:
    """Hit rates of each ranking and of both, by language. num_manuals: of each language, in the index."""
    rankings = {"keywords": ("keywords",)}
    if index.summary["embedder"]:
        rankings |= {"embeddings": ("embeddings",), "both": ("keywords", "embeddings")}
    figures: dict[str, float] = {}
    for name, by in rankings.items():
        for language, other in (("en", "zh"), ("zh", "en")):
            same = questions(num_manuals, language, NUM_QUESTIONS)
            crossed = questions(num_manuals, language, NUM_QUESTIONS // 2, asked_in=other)
            figures[f"knowledge/hits_at_{TOP}_{name}_{language}"] = hit_rate(index, same, by)
            figures[f"knowledge/hits_at_{TOP}_{name}_{language}_asked_in_{other}"] = hit_rate(index, crossed, by)
    return figures


def speed(num_passages: int) -> dict[str, float]:
    """Build speed, and the time of a lookup by keywords and by both, at so many passages.

    The embeddings are random: the time of a product does not depend on its values. The question's own embedding is
    real, and part of the time."""
    with tempfile.TemporaryDirectory() as folder:
        index, seconds, num_bytes = build(Path(folder), num_passages // 24 + 1, embeddings=False)
        figures = {"knowledge/build_mb_per_cpu_s": num_bytes / 1e6 / seconds,
                   "knowledge/passages": float(len(index))}  # fmt: skip
        figures |= _lookup("keywords", index)
        out = Path(folder) / "out"
        vectors = np.random.default_rng(0).standard_normal((len(index), DIMENSIONS), np.float32)
        np.save(out / EMBEDDINGS, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        (out / SUMMARY).write_text(json.dumps({**index.summary, "embedder": embedder()}), encoding="utf-8")
        figures |= _lookup("both", Index(out))
    return figures


def _lookup(name: str, index: Index) -> dict[str, float]:
    """Median times of a lookup: elapsed, and of the CPU, which other work on the machine lengthens less."""
    elapsed, cpu = [], []
    for question in questions(NUM_MANUALS, "en", NUM_LOOKUPS // 2) + questions(NUM_MANUALS, "zh", NUM_LOOKUPS // 2):
        began, began_cpu = time.perf_counter(), time.process_time()
        index.search(question.text, TOP)
        elapsed.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    return {f"knowledge/lookup_{name}_ms": float(np.median(elapsed)) * 1000,
            f"knowledge/lookup_{name}_cpu_ms": float(np.median(cpu)) * 1000}  # fmt: skip


def answers(
    asked: Sequence[Question], model: Path, documents: Path | None, max_passages: int
) -> dict[str, list[tuple[bool, bool]]]:
    """Asks a served model each question. Returns for each language (whether a reply holds the value, whether it cites
    the right passage) of its questions. The replies go to stderr.

    documents: folder of the index; None: the server has none."""
    from openai import OpenAI

    from serve.hosting.server import start
    from serve.settings import Limits, Settings

    settings = Settings(model=model, port=0, guard=False, knowledge_folder=documents, max_passages=max_passages,
                        max_tokens=2048, limits=Limits(request_s=3600))  # fmt: skip
    with start(settings) as server, OpenAI(base_url=f"{server.url}/v1", api_key="-", timeout=3600) as client:

        def ask(question: Question) -> tuple[bool, bool]:
            reply = client.chat.completions.create(
                model=settings.name, messages=[{"role": "user", "content": question.text}], temperature=0,
                max_tokens=ANSWER_TOKENS,
            )  # fmt: skip
            text, citations = reply.choices[0].message.content or "", (reply.model_extra or {}).get("rayse_citations")
            print(json.dumps([question.text, question.answer, text], ensure_ascii=False), file=sys.stderr, flush=True)
            is_cited = any(is_right(question, each["heading"], each["passage"]) for each in citations or ())
            return holds(text, question.answer), is_cited

        with ThreadPoolExecutor(AT_ONCE) as pool:
            replies = list(pool.map(ask, asked))
    return {language: [reply for question, reply in zip(asked, replies, strict=True) if question.language == language]
            for language in dict.fromkeys(question.language for question in asked)}  # fmt: skip


def answer_figures(by_server: Mapping[str, Mapping[str, Sequence[tuple[bool, bool]]]]) -> dict[str, float]:
    """Numbers of replies with the right value and of those that cite the right passage, with Wilson's bounds of the
    fractions, by language; and how many times as many hold the value with documents as without (or as one, where
    none does). by_server: what `answers` returns, "with" documents and "without"."""
    figures: dict[str, float] = {}
    num_right: dict[str, int] = {}
    for server, by_language in by_server.items():
        for language, replies in by_language.items():
            for name, column in zip(("answered", "cited"), zip(*replies, strict=True), strict=True):
                key, fraction = f"knowledge/{name}_{server}_documents_{language}", sum(column) / len(column)
                figures |= {key: sum(column), f"{key}_low": wilson_low(fraction, len(column)),
                            f"{key}_high": 1 - wilson_low(1 - fraction, len(column))}  # fmt: skip
        num_right[server] = sum(is_answered for replies in by_language.values() for is_answered, _ in replies)
    if len(num_right) == 2:
        figures["knowledge/answered_with_over_without"] = num_right["with"] / max(1, num_right["without"])
    return figures


def main(arguments: Sequence[str] = ()) -> dict[str, float]:
    """Measures, and returns the figures by name."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.knowledge", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--manuals", type=int, default=NUM_MANUALS, help="manuals of each language")
    parser.add_argument("--passages", type=int, default=100_000, help="passages of the index whose speed is measured")
    parser.add_argument("--model", type=Path, help="Hugging Face folder of a chat model, which answers questions")
    parser.add_argument("--questions", type=int, default=NUM_QUESTIONS // 2, help="that it answers, of each language")
    parser.add_argument("--first", type=int, default=NUM_QUESTIONS // 2, help="number of the first of them, from 0")
    parser.add_argument("--language", choices=("en", "zh", "both"), default="both", help="language of those questions")
    parser.add_argument("--documents", choices=("with", "without", "both"), default="both", help="servers that answer")
    parser.add_argument("--max-passages", type=int, default=4, help="passages in a prompt; the server's default")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        index, _, _ = build(Path(folder), options.manuals, embeddings=options.embeddings)
        figures = quality(index, options.manuals)
        if options.model:
            languages = ("en", "zh") if options.language == "both" else (options.language,)
            chosen = slice(options.first, options.first + options.questions)
            asked = [each for language in languages
                     for each in questions(options.manuals, language, NUM_QUESTIONS)[chosen]]  # fmt: skip
            servers = {"with": Path(folder) / "out", "without": None}
            by_server = {
                name: answers(asked, options.model, out, options.max_passages)
                for name, out in servers.items()
                if options.documents in (name, "both")
            }
            figures |= answer_figures(by_server)
    figures |= speed(options.passages) if options.passages else {}
    print(json.dumps(figures) if options.json else "\n".join(f"{name:60} {figures[name]:.3f}" for name in figures))
    return figures


if __name__ == "__main__":
    main(sys.argv[1:])
