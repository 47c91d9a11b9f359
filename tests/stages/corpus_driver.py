"""Runs the corpus stage in a process of its own, so that a test can kill it, or measure its memory.

    python -m tests.stages.corpus_driver DRAFT OPTIONS SOURCE… [--reference=ROWS:PATH]… [--kill=UNIT]

OPTIONS: those of the stage, as JSON; SOURCE: paths of JSON lines; a reference is a source that the options name, by the
name of its file: books.jsonl is books. With --kill the process kills itself (kill -9) at the first progress in this
unit. Prints the peak of its resident memory, in bytes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

from cluster.session import Session
from pipelines.data.sources import SOURCES
from pipelines.stage import Work
from pipelines.stages.corpus import STAGE
from pipelines.stages.corpus.options import CorpusCluster, CorpusOptions
from pipelines.store.artifacts import Draft


class KillingProgress:
    """Progress that ends this process at the first update in a unit."""

    def __init__(self, unit: str | None):
        self.unit = unit

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        if unit == self.unit:
            os.kill(os.getpid(), signal.SIGKILL)

    def note(self, text: str) -> None: ...


def main() -> None:
    flags = [argument for argument in sys.argv[1:] if argument.startswith("--kill=")]
    named = [argument for argument in sys.argv[1:] if argument.startswith("--reference=")]
    draft, options, *paths = (argument for argument in sys.argv[1:] if argument not in (*flags, *named))
    sources = {
        f"source{number}": SOURCES["jsonl"].model_validate({"path": path}).at(Path.cwd())
        for number, path in enumerate(paths)
    }
    references = {}
    for rows, path in (argument.removeprefix("--reference=").split(":", 1) for argument in named):
        source = SOURCES["jsonl"].model_validate({"path": path, "rows": rows}).at(Path.cwd())
        references[Path(path).stem] = source
    with Session(cpus=2, on_message=lambda text: None) as session:
        STAGE.run(
            Work(
                name="corpus",
                options=CorpusOptions.model_validate_json(options),
                cluster=CorpusCluster(tasks=2),
                seed=7,
                inputs={},
                sources=sources,
                references=references,
                draft=Draft(Path(draft), "fingerprint"),
                progress=KillingProgress(flags[0].removeprefix("--kill=") if flags else None),
                session=session,
            )
        )
    # Not getrusage: its peak includes that of the process from which this one was forked.
    peak_kib = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert peak_kib
    print(json.dumps({"peak_bytes": int(peak_kib[1]) * 1024}))


if __name__ == "__main__":
    main()
