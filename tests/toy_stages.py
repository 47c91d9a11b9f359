"""Small stages that write files, so that recipes, plans and walks can be tested in seconds: real Stage objects of the
kinds the real ones have, in a table of their own. What they do is decided by their options.

    python -m tests.toy_stages run RECIPE …      `rayse` with this table instead of the real one
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipelines.errors import UserError
from pipelines.stage import ClusterOptions, Facts, Options, Stage, Work


class Schedule(Options):
    kind: Literal["wsd", "cosine"] = "wsd"
    warmup: float = Field(default=0.1, ge=0, lt=1)


class ToyOptions(Options):
    word: str = Field("a", description="what is written")
    times: int = Field(1, ge=1, le=1000, description="how often it is written")
    rate: float = Field(1e-3, gt=0, lt=1)
    shares: dict[str, float] | None = None
    schedule: Schedule = Schedule()
    behaviour: Literal["write", "sleep", "user_error", "bug", "fill"] = "write"


class ToyBase(Options):
    model: str


class ToyCluster(ClusterOptions):
    workers: int = Field(1, ge=1)


def run(work: Work) -> Facts:
    """Writes what it read and its own words; leaves a line in ran.txt for every attempt, so that tests can count."""
    options: ToyOptions = work.options
    assert work.cache is not None
    with (work.cache / "ran.txt").open("a", encoding="utf-8") as ran:
        ran.write(f"{work.name}\n")
    lines = [f"{name}: {len(list(source.parts()))} parts" for name, source in sorted(work.sources.items())]
    lines += [(work.inputs[kind].local() / "text.txt").read_text(encoding="utf-8") for kind in sorted(work.inputs)]
    (work.draft.folder("blocks") / "half").write_text("kept between attempts", encoding="utf-8")
    _behave(options.behaviour, work.draft.path)
    (work.draft.out / "text.txt").write_text("\n".join([*lines, options.word * options.times]), encoding="utf-8")
    work.progress.update(1, 1, "words")
    return {"words/written": options.times, "words/seed": work.seed}


def _behave(behaviour: str, folder: Path) -> None:
    if behaviour == "sleep":
        (folder / "asleep").touch()
        time.sleep(60)
    elif behaviour == "user_error":
        raise UserError("data.jsonl:7: no column 'text'; expected one")
    elif behaviour == "bug":
        raise ZeroDivisionError("division by zero")
    elif behaviour == "fill":
        with (folder / "blob").open("wb") as file:
            while True:
                file.write(b"\1" * (1 << 16))
                file.flush()


def _stage(kind: str, makes: str, **rest) -> Stage:
    return Stage(kind=kind, version=1, makes=makes, options=ToyOptions, cluster=ToyCluster, run=run, **rest)


TABLE = {
    stage.kind: stage
    for stage in (
        Stage(kind="base", version=1, makes="model", options=ToyBase, run=run),
        _stage("corpus", "corpus", rows="text"),
        _stage("tokenizer", "tokenizer", needs=("corpus",)),
        _stage("tokens", "tokens", needs=("corpus", "tokenizer")),
        _stage("pretrain", "model", needs=("tokens",), takes=("model",)),
        _stage("conversations", "conversations", needs=("tokenizer",), rows="conversations"),
        _stage("sft", "model", needs=("model", "conversations")),
        _stage("evaluate", "evaluation", needs=("model",), takes=("corpus", "tokens")),
    )
}


if __name__ == "__main__":
    from pipelines import stages

    stages.STAGES = TABLE  # what pipelines.cli imports when a verb is called
    from pipelines.cli import main

    sys.argv[0] = "rayse"
    main()
