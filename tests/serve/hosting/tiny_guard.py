"""A tiny guard model that is trained: it says `unsafe` and S1 where a conversation has WORD in it, else `safe`."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import torch
from transformers import LlamaForCausalLM

from pipelines.data.tokens.chat import Chat
from tests.tiny_models import Tiny

NAME = "tiny-Llama-Guard"  # says the family
WORD = "ZZZ"  # in no text of the tests
UNSAFE, SAFE = "unsafe\nS1", "safe"
STEPS, ROWS = 150, 16


def build(tiny: Tiny, folder: Path) -> Path:
    """Trains the model `first` on conversations with and without the word. Takes some seconds of one core."""
    shutil.copytree(tiny.first, folder)
    chat, rng = Chat.open(folder), Random(0)
    texts = [text for texts in tiny.texts.values() for text in texts]
    torch.manual_seed(0)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for parameter in model.parameters():  # the spread of the tests' models hinders learning
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        rows = [_row(chat, texts, rng) for _ in range(ROWS)]
        length = max(len(ids) for ids, _ in rows)
        inputs = torch.tensor([ids + [chat.encoder.eos_id] * (length - len(ids)) for ids, _ in rows])
        labels = torch.tensor([[-100] * start + ids[start:] + [-100] * (length - len(ids)) for ids, start in rows])
        model(input_ids=inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def _row(chat: Chat, texts: list[str], rng: Random) -> tuple[list[int], int]:
    """The ids of a conversation of up to three turns with the answer, and where that begins."""
    roles = ("user", "assistant", "user")[: rng.randint(1, 3)]
    messages = [{"role": role, "content": _part(texts, rng)} for role in roles]
    is_unsafe = rng.random() < 0.5
    if is_unsafe:
        message = rng.choice(messages)
        words = message["content"].split(" ")
        words.insert(rng.randrange(len(words) + 1), WORD)
        message["content"] = " ".join(words)
    prompt = chat.prompt(messages)
    (answer,) = chat.encoder.encode([UNSAFE if is_unsafe else SAFE])
    return [*prompt, *answer, chat.encoder.eos_id], len(prompt)


def _part(texts: list[str], rng: Random) -> str:
    """Some words of a text."""
    words = rng.choice(texts)[:400].split()
    start = rng.randrange(max(1, len(words) - 4))
    return " ".join(words[start : start + rng.randint(1, 12)])[:60] or "Hi"
