"""`rayse sweep`: trials are runs on one store, the worse are stopped early; after a kill the same command resumes.

Stages are toys (tests/toy_training.py), Ray and Tune are real. tests/sweep/test_end_to_end.py trains real models.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from cluster.termination import INTERRUPTED
from pipelines.errors import UserError
from pipelines.recipe import reader
from pipelines.recipe.search_space import SweepOptions, Values
from pipelines.report.card import card
from pipelines.report.page import page
from pipelines.run.plan import plan
from pipelines.run.progress import RunLog
from pipelines.run.walk import Walk
from pipelines.store.artifacts import Store
from pipelines.store.runs import resolve
from pipelines.sweep import trials
from pipelines.sweep.trials import Outcome, SweepRecord, Trial, sweep_id
from pipelines.verbs.sweep import sweep_recipe
from serve.trial.stage import STAGE
from tests import runs
from tests.toy_training import TABLE

# The order with this seed: the medium rate, which finishes; the best, killed halfway; the worst; one that fails.
TEXT = """\
name: small
store: STORE
sources:
  books: {kind: text, path: books.txt}
  manual: {kind: text, path: books.txt, rows: documents}
stages:
  corpus: {}
  tokenizer: {}
  tokens: {}
  pretrain: {rate: {choose: [0.01, 0.1, 0.3], default: 0.1}, flavour: {choose: [plain, bitter]}, step_s: 0.1}
sweep: {metric: heldout/loss_nats, trials: 4, parallel: 1, seed: 156}
"""


class Sweep:
    """A folder with a recipe to sweep, and its store."""

    def __init__(self, folder: Path, text: str = TEXT):
        self.folder, self.file, self.store = folder, folder / "recipe.yaml", Store(folder / "store")
        folder.mkdir(exist_ok=True)
        self.file.write_text(text.replace("STORE", str(self.store.root)), encoding="utf-8")
        (folder / "books.txt").write_text("Once upon a time.")

    def template(self, *overrides: str) -> reader.RecipeTemplate:
        return reader.read(self.file, TABLE, overrides=overrides)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.toy_training", "sweep", str(self.file), *arguments]
        return subprocess.Popen(
            command, cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )  # fmt: skip

    def record(self) -> SweepRecord:
        (file,) = (self.store.root / "sweeps").glob("*.json")
        return SweepRecord.model_validate_json(file.read_text(encoding="utf-8"))

    def fingerprint(self, **values: Any) -> str:
        """Fingerprint of the model with these values."""
        by_path: Values = {("stages", "pretrain", key): value for key, value in values.items()}
        return plan(self.template().fill(by_path), self.store)[3].fingerprint

    def steps(self, fingerprint: str) -> int:
        """Number of completed steps in a draft."""
        try:
            return int((self.store.root / "drafts" / fingerprint / "step").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def ran(self) -> list[str]:
        return (self.store.root / "cache" / "ran.txt").read_text().split()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep whose driver was killed in its second trial, after the first had finished."""
    sweep = Sweep(tmp_path_factory.mktemp("sweep"))
    second = sweep.fingerprint(rate=0.01, flavour="plain")
    process = sweep.start()
    runs.wait_until(lambda: sweep.steps(second) >= 8, process, within_s=300)
    runs.kill_driver(process)
    return sweep


@pytest.fixture(scope="module")
def finished(killed: Sweep) -> tuple[Sweep, dict[str, Any], str]:
    """The same command again: the sweep, its JSON output and its log."""
    first = killed.fingerprint(rate=0.1, flavour="plain")
    manifest = killed.store.root / "artifacts" / "model" / first / "manifest.json"
    before = manifest.stat().st_mtime_ns
    out, err = killed.start("--json").communicate(timeout=300)
    assert manifest.stat().st_mtime_ns == before, "a finished artifact is made once"
    return killed, json.loads(out), err


@pytest.mark.chaos
def test_a_killed_sweep_resumes_with_the_same_command(finished: tuple[Sweep, dict[str, Any], str]) -> None:
    sweep, output, log = finished
    assert [trial["outcome"] for trial in output["trials"]] == ["done", "done", "pruned", "failed"]
    assert "trial 2   rate 0.01, flavour plain: resumes from its draft" in log
    assert "trial 1 " not in log
    assert log.count("sources.manual: no stage reads it") == 1  # by the sweep, not by the trials and the stages before
    model = sweep.store.by_fingerprint(sweep.fingerprint(rate=0.01, flavour="plain"))
    assert model is not None and 8 <= int(model.facts["run/resumed_after_step"]) < 20
    assert model.facts["run/attempts"] == 2
    shared = [name for name in sweep.ran() if name != "evaluate"]
    assert shared == ["corpus", "tokenizer", "tokens"]  # made once, before the trials
    assert sweep.ran().count("evaluate") == 2  # of the two models that were made


def test_a_trial_that_was_stopped_early_leaves_only_a_draft(finished: tuple[Sweep, dict[str, Any], str]) -> None:
    sweep, output, _ = finished
    stopped, failed = (trial["fingerprint"] for trial in output["trials"][2:])
    assert {path.name for path in (sweep.store.root / "drafts").iterdir()} == {stopped, failed}
    assert sweep.store.by_fingerprint(stopped) is None and sweep.store.by_fingerprint(failed) is None
    assert 4 <= sweep.steps(stopped) < 20  # grace is a fifth of its 20 steps
    assert output["trials"][2]["reached"] == pytest.approx(0.2)
    assert output["trials"][3]["problem"] == "step 3: the loss is nan; lower rate"


def test_the_best_is_an_ordinary_artifact_and_its_recipe_has_no_artifact_to_make(
    finished: tuple[Sweep, dict[str, Any], str],
) -> None:
    sweep, output, _ = finished
    assert (output["sweep/best_trial"], output["sweep/best"]) == (2, pytest.approx(0.65))
    best = reader.load(output["best_recipe"], TABLE)
    assert Path(output["best_recipe"]) == sweep.folder / "best.yaml"
    assert best.entry("pretrain").options.model_dump()["rate"] == 0.01
    record = Walk(best, sweep.store, trials_session(), RunLog(quiet=True)).run()
    assert record.made == 0 and len(record.stages) == 4
    assert resolve(sweep.store, "pretrain").fingerprint == output["trials"][1]["fingerprint"]


def trials_session() -> Any:
    from cluster.session import Session

    return Session()


def test_a_finished_sweep_does_not_start_ray_and_fewer_trials_keep_the_others(
    finished: tuple[Sweep, dict[str, Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, _, _ = finished
    monkeypatch.setattr("cluster.session.Session.start", lambda self: pytest.fail("Ray was started needlessly"))
    record, file = sweep_recipe(sweep.template(), quiet=True)
    assert record.best is not None and record.best.number == 2
    assert file.read_text().startswith("# The best of a sweep")
    fewer, _ = sweep_recipe(sweep.template("sweep.trials=2"), quiet=True)
    assert [trial.outcome for trial in fewer.trials] == ["done", "done", "pruned", "failed"]  # no trial is removed


def test_the_report_has_the_trials(finished: tuple[Sweep, dict[str, Any], str]) -> None:
    sweep, _, _ = finished
    report = card(sweep.store)
    assert report.sweep is not None and report.record.recipe == "small"
    html = page(sweep.store, report)
    assert html.count("<svg") == 3  # two spaces against the metric, and the curves
    assert "stopped early at 20%" in html and "step 3: the loss is nan" in html
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "report", "--json", "--store", str(sweep.store.root)],
        cwd=runs.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    facts = json.loads(done.stdout)
    assert facts["sweep"]["sweep/pruned"] == 1 and facts["sweep"]["sweep/best"] == pytest.approx(0.65)
    assert [trial["outcome"] for trial in facts["sweep"]["trials"]] == ["done", "done", "pruned", "failed"]


@pytest.mark.chaos
def test_a_killed_trial_restarts_beside_others_and_ctrl_c_ends_all(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, TEXT.replace("parallel: 1", "parallel: 2, grace: 1").replace("step_s: 0.1", "step_s: 3.0"))
    first, second = sweep.fingerprint(rate=0.1, flavour="plain"), sweep.fingerprint(rate=0.01, flavour="plain")
    process = sweep.start()
    runs.wait_until(lambda: sweep.steps(first) and sweep.steps(second), process, within_s=300)
    children = psutil.Process(process.pid).children(recursive=True)
    (killed,) = [child for child in children if any("trial-2.log" in file.path for file in files_of(child))]
    killed.kill()
    attempts = sweep.store.root / "drafts" / second / "attempts"
    runs.wait_until(lambda: len(list(attempts.glob("*.json"))) == 2, process, within_s=300)

    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (INTERRUPTED, "")
    assert err.endswith("interrupted; finished stages are kept, and the same command resumes\n")
    assert "Traceback" not in err
    assert "trial 2   rate 0.01, flavour plain: resumes from its draft" in err
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert sweep.record().outcome == "interrupted"
    assert not (sweep.store.root / "leases" / f"{sweep.record().id}.json").exists()


@pytest.mark.slow
@pytest.mark.chaos
def test_sigterm_ends_a_sweep_as_ctrl_c_does(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, TEXT.replace("step_s: 0.1", "step_s: 3.0"))
    first = sweep.fingerprint(rate=0.1, flavour="plain")
    process = sweep.start()
    runs.wait_until(lambda: sweep.steps(first), process, within_s=300)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (INTERRUPTED, "")
    assert err.endswith("interrupted; finished stages are kept, and the same command resumes\n")
    assert "Traceback" not in err and "***" not in err
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert sweep.record().outcome == "interrupted"


def files_of(process: psutil.Process) -> list[Any]:
    try:
        return process.open_files()
    except psutil.Error:
        return []


# ---- without Ray -----------------------------------------------------------------------------------------------------


def refused(sweep: Sweep, *overrides: str, **arguments: Any) -> str:
    """The message with which `rayse sweep` refuses a recipe."""
    with pytest.raises(UserError) as caught:
        sweep_recipe(sweep.template(*overrides), quiet=True, **arguments)
    return str(caught.value)


def test_a_recipe_that_cannot_be_swept_is_refused_before_anything_starts(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "a")
    fixed = ["pretrain.rate=0.1", "pretrain.flavour=plain"]
    assert "recipe.yaml: no search space; write one instead of a value, such as" in refused(sweep, *fixed)
    assert "tokens comes before pretrain, which has a search space" in refused(sweep, "sweep.until=tokens")
    assert "--address ray://head:10001: a sweep's driver must be on the cluster" in refused(
        sweep, address="ray://head:10001"
    )
    (tmp_path / "a" / "best.yaml").write_text("name: mine\n")
    assert "best.yaml: exists and was not written by a sweep; move it away, or name another with --out" in refused(
        sweep
    )
    assert "cannot be written" in refused(sweep, out=tmp_path / "no" / "best.yaml")
    endless = Sweep(tmp_path / "b", TEXT.replace("choose: [0.01, 0.1, 0.3]", "uniform: [0.01, 0.3]"))
    assert "recipe.yaml:11: sweep.trials: missing: required where a search space is continuous" in refused(
        endless, "sweep.trials=null"
    )
    bare = Sweep(tmp_path / "c", TEXT[: TEXT.index("sweep:")])
    assert "recipe.yaml: no section sweep; it needs at least the metric that ranks trials" in refused(bare)
    assert not sweep.store.root.exists()


def make_trials(sweep: Sweep, *overrides: str) -> None:
    """Makes the artifacts of both trials of a sweep over the rate by plain runs."""
    for rate in (0.01, 0.1):
        loaded = sweep.template(*overrides, f"pretrain.rate={rate}", "pretrain.flavour=plain").fill()
        Walk(loaded, sweep.store.create(), trials_session(), RunLog(quiet=True)).run()


def test_artifacts_of_plain_runs_need_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(TABLE, STAGE.kind, STAGE)
    text = TEXT.replace("[0.01, 0.1, 0.3]", "[0.01, 0.1]").replace("trials: 4, ", "")
    (tmp_path / "rules.py").write_text("def good(text):\n    return True\n")
    filtered = text.replace("path: books.txt}", "path: ~/books.txt, filters: {custom: [rules.py:good]}}", 1)
    sweep = Sweep(tmp_path, filtered + "cluster: {serve: {access_log: logs/requests.jsonl}}\n")
    only = ["pretrain.flavour=plain", "pretrain.step_s=0"]
    make_trials(sweep, *only)
    record, file = sweep_recipe(sweep.template(*only), quiet=True, out=tmp_path / "deep.yaml")
    assert [trial.outcome for trial in record.trials] == ["done", "done"]
    assert record.best is not None and record.best.values == {"pretrain.rate": 0.01}
    other = tmp_path / "elsewhere"
    other.mkdir()
    _, moved = sweep_recipe(sweep.template(*only), quiet=True, out=other / "best.yaml")
    for best in (file, moved):  # from any folder it reads the same files
        assert all(step.artifact for step in plan(reader.load(best, TABLE), sweep.store))
        log = reader.load(best, TABLE).serve.access_log
        assert log is not None and best.parent / log == tmp_path / "logs/requests.jsonl"
    record, _ = sweep_recipe(sweep.template(*only, "sweep.mode=max"), quiet=True, out=other / "best.yaml")
    assert record.best is not None and record.best.values == {"pretrain.rate": 0.1}


def test_an_unknown_metric_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, TEXT.replace("[0.01, 0.1, 0.3]", "[0.01, 0.1]").replace("trials: 4, ", ""))
    only = ["pretrain.flavour=plain", "pretrain.step_s=0", "sweep.metric=heldout/losss_nats"]
    make_trials(sweep, *only)
    message = refused(sweep, *only)
    assert "sweep.metric: pretrain has no figure 'heldout/losss_nats'; it has driver/peak_memory_bytes, " in message
    assert "heldout/loss_nats, run/attempts" in message


def test_the_id_of_a_sweep_depends_on_all_that_determines_its_trials(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    options = SweepOptions.model_validate({"metric": "a/loss"})

    def name(*overrides: str, until: str = "pretrain", seed: int = 1, **update: Any) -> str:
        return sweep_id("a b/c", sweep.template(*overrides), options.model_copy(update=update), until, seed)

    plain = name()
    assert plain.startswith("a_b_c-")
    same = [name(trials=9), name(parallel=2), name("store=elsewhere"), name("cluster.pretrain.workers=3")]
    assert set(same) == {plain}
    others = [name("pretrain.steps=9"), name(metric="b/loss"), name(seed=2), name(until="tokens"), name("seed=5")]
    assert len({plain, *others}) == 6


def test_past_trials_are_compared_with() -> None:
    from pipelines.sweep.tune import Pruning, _scheduler

    past = [Trial(number=1, values={}, outcome="done", curve=[(0.1, 5.0), (0.2, 2.0), (0.6, 1.0), (1.0, 0.9)])]
    scheduler = _scheduler(Pruning("min", 0.2, past))

    def decisions(name: str, *points: tuple[float, float]) -> list[str]:
        trial = SimpleNamespace(trial_id=name)
        scheduler.on_trial_add(None, trial)
        return [scheduler.on_trial_result(None, trial, {"percent": p, "live": live}) for p, live in points]

    assert decisions("worse", (10, 9.0), (20, 2.1)) == ["CONTINUE", "STOP"]
    assert decisions("better", (20, 1.9), (60, 1.1)) == ["CONTINUE", "STOP"]
    assert decisions("best", (20, 1.8), (60, 0.9), (99, 5.0)) == ["CONTINUE", "CONTINUE", "CONTINUE"]


def test_a_curve_that_resumes_from_a_checkpoint_has_each_fraction_once() -> None:
    trial = Trial(number=1, values={})
    for fraction in (0.1, 0.2, 0.3, 0.2, 0.3):
        trial.add(fraction, len(trial.curve))
    assert [fraction for fraction, _ in trial.curve] == [0.1, 0.2, 0.3]
    assert trial.reached == 0.3


def test_the_best_is_the_first_of_equal_trials_and_always_finished(tmp_path: Path) -> None:
    entries = [Trial(number=n, values={}, outcome=cast(Outcome, outcome), figure=figure, curve=[(reached, 1.0)])
             for n, outcome, figure, reached in ((1, "done", 2.0, 1), (2, "done", 1.0, 1), (3, "done", 1.0, 1),
                                                 (4, "pruned", None, 0.2), (5, "pruned", None, 0.6),
                                                 (6, "failed", None, 0.9))]  # fmt: skip
    record = SweepRecord(id="x", recipe="small", metric="a/loss", mode="min", watch="loss", watch_mode="min",
                         until="pretrain", seed=0, spaces={}, trials=entries)  # fmt: skip
    assert record.best is entries[1]
    assert [trial.number for trial in record.ranked()] == [2, 3, 1, 5, 4, 6]
    highest = record.model_copy(update={"mode": "max"})
    assert highest.best is entries[0]
    store = Store(tmp_path / "store")
    record.save(store)
    loaded = trials.latest(store, "small")
    assert loaded is not None and loaded.ranked() == record.ranked()
    assert trials.latest(store, "other") is None
    assert os.listdir(store.root / "sweeps") == ["x.json"]
