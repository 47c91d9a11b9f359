"""Small work for the stage `ppo`; as a program, a driver that a test can kill.

python -m tests.stages.ppo_work FOLDER MODEL REWARD_MODEL CONVERSATIONS
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cluster.session import Session
from pipelines.data import conversations
from pipelines.data.conversations import Conversation
from pipelines.stage import Work
from pipelines.stages import ppo
from pipelines.stages.ppo.options import PpoCluster, PpoOptions
from pipelines.store import Draft

OPTIONS = {
    "iterations": 3, "prompts_per_iteration": 4, "replies_per_prompt": 2, "max_new_tokens": 8, "minibatches": 2,
    "epochs": 2, "learning_rate": 1e-3, "rewards": {"reward_model": 1.0, "exact_match": 0.5}, "kl_target": 1.0,
    "held_out_prompts": 5,
}  # fmt: skip


class Told:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.updates: list[tuple[float, float, str, dict[str, Any]]] = []
        self.notes: list[str] = []

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        self.updates.append((done, total, unit, figures))

    def note(self, text: str) -> None:
        self.notes.append(text)


def write_conversations(folder: Path, count: int = 12) -> Path:
    """Sums in both languages, and one prompt that is too long for the tiny models."""
    folder.mkdir(parents=True)
    for file, seed in ((conversations.TRAIN, 0), (conversations.HELD_OUT, 100)):
        rows = []
        for number in range(count):
            language, text = (("en", "What is {} + {}?"), ("zh", "{}加{}等于几?"))[number % 2]
            asked = {"role": "user", "content": text.format(seed + number, number)}
            answer = str(seed + 2 * number)
            messages = [asked, {"role": "assistant", "content": answer}]
            rows.append(Conversation(f"sums/{number}", language, "test", "sums", messages, answer))
        rows.append(Conversation("long/0", "en", "test", "sums", [
            {"role": "user", "content": "why? " * 200}, {"role": "assistant", "content": "yes"}]))  # fmt: skip
        conversations.write(folder / file, rows)
    return folder


def work(
    folder: Path, session: Session, inputs: dict[str, Path], cluster: dict[str, Any], *, seed: int = 7, **options: Any
) -> Work:
    """Work on a draft in this folder, new or left by an earlier attempt."""
    folder.mkdir(exist_ok=True)
    return Work(
        name="ppo",
        options=PpoOptions.model_validate({**OPTIONS, **options}),
        cluster=PpoCluster.model_validate(cluster),
        seed=seed,
        inputs={k: SimpleNamespace(local=lambda p=p: p) for k, p in inputs.items()},  # pyright: ignore[reportArgumentType]
        sources={},
        draft=Draft(folder, "test"),
        progress=Told(),
        session=session,
    )


def main() -> None:
    folder, *paths = map(Path, sys.argv[1:])
    kinds: list[str] = ["model", "reward_model", "conversations"]
    inputs = dict(zip(kinds, paths, strict=True))
    with Session(say=str) as session:
        ppo.run(work(folder, session, inputs, {}))


if __name__ == "__main__":
    main()
