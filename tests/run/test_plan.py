"""Fingerprints of a plan: everything that determines a result enters them, and no more."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.recipe import reader
from pipelines.run.plan import Step, descendants, plan, unread_sources
from pipelines.stage import Stage
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


def steps(
    folder: Path,
    text: str = TEXT,
    *,
    stages: Mapping[str, Stage] = TABLE,
    until: str | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
) -> dict[str, Step]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    if not (folder / "books.txt").exists():
        (folder / "books.txt").write_text("Once upon a time.")
    loaded = reader.load(folder / "recipe.yaml", stages, overrides=overrides, seed=seed)
    return {step.name: step for step in plan(loaded, Store(folder / "store"), until=until, warn=pytest.fail)}


def fingerprints(folder: Path, text: str = TEXT, **arguments: Any) -> dict[str, str]:
    return {name: step.fingerprint for name, step in steps(folder, text, **arguments).items()}


def changed(folder: Path, text: str = TEXT, **arguments: Any) -> list[str]:
    """The steps whose fingerprint differs from that of the plain recipe."""
    plain, other = fingerprints(folder / "plain"), fingerprints(folder / "other", text, **arguments)
    return [name for name in plain if plain[name] != other[name]]


def test_a_plan_has_every_step_in_order_with_its_evaluation(tmp_path: Path) -> None:
    planned = steps(tmp_path)
    assert list(planned) == NAMES
    assert all(re.fullmatch("[0-9a-f]{16}", step.fingerprint) and step.artifact is None for step in planned.values())
    assert not (tmp_path / "store").exists()  # planning writes no file


def test_steps_have_the_fingerprints_of_their_parents(tmp_path: Path) -> None:
    planned = steps(tmp_path)
    assert planned["tokens"].parents == {
        "corpus": planned["corpus"].fingerprint,
        "tokenizer": planned["tokenizer"].fingerprint,
    }
    assert planned["more"].parents == {
        "tokens": planned["tokens"].fingerprint,
        "model": planned["pretrain"].fingerprint,
    }
    held_out = {"corpus": planned["corpus"].fingerprint, "tokens": planned["tokens"].fingerprint}
    assert planned["pretrain/evaluate"].parents == held_out | {"model": planned["pretrain"].fingerprint}
    previous = {"model": planned["more"].fingerprint, "previous": planned["pretrain"].fingerprint}
    assert planned["more/evaluate"].parents == held_out | previous


def test_a_model_is_evaluated_with_the_nearest_conversations_before_it(tmp_path: Path) -> None:
    takes = (*TABLE["evaluate"].takes, "conversations")
    table = TABLE | {"evaluate": dataclasses.replace(TABLE["evaluate"], takes=takes)}
    assert evaluate.STAGE.takes == takes
    talks = "sources:\n  talks: {kind: jsonl, path: talks.jsonl, rows: conversations}"
    (tmp_path / "talks.jsonl").write_text('{"messages": []}\n')
    text = TEXT.replace("sources:", talks).replace("  more: {stage: pretrain, word: b}", (
        "  conversations: {}\n  sft: {}\n  others: {stage: conversations, word: b}\n  persona: {stage: sft}"
    ))  # fmt: skip
    planned = steps(tmp_path, text, stages=table)
    assert "conversations" not in planned["pretrain/evaluate"].parents
    assert planned["sft/evaluate"].parents["conversations"] == planned["conversations"].fingerprint
    assert planned["persona/evaluate"].parents["conversations"] == planned["others"].fingerprint
    assert planned["persona/evaluate"].parents["previous"] == planned["sft"].fingerprint


def test_until_ends_with_the_evaluation_of_its_stage(tmp_path: Path) -> None:
    assert list(steps(tmp_path, until="pretrain")) == NAMES[:5]
    assert list(steps(tmp_path, until="corpus")) == NAMES[:1]
    with pytest.raises(UserError, match=r"no stage 'pretrian'. Did you mean pretrain"):
        steps(tmp_path, until="pretrian")


def test_a_changed_option_changes_its_stage_and_its_descendants(tmp_path: Path) -> None:
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
def test_a_change_without_effect_on_the_result_keeps_the_fingerprints(tmp_path: Path, text: str) -> None:
    assert changed(tmp_path, text) == []


def test_a_stage_under_another_name_is_the_same_artifact(tmp_path: Path) -> None:
    text = TEXT.replace("  pretrain: {}", "  first: {stage: pretrain}")
    assert fingerprints(tmp_path / "other", text)["first"] == fingerprints(tmp_path / "plain")["pretrain"]


def test_a_new_version_of_a_stage_changes_it_and_its_descendants(tmp_path: Path) -> None:
    table = TABLE | {"tokens": dataclasses.replace(TABLE["tokens"], version=2)}
    assert changed(tmp_path, stages=table) == NAMES[2:]


def test_a_source_is_identified_by_its_bytes_and_names_not_by_its_folder(tmp_path: Path) -> None:
    plain = fingerprints(tmp_path / "plain")
    (tmp_path / "moved" / "deep").mkdir(parents=True)
    (tmp_path / "moved" / "deep" / "books.txt").write_text("Once upon a time.")
    assert fingerprints(tmp_path / "moved", TEXT.replace("books.txt", "deep/books.txt")) == plain

    (tmp_path / "edited").mkdir()
    (tmp_path / "edited" / "books.txt").write_text("Once upon a time!")
    assert set(fingerprints(tmp_path / "edited").values()).isdisjoint(plain.values())

    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "novels.txt").write_text("Once upon a time.")
    named = fingerprints(tmp_path / "named", TEXT.replace("path: books", "path: novels"))
    assert set(named.values()).isdisjoint(plain.values())  # a file's name is a group, by which documents are held out


def test_a_source_that_is_missing_or_empty_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing.txt: no such file; check the source's path"):
        steps(tmp_path, TEXT.replace("books.txt", "missing.txt"))
    (tmp_path / "books.txt").write_text("")
    with pytest.raises(UserError, match=r"books.txt: the file is empty"):
        steps(tmp_path)


def test_a_source_that_no_stage_reads_is_named_with_the_remedy(tmp_path: Path) -> None:
    sources = "sources:\n  manuals: {kind: text, path: manuals, rows: documents}\n  poems: {kind: text, path: poems}\n"
    text = TEXT.replace("sources:\n", sources).replace("corpus: {}", "corpus: {sources: books}")
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    manuals, poems = unread_sources(reader.load(tmp_path / "recipe.yaml", TABLE))
    assert manuals.startswith("sources.manuals: no stage reads it (rows: documents); list the stage knowledge")
    assert poems.startswith("sources.poems: no stage reads it (rows: text); name it in the sources of corpus")
    (tmp_path / "recipe.yaml").write_text(TEXT, encoding="utf-8")
    assert unread_sources(reader.load(tmp_path / "recipe.yaml", TABLE)) == []


def test_a_base_model_in_a_folder_is_identified_by_its_bytes(tmp_path: Path) -> None:
    table = TABLE | {"base": imported.STAGE}

    def planned(name: str, weights: bytes) -> dict[str, Step]:
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.json", "tokenizer.json"):
            (folder / file).write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "README.md").write_text(name)
        text = TEXT.replace("name: small", f"base: {{model: {folder}}}")
        return steps(tmp_path / "recipe", text, stages=table)

    here = planned("here", b"weights")
    base = here["base"].fingerprint
    assert base == planned("there", b"weights")["base"].fingerprint
    assert base != planned("other", b"others")["base"].fingerprint
    assert here["pretrain/evaluate"].parents["base"] == base
    assert here["more/evaluate"].parents["base"] == base != here["more/evaluate"].parents["previous"]


def test_descendants_are_a_step_and_all_that_depend_on_it(tmp_path: Path) -> None:
    planned = steps(tmp_path)
    below = descendants(planned.values(), {planned["pretrain"].fingerprint})
    assert [name for name, step in planned.items() if step.fingerprint in below] == NAMES[3:]
    below = descendants(planned.values(), {planned["more"].fingerprint})
    assert [name for name, step in planned.items() if step.fingerprint in below] == NAMES[5:]


def test_the_code_digest_of_a_stage_covers_its_module_and_what_that_imports() -> None:
    assert code_digest("pipelines.stages.tokens") != code_digest("pipelines.stages.tokenizer")
    assert code_digest("pipelines.stages.tokens") == code_digest("pipelines.stages.tokens")
