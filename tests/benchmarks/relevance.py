"""Relevance of replies: how well the score tells a reply to its question from a reply to another question.

    python -m tests.benchmarks.relevance FOLDER [--json] [--pairs 150]     the folder of instruct_en.jsonl.gz, instruct_zh

Fits the curve of serve/gateway/quality.py on half of the pairs of each language, each with its reply and with that of
another pair, and measures on the other half.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from serve.gateway.quality import vectors


def pairs(file: Path, number: int) -> list[tuple[str, str]]:
    """(question, reply) of so many rows, drawn at random."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    turns = [(f"{row['instruction']}\n{row['input']}".strip(), row["output"]) for row in rows if row["output"].strip()]
    return Random(0).sample(turns, number)


def main(arguments: Sequence[str] = ()) -> dict[str, float]:
    """Measures, and returns the figures by name."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.relevance", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=150, help="pairs of each language")
    options = parser.parse_args(arguments)
    figures: dict[str, float] = {}
    for language in ("en", "zh"):
        real = pairs(options.folder / f"instruct_{language}.jsonl.gz", options.pairs)
        questions, replies = vectors([question for question, _ in real], "query"), vectors([r for _, r in real], "passage")
        # [pair, 2]: of the question with its reply, and with that of the pair before
        cosines = np.stack([(questions * replies).sum(1), (questions * np.roll(replies, 1, axis=0)).sum(1)], axis=1)
        half = len(cosines) // 2
        fit = LogisticRegression(C=1e6).fit(cosines[:half].reshape(-1, 1), np.tile([1, 0], half))
        scores = fit.predict_proba(cosines[half:].reshape(-1, 1))[:, 1].reshape(-1, 2)
        figures |= {
            f"relevance/{language}_slope": float(fit.coef_[0, 0]),
            f"relevance/{language}_middle": float(-fit.intercept_[0] / fit.coef_[0, 0]),
            f"relevance/{language}_area_under_curve": float(roc_auc_score(np.tile([1, 0], len(scores)), scores.ravel())),
            f"relevance/{language}_own_below_0.8": float((scores[:, 0] < 0.8).mean()),
            f"relevance/{language}_other_below_0.8": float((scores[:, 1] < 0.8).mean()),
        }
    print(json.dumps(figures) if options.json else "\n".join(f"{name:40} {figures[name]:.3f}" for name in figures))
    return figures


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
