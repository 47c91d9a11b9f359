"""Small packed rows for tests: random documents with something to learn, laid out as the stage `tokens` does it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models

from pipelines.data.tokens.packing import write_rows


def documents(num: int, *, vocabulary: int, seed: int, mean_length: int = 24) -> list[np.ndarray]:
    """Documents in which every token tells most of the next one: a model can learn them."""
    random = np.random.default_rng(seed)
    following = np.random.default_rng(0).permutation(vocabulary)
    made = []
    for _ in range(num):
        tokens = [int(random.integers(3, vocabulary))]
        for _ in range(int(random.geometric(1 / mean_length))):
            tokens.append(int(following[tokens[-1]] if random.random() < 0.8 else random.integers(3, vocabulary)))
        made.append(np.array([1, *tokens, 2], np.int32))  # 0: padding, 1: beginning, 2: end
    return made


def write_tokens(folder: Path, *, num_rows: int = 64, length: int = 64, vocabulary: int = 128, seed: int = 1) -> Path:
    """The files of a tokens artifact with exactly num_rows rows, the last of which may hold padding."""
    texts = documents(num_rows * length // 8, vocabulary=vocabulary, seed=seed)
    stream = np.concatenate(texts)[: num_rows * length - length // 4]
    starts = (stream == 1).copy()
    starts[0] = True
    for name, shuffled in (("train", seed), ("held_out", None)):
        shard = folder / name / "part-00000.arrow"
        shard.parent.mkdir()
        rows = list(write_rows(shard, stream, starts, length=length, pad_id=0, seed=shuffled))
        assert rows[-1] == num_rows
    (folder / "tokenizer").mkdir()
    write_tokenizer(folder / "tokenizer", vocabulary)
    meta = {"length": length, "vocabulary": vocabulary, "num_rows": num_rows, "num_tokens": len(stream)}
    meta |= {"bos_id": 1, "eos_id": 2, "pad_id": 0}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A tokenizer of words w0 … wN, in the files a Hugging Face folder has."""
    words = {f"w{i}": i for i in range(vocabulary)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
