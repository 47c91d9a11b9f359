"""A recipe that is submitted to two nodes survives the loss of one of them, with exactly the same artifacts.

    python -m tests.chaos.two_nodes            as root; about a quarter of an hour on two cores
    python -m tests.chaos.two_nodes pretrain+ppo --recipe demo --measure STORE

Three runs of micro.yaml, each through `rayse submit` into a separate store: one undisturbed; one whose worker node is
lost during `pretrain`, after a checkpoint; one that loses it during `ppo`, after an iteration. The node stays away
until the run has noticed, and a while longer, and is then added again. Each run must succeed, and its artifacts must
equal those of the undisturbed run byte for byte. Otherwise the exit code is 1.

The second command runs the complete demo, which loses the node twice, and compares with an existing store, for example
one that `make demo` made. Files that depend on speed (the trial, and the choice of the faster model) are not compared.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests import runs
from tests.chaos.nodes import HEAD, WORKER, TwoNodes

UNDISTURBED = "undisturbed"
CPUS = 2  # logical CPUs of a node; a worker of the stages below takes as many, so each node has room for one
LEARNING = ("pretrain", "sft", "reward_model", "ppo")
SETTINGS = [
    *(f"cluster.{stage}.{key}={CPUS if key == 'cpus_per_worker' else 2}"
      for stage in LEARNING for key in ("workers", "cpus_per_worker")),
]  # fmt: skip
MINIMAL_EVALUATION = [  # `rayse submit` evaluates every model; the comparison is of weights, so as little as possible
    "evaluate.held_out_bytes=2000", "evaluate.samples=0", "evaluate.held_out_prompts=4",
    "evaluate.chat_reply_tokens=4", "evaluate.shots=0",
]  # fmt: skip
TIMED = re.compile(r"^trial/|/choice\.json$")  # files that depend on measured times
NOTICED = re.compile(r"starting again from|a new gang goes on")
AWAY_S = 15.0  # how long the node stays away after the run has noticed: the run has to wait for it
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Loss:
    """When the worker node is lost. worker: title of the stage's Ray process that must be lost with it."""

    stage: str
    saved: str  # pattern of files in the stage's draft that appear or change with each checkpoint
    worker: str


LOSSES = {
    "pretrain": Loss("pretrain", "training/checkpoints.json", "ray::RayTrainWorker"),
    "ppo": Loss("ppo", "iterations/step-*/complete.json", "ray::Member"),
}


@dataclass
class Row:
    """A run's row of the table."""

    run: str
    lost: list[str] = field(default_factory=list)
    when: list[str] = field(default_factory=list)
    noticed_s: list[float] = field(default_factory=list)
    added_s: list[float] = field(default_factory=list)
    on_s: list[float] = field(default_factory=list)
    total_s: float = 0.0
    differing: list[str] = field(default_factory=list)
    num_artifacts: int = 0


@dataclass
class Submitted:
    """A submitted recipe, as its user sees it. process: `rayse submit`, which follows the job; log: its output."""

    store: Path
    log: Path
    process: subprocess.Popen[bytes]
    begin: float

    @classmethod
    def start(cls, cluster: TwoNodes, store: Path, recipe: str) -> Submitted:
        """Submits from the head's network, so that client and nodes share the store on this disk."""
        log = store.with_suffix(".log")
        command = [sys.executable, "-m", "pipelines", "submit", recipe]
        command += ["--address", cluster.dashboard, "--store", str(store)]
        settings = list(SETTINGS)
        if recipe == "micro":
            settings += MINIMAL_EVALUATION
            command += ["--until", "ppo"]
        command += [word for setting in settings for word in ("--set", setting)]
        environment = {**cluster.client_environment(), "PYTHONPATH": str(runs.ROOT)}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*cluster.inside(HEAD), *command], cwd=cluster.folder, env=environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        return cls(store, log, process, time.monotonic())

    def wait_for(self, condition: Callable[[], object], name: str) -> None:
        """Polls until the condition holds. Raises Failed, with the name of the condition, if the job ends before."""
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                raise Failed(f"{name}: did not happen (exit code {self.process.poll()}); {self.tail()}")
            time.sleep(0.02)

    def finish(self) -> None:
        """Waits for the job's end. Raises Failed if it did not succeed."""
        code = self.process.wait(timeout=TIMEOUT_S)
        if code:
            raise Failed(f"the job failed with exit code {code}; {self.tail()}")

    def noticed(self) -> int:
        """How often the run has reported a loss."""
        return len(NOTICED.findall(self.log.read_text(errors="replace")))

    def tail(self) -> str:
        """The end of the log."""
        return f"the end of {self.log}:\n{self.log.read_text(errors='replace')[-5000:]}"


class Failed(Exception):
    """A run did not do what it should."""


def complete_artifacts(store: Path) -> dict[str, Path]:
    """The complete artifacts of a store, by kind and fingerprint."""
    folders = [path.parent for path in store.glob("artifacts/*/*/manifest.json")]
    return {path.relative_to(store / "artifacts").as_posix(): path for path in folders}


def is_complete(store: Path, stage: str) -> bool:
    """Whether the stage's artifact is complete."""
    manifests = [json.loads((path / "manifest.json").read_text()) for path in complete_artifacts(store).values()]
    return stage in [manifest["stage"] for manifest in manifests]


def saved_state(store: Path, loss: Loss) -> list[tuple[str, int]]:
    """Paths and modification times of the stage's saved files: they change with every checkpoint or iteration."""
    try:
        return [(str(path), path.stat().st_mtime_ns) for path in sorted(store.glob(f"drafts/*/{loss.saved}"))]
    except FileNotFoundError:  # a file was replaced meanwhile
        return []


def notify(text: str) -> None:
    """Prints a line with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def run(cluster: TwoNodes, folder: Path, recipe: str, losses: Sequence[Loss]) -> Row:
    """Runs the recipe once, with these losses."""
    name = "lost-in-" + "-and-".join(loss.stage for loss in losses) if losses else UNDISTURBED
    if losses and (folder / name).exists():
        raise Failed(f"{folder / name} is there already, and a run would go on from it; give another --folder")
    notify(f"{name}: {recipe} submitted to {cluster.dashboard}")
    row, job = Row(name), Submitted.start(cluster, folder / name, recipe)
    try:
        for loss in losses:
            lose(cluster, job, loss, row)
        job.finish()
    except BaseException:
        job.process.kill()
        raise
    row.total_s, row.num_artifacts = time.monotonic() - job.begin, len(complete_artifacts(job.store))
    notify(f"{name}: done in {row.total_s:.0f} s, {row.num_artifacts} artifacts")
    return row


def lose(cluster: TwoNodes, job: Submitted, loss: Loss, row: Row) -> None:
    """Crashes the worker node during the stage, waits until the run has noticed, and adds the node again."""
    job.wait_for(lambda: saved_state(job.store, loss), f"a first checkpoint of {loss.stage}")
    lost = [title for title in cluster.nodes[WORKER].titles() if title.startswith("ray::")]
    cluster.crash(WORKER)
    crashed = time.monotonic()
    if is_complete(job.store, loss.stage):
        raise Failed(f"{loss.stage} was done before the node was lost: the run is inconclusive")
    if not any(title.startswith(loss.worker) for title in lost):
        raise Failed(f"no {loss.worker} was on the node that was lost, only {lost}: the run is inconclusive")
    row.lost.append(f"node {WORKER}, {sum(title.startswith(loss.worker) for title in lost)} x {loss.worker}")
    row.when.append(f"{loss.stage}, {crashed - job.begin:.0f} s after submit")
    notify(f"{row.run}: node {WORKER} crashed; lost with it: {', '.join(sorted(lost))}")

    job.wait_for(lambda: job.noticed() == len(row.lost), "a message that the loss was noticed")
    row.noticed_s.append(time.monotonic() - crashed)
    notify(f"{row.run}: noticed after {row.noticed_s[-1]:.1f} s; the node stays away for {AWAY_S:.0f} s more")
    time.sleep(AWAY_S)
    before = saved_state(job.store, loss)
    cluster.start(WORKER)
    row.added_s.append(time.monotonic() - crashed)
    notify(f"{row.run}: the node runs again, {row.added_s[-1]:.1f} s after it was lost")
    job.wait_for(
        lambda: saved_state(job.store, loss) != before or is_complete(job.store, loss.stage), "further progress"
    )
    row.on_s.append(time.monotonic() - crashed)
    notify(f"{row.run}: {loss.stage} has saved more work, {row.on_s[-1]:.1f} s after the loss")


def differing(first: Path, second: Path) -> list[str]:
    """Artifacts, and files in them, that differ between two stores."""
    lefts, rights = complete_artifacts(first), complete_artifacts(second)
    names = [f"{name}: only in one of the two" for name in sorted(lefts.keys() ^ rights.keys())]
    for name in sorted(lefts.keys() & rights.keys()):
        left, right = runs.contents(lefts[name]), runs.contents(rights[name])
        names += [f"{name}/{file}" for file in sorted(left.keys() | right.keys()) if left.get(file) != right.get(file)]
    return [name for name in names if not TIMED.search(name)]


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table, as in docs/chaos.md."""
    heads = ("run", "lost", "when", "detected", "node back", "progress", "total", "artifacts")
    seconds = lambda values: ", ".join(f"{value:.0f} s" for value in values)  # noqa: E731
    lines = [heads, tuple("---" for _ in heads)]
    for row in rows:
        verdict = "the reference" if not row.lost else "DIFFER" if row.differing else "equal"
        times = [seconds(values) for values in (row.noticed_s, row.added_s, row.on_s, [row.total_s])]
        lost, when = "; ".join(row.lost) or "none", "; ".join(row.when)
        lines.append((row.run, lost, when, *times, f"{row.num_artifacts}, {verdict}"))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def losses_of(text: str) -> list[Loss]:
    """Parses an argument: `pretrain+ppo` → both losses."""
    unknown = [name for name in text.split("+") if name not in LOSSES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no loss {', '.join(unknown)}; there are {', '.join(LOSSES)}")
    return [LOSSES[name] for name in text.split("+")]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("losses", nargs="*", type=losses_of, default=[[loss] for loss in LOSSES.values()],
                        help=f"runs with these losses: of {', '.join(LOSSES)}, or some joined by + (default: a run "
                             "for each)")  # fmt: skip
    parser.add_argument("--recipe", default="micro", help="what is submitted (default: micro)")
    parser.add_argument("--measure", type=Path, help="store of a finished run of the recipe to compare with; default: "
                        "an undisturbed run comes first")  # fmt: skip
    parser.add_argument("--folder", type=Path, help="keep stores and logs here (default: a temporary folder)")
    chosen = parser.parse_args()
    if os.geteuid():
        parser.error("needs root: it makes network namespaces and mounts")
    folder = (chosen.folder or Path(tempfile.mkdtemp(prefix="rayse-chaos-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    notify(f"stores and logs: {folder}")
    rows, measure = [], chosen.measure or folder / UNDISTURBED
    try:
        for losses in ([] if chosen.measure else [[]]) + chosen.losses:
            with TwoNodes(cpus=CPUS) as cluster:
                notify(f"two nodes are up; their logs: {cluster.folder}")
                rows.append(run(cluster, folder, chosen.recipe, losses))
            rows[-1].differing = differing(measure, folder / rows[-1].run)
    except Failed as error:
        notify(str(error))
        return 1
    finally:
        print(table(rows))
    for row in rows:
        for name in row.differing:
            print(f"{row.run}: {name} differs")
    return 1 if any(row.differing for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
