"""The stage `pretrain`: refused inputs, and complete runs on Ray Train workers, from scratch and continued."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.session import Session
from pipelines.errors import UserError
from pipelines.stage import Facts, Work
from pipelines.stages import pretrain
from pipelines.stages.pretrain import PretrainOptions
from tests.learning.packed import write_tokens
from tests.stages.working import RecordedProgress, work_of

VOCABULARY, LENGTH = 128, 64


def work(folder: Path, session: Session, inputs: dict[str, Path], workers: int = 2, **options: Any) -> Work:
    """Lower learning rate and shorter decay than the defaults, which suit more than 24 steps."""
    options = {"batch_tokens": 512, "adam_learning_rate": 3e-3, "decay_fraction": 0.3, **options}
    cluster = {"workers": workers, "checkpoint_every_steps": 10, "log_every_steps": 5, "dtype": "float32"}
    return work_of(pretrain.STAGE, folder, session, inputs, options, cluster)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens"), num_rows=64, length=LENGTH, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def trained(
    tokens: Path, session: Session, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Facts, RecordedProgress]:
    """A new model trained by two workers in 24 steps."""
    stage_work = work(
        tmp_path_factory.mktemp("run") / "draft", session, {"tokens": tokens},
        size="micro", budget_tokens=12_288, max_epochs=2,
    )  # fmt: skip
    facts = pretrain.run(stage_work)
    assert isinstance(stage_work.progress, RecordedProgress)
    return stage_work.draft.out, facts, stage_work.progress


def test_passes_over_a_group_are_epochs_times_its_repeats() -> None:
    tokens: Facts = {
        "tokens/train": 900,
        "mixture/repeats_law": 4.0,
        "mixture/repeats_web": 0.5,
        "mixture/tokens_law": 9,
    }
    assert pretrain.group_epochs(tokens, 2.5) == {"law": 10, "web": 1.25}
    assert pretrain.group_epochs({"tokens/repeats_zh": 3.0, "tokens/fraction_zh": 0.2}, 2) == {"zh": 6}


def test_artifact_is_a_hugging_face_model(trained: tuple[Path, Facts, RecordedProgress], tokens: Path) -> None:
    out, _, _ = trained
    names = {"model.safetensors", "config.json", "generation_config.json", "curve.jsonl", "probe.json"}
    assert {path.name for path in out.iterdir()} == names | {p.name for p in (tokens / "tokenizer").iterdir()}
    model = AutoModelForCausalLM.from_pretrained(out)
    assert (model.config.vocab_size, model.config.max_position_embeddings) == (VOCABULARY, LENGTH)
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (1, 2, 0)
    assert len(AutoTokenizer.from_pretrained(out)) == VOCABULARY


def test_reports_progress_and_facts(trained: tuple[Path, Facts, RecordedProgress]) -> None:
    _, facts, progress = trained
    assert [update[:3] for update in progress.updates] == [(done, 24, "steps") for done in (5, 10, 15, 20, 24)]
    assert facts["train/steps"] == 24
    assert facts["train/epochs"] == pytest.approx(3)
    assert float(facts["train/loss_nats"]) < 4.3 < progress.updates[0][3]["loss"]
    assert {"train/tokens_per_s", "train/mfu", "train/parameters", "train/gemm_gflops"} <= facts.keys()
    assert progress.notes == [note for note in progress.notes if "more than max_epochs: 2" in note]
    assert len(progress.notes) == 1


def test_training_continues_an_earlier_model(
    trained: tuple[Path, Facts, RecordedProgress], tokens: Path, session: Session, tmp_path: Path
) -> None:
    out, before, _ = trained
    inputs = {"tokens": tokens, "model": out}
    stage_work = work(tmp_path / "draft", session, inputs, workers=1, budget_tokens=4096, learning_rate=0.005)
    facts = pretrain.run(stage_work)
    assert float(facts["train/loss_nats"]) < float(before["train/loss_nats"]) + 0.05
    first = json.loads((stage_work.draft.out / "curve.jsonl").read_text().splitlines()[0])
    assert first["train/loss_nats"] < 4.5  # a new model would start at ln 128 = 4.85


def check(tokens: Path, model: Path | None = None, **options: Any) -> None:
    meta = json.loads((tokens / "meta.json").read_text())
    pretrain.check(PretrainOptions.model_validate(options), meta, tokens, model)


def test_batch_is_a_multiple_of_the_row_length(tokens: Path) -> None:
    with pytest.raises(UserError, match=r"batch_tokens: 500 is not a multiple .* set 512"):
        check(tokens, batch_tokens=500)


def test_budget_smaller_than_a_step_is_refused(tokens: Path) -> None:
    with pytest.raises(UserError, match="are fewer than one step"):
        check(tokens, batch_tokens=512, budget_tokens=511)


def test_size_with_an_earlier_model_is_refused(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave size out"):
        check(tokens, tmp_path, size="2m")


def test_tokens_of_another_tokenizer_than_the_models_are_refused(tokens: Path, tmp_path: Path) -> None:
    shutil.copytree(tokens / "tokenizer", tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": LENGTH}))
    check(tokens, tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["another"] = tokenizer["model"]["vocab"].pop("w77")
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="tokens were made by another tokenizer"):
        check(tokens, tmp_path)


def test_rows_longer_than_the_models_context_are_refused(tokens: Path, tmp_path: Path) -> None:
    shutil.copytree(tokens / "tokenizer", tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 32}))
    with pytest.raises(UserError, match=r"length: 64 is longer than the model's context \(32\)"):
        check(tokens, tmp_path)


def test_options_without_effect_are_not_part_of_the_fingerprint() -> None:
    default = PretrainOptions.model_validate({}).identity()
    assert PretrainOptions.model_validate({"max_epochs": 9}).identity() == default
    muon = [PretrainOptions.model_validate({"optimizer": "muon", "clip_norm": norm}).identity() for norm in (1, 2)]
    assert muon[0] == muon[1]
    assert PretrainOptions.model_validate({"learning_rate": 0.03}).identity() != default


def test_defaults_depend_on_where_the_model_began() -> None:
    def settled(*, from_base: bool, **options: Any) -> tuple[str | None, float | None]:
        done = PretrainOptions.model_validate(options).settled(from_base=from_base)
        return done.optimizer, done.learning_rate

    assert settled(from_base=False) == ("muon", 0.02)
    assert settled(from_base=True) == ("adamw", 1e-5)
    assert settled(from_base=False, optimizer="adamw") == ("adamw", 3e-3)
    assert settled(from_base=True, optimizer="muon") == ("muon", 0.02)
    assert settled(from_base=True, learning_rate=0.1) == ("adamw", 0.1)
