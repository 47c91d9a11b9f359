"""Which artifact a stage stands for: what decides a result enters its fingerprint, and nothing else."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.recipe import reader
from pipelines.run.plan import Step, descendants, plan
from pipelines.stages import evaluate, imported
from pipelines.store.artifacts import Store
from pipelines.store.provenance import code_digest
from tests.toy_stages import TABLE

TEXT = """\
name: small
sources:
  books: {kind: text, path: books.txt}
stages:
  corpus: {}
  tokenizer: {}
  tokens: {}
  pretrain: {}
  more: {stage: pretrain, word: b}
evaluate: {}
"""
NAMES = ["corpus", "tokenizer", "tokens", "pretrain", "pretrain/evaluate", "more", "more/evaluate"]


def steps(folder: Path, text: str = TEXT, *, stages=TABLE, until: str | None = None, **rest) -> dict[str, Step]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    if not (folder / "books.txt").exists():
        (folder / "books.txt").write_text("Once upon a time.")
    loaded = reader.load(folder / "recipe.yaml", stages, **rest)
    return {step.name: step for step in plan(loaded, Store(folder / "store"), until=until, warn=pytest.fail)}


def prints(*args, **rest) -> dict[str, str]:
    return {name: step.fingerprint for name, step in steps(*args, **rest).items()}


def changed(folder: Path, *args, **rest) -> list[str]:
    """The steps whose fingerprint is another than that of the plain recipe."""
    plain, other = prints(folder / "plain"), prints(folder / "other", *args, **rest)
    return [name for name in plain if plain[name] != other[name]]


def test_every_step_in_order_with_its_evaluation(tmp_path: Path) -> None:
    found = steps(tmp_path)
    assert list(found) == NAMES
    assert all(re.fullmatch("[0-9a-f]{16}", step.fingerprint) and step.artifact is None for step in found.values())
    assert not (tmp_path / "store").exists()  # planning writes nothing


def test_steps_know_their_parents(tmp_path: Path) -> None:
    found = steps(tmp_path)
    assert found["tokens"].parents == {
        "corpus": found["corpus"].fingerprint,
        "tokenizer": found["tokenizer"].fingerprint,
    }
    assert found["more"].parents == {"tokens": found["tokens"].fingerprint, "model": found["pretrain"].fingerprint}
    judged = {"corpus": found["corpus"].fingerprint, "tokens": found["tokens"].fingerprint}
    assert found["pretrain/evaluate"].parents == judged | {"model": found["pretrain"].fingerprint}
    previous = {"model": found["more"].fingerprint, "previous": found["pretrain"].fingerprint}
    assert found["more/evaluate"].parents == judged | previous


def test_a_model_is_judged_with_the_nearest_conversations_before_it(tmp_path: Path) -> None:
    takes = (*TABLE["evaluate"].takes, "conversations")
    table = TABLE | {"evaluate": dataclasses.replace(TABLE["evaluate"], takes=takes)}
    assert evaluate.STAGE.takes == takes
    talks = "sources:\n  talks: {kind: jsonl, path: talks.jsonl, rows: conversations}"
    (tmp_path / "talks.jsonl").write_text('{"messages": []}\n')
    text = TEXT.replace("sources:", talks).replace("  more: {stage: pretrain, word: b}", (
        "  conversations: {}\n  sft: {}\n  others: {stage: conversations, word: b}\n  persona: {stage: sft}"
    ))  # fmt: skip
    found = steps(tmp_path, text, stages=table)
    assert "conversations" not in found["pretrain/evaluate"].parents
    assert found["sft/evaluate"].parents["conversations"] == found["conversations"].fingerprint
    assert found["persona/evaluate"].parents["conversations"] == found["others"].fingerprint
    assert found["persona/evaluate"].parents["previous"] == found["sft"].fingerprint


def test_until_ends_with_the_evaluation_of_its_stage(tmp_path: Path) -> None:
    assert list(steps(tmp_path, until="pretrain")) == NAMES[:5]
    assert list(steps(tmp_path, until="corpus")) == NAMES[:1]
    with pytest.raises(UserError, match=r"no stage 'pretrian'. Did you mean pretrain"):
        steps(tmp_path, until="pretrian")


def test_a_changed_option_changes_its_stage_and_what_stands_on_it(tmp_path: Path) -> None:
    assert changed(tmp_path, overrides=["tokens.word=b"]) == NAMES[2:]
    assert changed(tmp_path, overrides=["more.times=2"]) == ["more", "more/evaluate"]
    assert changed(tmp_path, overrides=["evaluate.times=2"]) == ["pretrain/evaluate", "more/evaluate"]


def test_the_seed_changes_everything(tmp_path: Path) -> None:
    assert changed(tmp_path, seed=1) == NAMES


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("name: small", "name: large\nstore: ./elsewhere\ncluster: {pretrain: {workers: 4}}"),
        TEXT.replace(
            "  corpus: {}", "  corpus: {word: a, times: 1, schedule: {warmup: 0.1}}"
        ),  # the defaults, written out
        TEXT.replace("path: books.txt", "path: [./books.txt]"),
        TEXT.replace("  pretrain: {}", "  pretrain: {stage: pretrain, from: tokens}"),
    ],
)
def test_what_changes_no_result_changes_no_fingerprint(tmp_path: Path, text: str) -> None:
    assert changed(tmp_path, text) == []


def test_a_stage_under_another_name_is_the_same_artifact(tmp_path: Path) -> None:
    text = TEXT.replace("  pretrain: {}", "  first: {stage: pretrain}")
    assert prints(tmp_path / "other", text)["first"] == prints(tmp_path / "plain")["pretrain"]


def test_a_new_version_of_a_stage_changes_it_and_what_stands_on_it(tmp_path: Path) -> None:
    table = TABLE | {"tokens": dataclasses.replace(TABLE["tokens"], version=2)}
    assert changed(tmp_path, stages=table) == NAMES[2:]


def test_a_source_is_known_by_its_bytes_and_names_wherever_it_lies(tmp_path: Path) -> None:
    plain = prints(tmp_path / "plain")
    (tmp_path / "moved" / "deep").mkdir(parents=True)
    (tmp_path / "moved" / "deep" / "books.txt").write_text("Once upon a time.")
    assert prints(tmp_path / "moved", TEXT.replace("books.txt", "deep/books.txt")) == plain

    (tmp_path / "edited").mkdir()
    (tmp_path / "edited" / "books.txt").write_text("Once upon a time!")
    assert set(prints(tmp_path / "edited").values()).isdisjoint(plain.values())

    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "novels.txt").write_text("Once upon a time.")
    named = prints(tmp_path / "named", TEXT.replace("path: books", "path: novels"))
    assert set(named.values()).isdisjoint(plain.values())  # a file's name is a group: it decides what is held out


def test_a_source_that_is_missing_or_empty_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing.txt: no such file; check the source's path"):
        steps(tmp_path, TEXT.replace("books.txt", "nothing.txt"))
    (tmp_path / "books.txt").write_text("")
    with pytest.raises(UserError, match=r"books.txt: the file is empty"):
        steps(tmp_path)


def test_a_base_in_a_folder_is_known_by_its_bytes(tmp_path: Path) -> None:
    table = TABLE | {"base": imported.STAGE}

    def base(name: str, weights: bytes) -> str:
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.json", "tokenizer.json"):
            (folder / file).write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "README.md").write_text(name)
        text = TEXT.replace("name: small", f"base: {{model: {folder}}}")
        return steps(tmp_path / "recipe", text, stages=table)["base"].fingerprint

    assert base("here", b"weights") == base("there", b"weights") != base("other", b"others")


def test_descendants_are_all_that_stands_on_a_step(tmp_path: Path) -> None:
    found = steps(tmp_path)
    gone = descendants(found.values(), {found["pretrain"].fingerprint})
    assert [name for name, step in found.items() if step.fingerprint in gone] == NAMES[3:]
    gone = descendants(found.values(), {found["more"].fingerprint})
    assert [name for name, step in found.items() if step.fingerprint in gone] == NAMES[5:]


def test_the_code_of_a_stage_is_its_module_and_what_that_imports() -> None:
    assert code_digest("pipelines.stages.tokens") != code_digest("pipelines.stages.tokenizer")
    assert code_digest("pipelines.stages.tokens") == code_digest("pipelines.stages.tokens")
