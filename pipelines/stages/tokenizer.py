"""Trains a byte-level BPE tokenizer on the corpus, fair to small languages.

Runs in one process: the Rust trainer uses every core, and a sample of the corpus is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from pipelines.stage import Facts, Options, Stage, Work

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.data.tokens.tokenizing import Encoder


class TokenizerOptions(Options):
    vocabulary: int = Field(4096, ge=512, le=1_000_000, description="token ids, with 256 bytes and 5 special tokens")
    sample_bytes: int = Field(8_000_000, ge=10_000, description="text to learn from; more hardly changes the result")
    balance: float = Field(0.5, ge=0, le=1, description="languages count as size**balance: 1 as they are, 0 all equal")
    max_tokens: int = Field(32_768, ge=64, description="the longest text the tokenizer says it is for")
    judge_bytes: int = Field(1_000_000, ge=1000, description="held-out text per language to measure bytes per token on")


def run(work: Work) -> Facts:
    from pipelines.data.corpus import corpora
    from pipelines.data.tokens import tokenizing

    options: TokenizerOptions = work.options
    corpus = work.inputs["corpus"].local()
    sizes = corpora.bytes_by_language(corpus, "train")
    shares = tokenizing.balanced_sample(sizes, total_bytes=options.sample_bytes, exponent=options.balance)
    wanted = sum(shares[language] * sizes[language] for language in shares)
    texts = _told(corpora.sample(corpus, "train", shares, work.seed), wanted, work)
    tokenizer = tokenizing.train(texts, options.vocabulary)
    tokenizing.save(tokenizer, work.draft.out, max_tokens=options.max_tokens)
    encoder = tokenizing.Encoder.open(work.draft.out)
    if encoder.vocabulary < options.vocabulary:
        work.progress.note(f"the text gives {encoder.vocabulary:,} tokens, not the {options.vocabulary:,} asked for")
    facts: Facts = {"tokenizer/vocabulary": encoder.vocabulary}
    return facts | _bytes_per_token(encoder, corpus, options.judge_bytes)


def _told(texts: Iterator[str], total: float, work: Work) -> Iterator[str]:
    done = 0
    for text in texts:
        done += len(text.encode())
        yield text
        if done % 64 == 0:
            work.progress.update(min(done, total), total, "bytes")
    work.progress.update(total, total, "bytes")


def _bytes_per_token(encoder: Encoder, corpus: Path, judge_bytes: int) -> Facts:
    """Bytes per token on held-out text, of each language and of all of it together."""
    from pipelines.data.corpus import corpora

    texts: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for batch in corpora.batches(corpus, "held_out"):
        for language, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if sizes.get(language, 0) < judge_bytes:
                texts.setdefault(language, []).append(text)
                sizes[language] = sizes.get(language, 0) + len(text.encode())
    tokens = {language: sum(map(len, encoder.encode(own))) for language, own in texts.items()}
    facts: Facts = {f"text/bytes_per_token_{name}": sizes[name] / tokens[name] for name in sorted(tokens)}
    if tokens:
        facts["text/bytes_per_token"] = sum(sizes.values()) / sum(tokens.values())
    return facts


STAGE = Stage(kind="tokenizer", version=1, makes="tokenizer", needs=("corpus",), options=TokenizerOptions, run=run)
