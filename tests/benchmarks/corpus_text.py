"""Text of any size for measurements of the corpus stage, in English and Chinese: real documents, and seeded edits.

    docstrings of the installed libraries, Chinese essays, files ──► documents ──edited again and again──► JSON lines

A measurement of near duplicates adds copies with few edits, which are duplicates, and copies with many, which are not.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.data.corpus.documents import utf8_bytes
from pipelines.data.sources import SOURCES
from pipelines.data.sources.source import Row
from pipelines.data.text.languages import identify
from pipelines.data.text.normalise import normalise

SHARES = {"en": 0.75, "zh": 0.25}  # of the bytes
UNLIKE = 0.2  # of the words replaced: similarity about 0.2
SHINGLE_WORDS = 5
MIN_WORDS, MAX_WORDS = 60, 600  # of the documents that are copied
UNLIKE_BELOW, LIKE_FROM = 0.7, 0.85  # similarities of pairs that are no duplicates, and of those that surely are
# Least and largest similarity of copies, and the share of their words that is replaced.
EDITS = ((LIKE_FROM, 1.0, 0.01), (UNLIKE_BELOW, LIKE_FROM, 0.025), (0.3, UNLIKE_BELOW, 0.06))


def documents(files: Sequence[Path], limit_bytes: int = 8_000_000) -> dict[str, list[str]]:
    """The texts by language: docstrings, up to a limit, the essays that come with Rayse, and JSON lines files."""
    kinds = [("docstrings", {"limit_bytes": limit_bytes, "language": "en"}), ("chinese", {"language": "zh"})]
    kinds += [("jsonl", {"path": str(file.absolute()), "language": "auto"}) for file in files]
    texts: dict[str, list[str]] = {language: [] for language in SHARES}
    for kind, options in kinds:
        source = SOURCES[kind].model_validate(options)
        for row in (row for part in source.parts() for row in source.read(part)):
            text = normalise(row.text) if isinstance(row, Row) else ""
            language = options["language"] if options["language"] != "auto" else identify(text)
            if text and language in texts:
                texts[str(language)].append(text)
    return texts


def write_stretched(folder: Path, texts: dict[str, list[str]], num_bytes: int) -> int:
    """Writes about `num_bytes` of text into FOLDER/<language>.jsonl; returns the number of documents.

    The first round is the documents as they are, every other one has a fifth of its words replaced."""
    num_documents = 0
    for language, share in SHARES.items():
        left = share * num_bytes
        with (folder / f"{language}.jsonl").open("w", encoding="utf-8") as file:
            for text in stretched(texts[language], language):
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                num_documents += 1
                left -= utf8_bytes(text)
                if left <= 0:
                    break
    return num_documents


def stretched(texts: Sequence[str], language: str) -> Iterator[str]:
    """Yields the texts, then edited copies of them, without end."""
    yield from texts
    rng = random.Random(f"stretched {language}")
    pool = vocabulary(texts, language)
    while True:
        for text in texts:
            yield edited(text, language, UNLIKE, pool, rng)


def words_of(text: str, language: str) -> list[str]:
    """The units that are replaced: words between blanks, or characters."""
    return list(text) if language == "zh" else text.split(" ")


def vocabulary(texts: Sequence[str], language: str) -> list[str]:
    """Words of the first texts, as often as they occur."""
    return [word for text in texts[:500] for word in words_of(text, language) if word.isalnum()]


def edited(text: str, language: str, share: float, pool: Sequence[str], rng: random.Random) -> str:
    """The text with a share of its words replaced by others, one at least."""
    words = words_of(text, language)
    for position in rng.sample(range(len(words)), max(1, round(share * len(words)))):
        words[position] = rng.choice(pool)
    return ("" if language == "zh" else " ").join(words)


# ---- copies that are known to be duplicates ------------------------------------------------------------------------


def shingles(text: str, language: str) -> frozenset[tuple[str, ...]]:
    """All runs of five words, or of five Chinese characters, without case and signs."""
    units = text.lower().split() if language == "en" else list(text)
    words = [word for word in ("".join(filter(str.isalnum, unit)) for unit in units) if word]
    return frozenset(tuple(words[first : first + SHINGLE_WORDS]) for first in range(len(words) - SHINGLE_WORDS + 1))


def jaccard(first: frozenset[tuple[str, ...]], second: frozenset[tuple[str, ...]]) -> float:
    """The similarity of two sets: |A ∩ B| ÷ |A ∪ B|."""
    return len(first & second) / max(1, len(first | second))


def unlike_each_other(texts: Sequence[str], language: str, number: int) -> list[str]:
    """The first texts of medium length that have less than a third of their shingles in common with all before."""
    seen: dict[tuple[str, ...], int] = {}
    chosen: list[str] = []
    for text in texts:
        of_text = shingles(text, language)
        if MIN_WORDS <= len(of_text) <= MAX_WORDS:
            if sum(shingle in seen for shingle in of_text) < len(of_text) / 3:
                seen.update(dict.fromkeys(of_text, len(chosen)))
                chosen.append(text)
        if len(chosen) == number:
            break
    return chosen


def write_injected(folder: Path, texts: dict[str, list[str]], number: int) -> list[float]:
    """Writes documents in two languages, with copies at random places, into FOLDER/injected.jsonl.

    Returns the similarity of each pair, 0.3 to 1, by exact sets of shingles. Their rows have its number as `pair`."""
    rng = random.Random("injected")
    rows: list[tuple[str, int]] = []
    pairs: list[float] = []
    for language in SHARES:
        pool = vocabulary(texts[language], language)
        for text in unlike_each_other(texts[language], language, number):
            low, high, share = rng.choice(EDITS)
            original = shingles(text, language)
            for _ in range(10):
                copy = edited(text, language, share, pool, rng)
                similarity = jaccard(original, shingles(copy, language))
                if low <= similarity < high:
                    rows += [(text, len(pairs)), (copy, len(pairs))]
                    pairs.append(similarity)
                    break
    rng.shuffle(rows)
    with (folder / "injected.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text, "pair": str(pair)}, ensure_ascii=False) + "\n" for text, pair in rows)
    return pairs


def dropped_pairs(rejected: list[dict[str, object]], folder: Path) -> dict[int, int]:
    """How many documents of each pair were dropped as near duplicates, by their lines in the file."""
    lines = (folder / "injected.jsonl").read_text(encoding="utf-8").splitlines()
    dropped: dict[int, int] = defaultdict(int)
    for row in rejected:
        if row["reason"] == "duplicate_near":
            dropped[int(json.loads(lines[int(str(row["row"])) - 1])["pair"])] += 1
    return dropped
