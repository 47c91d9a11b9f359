"""The command line: every command explains itself, invalid flags and input exit with 2, JSON is one object."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from pipelines import cli, stages
from pipelines.engines import EngineCluster
from pipelines.stage import ClusterOptions
from pipelines.store.runs import resolve
from pipelines.training import TrainCluster
from pipelines.verbs.plan import runs_on
from tests.toy_stages import ROOT, TABLE, ToyProject

# Flags that users' scripts rely on.
FLAGS = {
    "run": ("--until", "--from", "--force", "--set", "--store", "--seed", "--address", "--no-wait", "--json"),
    "plan": ("--until", "--set", "--store", "--seed", "--nodes", "--json"),
    "sweep": ("--trials", "--until", "--out", "--set", "--store", "--seed", "--address", "--json"),
    "report": ("--recipe", "--out", "--store", "--json"),
    "lineage": ("--store", "--json"),
    "inspect": ("--where", "--limit", "--card", "--query", "--store", "--json"),
    "ls": ("--store", "--json"),
    "export": ("--store", "--json"),
    "init": ("--base", "--nodes", "--out", "--json"),
    "recipe": ("--keys", "--schema", "--show"),
    "submit": ("--address", "--detach", "--until", "--set", "--store", "--json"),
    "jobs": ("--address", "--json"),
    "stop": ("--address",),
    "serve": ("--recipe", "--port", "--host", "--store", "--key-file", "--persona", "--gpus", "--no-guard", "--adapter",
              "--replicas", "--canary", "--emit", "--feedback", "--access-log"),
    "promote": ("--alias", "--reason", "--list", "--feedback", "--store", "--json"),
    "rollback": ("--alias", "--reason", "--feedback", "--store", "--json"),
    "chat": ("--url", "--store", "--key-file", "--persona", "--temperature", "--max-tokens"),
    "top": ("--url", "--key-file", "--interval", "--once", "--json"),
    "feedback show": ("--store", "--feedback", "--since", "--json"),
    "feedback export": ("--rows", "--store", "--feedback", "--since", "--json"),
    "feedback delete": ("--user", "--store", "--feedback", "--json"),
}  # fmt: skip


def commands(group: Any, *path: str) -> dict[str, Any]:
    """All commands of a group and of the groups within, by the words that a user types."""
    if not hasattr(group, "commands"):
        return {" ".join(path): group}
    found = [commands(command, *path, name) for name, command in group.commands.items()]
    return {name: command for each in found for name, command in each.items()}


COMMANDS = commands(typer.main.get_command(cli.app))


def rayse(*arguments: str) -> Result:
    """Runs `rayse` in this process."""
    return CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200"})


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy stages instead of the real ones."""
    monkeypatch.setattr(stages, "STAGES", TABLE)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    """A project whose recipe has been run."""
    project = ToyProject(tmp_path_factory.mktemp("cli"))
    project.run()
    return project


def test_help_lists_the_commands_and_the_exit_codes() -> None:
    done = rayse("--help")
    assert done.exit_code == 0
    assert all(f"\n  {verb.split()[0]} " in done.output for verb in FLAGS)
    text = " ".join(done.output.split())
    assert "0 done, 2 the input is wrong, 3 the cluster or machine failed, 130 interrupted" in text
    assert "rayse run demo" in text


def test_no_command_or_promised_flag_is_missing() -> None:
    assert COMMANDS.keys() == FLAGS.keys()
    for verb, command in COMMANDS.items():
        known = [flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)]
        assert not set(FLAGS[verb]) - set(known), verb


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_of_a_command_explains_it_and_each_of_its_arguments(verb: str) -> None:
    done = rayse(*verb.split(), "--help")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    explained = " ".join(lines[1:6]).strip()
    assert len(explained) > 30
    for parameter in COMMANDS[verb].params:
        name = parameter.opts[-1] if parameter.param_type_name == "option" else parameter.name
        # `names... <list[str]>  Models or trials`, `-q, --quiet  Print only warnings`
        listed = [[word.strip(".,") for word in line.split()[:2]] for line in lines[3:]]
        assert any(name in words for words in listed), name
        assert len((parameter.help or "").split()) >= 3, f"{name} has no help text"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demo", "--untill", "corpus"], "No such option: --untill (Possible options: --until)"),
        (["rnu", "demo"], "No such command 'rnu'"),
        (["run"], "Missing argument 'recipe'"),
        (["run", "demo", "--seed", "seven"], "Invalid value for '--seed': Input should be a valid integer"),
        (["export", "model"], "Missing argument 'folder'"),
        (["serve", "--key", "secret"], "No such option: --key (Possible options: --key-file)"),
    ],
)
def test_invalid_flags_exit_with_2_and_an_error_that_names_them(arguments: list[str], message: str) -> None:
    done = rayse(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "missing.yaml"],
            "error: missing.yaml: no such recipe; give a YAML file or one that comes with Rayse: assistant",
        ),
        (["plan", "micro", "--set", "pretrian.size=2m"], "no stage or key 'pretrian'. Did you mean pretrain?"),
        (["plan", "micro", "--until", "pretrian"], "no stage 'pretrian'. Did you mean pretrain?"),
        (
            ["plan", "micro", "--store", "hdfs://host/x"],
            "store: hdfs://host/x: expected a folder, s3://BUCKET",
        ),
        (["ls", "--store", "hdfs://host/x"], "error: store hdfs://host/x: expected a folder, s3://BUCKET/PREFIX or"),
        (
            ["ls", "--store", "nowhere"],
            "nowhere: does not exist; pass one with --store, or make it with `rayse run RECIPE`",
        ),
        (["report", "--store", "nowhere"], "nowhere: does not exist"),
        (["recipe", "--keys", "pretrian"], "error: --keys pretrian: no such stage or kind of source"),
        (["recipe", "--show", "missing"], "error: missing: no such recipe"),
    ],
)
def test_invalid_input_exits_with_2_and_one_message(arguments: list[str], message: str) -> None:
    done = rayse(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_module_is_the_same_program() -> None:
    command = [sys.executable, "-m", "pipelines", "run", "missing.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: missing.yaml: no such recipe")


def test_an_unreachable_cluster_exits_with_3() -> None:
    done = rayse("jobs", "--address", "http://127.0.0.1:9")  # the discard port: no server listens there
    assert done.exit_code == 3
    assert done.stderr.startswith("error: ") and "127.0.0.1:9" in done.stderr


def one_object(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


@pytest.mark.usefixtures("toys")
def test_plan_prints_one_object(project: ToyProject) -> None:
    steps = one_object(rayse("plan", str(project.file), "--json"))
    assert list(steps) == ["corpus", "tokenizer", "tokens", "pretrain", "pretrain/evaluate"]
    assert {step["state"] for step in steps.values()} == {"made"}
    assert steps["tokenizer"]["inputs"] == {"corpus": steps["corpus"]["fingerprint"]}
    other = one_object(rayse("plan", str(project.file), "--json", "--set", "tokens.word=b"))
    assert [step["state"] for step in other.values()] == ["made", "made", "to make", "to make", "to make"]
    text = rayse("plan", str(project.file)).stdout
    assert steps["corpus"]["fingerprint"][:8] in text and "made" in text


def test_plan_says_what_a_stage_runs_on() -> None:
    assert runs_on(TrainCluster.model_validate({})) == "2 workers, on GPUs if there are 2"
    assert runs_on(TrainCluster.model_validate({"workers": 1, "gpus_per_worker": 0})) == "1 worker, CPU"
    assert runs_on(TrainCluster.model_validate({"workers": 8, "gpus_per_worker": 1})) == "8 workers, 1 GPU each"
    assert runs_on(EngineCluster.model_validate({})) == "a GPU if there is one"
    assert runs_on(EngineCluster.model_validate({"gpus": 0.5})) == "0.5 GPUs" and runs_on(ClusterOptions()) == "CPU"


def test_lineage_goes_down_to_the_sources(project: ToyProject) -> None:
    tree = one_object(rayse("lineage", "pretrain", "--store", str(project.store.root), "--json"))
    assert tree["parents"]["tokens"]["parents"]["corpus"]["sources"]["books"]["identity"]["kind"] == "text"
    text = rayse("lineage", "pretrain", "--store", str(project.store.root)).stdout
    assert [line.split()[0] for line in text.splitlines() if " by " in line] == [
        "model", "tokens", "corpus", "tokenizer", "corpus"
    ]  # fmt: skip
    assert "source books (text)" in text


def test_ls_lists_artifacts_and_drafts(project: ToyProject) -> None:
    draft = project.store.draft("feed" * 4, wait=False)
    listed = one_object(rayse("ls", "--store", str(project.store.root), "--json"))
    assert {a["kind"] for a in listed["artifacts"]} == {"corpus", "tokenizer", "tokens", "model", "evaluation"}
    assert [d["fingerprint"] for d in listed["drafts"]] == ["feed" * 4]
    assert listed["drafts"][0]["owner"].startswith("process ")
    draft.release()
    text = rayse("ls", "--store", str(project.store.root)).stdout
    assert f"draft {'feed' * 4}: no run works on it; run its recipe to continue" in text
    project.store.drop(draft)


def test_export_copies_files_and_refuses_to_overwrite(project: ToyProject, tmp_path: Path) -> None:
    store = ["--store", str(project.store.root)]
    (resolve(project.store, "pretrain").path / "text.txt").chmod(0o600)  # as safetensors writes weights
    exported = one_object(rayse("export", "pretrain", str(tmp_path / "out"), *store, "--json"))
    (tmp_path / "new").touch()
    assert (tmp_path / "out" / "text.txt").stat().st_mode == (tmp_path / "new").stat().st_mode
    (tmp_path / "new").unlink()
    assert exported["fingerprint"] == resolve(project.store, "pretrain").fingerprint
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["text.txt"]
    again = rayse("export", "pretrain", str(tmp_path / "out"), *store)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "out: exists and is not an empty folder; name a new one" in again.stderr
    (tmp_path / "file").touch()
    below = rayse("export", "pretrain", str(tmp_path / "file" / "out"), *store)
    assert below.exit_code == 2 and "cannot be written" in below.stderr
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


@pytest.mark.usefixtures("toys")
def test_recipe_explains_keys_and_prints_the_schema() -> None:
    keys = rayse("recipe", "--keys", "corpus").stdout
    assert "cluster: corpus" in keys and "workers" in keys
    assert any(line.split()[:2] == ["word", "'a'"] and "Word that is written" in line for line in keys.splitlines())
    assert any(line.split() == ["schedule.warmup", "0.1"] for line in keys.splitlines())
    assert "guard_questions" in rayse("recipe", "--keys", "serve").stdout  # a stage of serve, not of pipelines
    schema = json.loads(rayse("recipe", "--schema").stdout)
    assert set(schema["properties"]["stages"]["properties"]) == {*TABLE, "serve"} - {"evaluate"}
    listed = rayse("recipe").stdout
    assert "the section sweep" in listed
    assert "stages: base, corpus, tokenizer" in listed and "demo, full-8b-eight-gpus, micro" in listed
    assert rayse("recipe", "--show", "micro").stdout.startswith("# The smallest complete run")


def test_recipe_says_which_sections_are_absent_by_default() -> None:
    def defaults(name: str) -> dict[str, str]:
        lines = rayse("recipe", "--keys", name).stdout.splitlines()
        return {line.split()[0]: line.split()[1] for line in lines if line.startswith("  ")}

    sft, corpus = defaults("sft"), defaults("corpus")
    assert (sft["lora"], sft["lora.rank"], sft["ia3"]) == ("None", "16", "None")
    assert (corpus["filters.c4"], corpus["filters.length"], corpus["filters.language"]) == ("None", "{}", "{}")
    assert defaults("sweep")["grace"] == "0.2"  # a section of recipes, and no stage
