"""A recipe that was submitted to two nodes outlives the loss of one of them, and nobody could tell from what it made.

    python -m tests.chaos.two_nodes            as root; about a quarter of an hour on two cores
    python -m tests.chaos.two_nodes pretrain+ppo --recipe demo --measure STORE

Three runs of micro.yaml, each through `rayse submit` on a store of its own: one undisturbed; one whose worker node is
lost while `pretrain` is at work, after a checkpoint; one that loses it while `ppo` is, after an iteration. The node
stays away until the run has noticed, and a while longer, and is then added again. Each run must end well, and its
artifacts must equal those of the undisturbed run to the byte. Exit code 1 where they do not.

The second command: the whole demo, which loses the node twice, against a store that was made elsewhere, by `make demo`
say. What says how fast something was (the trial, and which model is faster to serve) is not compared.
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
LITTLE = [  # `rayse submit` judges every model; of micro as little as can be, since the weights are what is compared
    "evaluate.held_out_bytes=2000", "evaluate.samples=0", "evaluate.held_out_prompts=4",
    "evaluate.chat_reply_tokens=4", "evaluate.shots=0",
]  # fmt: skip
TIMED = re.compile(r"^trial/|/choice\.json$")  # files that follow from seconds
NOTICED = re.compile(r"starting again from|a new gang goes on")
AWAY_S = 15.0  # how long the node stays away after the run noticed: the run has to wait for it
PATIENCE_S = 3600.0


@dataclass(frozen=True)
class Loss:
    """When the worker node goes. worker: how Ray titles the process of the stage that must be lost with it."""

    stage: str
    mark: str  # files of the stage's draft that are there, or change, with every bit of work that is safe
    worker: str


LOSSES = {
    "pretrain": Loss("pretrain", "training/checkpoints.json", "ray::RayTrainWorker"),
    "ppo": Loss("ppo", "iterations/step-*/complete.json", "ray::Member"),
}


@dataclass
class Row:
    """What the table says of a run."""

    run: str
    lost: list[str] = field(default_factory=list)
    when: list[str] = field(default_factory=list)
    noticed_s: list[float] = field(default_factory=list)
    added_s: list[float] = field(default_factory=list)
    on_s: list[float] = field(default_factory=list)
    whole_s: float = 0.0
    differing: list[str] = field(default_factory=list)
    made: int = 0


@dataclass
class Submitted:
    """A recipe on its way, as its user sees it."""

    store: Path
    log: Path
    process: subprocess.Popen[bytes]
    begin: float

    @classmethod
    def start(cls, cluster: TwoNodes, store: Path, recipe: str) -> Submitted:
        """The user sits at the head, so that the store on this disk is one that client and nodes share."""
        log = store.with_suffix(".log")
        command = [sys.executable, "-m", "pipelines", "submit", recipe]
        command += ["--address", cluster.dashboard, "--store", str(store)]
        little = recipe == "micro"
        command += [word for setting in SETTINGS + LITTLE * little for word in ("--set", setting)]
        command += ["--until", "ppo"] * little
        environment = {**cluster.client_environment(), "PYTHONPATH": str(runs.ROOT)}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*cluster.inside(HEAD), *command], cwd=cluster.folder, env=environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        return cls(store, log, process, time.monotonic())

    def wait_for(self, what: Callable[[], object], name: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not what():
            if self.process.poll() is not None or time.monotonic() > end:
                raise Failed(f"{name}: did not come (exit code {self.process.poll()}); {self.tail()}")
            time.sleep(0.02)

    def finish(self) -> None:
        code = self.process.wait(timeout=PATIENCE_S)
        if code:
            raise Failed(f"the job failed with exit code {code}; {self.tail()}")

    def noticed(self) -> int:
        """How often the run has said that it lost something."""
        return len(NOTICED.findall(self.log.read_text(errors="replace")))

    def tail(self) -> str:
        return f"the end of {self.log}:\n{self.log.read_text(errors='replace')[-5000:]}"


class Failed(Exception):
    """A run did not do what is to be proven."""


def made(store: Path) -> dict[str, Path]:
    """The complete artifacts of a store, by kind and fingerprint."""
    found = [path.parent for path in store.glob("artifacts/*/*/manifest.json")]
    return {path.relative_to(store / "artifacts").as_posix(): path for path in found}


def is_made(store: Path, stage: str) -> bool:
    manifests = [json.loads((path / "manifest.json").read_text()) for path in made(store).values()]
    return stage in [manifest["stage"] for manifest in manifests]


def safe(store: Path, loss: Loss) -> list[tuple[str, int]]:
    """What the stage's draft holds of work that is safe: it changes with every checkpoint or iteration."""
    try:
        return [(str(path), path.stat().st_mtime_ns) for path in sorted(store.glob(f"drafts/*/{loss.mark}"))]
    except FileNotFoundError:  # a file was replaced while we looked
        return []


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def run(cluster: TwoNodes, folder: Path, recipe: str, losses: Sequence[Loss]) -> Row:
    """One run of the recipe, with or without losses."""
    name = "lost-in-" + "-and-".join(loss.stage for loss in losses) if losses else UNDISTURBED
    if losses and (folder / name).exists():
        raise Failed(f"{folder / name} is there already, and a run would go on from it; give another --folder")
    say(f"{name}: {recipe} submitted to {cluster.dashboard}")
    row, job = Row(name), Submitted.start(cluster, folder / name, recipe)
    try:
        for loss in losses:
            lose(cluster, job, loss, row)
        job.finish()
    except BaseException:
        job.process.kill()
        raise
    row.whole_s, row.made = time.monotonic() - job.begin, len(made(job.store))
    say(f"{name}: done in {row.whole_s:.0f} s, {row.made} artifacts")
    return row


def lose(cluster: TwoNodes, job: Submitted, loss: Loss, row: Row) -> None:
    """Crashes the worker node while the stage is at work, waits until that is noticed, and adds the node again."""
    job.wait_for(lambda: safe(job.store, loss), f"a first bit of {loss.stage} that is safe")
    lost = [title for title in cluster.nodes[WORKER].titles() if title.startswith("ray::")]
    cluster.crash(WORKER)
    crashed = time.monotonic()
    if is_made(job.store, loss.stage):
        raise Failed(f"{loss.stage} was done before the node was gone: this proves nothing")
    if not any(title.startswith(loss.worker) for title in lost):
        raise Failed(f"no {loss.worker} was on the node that was lost, only {lost}: this proves nothing")
    row.lost.append(f"node {WORKER}, {sum(title.startswith(loss.worker) for title in lost)} x {loss.worker}")
    row.when.append(f"{loss.stage}, {crashed - job.begin:.0f} s after submit")
    say(f"{row.run}: node {WORKER} crashed; lost with it: {', '.join(sorted(lost))}")

    job.wait_for(lambda: job.noticed() == len(row.lost), "a word that the loss was noticed")
    row.noticed_s.append(time.monotonic() - crashed)
    say(f"{row.run}: noticed after {row.noticed_s[-1]:.1f} s; the node stays away for {AWAY_S:.0f} s more")
    time.sleep(AWAY_S)
    before = safe(job.store, loss)
    cluster.start(WORKER)
    row.added_s.append(time.monotonic() - crashed)
    say(f"{row.run}: the node is there again, {row.added_s[-1]:.1f} s after it was lost")
    job.wait_for(lambda: safe(job.store, loss) != before or is_made(job.store, loss.stage), "work that goes on")
    row.on_s.append(time.monotonic() - crashed)
    say(f"{row.run}: {loss.stage} has more that is safe, {row.on_s[-1]:.1f} s after the loss")


def differing(first: Path, second: Path) -> list[str]:
    """Artifacts and files in them that are not the same in two stores."""
    ours, theirs = made(first), made(second)
    found = [f"{name}: only in one of the two" for name in sorted(ours.keys() ^ theirs.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        left, right = runs.contents(ours[name]), runs.contents(theirs[name])
        found += [f"{name}/{file}" for file in sorted(left.keys() | right.keys()) if left.get(file) != right.get(file)]
    return [name for name in found if not TIMED.search(name)]


def table(rows: list[Row]) -> str:
    """For people, and for docs/chaos.md."""
    heads = ("run", "what was lost", "when", "noticed", "node again", "work went on", "whole", "artifacts")
    seconds = lambda values: ", ".join(f"{value:.0f} s" for value in values)  # noqa: E731
    lines = [heads, tuple("---" for _ in heads)]
    for row in rows:
        verdict = "the measure" if not row.lost else "DIFFER" if row.differing else "equal"
        times = [seconds(values) for values in (row.noticed_s, row.added_s, row.on_s, [row.whole_s])]
        lost, when = "; ".join(row.lost) or "nothing", "; ".join(row.when)
        lines.append((row.run, lost, when, *times, f"{row.made}, {verdict}"))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def losses_of(text: str) -> list[Loss]:
    """`pretrain+ppo` → the two."""
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
    say(f"stores and logs: {folder}")
    rows, measure = [], chosen.measure or folder / UNDISTURBED
    try:
        for losses in ([] if chosen.measure else [[]]) + chosen.losses:
            with TwoNodes(cpus=CPUS) as cluster:
                say(f"two nodes are up; their logs: {cluster.folder}")
                rows.append(run(cluster, folder, chosen.recipe, losses))
            rows[-1].differing = differing(measure, folder / rows[-1].run)
    except Failed as error:
        say(str(error))
        return 1
    finally:
        print(table(rows))
    for row in rows:
        for name in row.differing:
            print(f"{row.run}: {name} differs")
    return 1 if any(row.differing for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
