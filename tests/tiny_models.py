"""Tiny models with random weights, a tokenizer trained on a little English and Chinese, and the texts themselves.

Weights are drawn with a wide spread, so that the models' distributions are peaked and differ: an engine that mixed two
models up would fail a comparison.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CONTEXT = 160  # more than one block of vLLM's KV cache (128 tokens), so that tests cover a second block
VOCABULARY = 640
MODULES = ("json", "re", "statistics", "random", "argparse", "logging", "threading", "typing", "decimal", "datetime")
CHINESE = Path(__file__).parent.parent / "pipelines" / "data" / "chinese"


@dataclass(frozen=True)
class Tiny:
    """Folders in Hugging Face layout. `first` and `second` have one shape (tied), `other` another (untied)."""

    first: Path
    second: Path
    other: Path
    texts: dict[str, list[str]]  # by language


def texts() -> dict[str, list[str]]:
    """Documents of both languages: docstrings of the standard library, and essays."""
    english = [str(inspect.getdoc(importlib.import_module(name))) for name in MODULES]
    chinese = [path.read_text(encoding="utf-8")[:1500] for path in sorted(CHINESE.glob("*.txt"))[:6]]
    return {"en": english, "zh": chinese}


def build(folder: Path) -> Tiny:
    """Writes the three models, each with the tokenizer, below `folder`."""
    from pipelines.data.tokens import tokenizing

    documents = texts()
    tokenizer = tokenizing.train([text for language_texts in documents.values() for text in language_texts], VOCABULARY)
    shapes = {
        "first": {"hidden_size": 64, "tie_word_embeddings": True, "seed": 1},
        "second": {"hidden_size": 64, "tie_word_embeddings": True, "seed": 2},
        "other": {"hidden_size": 32, "tie_word_embeddings": False, "seed": 3},
    }
    for name, options in shapes.items():
        tokenizing.save(tokenizer, folder / name, max_tokens=CONTEXT)
        write_model(folder / name, **options)
    return Tiny(*(folder / name for name in shapes), texts=documents)


def write_model(folder: Path, *, hidden_size: int, tie_word_embeddings: bool, seed: int) -> None:
    """Writes a model with random weights into a folder that has a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipelines.data.tokens.tokenizing import Encoder

    encoder = Encoder.open(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=encoder.vocabulary,
        hidden_size=hidden_size,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=hidden_size // 32,  # 32 is the smallest head size that vLLM supports on CPUs
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=tie_word_embeddings,
        initializer_range=0.3,
        bos_token_id=encoder.bos_id,
        eos_token_id=encoder.eos_id,
        pad_token_id=encoder.pad_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def rows(count: int, length: int, seed: int = 0) -> list[list[int]]:
    """Rows of random token ids, no special tokens."""
    return np.random.default_rng(seed).integers(5, VOCABULARY, (count, length)).tolist()


def reference_logits(folder: Path, row: list[int]) -> np.ndarray:
    """Logits of a row by transformers, float32 [T, V]."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([row])).logits[0].numpy()


def reference_logprobs(folder: Path, rows: list[list[int]]) -> list[np.ndarray]:
    """Log-probability in nats of every token of each row but the first, by transformers, one row at a time: [T - 1]."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    result = []
    for row in rows:
        with torch.no_grad():
            logprobs = model(torch.tensor([row])).logits[0].double().log_softmax(-1)
        result.append(np.array([float(logprobs[position, token]) for position, token in enumerate(row[1:])]))
    return result


def write_corpus(folder: Path, held_out: dict[str, list[str]], parts: int = 1) -> Path:
    """Writes a corpus artifact with these held-out documents by language, in `parts` Parquet files."""
    documents = [
        (f"{language}/{number}", language, language, text)
        for language, language_texts in sorted(held_out.items())
        for number, text in enumerate(language_texts)
    ]
    (folder / "held_out").mkdir(parents=True)
    for number, indices in enumerate(np.array_split(np.arange(len(documents)), parts)):
        columns = zip(*(documents[i] for i in indices), strict=True)
        table = pa.table(dict(zip(("id", "source", "language", "text"), map(list, columns), strict=True)))
        pq.write_table(table, folder / "held_out" / f"{number:05d}.parquet")
    return folder
