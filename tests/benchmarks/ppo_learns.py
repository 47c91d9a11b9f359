"""PPO learns from reward alone: a tiny model that replies with a random digit learns which digit a word names.

    seven ► 4, 七 ► 0, …  (reward 0.1: chance)  ──stage ppo, exact match as the reward──►  seven ► 7, 七 ► 7, …

    python -m tests.benchmarks.ppo_learns [--seeds 1 2 3] [--iterations 100] [--advantage gae]
                                            [--out docs/ppo_learns.svg]

The model is made here: a new tokenizer and a new Llama, trained to reply with one digit, whichever it is. The whole
stage runs: two actors, DeepSpeed, vLLM, publishing, drafts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.session import Session
from pipelines.data.dialogues import conversations
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens import tokenizing
from pipelines.data.tokens.chat import Chat
from pipelines.learning import model as models
from pipelines.learning.losses import IGNORE
from pipelines.learning.saving import save
from pipelines.learning.shapes import SIZES
from pipelines.report import drawing
from pipelines.run.progress import RunLog
from pipelines.stages import ppo
from tests.benchmarks import goals
from tests.stages.ppo_work import work

ROOT = Path(__file__).parents[2]
CHANCE = 0.1

ENGLISH = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CHINESE = "零一二三四五六七八九"
OPTIONS = {
    "prompts_per_iteration": 40, "replies_per_prompt": 8, "max_new_tokens": 4, "epochs": 4,
    "minibatches": 2, "rewards": {"exact_match": 1.0}, "learning_rate": 1e-3, "critic_learning_rate": 1e-3,
    "kl_coefficient": 0.1, "kl_target": None, "value_clip": 0.0, "held_out_prompts": 0,
    "gae_lambda": 1.0,
}  # fmt: skip


def digit_words() -> list[Conversation]:
    """A conversation for every word: the word as the prompt, the digit it names as the answer."""
    rows = []
    for language, words in (("en", ENGLISH), ("zh", CHINESE)):
        for digit, word in enumerate(words):
            messages = [{"role": "user", "content": word}, {"role": "assistant", "content": str(digit)}]
            rows.append(Conversation(f"digits/{word}", language, "bench", "digits", messages, str(digit)))
    return rows


def make_model(folder: Path, seed: int, steps: int = 150) -> None:
    """Writes a micro Llama, trained for `steps` steps to reply to every word with one digit, drawn at random."""
    tokenizing.save(tokenizing.train([*ENGLISH, CHINESE, "0123456789"] * 50, 512), folder, max_tokens=64)
    chat = Chat.open(folder)
    special = {f"{name}_token_id": getattr(chat.encoder, f"{name}_id") for name in ("bos", "eos", "pad")}
    model = models.from_scratch(
        SIZES["micro"], vocabulary=chat.encoder.vocabulary, length=64, seed=seed, special=special
    )
    prompts = [conversation.prompt for conversation in digit_words()]
    random, optimizer = np.random.default_rng(seed), torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = [
            chat.conversation(
                [*prompts[random.integers(20)], {"role": "assistant", "content": str(random.integers(10))}]
            )
            for _ in range(64)
        ]
        width = max(len(row.ids) for row in rows)
        tokens = torch.zeros(64, width, dtype=torch.int64)
        labels = torch.full((64, width), IGNORE)
        for number, row in enumerate(rows):
            ids = torch.from_numpy(row.ids).long()
            tokens[number, : len(ids)] = ids
            labels[number, : len(ids)] = torch.where(torch.from_numpy(row.loss_mask), ids, IGNORE)
        model(input_ids=tokens, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save(model, model.named_parameters(), folder)


def learn(folder: Path, seed: int, session: Session, **options: Any) -> list[float]:
    """Runs the stage on a new model, prints a summary, and returns the mean reward of each iteration."""
    make_model(folder / "model", seed)
    (folder / "data").mkdir()
    for file in (conversations.TRAIN, conversations.HELD_OUT):
        conversations.write(folder / "data" / file, digit_words())
    ppo_work = work(folder / "draft", session, {"model": folder / "model", "conversations": folder / "data"},
                    {"save_every": 1000}, seed=seed, **OPTIONS, **options)  # fmt: skip
    begin = time.monotonic()
    facts = ppo.run(replace(ppo_work, progress=RunLog()))
    points = [json.loads(line) for line in (ppo_work.draft.out / "curve.jsonl").read_text().splitlines()]
    rewards = [point["reward/mean"] for point in points]
    curve = " ".join(f"{reward:.2f}" for reward in rewards[:: max(1, len(rewards) // 10)])
    print(f"seed {seed}: {curve}; last {facts['reward/last']:.2f}, {time.monotonic() - begin:.0f} s, gap "
          f"{facts['publish/logprob_gap']:.1e} nats", flush=True)  # fmt: skip
    return rewards


def draw(curves: dict[int, list[float]], file: Path) -> None:
    """Plots the rewards of each seed into an SVG file; the same curves give the same bytes."""
    figure, axes = drawing.new_axes(height=3)
    for (seed, rewards), colour in zip(curves.items(), itertools.cycle((drawing.BLUE, drawing.ORANGE, drawing.INK))):
        axes.plot(range(1, len(rewards) + 1), rewards, label=f"seed {seed}", linewidth=1.2, color=colour)
    axes.axhline(CHANCE, color=drawing.GREY, linewidth=0.8, linestyle="--", label="chance")
    axes.axhline(goals.GOALS["ppo/reward_last"].bound, color=drawing.GREY, linewidth=0.8, linestyle=":", label="goal")
    axes.set(xlabel="iteration", ylabel="fraction of right answers", ylim=(0, 1.02))
    axes.legend(frameon=False, labelcolor=drawing.INK, fontsize=8, loc="lower right")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(drawing.svg(figure), encoding="utf-8")


def main() -> dict[str, float]:
    """Figures: the highest first reward and the lowest last reward of all seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ppo_learns", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "ppo_learns.svg")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--advantage", choices=["gae", "group"], default="gae")
    arguments, _ = parser.parse_known_args()
    options = {"iterations": arguments.iterations, "advantage": arguments.advantage}
    torch.set_num_threads(1)  # the model is tiny: two threads would wait for each other
    curves = {}
    with Session(on_message=str) as session:
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as folder:
                curves[seed] = learn(Path(folder), seed, session, **options)
    draw(curves, arguments.out)
    lasts = {seed: float(np.mean(rewards[-6:])) for seed, rewards in curves.items()}
    print(f"drawn in {arguments.out}; the worst seed ends at {min(lasts.values()):.2f}")
    return {"ppo/reward_first": max(rewards[0] for rewards in curves.values()), "ppo/reward_last": min(lasts.values())}


if __name__ == "__main__":
    goals.print_figures(main())
