"""Running a recipe: only artifacts that are missing, changed or forced are made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ClusterError
from pipelines.errors import UserError
from pipelines.evaluator import Evaluator
from pipelines.recipe.reader import load
from pipelines.report.card import card
from pipelines.stage import Facts, Stage, Work
from pipelines.store import digests
from pipelines.store.runs import latest, resolve
from pipelines.verbs.run import run_recipe
from tests.toy_stages import ROOT, STAGES, TABLE, ToyOptions, ToyProject


@pytest.fixture
def project(tmp_path: Path) -> ToyProject:
    return ToyProject(tmp_path)


def test_every_artifact_is_made_once(project: ToyProject) -> None:
    record = project.run()
    assert project.ran() == [*STAGES, "evaluate"]
    assert (record.outcome, record.made) == ("done", 5)
    assert list(record.stages) == STAGES
    assert record.stages["pretrain"].evaluation is not None
    assert project.text("corpus").splitlines() == ["books: 1 parts", "a"]
    assert list(project.store.root.glob("drafts/*")) == []

    before = card(project.store).facts
    files = sorted(p for p in (project.store.root / "artifacts").rglob("*"))
    again = project.run()
    assert project.ran() == []
    assert again.made == 0 and again.stages["corpus"].fingerprint == record.stages["corpus"].fingerprint
    assert card(project.store).facts == before
    assert sorted(p for p in (project.store.root / "artifacts").rglob("*")) == files


def test_files_of_an_artifact_are_hashed_once(project: ToyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their draft, where they are written: not again where they are then, neither by this run nor by the next."""
    read: list[Path] = []
    digest_file = digests.digest_file
    monkeypatch.setattr(digests, "digest_file", lambda path: (read.append(path), digest_file(path))[1])
    project.run()
    again = project.run()
    hashed = [path for path in read if path.name == "text.txt"]
    assert len(hashed) == 5 and {path.parents[2].name for path in hashed} == {"drafts"}
    assert again.made == 0


def test_a_changed_option_remakes_only_its_stage_and_descendants(project: ToyProject) -> None:
    project.run()
    project.ran()
    project.run("tokens.word=b")
    assert project.ran() == ["tokens", "pretrain", "evaluate"]
    project.run()
    assert project.ran() == []  # both are in the store now
    project.run("evaluate.word=b")
    assert project.ran() == ["evaluate"]


def test_until_stops_after_its_stage_and_its_evaluation(project: ToyProject) -> None:
    project.run(until="tokenizer")
    assert project.ran() == ["corpus", "tokenizer"]
    project.run(until="pretrain")
    assert project.ran() == ["tokens", "pretrain", "evaluate"]


def test_force_remakes_a_stage_and_its_descendants_and_keeps_the_old_artifacts(project: ToyProject) -> None:
    old = project.run().stages["tokens"].fingerprint
    project.ran()
    record = project.run(force="tokens")
    assert project.ran() == ["tokens", "pretrain", "evaluate"]
    assert record.stages["tokens"].fingerprint == old
    aside = {p.name.split("-")[0] for p in (project.store.root / "aside").iterdir()}
    assert aside == {"tokens", "model", "evaluation"}


def test_force_of_a_stage_without_descendants_remakes_it_alone(project: ToyProject) -> None:
    project.run()
    project.ran()
    project.run(force="pretrain")
    assert project.ran() == ["pretrain", "evaluate"]


def test_from_remakes_a_stage_and_all_after_it(project: ToyProject) -> None:
    project.run()
    project.ran()
    project.run(from_="tokenizer", until="tokens")
    assert project.ran() == ["tokenizer", "tokens"]
    project.run()
    assert project.ran() == []  # the fingerprints are the same, so the descendants of the old artifacts are valid


def test_force_drops_the_draft_of_an_unfinished_attempt(project: ToyProject) -> None:
    with pytest.raises(ZeroDivisionError):
        project.run("corpus.behaviour=bug")
    (draft,) = (project.store.root / "drafts").iterdir()
    (draft / "blocks" / "old").touch()
    with pytest.raises(ZeroDivisionError):
        project.run("corpus.behaviour=bug", force="corpus")
    assert (draft / "blocks" / "half").exists() and not (draft / "blocks" / "old").exists()


@pytest.mark.parametrize("flag", ["force", "from_"])
def test_forcing_a_stage_after_until_is_a_user_error(project: ToyProject, flag: str) -> None:
    tokens: Any = {flag: "tokens"}
    wrong: Any = {flag: "tokenz"}
    with pytest.raises(UserError, match="tokens: comes after --until corpus"):
        project.run(until="corpus", **tokens)
    with pytest.raises(UserError, match=r"no stage 'tokenz'. Did you mean tokens"):
        project.run(**wrong)


def test_a_stage_listed_twice_is_made_once_and_can_be_forced(project: ToyProject) -> None:
    twice = "  first: {stage: corpus}\n  second: {stage: corpus}\n"
    project.file.write_text(project.file.read_text().replace("  pretrain: {}\n", twice))
    project.run()
    assert project.ran() == ["corpus", "tokenizer", "tokens"]
    project.run(from_="first")
    assert project.ran() == ["corpus", "tokenizer", "tokens"]  # the others depend on the same corpus


def test_a_damaged_artifact_is_rebuilt_and_no_other(project: ToyProject) -> None:
    project.run()
    project.ran()
    tokens = resolve(project.store, "tokens").path
    (tokens / "text.txt").write_text("harmed")
    project.run()
    assert project.ran() == ["tokens"]
    assert f"damaged artifact: {tokens}/text.txt" in project.output.getvalue()
    assert resolve(project.store, "tokens").damage() is None


def test_an_artifact_made_by_other_code_is_kept_with_a_warning(project: ToyProject) -> None:
    project.run()
    project.ran()
    file = resolve(project.store, "tokens").path / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"code": "of another day"}))
    project.run()
    assert project.ran() == []
    warning = "tokens was made by other code than the current; remake it with --force tokens"
    assert warning in project.output.getvalue().replace("\n", " ")
    done = subprocess.run(
        project.command("plan", str(project.file), "--json"), cwd=ROOT, capture_output=True, text=True
    )
    assert json.loads(done.stdout)["tokens"]["made_by_other_code"] is True
    assert json.loads(done.stdout)["corpus"]["made_by_other_code"] is False
    project.run(force="tokens")
    project.output.truncate(0)
    project.run()
    assert "other code" not in project.output.getvalue()


@pytest.mark.parametrize("refusal", [ClusterError("the server fails"), UserError("the server refuses")])
def test_a_server_that_fails_at_the_end_does_not_replace_the_error_that_ended_the_run(
    project: ToyProject, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    def refuse(*arguments: object) -> None:
        raise refusal

    monkeypatch.setattr("pipelines.store.runs.RunRecord.end", refuse)
    monkeypatch.setattr("pipelines.store.drafts.Draft.release", refuse)
    with pytest.raises(ZeroDivisionError):
        project.run("corpus.behaviour=bug")


def test_a_run_logs_to_stderr_and_prints_only_json_to_stdout(project: ToyProject) -> None:
    done = subprocess.run(project.command("run", str(project.file), "--json"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["outcome"], record["made"]) == ("done", 5)
    assert [line.split()[0] for line in done.stderr.splitlines() if not line.startswith(" ")] == [
        "corpus", "tokenizer", "tokens", "pretrain", "pretrain/evaluate", "small:", "next:"
    ]  # fmt: skip
    quiet = subprocess.run(project.command("run", str(project.file), "-q"), cwd=ROOT, capture_output=True, text=True)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_the_evaluator_is_closed_before_a_trial_of_the_server(
    project: ToyProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both at once would need twice the memory. The run also logs how to chat with the server, and unread sources."""
    events: list[str] = []

    class RecordingEvaluator(Evaluator):
        def rest(self) -> None:
            events.append("rests")

        def close(self) -> None:
            events.append("ends")

    def run_trial(work: Work) -> Facts:
        events.append("trial")
        return {}

    monkeypatch.setattr("pipelines.run.walk.Evaluator", RecordingEvaluator)
    stages = {**TABLE, "serve": Stage("serve", 1, "trial", ToyOptions, run_trial, needs=("model",))}
    unread = "sources:\n  manual: {kind: text, path: books.txt, rows: documents}\n"
    project.file.write_text(project.file.read_text().replace("sources:\n", unread) + "  host: {stage: serve}\n")
    run_recipe(load(project.file, stages))
    assert set(events[:-3]) == {"rests"} and events[-3:] == ["ends", "trial", "ends"]
    log = capsys.readouterr().err
    assert f"talk to it: rayse chat host --store {project.store.root}" in log
    assert log.count("sources.manual: no stage reads it") == 1


def test_a_name_refers_to_a_stage_of_the_latest_run_or_to_a_fingerprint(project: ToyProject) -> None:
    project.run()
    corpus = resolve(project.store, "corpus")
    assert resolve(project.store, corpus.fingerprint[:6]) == corpus
    with pytest.raises(UserError, match="neither a stage of the latest run"):
        resolve(project.store, "corpsu")
    with pytest.raises(UserError, match="neither a stage"):
        resolve(project.store, corpus.fingerprint[:3])  # too short for a prefix
    shutil.rmtree(corpus.path)
    with pytest.raises(UserError, match="corpus: the latest run did not make it"):
        resolve(project.store, "corpus")
    with pytest.raises(UserError, match="no run of 'other' yet"):
        latest(project.store, "other")
    os.rename(project.store.root / "runs", project.store.root / "none")
    with pytest.raises(UserError, match="no run yet; make one with `rayse run RECIPE"):
        latest(project.store)
