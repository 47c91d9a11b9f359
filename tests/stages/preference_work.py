"""Preferences that a tiny model learns in a few steps, and the Work of a stage that learns from them."""

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
    """Prompts of random words; preferred is the reply that ends kindly. Both replies have the same words elsewhere, and
    about the same length."""
    rng = random.Random(split)
    made = []
    for number in range(num):
        language = number % 2
        said = " ".join(rng.sample(WORDS, rng.randint(1, 3)))
        prompt = [{"role": "user", "content": f"{said} {rng.randrange(10**6)}"}]
        replies = [f"{rng.choice(WORDS)} {end[language]}" for end in (KIND, UNKIND)]
        name = ("en", "zh")[language]
        made.append(Pair(f"{split}-{number}", name, "embedded", "small_talk", "given", prompt, *replies))
    return made


def write(folder: Path, *, train: list[Pair], held_out: list[Pair]) -> Path:
    """A preferences artifact's folder."""
    folder.mkdir(parents=True)
    preferences.write(folder / preferences.TRAIN, train)
    preferences.write(folder / preferences.HELD_OUT, held_out)
    return folder


def work(stage: Stage, folder: Path, session: Session, model: Path, preferences_folder: Path, **options: Any) -> Work:
    inputs = {"model": model, "preferences": preferences_folder}
    return work_of(stage, folder, session, inputs, options, {"workers": 2, "log_every_steps": 5, "micro_batch_rows": 4})


def without_template(model: Path, place: Path) -> Path:
    """The same model without a chat template."""
    shutil.copytree(model, place)
    (place / "chat_template.jinja").unlink()
    return place
