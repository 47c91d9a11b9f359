"""LoRA adapters of a tiny model, by PEFT: folders as sft leaves them, with the adapter beside the merged model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def write(base: Path, folder: Path, *, seed: int, **config: Any) -> Path:
    """Writes a folder with `adapter/` and the merged model, of random matrices that change replies. config: of LoRA."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapted: Any = get_peft_model(model, LoraConfig(**{"target_modules": layers, "r": 4, "lora_alpha": 8} | config))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    shutil.copytree(base, folder)
    adapted.save_pretrained(str(folder / "adapter"))
    adapted.merge_and_unload().save_pretrained(folder)
    return folder


def greedy(folder: Path, prompt: list[int], num_tokens: int) -> tuple[list[int], list[float]]:
    """The most likely tokens after a prompt, and their log-probabilities in nats, by transformers."""
    model, ids, scores = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), list(prompt), list[float]()
    with torch.no_grad():
        for _ in range(num_tokens):
            logprobs = model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
            ids.append(int(logprobs.argmax()))
            scores.append(float(logprobs.max()))
    return ids[len(prompt) :], scores
