"""Which held-out documents and conversations a model is judged on: some of each kind, always the same ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import xxhash

from pipelines.data.corpus import corpora
from pipelines.data.dialogues.conversations import Conversation
from pipelines.metrics.metric import Document


def choose(corpus: Path | None, *, bytes_per_language: int, seed: int) -> list[Document]:
    """Documents of the held-out split in the order of their seeded hash, so many bytes of text of each language.

    Without a corpus there are none. The last one is cut at a whole character. Independent of how the corpus is cut into
    parts; holds a few times the bytes it gives."""
    kept: dict[str, list[tuple[int, Document]]] = {}
    held: dict[str, int] = {}
    batches = [] if corpus is None else corpora.batches(corpus, "held_out", ("id", "language", "text"))
    for batch in batches:
        for name, language, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            own = kept.setdefault(language, [])
            own.append((xxhash.xxh3_64_intdigest(name.encode(), seed), Document(name, language, text)))
            held[language] = held.get(language, 0) + len(text.encode())
            if held[language] > 4 * bytes_per_language:
                kept[language] = own = _first(own, bytes_per_language)
                held[language] = sum(len(document.text.encode()) for _, document in own)
    chosen = []
    for language in sorted(kept):
        own = _first(kept[language], bytes_per_language)
        over = sum(len(document.text.encode()) for _, document in own) - bytes_per_language
        chosen += [document for _, document in own[:-1]]
        chosen += [_cut(document, len(document.text.encode()) - max(over, 0)) for _, document in own[-1:]]
    return [document for document in chosen if document.text]


def choose_conversations(held_out: Iterable[Conversation], *, most: int, seed: int) -> list[Conversation]:
    """At most so many conversations with a prompt, by turns from each task and language, in the order of their hash.

    A task with few conversations leaves its turns to the others."""
    cells: dict[tuple[str, str], list[Conversation]] = {}
    for one in held_out:
        if one.prompt:
            cells.setdefault((one.task, one.language), []).append(one)
    turns = []
    for cell, own in sorted(cells.items()):
        own.sort(key=lambda one: (xxhash.xxh3_64_intdigest(one.id.encode(), seed), one.id))
        turns += [(turn, cell, one) for turn, one in enumerate(own)]
    turns.sort(key=lambda found: found[:2])
    return [one for _, _, one in turns[:most]]


def _first(documents: list[tuple[int, Document]], wanted_bytes: int) -> list[tuple[int, Document]]:
    """The documents of lowest hash that together have the wanted bytes, or all."""
    ordered = sorted(documents, key=lambda one: (one[0], one[1].id))
    total = 0
    for number, (_, document) in enumerate(ordered, 1):
        total += len(document.text.encode())
        if total >= wanted_bytes:
            return ordered[:number]
    return ordered


def _cut(document: Document, num_bytes: int) -> Document:
    text = document.text.encode()[:num_bytes].decode(errors="ignore")  # ignores the half of a character at the end
    return Document(document.id, document.language, text)
