"""The command line: every verb teaches, wrong flags and wrong input exit with 2, JSON is one object."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipelines import cli, stages
from pipelines.store.runs import resolve
from tests.toy_stages import ROOT, TABLE, Place

VERBS = {
    "run": ("--until", "--from", "--force", "--set", "--store", "--seed", "--address", "--no-wait", "--json"),
    "plan": ("--until", "--set", "--store", "--seed", "--json"),
    "sweep": ("--trials", "--until", "--out", "--set", "--store", "--seed", "--address", "--json"),
    "report": ("--recipe", "--out", "--store", "--json"),
    "lineage": ("--store", "--json"),
    "ls": ("--store", "--json"),
    "export": ("--store", "--json"),
    "init": ("--out", "--json"),
    "recipe": ("--keys", "--schema", "--show"),
    "submit": ("--address", "--detach", "--until", "--set", "--store", "--json"),
    "jobs": ("--address", "--json"),
    "stop": ("--address",),
    "serve": ("--port", "--host", "--store", "--key", "--key-file", "--persona", "--max-turns", "--gpus", "--no-guard"),
    "chat": ("--url", "--store", "--key", "--key-file", "--persona", "--temperature", "--max-tokens"),
}


def rayse(*arguments: str) -> Result:
    """The program in this process, which is what `python -m pipelines` runs."""
    return CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200"})


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy stages in the place of the real ones."""
    monkeypatch.setattr(stages, "STAGES", TABLE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A recipe that was run."""
    place = Place(tmp_path_factory.mktemp("cli"))
    place.run()
    return place


def test_the_program_lists_its_verbs_and_its_exit_codes() -> None:
    done = rayse("--help")
    assert done.exit_code == 0
    assert all(f"\n  {verb} " in done.output for verb in VERBS)
    said = " ".join(done.output.split())
    assert "0 done, 2 the input is wrong, 3 the cluster or machine failed, 130 interrupted" in said
    assert "rayse run demo" in said


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_explains_it_and_each_of_its_flags(verb: str) -> None:
    done = rayse(verb, "--help")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    explained = " ".join(lines[1:6]).strip()
    assert len(explained) > 30
    for flag in VERBS[verb]:
        (line,) = [line for line in lines if flag in line.split()[:3] or f"{flag}," in line.split()[:3]]
        assert len(line.split()) >= 4, f"{flag} says nothing of itself"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "demo", "--untill", "corpus"], "No such option: --untill (Possible options: --until)"),
        (["rnu", "demo"], "No such command 'rnu'"),
        (["run"], "Missing argument 'recipe'"),
        (["run", "demo", "--seed", "seven"], "Invalid value for '--seed': Input should be a valid integer"),
        (["export", "model"], "Missing argument 'folder'"),
    ],
)
def test_wrong_flags_exit_with_2_and_name_what_is_wrong(arguments: list[str], said: str) -> None:
    done = rayse(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["run", "nothing.yaml"],
            "error: nothing.yaml: no such recipe; give a YAML file or one that comes with Rayse: demo",
        ),
        (["plan", "micro", "--set", "pretrian.size=2m"], "no stage or key 'pretrian'. Did you mean pretrain?"),
        (["plan", "micro", "--until", "pretrian"], "no stage 'pretrian'. Did you mean pretrain?"),
        (["plan", "micro", "--store", "s3://bucket/x"], "store: s3://bucket/x: object stores are not supported yet"),
        (["ls", "--store", "s3://bucket/x"], "error: store s3://bucket/x: object stores are not supported yet"),
        (
            ["ls", "--store", "nowhere"],
            "nowhere: there is none; name one with --store, or make it with `rayse run RECIPE`",
        ),
        (["report", "--store", "nowhere"], "nowhere: there is none"),
        (["recipe", "--keys", "pretrian"], "error: --keys pretrian: no such stage or kind of source"),
        (["recipe", "--show", "nothing"], "error: nothing: no such recipe"),
    ],
)
def test_wrong_input_exits_with_2_and_one_message(arguments: list[str], said: str) -> None:
    done = rayse(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_module_is_the_program() -> None:
    command = [sys.executable, "-m", "pipelines", "run", "nothing.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nothing.yaml: no such recipe")


def test_a_cluster_that_does_not_answer_exits_with_3() -> None:
    done = rayse("jobs", "--address", "http://127.0.0.1:9")  # discard: nobody listens there
    assert done.exit_code == 3
    assert done.stderr.startswith("error: ") and "127.0.0.1:9" in done.stderr


def one_object(done: Result) -> dict:
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.usefixtures("toys")
def test_plan_prints_one_object(place: Place) -> None:
    found = one_object(rayse("plan", str(place.file), "--json"))
    assert list(found) == ["corpus", "tokenizer", "tokens", "pretrain", "pretrain/evaluate"]
    assert {facts["state"] for facts in found.values()} == {"made"}
    assert found["tokenizer"]["inputs"] == {"corpus": found["corpus"]["fingerprint"]}
    other = one_object(rayse("plan", str(place.file), "--json", "--set", "tokens.word=b"))
    assert [facts["state"] for facts in other.values()] == ["made", "made", "to make", "to make", "to make"]
    shown = rayse("plan", str(place.file))
    assert found["corpus"]["fingerprint"] in shown.stdout and "made" in shown.stdout


def test_lineage_goes_down_to_the_sources(place: Place) -> None:
    found = one_object(rayse("lineage", "pretrain", "--store", str(place.store.root), "--json"))
    assert found["parents"]["tokens"]["parents"]["corpus"]["sources"]["books"]["identity"]["kind"] == "text"
    shown = rayse("lineage", "pretrain", "--store", str(place.store.root)).stdout
    assert [line.split()[0] for line in shown.splitlines() if " by " in line] == [
        "model", "tokens", "corpus", "tokenizer", "corpus"
    ]  # fmt: skip
    assert "source books (text)" in shown


def test_ls_lists_artifacts_and_drafts(place: Place) -> None:
    draft = place.store.draft("feed" * 4, wait=False)
    found = one_object(rayse("ls", "--store", str(place.store.root), "--json"))
    assert {a["kind"] for a in found["artifacts"]} == {"corpus", "tokenizer", "tokens", "model", "evaluation"}
    assert [d["fingerprint"] for d in found["drafts"]] == ["feed" * 4]
    assert found["drafts"][0]["owner"].startswith("process ")
    draft.release()
    shown = rayse("ls", "--store", str(place.store.root)).stdout
    assert f"draft {'feed' * 4}: nobody works on it; run its recipe to go on" in shown
    place.store.drop(draft)


def test_export_copies_files_and_refuses_to_overwrite(place: Place, tmp_path: Path) -> None:
    store = ["--store", str(place.store.root)]
    found = one_object(rayse("export", "pretrain", str(tmp_path / "out"), *store, "--json"))
    assert found["fingerprint"] == resolve(place.store, "pretrain").fingerprint
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["text.txt"]
    again = rayse("export", "pretrain", str(tmp_path / "out"), *store)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "out: exists and is not an empty folder; name a new one" in again.stderr
    (tmp_path / "file").touch()
    below = rayse("export", "pretrain", str(tmp_path / "file" / "out"), *store)
    assert below.exit_code == 2 and "cannot be written" in below.stderr
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


@pytest.mark.usefixtures("toys")
def test_recipe_teaches_keys_and_schema() -> None:
    keys = rayse("recipe", "--keys", "corpus").stdout
    assert "cluster: corpus" in keys and "workers" in keys
    assert any(line.split()[:2] == ["word", "'a'"] and "what is written" in line for line in keys.splitlines())
    assert any(line.split() == ["schedule.warmup", "0.1"] for line in keys.splitlines())
    assert "guard_questions" in rayse("recipe", "--keys", "serve").stdout  # a stage that pipelines does not know
    schema = json.loads(rayse("recipe", "--schema").stdout)
    assert set(schema["properties"]["stages"]["properties"]) == {*TABLE, "serve"} - {"evaluate"}
    listed = rayse("recipe").stdout
    assert "stages: base, corpus, tokenizer" in listed and "recipes that come with Rayse: demo, micro" in listed
    assert rayse("recipe", "--show", "micro").stdout.startswith("# The smallest whole run")
