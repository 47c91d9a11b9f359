"""Sources for tests of the corpus stage, and its work on them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.session import Session
from pipelines.data.sources import SOURCES
from pipelines.data.sources.source import Source
from pipelines.stage import Facts, Work
from pipelines.stages.corpus.options import CorpusCluster, CorpusOptions
from pipelines.store.artifacts import Draft

SMALL = {"block_bytes": 4000, "part_bytes": 20_000, "held_out": 0.1}
WORDS = ("time", "way", "year", "work", "day", "man", "world", "life", "hand", "part", "child", "eye", "place", "case",
         "week", "company", "system", "program", "question", "night", "water", "room", "friend", "power")  # fmt: skip
FUNCTION_WORDS = (
    "the",
    "of",
    "and",
    "to",
    "a",
    "in",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
)
HAN = "天地人山水火木土日月星雲雨風花草鳥魚馬牛羊手足目口心言行食衣住學書文字詩歌酒茶路門城國家父母子女兄弟友"


@dataclass
class RecordingProgress:
    """A progress that records notes and calls back after each block."""

    on_block: Callable[[float], None] = lambda done: None
    notes: list[str] = field(default_factory=list)

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        if unit == "blocks":
            self.on_block(done)

    def note(self, text: str) -> None:
        self.notes.append(text)


def sentence(rng: random.Random) -> str:
    words = [rng.choice(FUNCTION_WORDS if n % 2 else WORDS) for n in range(rng.randint(8, 20))]
    return " ".join(words).capitalize() + f" {rng.randint(0, 9999)}."


def english(rng: random.Random) -> str:
    return "\n".join(" ".join(sentence(rng) for _ in range(4)) for _ in range(rng.randint(1, 3)))


def chinese(rng: random.Random) -> str:
    return "。".join("，".join("".join(rng.choices(HAN, k=7)) for _ in range(4)) for _ in range(3)) + "。"


def write(file: Path, records: list[Any]) -> None:
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))


def write_sources(folder: Path) -> Path:
    """Writes twenty English groups in twenty files, with duplicates and bad rows; one Chinese file."""
    rng = random.Random(0)
    (folder / "en").mkdir()
    for group in range(20):
        records: list[Any] = [{"text": english(rng)} for _ in range(12)]
        records.append(records[group % 12])  # an exact duplicate
        near = records[(group + 1) % 12]["text"].split(" ")
        records.append({"text": " ".join([*near[:-1], "otherwise"])})  # a near duplicate
        records.append({"text": "Too short."})
        if group == 7:
            records.insert(3, "{not json")
        write(folder / "en" / f"{group:02}.jsonl", records)
    write(folder / "zh.jsonl", [{"text": chinese(rng)} for _ in range(60)])
    return folder


def sources(folder: Path) -> dict[str, Source]:
    options = {"web": {"path": "en"}, "poems": {"path": "zh.jsonl", "language": "zh"}}
    return {
        name: SOURCES["jsonl"].model_validate({"kind": "jsonl", **source_options}).at(folder)
        for name, source_options in options.items()
    }


def work(
    session: Session,
    draft: Path,
    sources: dict[str, Source],
    *,
    tasks: int = 2,
    progress: RecordingProgress | None = None,
    **options: Any,
) -> Work:
    return Work(
        name="corpus",
        options=CorpusOptions.model_validate({**SMALL, **options}),
        cluster=CorpusCluster(tasks=tasks),
        seed=7,
        inputs={},
        sources=sources,
        draft=Draft(draft, "fingerprint"),
        progress=progress or RecordingProgress(),
        session=session,
    )


def digests(draft: Path) -> dict[str, str]:
    files = sorted(path for path in (draft / "out").rglob("*") if path.is_file())
    return {file.relative_to(draft).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@dataclass(frozen=True)
class Result:
    folder: Path
    draft: Path
    facts: Facts

    def table(self, split: str) -> pa.Table:
        return pa.concat_tables(
            [pq.read_table(part) for part in sorted((self.draft / "out" / split).glob("*.parquet"))]
        )
