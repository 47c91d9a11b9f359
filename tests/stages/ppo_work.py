"""Small work for the stage `ppo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.session import Session
from pipelines.data.dialogues import conversations
from pipelines.data.dialogues.conversations import Conversation
from pipelines.stage import Work
from pipelines.stages import ppo
from tests.stages.working import work_of

OPTIONS = {
    "iterations": 3, "prompts_per_iteration": 4, "replies_per_prompt": 2, "max_new_tokens": 8, "minibatches": 2,
    "epochs": 2, "learning_rate": 1e-3, "rewards": {"reward_model": 1.0, "exact_match": 0.5}, "kl_target": 1.0,
    "held_out_prompts": 5,
}  # fmt: skip


def write_conversations(folder: Path, count: int = 12) -> Path:
    """Sums in both languages, and one prompt that is too long for the tiny models."""
    folder.mkdir(parents=True)
    for file, seed in ((conversations.TRAIN, 0), (conversations.HELD_OUT, 100)):
        rows = []
        for number in range(count):
            language, text = (("en", "What is {} + {}?"), ("zh", "{}加{}等于几?"))[number % 2]
            question = {"role": "user", "content": text.format(seed + number, number)}
            answer = str(seed + 2 * number)
            messages = [question, {"role": "assistant", "content": answer}]
            rows.append(Conversation(f"sums/{number}", language, "test", "sums", messages, answer))
        rows.append(Conversation("long/0", "en", "test", "sums", [
            {"role": "user", "content": "why? " * 200}, {"role": "assistant", "content": "yes"}]))  # fmt: skip
        conversations.write(folder / file, rows)
    return folder


def work(
    folder: Path, session: Session, inputs: dict[str, Path], cluster: dict[str, Any], *, seed: int = 7, **options: Any
) -> Work:
    return work_of(ppo.STAGE, folder, session, inputs, {**OPTIONS, **options}, {"save_every": 1, **cluster}, seed)
