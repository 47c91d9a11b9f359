"""The stage `quantise` with the real llmcompressor and real vLLM engines, on tiny models."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from cluster.session import Session
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.errors import UserError
from pipelines.inference.estimates import Comparison
from pipelines.learning.quantising import Quantiser, weight_bytes
from pipelines.recipe.reader import load
from pipelines.run.plan import plan
from pipelines.stage import Facts, Work
from pipelines.stages import STAGES
from pipelines.stages.quantise import STAGE, Measured, choose, estimation_errors
from pipelines.store.artifacts import Artifact, Draft, Manifest, Store
from pipelines.store.digests import FileDigests
from tests import tiny_models
from tests.stages.single import ProgressNotes
from tests.tiny_models import CONTEXT, Tiny


@dataclass(frozen=True)
class Result:
    facts: Facts
    out: Path
    notes: list[str]


def artifact(folder: Path, kind: str) -> Artifact:
    manifest = Manifest(kind=kind, fingerprint="f", stage=kind, name=kind, stage_version=1, seed=0, options={}, code="")
    return Artifact(folder, manifest, FileDigests(folder.parent / "digests.json"))


def work(folder: Path, session: Session, inputs: dict[str, Path], *, gpus: float = 0, **options: Any) -> Work:
    return Work(
        name="quantise",
        options=STAGE.options.model_validate(options),
        cluster=STAGE.cluster.model_validate({"threads": 1, "gpus": gpus, "answer_s": 200}),
        seed=7,
        inputs={kind: artifact(path, kind) for kind, path in inputs.items()},
        sources={},
        draft=Draft(folder / "draft", "0" * 16),
        progress=ProgressNotes(),
        session=session,
    )


@pytest.fixture(scope="module")
def corpus(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    held_out = {language: texts[:2] for language, texts in tiny.texts.items()}
    return tiny_models.write_corpus(tmp_path_factory.mktemp("inputs") / "corpus", held_out)


@pytest.fixture(scope="module")
def result(tiny: Tiny, corpus: Path, session: Session, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The tied tiny model, quantised and evaluated."""
    folder = tmp_path_factory.mktemp("result")
    stage_work = work(folder, session, {"model": tiny.first, "corpus": corpus}, max_change=1.0)
    return Result(STAGE.run(stage_work), stage_work.draft.out, stage_work.progress.notes)  # pyright: ignore[reportAttributeAccessIssue]


def rounded(values: torch.Tensor) -> torch.Tensor:
    """Rounds each row to symmetric int8 with its largest magnitude as the range; returns floats again."""
    step = values.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127.5
    return (values / step).round().clamp(-128, 127) * step


def fake_quantised(folder: Path) -> Any:
    """The model in float32 with weights rounded by row and activations by token, except in the output embedding."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.weight.data = rounded(module.weight.data)
            module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))
    return model


def bits_per_byte(model: Any, folder: Path, texts: list[str]) -> float:
    """Cross-entropy in bits per UTF-8 byte, in windows of the model's context, by transformers."""
    encoder, nats = Encoder.open(folder), 0.0
    for text in texts:
        ids = encoder.tokenizer.encode(text, add_special_tokens=False).ids
        for first in range(0, len(ids), CONTEXT - 1):
            row = torch.tensor([encoder.bos_id or 0, *ids[first : first + CONTEXT - 1]])
            with torch.no_grad():
                logprobs = model(row[None]).logits[0].double().log_softmax(-1)
            nats -= float(logprobs[:-1].gather(1, row[1:, None]).sum())
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def test_bits_per_byte_of_both_models_match_an_independent_reference(result: Result, tiny: Tiny) -> None:
    """Wrong scales, or an output embedding that is no longer tied, would be off by bits."""
    before: Any = AutoModelForCausalLM.from_pretrained(tiny.first, dtype=torch.float32)
    for language, texts in tiny.texts.items():
        expected = bits_per_byte(before, tiny.first, texts[:2])
        assert result.facts[f"heldout/bits_per_byte_before_{language}"] == pytest.approx(expected, rel=1e-5)
        quantised = bits_per_byte(fake_quantised(tiny.first), tiny.first, texts[:2])
        assert result.facts[f"heldout/bits_per_byte_{language}"] == pytest.approx(quantised, rel=2e-3)
    assert result.facts["heldout/bits_per_byte"] != result.facts["heldout/bits_per_byte_before"]


def test_output_embedding_stays_tied_and_linear_layers_are_int8(result: Result, tiny: Tiny) -> None:
    with safe_open(str(result.out / "model.safetensors"), framework="pt") as weights:
        dtypes = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 (no mapping)
    assert "lm_head.weight" not in dtypes
    matrices = {name: dtype for name, dtype in dtypes.items() if name.endswith("proj.weight")}
    assert len(matrices) == 2 * 7 and set(matrices.values()) == {"I8"}
    assert dtypes["model.embed_tokens.weight"] == "F32"
    assert result.facts["model/bytes_before"] == (tiny.first / "model.safetensors").stat().st_size
    assert result.facts["model/bytes"] == (result.out / "model.safetensors").stat().st_size
    assert int(result.facts["model/bytes"]) < int(result.facts["model/bytes_before"])


def test_artifact_is_a_complete_model_and_records_which_to_serve(result: Result, tiny: Tiny) -> None:
    names = {"choice.json", "config.json", "generation_config.json", "model.safetensors"}
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {file.name for file in result.out.iterdir()} == names | tokenizer
    for name in tokenizer:
        assert (result.out / name).read_bytes() == (tiny.first / name).read_bytes()
    speeds = {
        "quantised": float(result.facts["engine/tokens_per_s"]),
        "original": float(result.facts["engine/tokens_per_s_before"]),
    }
    assert min(speeds.values()) > 0
    faster = max(speeds, key=lambda name: speeds[name])
    assert result.facts["serve/faster"] == result.facts["serve/chosen"] == faster
    assert json.loads((result.out / "choice.json").read_text()) == {
        "serve": faster,
        "requested": "auto",
        "faster": faster,
    }


def test_what_it_took_is_compared_with_the_plan(result: Result) -> None:
    facts = {name: float(result.facts[name]) for name in ("plan/memory_error", "plan/time_error", "memory/rank_bytes")}
    assert -0.5 < facts["plan/memory_error"] < 0.5 and facts["plan/time_error"] > -1
    assert 2**28 < facts["memory/rank_bytes"] < 2**32  # of a process that imports vLLM, with a tiny model


def test_the_plan_is_compared_for_the_process_that_was_largest() -> None:
    quantiser = Comparison(100, 900, 0.0)
    engines = [Measured({}, 1.0, Comparison(*each, 6.0), 10.0) for each in ((400, 500), (300, 700))]
    assert estimation_errors(quantiser, engines) == pytest.approx(
        {"memory/rank_bytes": 400, "plan/memory_error": 0.25, "time/engine_s": 20, "plan/time_error": -0.4}
    )
    lost = Measured({}, 1.0, Comparison(400, 0, 0.0), 10.0)
    assert estimation_errors(quantiser, [lost, engines[1]]) == {"memory/rank_bytes": 400, "time/engine_s": 20}


def test_quantising_is_deterministic(result: Result, tiny: Tiny, tmp_path: Path) -> None:
    Quantiser().quantise(tiny.first, tmp_path, "int8")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (result.out / name).read_bytes()


def test_int4_is_calibrated_and_smaller_than_int8(tiny: Tiny, tmp_path: Path) -> None:
    """int4 weights are within one standard deviation of the model's log-probabilities, int8 within a tenth."""
    model, vocabulary = tmp_path / "model", tiny_models.VOCABULARY
    torch.manual_seed(3)
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=128, intermediate_size=256, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=CONTEXT,
                         tie_word_embeddings=True, initializer_range=0.1)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_bytes((tiny.first / name).read_bytes())
    rows = tiny_models.rows(24, 64)
    with pytest.raises(UserError, match="no rows to calibrate on"):
        Quantiser().quantise(model, tmp_path / "none", "int4")
    Quantiser().quantise(model, tmp_path / "int4", "int4", rows)
    Quantiser().quantise(model, tmp_path / "int8", "int8")
    assert weight_bytes(tmp_path / "int4") < weight_bytes(tmp_path / "int8") < weight_bytes(model)
    test_rows = tiny_models.rows(4, 64, seed=9)
    expected = np.concatenate(tiny_models.reference_logprobs(model, test_rows))
    gaps = {
        name: float(
            np.abs(np.concatenate(tiny_models.reference_logprobs(tmp_path / name, test_rows)) - expected).mean()
        )
        for name in ("int4", "int8")
    }
    assert gaps["int8"] < 0.1 * expected.std() and gaps["int4"] < expected.std()


def test_impossible_options_are_refused_before_ray_starts(result: Result, tiny: Tiny, tmp_path: Path) -> None:
    session = Session()
    with pytest.raises(UserError, match=r"int4 is not run by vLLM on CPUs; expected int8, or a GPU: .*gpus: 1"):
        STAGE.run(work(tmp_path, session, {"model": tiny.first}, scheme="int4"))
    with pytest.raises(UserError, match="int4 is calibrated on text; put a stage corpus before it"):
        STAGE.run(work(tmp_path, session, {"model": tiny.first}, scheme="int4", gpus=1))
    with pytest.raises(UserError, match="is quantised already"):
        STAGE.run(work(tmp_path, session, {"model": result.out}))
    assert not session.started


@pytest.mark.parametrize(
    ("serve", "speed", "bits", "chosen"),
    [
        ("auto", 200.0, 2.01, "quantised"),
        ("auto", 99.0, 2.0, "original"),
        ("auto", 200.0, 2.05, "original"),  # faster, but it grew by more than 1%
        ("quantised", 99.0, 2.05, "quantised"),
        ("original", 200.0, 2.0, "original"),
    ],
)
def test_chosen_model_depends_on_speed_and_bits_per_byte(
    serve: str, speed: float, bits: float, chosen: str, tmp_path: Path
) -> None:
    key = "heldout/bits_per_byte"
    stage_work = work(tmp_path, Session(), {}, serve=serve)
    facts = choose(stage_work, Measured({key: 2.0}, 100.0), Measured({key: bits}, speed))
    assert facts["serve/chosen"] == chosen == json.loads((stage_work.draft.out / "choice.json").read_text())["serve"]
    assert facts["serve/faster"] == ("quantised" if speed > 100 else "original")
    assert facts["heldout/bits_per_byte_change"] == pytest.approx(bits / 2 - 1)


def test_plan_adds_no_evaluation_after_quantise(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "name: q\nsources: {essays: {kind: chinese, language: zh}}\n"
        "stages: {corpus: {}, tokenizer: {}, tokens: {}, pretrain: {}, quantise: {}}\n"
    )
    recipe = load(tmp_path / "recipe.yaml", STAGES, store=str(tmp_path / "store"))
    steps = plan(recipe, Store(recipe.store).create())
    assert [step.name for step in steps][-3:] == ["pretrain", "pretrain/evaluate", "quantise"]
