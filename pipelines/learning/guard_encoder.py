"""Trains the guard's encoder on the written requests, and writes it into the program's own files.

    python -m pipelines.learning.guard_encoder [--work FOLDER]

    written pairs, ordinary lines ──1 of 4 folds──► log-odds of texts by a model that has not seen them ─┐
                     │         └──all──► LoRA adapters and a linear head ──► written/encoder.safetensors ◄┘
                     └─ half of them in a pretext, or beside an ordinary line

For who changes the written requests: an hour on two cores with bfloat16; then raise the version of the stage guard. A
few lines may be taken out without training anew. The guard's thresholds are chosen by the log-odds of the fold
(pipelines/data/guard/training.py), of texts as they stand; the ordinary lines that other texts stand beside are of all
folds. A fold that is done is kept in --work and not trained again; the areas under the ROC curve are printed, of its
pairs as they stand and in pretexts that it was not trained with. LoRA (Hu et al. 2021) of rank 8 in float32 beside
frozen layers in bfloat16; the mean of the states, as the model was made for (Wang et al. 2024); the weights of texts in
the loss are those of the words' classifier.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xxhash
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.data.corpus.quality_model import area_under_curve
from pipelines.data.dialogues.tasks.task import LANGUAGES
from pipelines.data.guard import contrasts
from pipelines.data.guard.disguises import canonical_text
from pipelines.data.guard.encoder import (
    BATCH,
    DOWN,
    HASHES,
    HEAD_BIAS,
    HEAD_WEIGHT,
    LOG_ODDS,
    TRAINED,
    TRAINED_ON,
    UP,
    mean_states,
    text_hashes,
    tokens_of,
)
from pipelines.data.guard.training import CONTRAST, NUM_FOLDS, LabelledText, balanced_weights, folds, written_texts
from pipelines.data.text.e5_weights import E5Weights
from pipelines.data.text.embeddings import embedder

RANK, ALPHA, EPOCHS, BATCH_TEXTS = 8, 16, 3, 32
LEARNING_RATE, HEAD_LEARNING_RATE, WARMUP, CLIP_NORM = 1e-3, 1e-2, 0.1, 1.0
BUCKET = 16  # batches whose texts are sorted by length together
SHOWN_EVERY = 100  # steps
# Fractions of texts in a pretext, and beside an ordinary line, drawn anew in each epoch.
FRAMED, BESIDE_ORDINARY = 0.35, 0.1
NUM_OUT_OF_FOLD = 1  # folds whose texts get log-odds: a quarter of the texts is enough for thresholds
UNSEEN = 5  # every fifth frame is left out of a fold's training


class Classifier(nn.Module):
    """The encoder with adapters, and a linear head on the mean of its states."""

    def __init__(self, weights: E5Weights, seed: int):
        from peft import LoraConfig, get_peft_model

        super().__init__()
        torch.manual_seed(seed)
        self.weights = weights
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["query", "key", "value", "dense"])
        self.encoder: Any = get_peft_model(weights.encoder().to(torch.bfloat16), config)  # pyright: ignore[reportArgumentType]
        self.head = nn.Linear(weights.sizes.hidden, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Log-odds of each row of tokens, float32 [rows]."""
        with torch.autocast("cpu", torch.bfloat16):
            means_RH = mean_states(self.encoder, self.weights, rows)
        return self.head(means_RH.float())[:, 0]


Frames = dict[str, list[str]]
"""Pretexts by language, each with {} in place of a request."""


def augmented(text: LabelledText, frames: Frames, random: np.random.Generator) -> str:
    """A canonical text as it stands, in a pretext, or before or after an ordinary line."""
    kind = random.random()
    if kind < FRAMED:
        return framed(text.text, frames[text.language], random)
    if kind < FRAMED + BESIDE_ORDINARY:
        lines = contrasts.ordinary(text.language)
        both = [text.text, canonical_text(lines[int(random.integers(len(lines)))])]
        return (" " if text.language == "en" else "").join(both[:: 1 if random.random() < 0.5 else -1])
    return text.text


def framed(text: str, frames: Sequence[str], random: np.random.Generator) -> str:
    """A text in one of the pretexts, canonical."""
    return canonical_text(frames[int(random.integers(len(frames)))].replace("{}", text))


def fit(weights: E5Weights, texts: Sequence[LabelledText], frames: Frames, seed: int, name: str) -> Classifier:
    """A classifier trained on texts, some of them in these frames."""
    model = Classifier(weights, seed).train()
    unsafe = torch.tensor([float(text.unsafe) for text in texts])
    sample_weight = torch.tensor(balanced_weights(texts) * len(texts), dtype=torch.float32)
    adapters = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]
    rates = [LEARNING_RATE, HEAD_LEARNING_RATE]
    groups = [{"params": adapters}, {"params": list(model.head.parameters())}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=0.01)
    random = np.random.default_rng(seed)
    total, step = EPOCHS * -(-len(texts) // BATCH_TEXTS), 0
    for _ in range(EPOCHS):
        rows = [tokens_of(weights, augmented(text, frames, random)) for text in texts]
        for batch in shuffled(rows, random):
            step += 1
            factor = min(step / (WARMUP * total), 1 - step / (total + 1))
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            losses = F.binary_cross_entropy_with_logits(
                model([rows[index] for index in batch]), unsafe[batch], reduction="none"
            )
            loss = (losses * sample_weight[batch]).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(adapters, CLIP_NORM)
            optimizer.step()
            if step % SHOWN_EVERY == 0:
                sys.stderr.write(f"{name}: step {step} of {total}, loss {loss.item():.3f}\n")
    return model.eval()


def shuffled(rows: list[list[int]], random: np.random.Generator) -> list[list[int]]:
    """The batches of an epoch, of rows of about one length each."""
    order = random.permutation(len(rows)).tolist()
    batches: list[list[int]] = []
    for begin in range(0, len(order), BUCKET * BATCH_TEXTS):
        bucket = sorted(order[begin : begin + BUCKET * BATCH_TEXTS], key=lambda index: len(rows[index]))
        batches += [bucket[at : at + BATCH_TEXTS] for at in range(0, len(bucket), BATCH_TEXTS)]
    return [batches[number] for number in random.permutation(len(batches))]


def log_odds(model: Classifier, rows: list[list[int]]) -> np.ndarray:
    """Log-odds of rows, float32 [rows]."""
    with torch.inference_mode():
        parts = [model(rows[begin : begin + BATCH]) for begin in range(0, len(rows), BATCH)]
    return torch.cat(parts).numpy()


def areas(model: Classifier, texts: Sequence[LabelledText], odds: np.ndarray, frames: Frames) -> str:
    """Areas under the ROC curve over pairs, as they stand, with these log-odds, and in frames."""
    random, lines = np.random.default_rng(0), []
    for language, of_language in sorted(frames.items()):
        chosen = [i for i, text in enumerate(texts) if text.language == language and text.source == CONTRAST]
        unsafe = np.array([texts[index].unsafe for index in chosen])
        rows = [tokens_of(model.weights, framed(texts[index].text, of_language, random)) for index in chosen]
        for kind, values in (("as they stand", odds[chosen]), ("framed", log_odds(model, rows))):
            lines.append(f"{language} {kind} {area_under_curve(values[unsafe], values[~unsafe]):.3f}")
    return ", ".join(lines)


def tensors_of(model: Classifier) -> dict[str, Tensor]:
    """Adapters by the names of their layers, and the head."""
    tensors: dict[str, Tensor] = {HEAD_WEIGHT: model.head.weight.data, HEAD_BIAS: model.head.bias.data}
    for name, module in model.encoder.base_model.model.encoder.named_modules():
        if hasattr(module, "lora_A"):
            tensors[name + DOWN] = module.lora_A["default"].weight.data.half()
            tensors[name + UP] = module.lora_B["default"].weight.data.half()
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def trained_on() -> np.ndarray:
    """Hashes of what the encoder is trained on, texts with their labels and pretexts: uint64 [lines]."""
    lines = [f"{text.language} {text.label} {text.text}" for text in written_texts()]
    return text_hashes(lines + [frame for language in LANGUAGES for frame in contrasts.frames(language)])


def main() -> None:
    """Trains the folds and the whole, and writes the file."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.learning.guard_encoder", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--work", type=Path, default=Path("encoder-folds"), help="folder for the folds that are done")
    work: Path = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    weights, texts = E5Weights(), written_texts()
    fold, hashes = folds(texts), text_hashes([text.text for text in texts])
    frames = {language: contrasts.frames(language) for language in LANGUAGES}
    seen = {language: [f for i, f in enumerate(each) if i % UNSEEN] for language, each in frames.items()}
    unseen = {language: each[::UNSEEN] for language, each in frames.items()}
    odds, trained = np.full(len(texts), np.nan, np.float32), trained_on()
    digest = f"{xxhash.xxh3_64_intdigest(trained.tobytes()):x}"
    for number in range(NUM_OUT_OF_FOLD):
        done = work / f"{number}-{digest}.npy"
        if not done.is_file():
            train, validation = ([texts[i] for i in np.flatnonzero(part)] for part in (fold != number, fold == number))
            model = fit(weights, train, seen, number, f"fold {number}")
            computed = log_odds(model, [tokens_of(weights, text.text) for text in validation])
            sys.stderr.write(f"fold {number}: {areas(model, validation, computed, unseen)}\n")
            np.save(done, computed)
        odds[fold == number] = np.load(done)
    tensors = tensors_of(fit(weights, texts, frames, NUM_FOLDS, "all"))
    known = ~np.isnan(odds)
    tensors |= {HASHES: torch.from_numpy(hashes[known].view(np.int64)), LOG_ODDS: torch.from_numpy(odds[known]).half()}
    tensors[TRAINED_ON] = torch.from_numpy(trained.view(np.int64))
    save_file(tensors, TRAINED, {"base": embedder(), "rank": str(RANK), "alpha": str(ALPHA)})
    TRAINED.chmod(0o644)


if __name__ == "__main__":
    main()
