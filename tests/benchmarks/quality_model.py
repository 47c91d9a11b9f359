"""How well the corpus' quality model tells reference text from random text that it has not seen, in both languages.

    python -m tests.benchmarks.quality_model FOLDER      the folder of corpus_en.jsonl.gz and instruct_zh.jsonl.gz

English: news summaries' articles (source xsum) against all other sources; also articles of a source that the model has
not seen (cnn). Chinese: the essays that come with Rayse, split by topics, against replies of instruct_zh.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from pipelines.data import corpus
from pipelines.data.corpus.quality_model import SCORED_CHARACTERS, LanguageModel, area_under_curve, train

ESSAYS = Path(corpus.__file__).parents[1] / "chinese"
NEWS, OTHER_NEWS = "xsum", "cnn"
MIN_CHARACTERS = 80


def rows(file: Path) -> list[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def auc(model: LanguageModel, good: Sequence[str], others: Sequence[str]) -> float:
    scores = [np.array([model.score(text) for text in texts]) for texts in (good, others)]
    return area_under_curve(*scores)


def halves(texts: list[str]) -> tuple[list[str], list[str]]:
    Random(0).shuffle(texts)
    return texts[::2], texts[1::2]


def report(language: str, model: LanguageModel, seconds: float, **figures: float) -> None:
    text = ", ".join(f"{name} {figure:.4f}" for name, figure in figures.items())
    print(f"{language}: trained in {seconds:.1f} s of CPU, {SCORED_CHARACTERS} characters a text; AUC: {text}")


def main() -> None:
    folder = Path(sys.argv[1])
    english = rows(folder / "corpus_en.jsonl.gz")
    news, unseen_news = halves([row["text"] for row in english if row["source"] == NEWS])
    other_news = [row["text"] for row in english if row["source"] == OTHER_NEWS]
    others, unseen = halves([row["text"] for row in english if row["source"] not in (NEWS, OTHER_NEWS)])
    essays = [file.read_text(encoding="utf-8").split("\n\n") for file in sorted(ESSAYS.glob("*.txt"))]
    topics, unseen_topics = ([p for essay in half for p in essay if len(p) > MIN_CHARACTERS]
                             for half in (essays[::2], essays[1::2]))  # fmt: skip
    replies, unseen_replies = halves([row["output"] for row in rows(folder / "instruct_zh.jsonl.gz")
                                      if len(row["output"]) > MIN_CHARACTERS])  # fmt: skip
    for language, good, random, measured in (
        ("en", news, others, {"unseen_articles": (unseen_news, unseen), "unseen_source": (other_news, unseen)}),
        ("zh", topics, replies, {"unseen_topics": (unseen_topics, unseen_replies)}),
    ):
        start = time.process_time()
        result = train(good, random, keep_fraction=0.7)
        seconds = time.process_time() - start
        assert result is not None
        figures = {name: auc(result.model, *texts) for name, texts in measured.items()}
        kept = np.mean(
            [result.model.score(text) >= result.model.threshold for text in next(iter(measured.values()))[1]]
        )
        report(language, result.model, seconds, **figures, kept_of_unseen=float(kept))


if __name__ == "__main__":
    main()
