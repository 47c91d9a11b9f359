"""Toy stages that only write small files, so that recipes, plans and runs can be tested in seconds.

They are Stage objects of the same kinds as the real ones, in the table TABLE; their options decide what they do.
ToyProject is a folder with a recipe of toy stages and its store.

    python -m tests.toy_stages run RECIPE …      `rayse` with this table instead of the real one
"""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cluster.session import Session
from pipelines.errors import UserError
from pipelines.recipe import reader
from pipelines.run.progress import RunLog
from pipelines.run.walk import Walk
from pipelines.stage import ClusterOptions, Facts, Options, Stage, Work
from pipelines.store.artifacts import Store
from pipelines.store.runs import RunRecord, resolve
from tests.runs import wait_until

ROOT = Path(__file__).parent.parent


class Schedule(Options):
    kind: Literal["wsd", "cosine"] = "wsd"
    warmup: float = Field(default=0.1, ge=0, lt=1)


class ToyOptions(Options):
    word: str = Field("a", description="Word that is written")
    times: int = Field(1, ge=1, le=1000, description="Number of times that the word is written")
    rate: float = Field(1e-3, gt=0, lt=1)
    weights: dict[str, float] | None = None
    schedule: Schedule = Schedule()
    behaviour: Literal["write", "sleep", "user_error", "bug", "fill"] = "write"


class ToyBase(Options):
    model: str


class ToyCluster(ClusterOptions):
    workers: int = Field(1, ge=1)


def run(work: Work) -> Facts:
    """Writes its inputs and its word; appends a line to ran.txt at every attempt, so that tests can count them."""
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
        until = time.monotonic() + 300
        while time.monotonic() < until and not (folder / "wake_up").exists():
            time.sleep(0.05)
    elif behaviour == "user_error":
        raise UserError("data.jsonl:7: no column 'text'; expected one")
    elif behaviour == "bug":
        raise ZeroDivisionError("division by zero")
    elif behaviour == "fill":
        with (folder / "blob").open("wb") as file:
            while True:
                file.write(b"\1" * (1 << 16))
                file.flush()


def _stage(kind: str, makes: str, **fields: Any) -> Stage:
    return Stage(kind=kind, version=1, makes=makes, options=ToyOptions, cluster=ToyCluster, run=run, **fields)


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


TEXT = """\
name: small
store: STORE
sources:
  books: {kind: text, path: books.txt}
stages:
  corpus: {}
  tokenizer: {}
  tokens: {}
  pretrain: {}
"""
STAGES = ["corpus", "tokenizer", "tokens", "pretrain"]


class ToyProject:
    """A folder with a recipe of toy stages and its store."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / "recipe.yaml"
        self.store = Store(folder / "store")
        self.output = io.StringIO()
        self.file.write_text(TEXT.replace("STORE", str(self.store.root)), encoding="utf-8")
        (folder / "books.txt").write_text("Once upon a time.")

    def run(self, *overrides: str, wait: bool = True, **arguments: str | None) -> RunRecord:
        loaded = reader.load(self.file, TABLE, overrides=overrides)
        return Walk(loaded, self.store.create(), Session(), RunLog(self.output), wait).run(**arguments)

    def ran(self) -> list[str]:
        """The stages that ran since the last call."""
        file = self.store.root / "cache" / "ran.txt"
        names = file.read_text().split() if file.is_file() else []
        file.unlink(missing_ok=True)
        return names

    def text(self, name: str) -> str:
        return (resolve(self.store, name).path / "text.txt").read_text()

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tests.toy_stages", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command("run", str(self.file), *arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True
        )  # fmt: skip

    def start_and_sleep(self, stage: str, *arguments: str) -> subprocess.Popen[str]:
        """Starts a run in another process, and returns once it is inside the stage."""
        for old in self.store.root.glob("drafts/*/asleep"):
            old.unlink()
        process = self.start("--set", f"{stage}.behaviour=sleep", *arguments)
        wait_until(lambda: list(self.store.root.glob("drafts/*/asleep")), process)
        return process


if __name__ == "__main__":
    from pipelines import stages
    from pipelines.cli import main
    from tests import toy_stages  # by this name, not as __main__: code digests go by modules

    stages.STAGES = toy_stages.TABLE  # what pipelines.cli imports when a verb is called

    sys.argv[0] = "rayse"
    main()
