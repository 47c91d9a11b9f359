"""The stage `corpus` on much text in two languages: CPU time, growth of the cost, near duplicates, and datatrove.

    tests.benchmarks.corpus_text ──N/8 and N bytes──► the stage, in a Ray of its own ──► CPU of all its processes
                                 ──N bytes, FineWeb's rules──► the stage, and datatrove on the same files
                                 ──copies that are known──► recall and precision, recall by similarity

CPU seconds, not wall seconds: they depend less on what else a machine does. Both sides' starts are included.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.data.corpus import cleaning, duplicates, minhash
from pipelines.data.sources import SOURCES
from pipelines.data.sources.source import Source
from pipelines.stage import Facts, Work
from pipelines.stages.corpus import STAGE
from pipelines.stages.corpus.options import CorpusCluster, CorpusOptions
from tests.benchmarks import corpus_text

ROOT = Path(__file__).parents[2]
FINEWEB = {"preset": "fineweb", "language": None, "gopher_quality": {"split_long": False}}  # as datatrove
NO_FILTERS = {"length": None, "language": None, "repetition": None, "quality": None}
LARGE_BYTES = 500_000_000  # from here on another goal: the start no longer counts
NUM_INJECTED = 1500  # documents of each language that are copied
SIMILARITIES = ((0.7, 0.8), (0.8, 0.85), (0.85, 1.0))  # of pairs whose recall is told by itself


class SilentProgress:
    """Progress that prints no output."""

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Measured:
    """One run of the stage, the start and the end of its Ray included."""

    wall_s: float
    cpu_s: float  # of the driver and of all processes of its Ray
    facts: Facts
    rejected: list[dict[str, Any]]

    @property
    def cpu_ms_a_document(self) -> float:
        return 1000 * self.cpu_s / int(self.facts["documents/read"])


def main(num_bytes: int, files: Sequence[Path], peer_python: str | None, peer_bytes: int) -> dict[str, float]:
    """Figures of the stage on `num_bytes` of text, and of datatrove on `peer_bytes` of it if it has an interpreter."""
    texts = corpus_text.documents(files)
    cleaning.warm_up(CorpusOptions.model_validate({"filters": FINEWEB}).filters.enabled())
    duplicates.warm_up()
    figures = near_duplicates(texts)
    with tempfile.TemporaryDirectory() as name:
        eighth, whole = Path(name) / "eighth", Path(name) / "whole"
        small, large = (
            stretched(folder, texts, size) for folder, size in ((eighth, num_bytes // 8), (whole, num_bytes))
        )
        figures |= {
            "corpus/large_bytes": float(large.facts["bytes/read"]),
            "corpus/large_documents": float(large.facts["documents/read"]),
            "corpus/large_stage_s": large.wall_s,
            "corpus/large_cpu_s": large.cpu_s,
            "corpus/large_cpu_ms_a_document": large.cpu_ms_a_document,
            "corpus/large_cost_growth": large.cpu_ms_a_document / small.cpu_ms_a_document,
        }
        if peer_python is not None:
            figures |= beside_datatrove(peer_python, whole, texts, num_bytes, Path(name) / "peer", peer_bytes)
    return figures


def stretched(folder: Path, texts: dict[str, list[str]], num_bytes: int) -> Measured:
    """The stage with its default rules on text of this size, which is written into the folder."""
    folder.mkdir()
    corpus_text.write_stretched(folder, texts, num_bytes)
    return run_stage(language_files(folder), CorpusOptions())


def language_files(folder: Path) -> dict[str, Source]:
    return {
        language: SOURCES["jsonl"].model_validate({"path": str(folder / f"{language}.jsonl"), "language": language})
        for language in corpus_text.SHARES
    }


def near_duplicates(texts: dict[str, list[str]]) -> dict[str, float]:
    """Recall and precision of near duplicates on copies that are known: a pair loses one document, others none.

    Of similarities between, near the threshold, either may be right: recall by similarity, beside what is expected."""
    with tempfile.TemporaryDirectory() as name:
        pairs = corpus_text.write_injected(Path(name), texts, NUM_INJECTED)
        file = {"path": str(Path(name) / "injected.jsonl"), "language": "auto"}
        options = CorpusOptions.model_validate({"filters": NO_FILTERS, "held_out": 0})
        measured = run_stage({"injected": SOURCES["jsonl"].model_validate(file)}, options)
        dropped = corpus_text.dropped_pairs(measured.rejected, Path(name))
    like = {pair for pair, similarity in enumerate(pairs) if similarity >= corpus_text.LIKE_FROM}
    unlike = {pair for pair, similarity in enumerate(pairs) if similarity < corpus_text.UNLIKE_BELOW}
    hits = sum(pair in like for pair in dropped)
    num_dropped = sum(number for pair, number in dropped.items() if pair in like | unlike)
    return {
        "corpus/near_pairs": float(len(like)),
        "corpus/near_decoys": float(len(unlike)),
        "corpus/near_recall": hits / len(like),
        "corpus/near_precision": hits / max(1, num_dropped),
        **recall_by_similarity(pairs, set(dropped), options),
    }


def recall_by_similarity(pairs: Sequence[float], dropped: set[int], options: CorpusOptions) -> dict[str, float]:
    """Of the pairs in each range of similarity: how many there are, the share that loses a document, the share that
    has a band in common by the curve 1 - (1 - s^rows)^bands, and the share that is expected to lose one."""
    threshold, permutations = options.near_duplicates or 1.0, options.permutations
    figures: dict[str, float] = {}
    for low, high in SIMILARITIES:
        chosen = [pair for pair, similarity in enumerate(pairs) if low <= similarity < high]
        name = f"{low * 100:.0f}_{high * 100:.0f}"
        figures[f"corpus/near_pairs_{name}"] = float(len(chosen))
        if chosen:
            curves = [(in_a_band(pairs[pair], threshold, permutations), expected(pairs[pair], threshold, permutations))
                      for pair in chosen]  # fmt: skip
            figures[f"corpus/near_recall_{name}"] = sum(pair in dropped for pair in chosen) / len(chosen)
            figures[f"corpus/near_bands_{name}"] = sum(curve for curve, _ in curves) / len(chosen)
            figures[f"corpus/near_expected_{name}"] = sum(curve for _, curve in curves) / len(chosen)
    return figures


def in_a_band(similarity: float, threshold: float, permutations: int) -> float:
    """The probability that two documents of this similarity are equal in all rows of a band.

    >>> [round(in_a_band(similarity, 0.8, 128), 3) for similarity in (0.7, 0.8, 0.9)]
    [0.787, 0.986, 1.0]
    """
    num_bands, rows = minhash.bands(threshold, permutations)
    return 1 - (1 - similarity**rows) ** num_bands


def expected(similarity: float, threshold: float, permutations: int) -> float:
    """The probability that one of two documents of this similarity is dropped: that as many hashes are equal as the
    threshold asks for, which is binomial, and a whole band among them, by the share that is equal.

    >>> [round(expected(similarity, 0.8, 128), 2) for similarity in (0.7, 0.8, 0.9)]
    [0.01, 0.5, 1.0]
    """
    least = minhash.min_equal_hashes(threshold, permutations)
    return sum(
        math.comb(permutations, equal) * similarity**equal * (1 - similarity) ** (permutations - equal)
        * in_a_band(equal / permutations, threshold, permutations) for equal in range(least, permutations + 1)
    )  # fmt: skip


def beside_datatrove(
    python: str, whole: Path, texts: dict[str, list[str]], num_bytes: int, folder: Path, peer_bytes: int
) -> dict[str, float]:
    """FineWeb's filters and MinHash, in the stage on all of the text and in datatrove on the first of it.

    Compares CPU seconds a document, end to end; and of one process that reads, filters and signs."""
    folder.mkdir()
    options = CorpusOptions.model_validate({"filters": FINEWEB, "held_out": 0})
    ours = run_stage(language_files(whole), options)
    corpus_text.write_stretched(folder, texts, min(num_bytes, peer_bytes))
    command = [python, "-m", "tests.benchmarks.datatrove_corpus", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = os.times()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{python}: datatrove failed; expected an interpreter that has it\n{done.stderr[-2000:]}")
    after = os.times()
    peer = json.loads(done.stdout.splitlines()[-1])
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    peer_ms = 1000 * cpu_s / peer["documents"]
    one_process_s = clean_here(language_files(folder), options)
    signed_s = peer["seconds"]["filters"] + peer["seconds"]["signatures"]
    ratio = peer_ms / ours.cpu_ms_a_document
    return {
        "corpus/fineweb_stage_s": ours.wall_s,
        "corpus/fineweb_cpu_ms_a_document": ours.cpu_ms_a_document,
        "corpus/datatrove_documents": float(peer["documents"]),
        "corpus/datatrove_cpu_ms_a_document": peer_ms,
        **{f"corpus/datatrove_{phase}_cpu_s": seconds for phase, seconds in peer["seconds"].items()},
        "corpus/ratio_to_datatrove": ratio,
        **({"corpus/ratio_to_datatrove_large": ratio} if num_bytes >= LARGE_BYTES else {}),
        "corpus/ratio_to_datatrove_one_process": signed_s / one_process_s,
    }


def clean_here(sources: Mapping[str, Source], options: CorpusOptions) -> float:
    """CPU seconds of reading, filters and signatures in this process."""
    start = time.process_time()
    for name, source in sources.items():
        rules = options.rules(source, seed=0)
        for _ in cleaning.clean(name, source, source.parts(), rules=rules, permutations=options.permutations):
            pass
    return time.process_time() - start


def run_stage(sources: Mapping[str, Source], options: CorpusOptions) -> Measured:
    """Runs the stage on an empty draft, in a local Ray that is started for it."""
    from cluster.session import Session
    from pipelines.store.artifacts import Draft

    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.monotonic(), time.process_time()
        with Session(on_message=lambda text: None) as session:
            draft = Draft(Path(folder), "benchmark")
            facts = STAGE.run(
                Work(
                    name="corpus",
                    options=options,
                    cluster=CorpusCluster(),
                    seed=0,
                    inputs={},
                    sources=dict(sources),
                    draft=draft,
                    progress=SilentProgress(),
                    session=session,
                )
            )
            workers_s = session_cpu_s()
        wall_s, cpu_s = time.monotonic() - wall, time.process_time() - cpu + workers_s
        rejected = pq.read_table(draft.out / "rejected.parquet").to_pylist() if len(sources) == 1 else []
    return Measured(wall_s, cpu_s, facts, rejected)


def session_cpu_s() -> float:
    """CPU seconds of all processes of the local Ray that this process has started, of those that ended too."""
    import ray

    from cluster import reaper

    mark = ray.get(ray.remote(os.getenv).options(num_cpus=0).remote(reaper.VARIABLE))
    variable = f"{reaper.VARIABLE}={mark}".encode()
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable in (folder / "environ").read_bytes().split(b"\0"):
                ticks += sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:15]))
        except OSError:  # it has ended, or is another user's
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def peer_interpreter(peer: str | None, python: str | None) -> str | None:
    """The interpreter of the peer, None if there is none to compare with; ends with a message if it is not named."""
    python = python or os.environ.get("RAYSE_PEER_PYTHON")
    if peer is not None and not python:
        sys.exit(f"--peer {peer}: expected --peer-python, the interpreter of an environment that has it")
    return python if peer is not None else None
