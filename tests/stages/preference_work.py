"""Preference pairs that a tiny model learns in a few steps, and the Work of a stage that trains on them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from cluster.session import Session
from pipelines.data.dialogues import preferences
from pipelines.data.dialogues.preferences import Pair
from pipelines.stage import Stage, Work
from tests.stages.working import work_of

WORDS = ("json", "path", "list", "name", "file", "text", "number", "value")
KIND, UNKIND = ("thanks", "谢谢"), ("wrong", "不对")


def pairs(num: int, *, split: str) -> list[Pair]:
    """Pairs of a prompt of random words and two replies of about the same length, of which the one that ends kindly is
    preferred; alternately English and Chinese."""
    rng = random.Random(split)
    result = []
    for number in range(num):
        language = number % 2
        words = " ".join(rng.sample(WORDS, rng.randint(1, 3)))
        prompt = [{"role": "user", "content": f"{words} {rng.randrange(10**6)}"}]
        replies = [f"{rng.choice(WORDS)} {end[language]}" for end in (KIND, UNKIND)]
        name = ("en", "zh")[language]
        result.append(Pair(f"{split}-{number}", name, "embedded", "small_talk", "given", prompt, *replies))
    return result


def write(folder: Path, *, train: list[Pair], held_out: list[Pair]) -> Path:
    """Writes a preferences artifact; returns its folder."""
    folder.mkdir(parents=True)
    preferences.write(folder / preferences.TRAIN, train)
    preferences.write(folder / preferences.HELD_OUT, held_out)
    return folder


def work(
    stage: Stage, folder: Path, session: Session, model: Path, preferred: Path, workers: int = 2, **options: Any
) -> Work:
    inputs = {"model": model, "preferences": preferred}
    cluster = {"workers": workers, "log_every_steps": 5, "micro_batch_rows": 4, "dtype": "float32"}
    return work_of(stage, folder, session, inputs, options, cluster)


def without_template(model: Path, folder: Path) -> Path:
    """Copies a model without its chat template; returns the copy."""
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").unlink()
    return folder
