"""What all training stages decide alike: GPUs, rows of a step, the settings of a model that began as another's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from pipelines.errors import UserError
from pipelines.recipe import reader
from pipelines.stages import STAGES
from pipelines.stages.dpo import DpoOptions
from pipelines.stages.prefix_tuning import PrefixTuningOptions
from pipelines.stages.sft import SftOptions
from pipelines.training import TrainCluster, adapter_arguments, gpus_per_worker, launch, settled_options


@dataclass
class Fake:
    """An artifact with a lineage."""

    stage: str
    model: Fake | None = None
    lost: bool = False  # whether its parent is no longer in the store

    @property
    def manifest(self) -> Any:
        parents = {"model": "5e7a"} if self.model or self.lost else {}
        return SimpleNamespace(stage=self.stage, parents=parents)

    def parent(self, kind: str) -> Fake | None:
        assert kind == "model"
        return self.model


def work(*, gpus: tuple[float, ...] = (), model: Fake | None = None, options: Any = None, **cluster: Any) -> Any:
    session = SimpleNamespace(nodes=lambda: [SimpleNamespace(gpus=each) for each in gpus])
    return SimpleNamespace(
        name="sft", session=session, cluster=TrainCluster.model_validate(cluster), inputs={"model": model},
        options=options or SftOptions.model_validate({}), draft=SimpleNamespace(path=Path(), out=Path()), seed=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gpus", "asked", "expected"),
    [
        ((), "auto", 0),
        ((1.0,), "auto", 0),
        ((1.0, 1.0), "auto", 1),
        ((8.0, 0.0), "auto", 1),
        ((8.0,), 0, 0),
        ((), 1, 1),
    ],
)
def test_gpus_are_used_where_every_worker_can_have_one(
    gpus: tuple[float, ...], asked: Literal[0, 1, "auto"], expected: int
) -> None:
    assert gpus_per_worker(work(gpus=gpus, gpus_per_worker=asked, workers=2)) == expected


def test_a_step_without_a_row_for_each_worker_is_refused_before_ray_starts() -> None:
    with pytest.raises(
        UserError, match=r"sft: an optimizer step has 1 rows for 2 workers.*cluster: {sft: {workers: 1}}"
    ):
        launch(work(workers=2), lambda worker, config: {}, {}, steps=3, rows=1)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Fake("sft", Fake("base")), ("adamw", 1e-5)),
        (Fake("base"), ("adamw", 1e-5)),
        (Fake("sft", Fake("pretrain")), ("muon", 0.01)),
        (None, ("muon", 0.01)),
    ],
)
def test_a_model_that_began_as_anothers_is_trained_gently(model: Fake | None, expected: tuple[str, float]) -> None:
    settled = settled_options(work(model=model))
    assert (settled.optimizer, settled.learning_rate) == expected


def test_a_default_is_not_guessed_where_an_ancestor_is_lost() -> None:
    lost = Fake("sft", lost=True)
    with pytest.raises(UserError, match=r"sft.optimizer: .* \(5e7a\) is no longer in the store"):
        settled_options(work(model=lost))
    explicit = SftOptions.model_validate({"optimizer": "adamw", "learning_rate": 0.1})
    assert settled_options(work(model=lost, options=explicit)).learning_rate == 0.1


def test_dropout_of_adapters_is_refused_where_it_would_be_ignored() -> None:
    lora = {"lora": {"dropout": 0.1}}
    assert adapter_arguments(work(options=SftOptions.model_validate(lora)))["adapter"]["dropout"] == 0.1
    with pytest.raises(UserError, match=r"lora.dropout: 0.1; expected 0"):
        adapter_arguments(work(options=DpoOptions.model_validate(lora)))


@pytest.mark.parametrize("method", ["prefix_tuning", "p_tuning_v2"])
def test_methods_that_cannot_be_merged_are_refused_when_the_recipe_is_read(tmp_path: Path, method: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: a\nbase: {model: some/model}\nsources:\n  talks: {kind: jsonl, path: a.jsonl, rows: conversations}\n"
        f"stages:\n  conversations:\n  sft:\n    {method}: {{num_virtual_tokens: 20}}\n"
    )
    with pytest.raises(UserError, match=rf":7: stages.sft: {method}: .* merged into weights.*; expected lora or ia3"):
        reader.load(recipe, STAGES)


def test_a_stage_does_not_pass_by_an_adapter(tmp_path: Path) -> None:
    def inputs_of_quantise(options: str) -> str:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(
            "name: a\nbase: {model: some/model}\nsources:\n  talks: {kind: jsonl, path: a.jsonl, rows: conversations}\n"
            f"stages:\n  conversations:\n  prefix_tuning: {{projection: 64}}\n  quantise: {options}\n"
        )
        return reader.load(recipe, STAGES).entry("quantise").inputs["model"]

    (tmp_path / "a.jsonl").touch()
    message = r":8: stages.quantise.*: quantise cannot use what prefix_tuning makes: .*; expected sft with lora or ia3"
    for options in ("{}", "{from: prefix_tuning}"):
        with pytest.raises(UserError, match=message):
            inputs_of_quantise(options)
    assert inputs_of_quantise("{from: base}") == "base"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ia3": {}, "lora": {}}, "lora and ia3: expected one of them"),
        ({"ia3": {}, "weight_decay": 0.1}, "weight_decay would pull ia3's scales to 0"),
        ({"ia3": {}, "optimizer": "muon"}, "muon does not fit adapters"),
        ({"ia3": {}, "optimizer": "adamw", "adam_learning_rate": 0.1}, "adam_learning_rate is muon's.*remove it"),
    ],
)
def test_options_that_do_not_fit_ia3_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SftOptions.model_validate(options)
    assert settled_options(work(options=SftOptions.model_validate({"ia3": {}}))).learning_rate == 3e-3


def test_a_prefix_has_one_learning_rate() -> None:
    assert PrefixTuningOptions.model_validate({"learning_rate": 0.1}).learning_rate == 0.1
    with pytest.raises(ValidationError, match="adam_learning_rate is muon's; expected learning_rate"):
        PrefixTuningOptions.model_validate({"adam_learning_rate": 0.1})


def test_adapters_are_trained_by_adamw_whatever_an_empty_key_says() -> None:
    assert SftOptions.model_validate({"lora": {}, "optimizer": None}).optimizer == "adamw"
