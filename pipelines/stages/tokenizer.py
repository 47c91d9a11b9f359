"""Trains a byte-level BPE tokenizer on a sample of the corpus, balanced by language.

Runs in one process: the Rust trainer uses every core, and a sample of the corpus is enough. Of a large corpus only the
row groups that the sample is from are read, and the footers of its files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from pipelines.stage import Facts, Options, Stage, Work

if TYPE_CHECKING:
    from pipelines.data.corpus.excerpts import Excerpt
    from pipelines.data.tokens.tokenizing import Encoder
    from pipelines.stage import Progress


class TokenizerOptions(Options):
    """Corpus → a byte-level BPE tokenizer with a chat template."""

    vocabulary: int = Field(
        4096, ge=512, le=1_000_000, description="Number of token ids, including 256 bytes and 5 special tokens"
    )
    sample_bytes: int = Field(
        8_000_000, ge=10_000, description="Bytes of text to train on; more hardly changes the result"
    )
    balance: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Exponent of language sampling, size**balance: 1 keeps the corpus's sizes, 0 makes all equal",
    )
    max_tokens: int = Field(32_768, ge=64, description="Maximum length that the tokenizer's configuration states")
    eval_bytes: int = Field(
        1_000_000, ge=1000, description="Bytes of held-out text of each language on which to measure bytes per token"
    )


def run(work: Work) -> Facts:
    """Writes the tokenizer into work.draft.out, in Hugging Face layout."""
    from pipelines.data.corpus import excerpts
    from pipelines.data.tokens import tokenizing

    options: TokenizerOptions = work.options
    corpus = work.inputs["corpus"].local()
    excerpt = excerpts.choose(corpus, "train", min_bytes=options.sample_bytes, seed=work.seed)
    sizes = excerpt.split_bytes
    repeats = tokenizing.balanced_repeats(sizes, total_bytes=options.sample_bytes, exponent=options.balance)
    sample_bytes = sum(repeats[language] * sizes[language] for language in repeats)
    texts = _with_progress(excerpt.sample(repeats, work.seed), sample_bytes, work.progress)
    tokenizer = tokenizing.train(texts, options.vocabulary)
    tokenizing.save(tokenizer, work.draft.out, max_tokens=options.max_tokens)
    encoder = tokenizing.Encoder.open(work.draft.out)
    if encoder.vocabulary < options.vocabulary:
        work.progress.note(f"the text gives {encoder.vocabulary:,} tokens; {options.vocabulary:,} were requested")
    facts: Facts = {"tokenizer/vocabulary": encoder.vocabulary}
    held_out = excerpts.choose(corpus, "held_out", min_bytes=options.eval_bytes, seed=work.seed)
    return facts | _bytes_per_token(encoder, held_out, options.eval_bytes)


def _with_progress(texts: Iterator[str], total_bytes: float, progress: Progress) -> Iterator[str]:
    """Yields the texts and reports their bytes as progress, every 64 texts."""
    done = 0
    for number, text in enumerate(texts, start=1):
        done += len(text.encode())
        yield text
        if number % 64 == 0:
            progress.update(min(done, total_bytes), total_bytes, "bytes")
    progress.update(total_bytes, total_bytes, "bytes")


def _bytes_per_token(encoder: Encoder, held_out: Excerpt, max_bytes: int) -> Facts:
    """Measures bytes per token on held-out text, by language and in total. max_bytes: of text of each language."""
    texts: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for batch in held_out.batches():
        for language, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if sizes.get(language, 0) < max_bytes:
                texts.setdefault(language, []).append(text)
                sizes[language] = sizes.get(language, 0) + len(text.encode())
    tokens = {name: sum(map(len, encoder.encode(language_texts))) for name, language_texts in texts.items()}
    facts: Facts = {f"text/bytes_per_token_{name}": sizes[name] / tokens[name] for name in sorted(tokens)}
    if tokens:
        facts["text/bytes_per_token"] = sum(sizes.values()) / sum(tokens.values())
    return facts


STAGE = Stage(kind="tokenizer", version=2, makes="tokenizer", needs=("corpus",), options=TokenizerOptions, run=run)
