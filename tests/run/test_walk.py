"""Walking a recipe: what is made stays made; only what is missing, changed or forced is made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.evaluator import Evaluator
from pipelines.recipe.reader import load
from pipelines.report.card import card
from pipelines.stage import Facts, Stage, Work
from pipelines.store.runs import latest, resolve
from pipelines.verbs.run import run_recipe
from tests.toy_stages import ROOT, STAGES, TABLE, Place, ToyOptions


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_everything_is_made_once(place: Place) -> None:
    record = place.run()
    assert place.ran() == [*STAGES, "evaluate"]
    assert (record.outcome, record.made) == ("done", 5)
    assert list(record.stages) == STAGES
    assert record.stages["pretrain"].evaluation is not None
    assert place.text("corpus").splitlines() == ["books: 1 parts", "a"]
    assert list(place.store.root.glob("drafts/*")) == []

    before = card(place.store).facts
    files = sorted(p for p in (place.store.root / "artifacts").rglob("*"))
    again = place.run()
    assert place.ran() == []
    assert again.made == 0 and again.stages["corpus"].fingerprint == record.stages["corpus"].fingerprint
    assert card(place.store).facts == before
    assert sorted(p for p in (place.store.root / "artifacts").rglob("*")) == files


def test_a_changed_option_remakes_only_it_and_what_stands_on_it(place: Place) -> None:
    place.run()
    place.ran()
    place.run("tokens.word=b")
    assert place.ran() == ["tokens", "pretrain", "evaluate"]
    place.run()
    assert place.ran() == []  # both are in the store now
    place.run("evaluate.word=b")
    assert place.ran() == ["evaluate"]


def test_until_stops_after_its_stage_and_its_evaluation(place: Place) -> None:
    place.run(until="tokenizer")
    assert place.ran() == ["corpus", "tokenizer"]
    place.run(until="pretrain")
    assert place.ran() == ["tokens", "pretrain", "evaluate"]


def test_force_remakes_a_stage_and_what_stands_on_it_and_keeps_the_old(place: Place) -> None:
    old = place.run().stages["tokens"].fingerprint
    place.ran()
    record = place.run(force="tokens")
    assert place.ran() == ["tokens", "pretrain", "evaluate"]
    assert record.stages["tokens"].fingerprint == old
    aside = {p.name.split("-")[0] for p in (place.store.root / "aside").iterdir()}
    assert aside == {"tokens", "model", "evaluation"}


def test_force_of_a_stage_nothing_stands_on_remakes_it_alone(place: Place) -> None:
    place.run()
    place.ran()
    place.run(force="pretrain")
    assert place.ran() == ["pretrain", "evaluate"]


def test_from_remakes_a_stage_and_all_after_it(place: Place) -> None:
    place.run()
    place.ran()
    place.run(from_="tokenizer", until="tokens")
    assert place.ran() == ["tokenizer", "tokens"]
    place.run()
    assert place.ran() == []  # the same fingerprints: what stood on them before does so again


def test_force_drops_the_draft_of_an_unfinished_attempt(place: Place) -> None:
    with pytest.raises(ZeroDivisionError):
        place.run("corpus.behaviour=bug")
    (draft,) = (place.store.root / "drafts").iterdir()
    (draft / "blocks" / "old").touch()
    with pytest.raises(ZeroDivisionError):
        place.run("corpus.behaviour=bug", force="corpus")
    assert (draft / "blocks" / "half").exists() and not (draft / "blocks" / "old").exists()


@pytest.mark.parametrize("flag", ["force", "from_"])
def test_forcing_what_comes_after_until_is_the_users_mistake(place: Place, flag: str) -> None:
    tokens: Any = {flag: "tokens"}
    wrong: Any = {flag: "tokenz"}
    with pytest.raises(UserError, match="tokens: comes after --until corpus"):
        place.run(until="corpus", **tokens)
    with pytest.raises(UserError, match=r"no stage 'tokenz'. Did you mean tokens"):
        place.run(**wrong)


def test_the_same_stage_twice_is_made_once_and_can_be_forced(place: Place) -> None:
    twice = "  first: {stage: corpus}\n  second: {stage: corpus}\n"
    place.file.write_text(place.file.read_text().replace("  pretrain: {}\n", twice))
    place.run()
    assert place.ran() == ["corpus", "tokenizer", "tokens"]
    place.run(from_="first")
    assert place.ran() == ["corpus", "tokenizer", "tokens"]  # it is the corpus that the others stand on


def test_a_damaged_artifact_is_rebuilt_and_nothing_else(place: Place) -> None:
    place.run()
    place.ran()
    tokens = resolve(place.store, "tokens").path
    (tokens / "text.txt").write_text("harmed")
    place.run()
    assert place.ran() == ["tokens"]
    assert f"damaged artifact: {tokens}/text.txt" in place.said.getvalue()
    assert resolve(place.store, "tokens").damage() is None


def test_an_artifact_made_by_other_code_is_kept_with_a_warning(place: Place) -> None:
    place.run()
    place.ran()
    file = resolve(place.store, "tokens").path / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"code": "of another day"}))
    place.run()
    assert place.ran() == []
    said = "tokens was made by other code than is here now; remake it with --force tokens"
    assert said in place.said.getvalue().replace("\n", " ")
    shown = subprocess.run(place.command("plan", str(place.file), "--json"), cwd=ROOT, capture_output=True, text=True)
    assert json.loads(shown.stdout)["tokens"]["made_by_other_code"] is True
    assert json.loads(shown.stdout)["corpus"]["made_by_other_code"] is False
    place.run(force="tokens")
    place.said.truncate(0)
    place.run()
    assert "other code" not in place.said.getvalue()


def test_a_run_prints_its_story_and_json_alone_goes_to_stdout(place: Place) -> None:
    done = subprocess.run(place.command("run", str(place.file), "--json"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["outcome"], record["made"]) == ("done", 5)
    assert [line.split()[0] for line in done.stderr.splitlines() if not line.startswith(" ")] == [
        "corpus", "tokenizer", "tokens", "pretrain", "pretrain/evaluate", "small:", "next:"
    ]  # fmt: skip
    quiet = subprocess.run(place.command("run", str(place.file), "-q"), cwd=ROOT, capture_output=True, text=True)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_the_evaluator_ends_before_a_server_is_tried(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both at once take more memory than a machine has that holds either. And the run says how to talk to it."""
    events: list[str] = []

    class Watched(Evaluator):
        def rest(self) -> None:
            events.append("rests")

        def close(self) -> None:
            events.append("ends")

    def tried(work: Work) -> Facts:
        events.append("trial")
        return {}

    monkeypatch.setattr("pipelines.run.walk.Evaluator", Watched)
    stages = {**TABLE, "serve": Stage("serve", 1, "trial", ToyOptions, tried, needs=("model",))}
    place.file.write_text(place.file.read_text() + "  host: {stage: serve}\n")
    run_recipe(load(place.file, stages))
    assert set(events[:-3]) == {"rests"} and events[-3:] == ["ends", "trial", "ends"]
    assert f"talk to it: rayse chat host --store {place.store.root}" in capsys.readouterr().err


def test_names_stand_for_stages_of_the_latest_run_or_fingerprints(place: Place) -> None:
    place.run()
    corpus = resolve(place.store, "corpus")
    assert resolve(place.store, corpus.fingerprint[:6]) == corpus
    with pytest.raises(UserError, match="neither a stage of the latest run"):
        resolve(place.store, "corpsu")
    with pytest.raises(UserError, match="neither a stage"):
        resolve(place.store, corpus.fingerprint[:3])  # too short to mean one
    shutil.rmtree(corpus.path)
    with pytest.raises(UserError, match="corpus: the latest run did not make it"):
        resolve(place.store, "corpus")
    with pytest.raises(UserError, match="no run of 'other' yet"):
        latest(place.store, "other")
    os.rename(place.store.root / "runs", place.store.root / "none")
    with pytest.raises(UserError, match="no run yet; make one with `rayse run RECIPE"):
        latest(place.store)
