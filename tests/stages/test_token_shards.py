"""pipelines/stages/tokens/shards.py: which documents of encoded parts a shard reads."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data.tokens import packing
from pipelines.stages.tokens import ordering, shards


def split_of_parts(folder: Path, parts: list[list[str]], num_shards: int, repeats: dict[str, float]) -> shards.Split:
    """Encoded parts whose documents have these languages and one token each, which is their number, and their split."""
    (folder / "ranked" / "train").mkdir(parents=True)
    for number, names in enumerate(parts):
        seen: Counter[str] = Counter()
        ranks = [(seen.update([name]), seen[name] - 1)[1] for name in names]
        first = sum(map(len, parts[:number]))
        ids = pa.array([[first + place] for place in range(len(names))], pa.large_list(pa.uint32()))
        part = pa.table({"language": names, "rank": pa.array(ranks, pa.uint32()), "tokens": ids})
        with pa.ipc.new_file(str(folder / "ranked" / "train" / f"part-{number:02}.arrow"), part.schema) as writer:
            writer.write_table(part, max_chunksize=16)
    places = shards.places([Counter(names) for names in parts], repeats)
    phases = ordering.Phases(1, {})
    return shards.Split(
        "train", folder, folder / "out", ["en", "zh"], repeats, "language", phases, [num_shards], 7, *places
    )


def test_the_documents_of_a_shard_take_the_memory_of_one_part(tmp_path: Path) -> None:
    parts = [["en"] * 50_000] * 12
    split = split_of_parts(tmp_path, parts, 1000, {"en": 1.0})
    shards.documents_of(split, 0)
    tracemalloc.start()
    documents = shards.documents_of(split, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(documents.times_D) == 12 * 50 and peak < 50_000 * 8


def test_all_shards_together_look_at_each_document_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How often it is used is that of its rank among all documents of its language, in the order of the parts."""
    names = [["en" if (n * n + part) % 3 else "zh" for n in range(size)] for part, size in enumerate((40, 3, 0, 101))]
    repeats = {"en": 0.7, "zh": 2.29}
    looked_at: list[int] = []
    times_used = packing.times_used
    monkeypatch.setattr(packing, "times_used", lambda *given: looked_at.append(len(given[0])) or times_used(*given))
    split = split_of_parts(tmp_path, names, 9, repeats)
    found: dict[int, int] = {}
    for shard in range(9):
        documents = shards.documents_of(split, shard)
        numbers = [int(documents.tokens[place][0]) for place in range(len(documents.times_D))]
        found |= dict(zip(numbers, documents.times_D.tolist(), strict=True))
    assert sum(looked_at) == len(found) == 144
    ranks: Counter[str] = Counter()
    for number, name in enumerate(name for part in names for name in part):
        assert found[number] == times_used(np.array([ranks[name]]), repeats[name])[0]
        ranks[name] += 1
