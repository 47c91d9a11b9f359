"""Relevance of replies: how well the score tells a reply to its question from a reply to another question.

    python -m tests.benchmarks.relevance FOLDER [--json] [--pairs 150]     the folder of instruct_en.jsonl.gz

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
        questions, replies = (
            vectors([question for question, _ in real], "query"),
            vectors([r for _, r in real], "passage"),
        )
        # [pair, 2]: of the question with its reply, and with that of the pair before
        cosines = np.stack([(questions * replies).sum(1), (questions * np.roll(replies, 1, axis=0)).sum(1)], axis=1)
        half = len(cosines) // 2
        means = cosines[:half].mean(axis=0)  # of pairs, of shuffled ones
        slope = float(
            (means[0] - means[1]) / cosines[:half].var(axis=0).mean()
        )  # two normal distributions of one width
        scores = 1 / (1 + np.exp(-slope * (cosines[half:] - means.mean())))
        figures |= {
            f"relevance/{language}_slope": slope,
            f"relevance/{language}_middle": float(means.mean()),
            f"relevance/{language}_area_under_curve": float((scores[:, :1] > scores[:, 1]).mean()),
            f"relevance/{language}_pairs_below_0.8": float((scores[:, 0] < 0.8).mean()),
            f"relevance/{language}_shuffled_below_0.8": float((scores[:, 1] < 0.8).mean()),
        }
    print(json.dumps(figures) if options.json else "\n".join(f"{name:40} {figures[name]:.3f}" for name in figures))
    return figures


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
