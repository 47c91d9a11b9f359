"""The held-out documents and conversations that models are evaluated on: some of each kind, always the same ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import xxhash

from pipelines.data.corpus import corpora
from pipelines.data.dialogues.conversations import Conversation
from pipelines.metrics.metric import Document


def choose_documents(corpus: Path | None, *, bytes_per_language: int, seed: int) -> list[Document]:
    """Documents of the held-out split in the order of their seeded hash, so many bytes of text of each language.

    None without a corpus. The last one is cut at a whole character. Does not depend on how the corpus is cut into
    parts; holds at most a few times the bytes it returns in memory."""
    kept: dict[str, list[tuple[int, Document]]] = {}
    kept_bytes: dict[str, int] = {}
    batches = [] if corpus is None else corpora.batches(corpus, "held_out", ("id", "language", "text"))
    for batch in batches:
        for name, language, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            documents = kept.setdefault(language, [])
            documents.append((xxhash.xxh3_64_intdigest(name.encode(), seed), Document(name, language, text)))
            kept_bytes[language] = kept_bytes.get(language, 0) + _size(text)
            if kept_bytes[language] > 4 * bytes_per_language:
                kept[language] = _lowest_hashes(documents, bytes_per_language)
                kept_bytes[language] = sum(_size(document.text) for _, document in kept[language])
    chosen = []
    for language in sorted(kept):
        documents = [document for _, document in _lowest_hashes(kept[language], bytes_per_language)]
        surplus = max(sum(_size(document.text) for document in documents) - bytes_per_language, 0)
        chosen += [*documents[:-1], _cut(documents[-1], _size(documents[-1].text) - surplus)]
    return [document for document in chosen if document.text]


def choose_conversations(held_out: Iterable[Conversation], *, max_conversations: int, seed: int) -> list[Conversation]:
    """Conversations with a prompt, round robin over tasks and languages, in the order of their hash.

    A task with few conversations leaves its turns to the others."""
    cells: dict[tuple[str, str], list[Conversation]] = {}
    for conversation in held_out:
        if conversation.prompt:
            cells.setdefault((conversation.task, conversation.language), []).append(conversation)
    turns = []
    for cell, conversations in sorted(cells.items()):
        conversations.sort(key=lambda c: (xxhash.xxh3_64_intdigest(c.id.encode(), seed), c.id))
        turns += [(turn, cell, conversation) for turn, conversation in enumerate(conversations)]
    turns.sort(key=lambda entry: entry[:2])
    return [conversation for _, _, conversation in turns[:max_conversations]]


def _lowest_hashes(documents: list[tuple[int, Document]], min_bytes: int) -> list[tuple[int, Document]]:
    """The documents of lowest hash that together have so many bytes, or all."""
    ordered = sorted(documents, key=lambda entry: (entry[0], entry[1].id))
    total = 0
    for number, (_, document) in enumerate(ordered, 1):
        total += _size(document.text)
        if total >= min_bytes:
            return ordered[:number]
    return ordered


def _size(text: str) -> int:
    """Bytes in UTF-8."""
    return len(text.encode())


def _cut(document: Document, num_bytes: int) -> Document:
    text = document.text.encode()[:num_bytes].decode(errors="ignore")  # ignores the half of a character at the end
    return Document(document.id, document.language, text)
