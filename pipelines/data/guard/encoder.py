"""The guard's encoder: how likely a short text asks for harm, by the meaning of the whole instead of its words.

    text ──tokens──► multilingual-e5-small with LoRA merged into its layers ──mean──► linear ──► log-odds

Most texts are harmless by their words (classifier.py), at once; of the others the encoder reads the suspect parts: one
costs 10 ms where the CPU has bfloat16, 25 ms where it has not. The adapters are trained on the
written requests (pipelines/learning/guard_encoder.py), whatever a recipe's conversations are, and are part of this
program and of each guard that is made: 1.6 MB.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from safetensors import safe_open

from pipelines.data.guard.contrasts import FOLDER
from pipelines.data.text.e5_weights import E5Weights
from pipelines.data.text.embeddings import embedder
from pipelines.errors import UserError
from pipelines.processor import cpu_has_bfloat16

if TYPE_CHECKING:
    from torch import Tensor

TRAINED = FOLDER / "encoder.safetensors"
FILE = "encoder.safetensors"  # in a guard's folder
MAX_TOKENS = 330  # of a text, its begin and end included: what is over is cut off; 320 characters are 322 at most
BATCH = 16  # texts that are computed together
MAX_REMEMBERED = 5000  # texts: a chat sends its earlier turns again with each request
OPENING = threading.Lock()  # of several threads one reads a file
HEAD_WEIGHT, HEAD_BIAS, HASHES, LOG_ODDS = "head.weight", "head.bias", "out_of_fold.hashes", "out_of_fold.log_odds"
TRAINED_ON = "trained_on"  # hashes of texts with their labels, and of pretexts
DOWN, UP = ".lora_A.weight", ".lora_B.weight"  # PEFT's names


class Encoder:
    """The layers with merged adapters. May be called from several threads.

    file: adapters and head. Raises UserError where they are of another base than the installed one."""

    def __init__(self, file: Path):
        import torch

        with safe_open(file, framework="pt") as tensors:
            metadata = tensors.metadata() or {}
            if metadata.get("base") != embedder():
                raise UserError(
                    f"{file}: its adapters are of {metadata.get('base')!r}, and {embedder()!r} is installed; install "
                    f"that version, or run the recipe again, which makes the guard anew"
                )
            scale = float(metadata["alpha"]) / float(metadata["rank"])
            adapters = {name: tensors.get_tensor(name).float() for name in tensors.keys() if name.startswith("layer.")}  # noqa: SIM118
            self._head = tensors.get_tensor(HEAD_WEIGHT)[0].numpy(), float(tensors.get_tensor(HEAD_BIAS))
        self._weights = E5Weights()
        model: Any = self._weights.encoder().eval()
        with torch.no_grad():
            for name in sorted(each.removesuffix(DOWN) for each in adapters if each.endswith(DOWN)):
                model.encoder.get_submodule(name).weight += scale * adapters[name + UP] @ adapters[name + DOWN]
        self._model = model.to(torch.bfloat16 if cpu_has_bfloat16() else torch.float32)
        self._remembered: dict[str, float] = {}
        self.log_odds(["a first call makes the kernels"])

    def log_odds(self, texts: Sequence[str]) -> np.ndarray:
        """ln(p ÷ (1 − p)), p the probability that a canonical text asks for harm: float32 [texts]. The last digits
        depend on the machine and on the other texts."""
        odds_of = {text: self._remembered.get(text) for text in texts}
        missing = sorted((text for text, odds in odds_of.items() if odds is None), key=len)
        if len(self._remembered) + len(missing) > MAX_REMEMBERED:
            self._remembered = {}
        for begin in range(0, len(missing), BATCH):
            batch = missing[begin : begin + BATCH]
            computed = dict(zip(batch, self._computed(batch), strict=True))
            odds_of |= computed
            self._remembered |= computed
        return np.array([odds_of[text] for text in texts], np.float32)

    def _computed(self, texts: Sequence[str]) -> list[float]:
        """The log-odds of texts that are computed together."""
        import torch

        with torch.inference_mode():
            means_RH = mean_states(self._model, self._weights, [tokens_of(self._weights, text) for text in texts])
        return (means_RH.numpy() @ self._head[0] + self._head[1]).tolist()


def mean_states(model: Any, weights: E5Weights, rows: Sequence[Sequence[int]]) -> Tensor:
    """The mean of the last layer's states over the tokens of each row: float32 [rows, hidden].

    model: BertModel of these weights, with or without adapters."""
    import torch

    longest = max(map(len, rows))
    tokens_RT = np.full((len(rows), longest), weights.padding)
    mask_RT = torch.zeros(len(rows), longest, dtype=torch.int64)
    for number, row in enumerate(rows):
        tokens_RT[number, : len(row)] = row
        mask_RT[number, : len(row)] = 1
    embedded_RTH = torch.from_numpy(weights.rows(tokens_RT)).to(model.dtype)
    states_RTH = model(inputs_embeds=embedded_RTH, attention_mask=mask_RT).last_hidden_state.float()
    return (states_RTH * mask_RT[..., None]).sum(1) / mask_RT.sum(1, keepdim=True)


def opened(file: Path) -> Encoder:
    """The encoder of a file, read once a process."""
    with OPENING:
        return _opened(file)


@lru_cache(4)
def _opened(file: Path) -> Encoder:
    return Encoder(file)


def close_all() -> None:
    """Gives back the memory of the encoders that were opened: 0.2 GB each."""
    _opened.cache_clear()


def out_of_fold(file: Path = TRAINED) -> dict[int, float]:
    """The log-odds of written texts by encoders that were not trained on them, by the text's hash."""
    with safe_open(file, framework="np") as tensors:
        hashes, odds = tensors.get_tensor(HASHES).view(np.uint64), tensors.get_tensor(LOG_ODDS)
    return dict(zip(hashes.tolist(), odds.tolist(), strict=True))


def tokens_of(weights: E5Weights, text: str) -> list[int]:
    """A text's tokens, at most MAX_TOKENS with begin and end."""
    return [weights.begin, *weights.tokens(text)[: MAX_TOKENS - 2], weights.end]


def text_hashes(texts: Sequence[str]) -> np.ndarray:
    """Hashes of canonical texts, uint64 [texts]."""
    return np.array([xxhash.xxh3_64_intdigest(text.encode()) for text in texts], np.uint64)
