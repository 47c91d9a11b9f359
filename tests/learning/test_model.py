"""Models: the table of sizes, seeds, folders."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pipelines.errors import UserError
from pipelines.inference.hardware import (
    busy_operation_s,
    copy_bytes_per_s,
    operation_s,
    peak_flops_per_s,
    read_bytes_per_s,
)
from pipelines.learning import throughput
from pipelines.learning.batch import PackedRows
from pipelines.learning.model import (
    NextTokenLearner,
    Size,
    from_folder,
    from_scratch,
    hidden_matrices,
    num_parameters,
    shape_of,
)
from pipelines.learning.saving import save
from pipelines.learning.shapes import SIZES
from pipelines.learning.throughput import Elapsed, Meter, TrainingFlops, training_flops
from pipelines.stages import pretrain
from tests.learning.packed import write_tokens

TINY = Size(32, 2, 2, 1, 64)
SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def flops_of(model: PreTrainedModel) -> TrainingFlops:
    return training_flops(shape_of(model), 64)


def test_the_stage_offers_the_sizes_there_are() -> None:
    assert list(get_args(pretrain.Size)) == list(SIZES)


@pytest.mark.parametrize(("name", "millions"), [("2m", 2.1), ("6m", 5.9), ("14m", 14.0), ("36m", 36.2)])
def test_sizes_have_the_parameters_of_their_names(name: str, millions: float) -> None:
    model = from_scratch(SIZES[name], vocabulary=4096, length=256, seed=0)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_the_same_seed_gives_the_same_bits() -> None:
    first, again, other = (from_scratch(TINY, vocabulary=60, length=64, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_a_new_model_predicts_a_uniform_distribution(tmp_path: Path) -> None:
    rows = PackedRows(write_tokens(tmp_path, num_rows=8, vocabulary=60) / "train")
    batch = rows.read(np.arange(8))
    loss = NextTokenLearner(from_scratch(TINY, vocabulary=60, length=64, seed=1))(batch).item() / batch.num_labels
    assert loss == pytest.approx(np.log(60), abs=0.05)


def test_hidden_matrices_are_those_of_the_layers() -> None:
    model = from_scratch(TINY, vocabulary=60, length=64, seed=1)
    named = {id(p): name for name, p in model.named_parameters()}
    names = [named[id(p)] for p in hidden_matrices(model)]
    assert len(names) == 2 * 7
    assert all("layers" in name for name in names)


def test_a_saved_model_opens_with_the_same_weights(tmp_path: Path) -> None:
    model = from_scratch(TINY, vocabulary=60, length=64, seed=1, special={"eos_token_id": 2, "bos_token_id": 1})
    save(model, model.named_parameters(), tmp_path)
    again = from_folder(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert again.generation_config is not None
    assert again.generation_config.eos_token_id == 2


@pytest.mark.parametrize("architecture", [(Qwen2Config, Qwen2ForCausalLM), (LlamaConfig, LlamaForCausalLM)])
def test_other_architectures_are_read(
    architecture: tuple[type[PretrainedConfig], type[PreTrainedModel]], tmp_path: Path
) -> None:
    config, model_class = architecture
    model_class(config(**SMALL)).save_pretrained(tmp_path)
    rows = PackedRows(write_tokens(tmp_path, num_rows=4, vocabulary=60) / "train")
    batch = rows.read(np.arange(4))
    model = from_folder(tmp_path)
    segments = (batch.positions_BT == 0).cumsum(1)
    same = segments[:, None, :, None] == segments[:, None, None, :]
    dense = model_class.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="sdpa")
    logits = dense(
        input_ids=batch.tokens_BT,
        position_ids=batch.positions_BT,
        attention_mask=same & torch.ones(64, 64, dtype=torch.bool).tril(),
    ).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels_BT.flatten(), reduction="sum")
    torch.testing.assert_close(NextTokenLearner(model)(batch), expected, rtol=1e-5, atol=0)


def test_a_folder_without_a_model_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a language model"):
        from_folder(tmp_path)


def test_operations_per_token_by_hand() -> None:
    model = from_scratch(TINY, vocabulary=60, length=64, seed=1)
    number, embedding = num_parameters(model), 60 * 32
    # 12 × 2 layers × 2 heads × 16 columns × 64 tokens = 49,152
    assert flops_of(model) == TrainingFlops(6 * (number - embedding) + 49_152, 6 * embedding)
    untied = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=False))
    number, embedding = num_parameters(untied), SMALL["vocab_size"] * SMALL["hidden_size"]
    attention = 12 * SMALL["num_hidden_layers"] * SMALL["hidden_size"] * 64
    assert flops_of(untied) == TrainingFlops(6 * (number - 2 * embedding) + attention, 6 * embedding)
    untied.requires_grad_(False)
    assert flops_of(untied) == TrainingFlops(4 * (number - 2 * embedding) + attention, 4 * embedding)
    assert TrainingFlops(10.0, 3.0).total(5, 2) == 56


def test_a_model_that_scores_has_no_output_embedding_to_apply() -> None:
    config = LlamaConfig(**SMALL)
    config.num_labels = 1
    scorer = LlamaForSequenceClassification(config)
    flops = flops_of(scorer)
    assert flops.per_predicted_token == 0
    attention = 12 * SMALL["num_hidden_layers"] * SMALL["hidden_size"] * 64
    assert flops.per_token == 6 * (num_parameters(scorer) - SMALL["vocab_size"] * SMALL["hidden_size"]) + attention


def test_the_meter_counts_each_steps_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])
    meter = Meter(tokens_per_step=10, flops=TrainingFlops(8.0, 4.0), peak_flops_per_s=100.0, _step_end=100.0)
    steps = []
    for predicted in (0, 5):
        clock[0] += 2.0
        steps.append(meter.step_done(predicted))
    assert steps == [Elapsed(1, 2.0, 80.0), Elapsed(1, 2.0, 100.0)]
    assert meter.recent() == {"train/tokens_per_s": 5.0, "train/mfu": 0.45}
    clock[0] += 1.0
    meter.step_done(5)
    assert meter.recent() == {"train/tokens_per_s": 10.0, "train/mfu": 1.0}


def test_what_is_measured_is_a_cpus() -> None:
    assert 1e9 < peak_flops_per_s("cpu", torch.float32, seconds=1.0) < 1e13  # long, for a machine with other work
    assert 1e8 < copy_bytes_per_s("cpu") < 1e12
    with torch.inference_mode():  # as in an engine
        assert 1e-7 < operation_s() < 1e-2
        assert 1e-7 < busy_operation_s() < 1e-2
    assert 1e8 < read_bytes_per_s(tries=2) < 1e12


def test_a_large_model_is_written_in_files_with_an_index_as_transformers_does(tmp_path: Path) -> None:
    """The weights pass one after another, so that no more than a file's are in memory."""
    model = from_scratch(SIZES["micro"], vocabulary=512, length=32, seed=1)
    (tmp_path / "ours").mkdir()
    save(model, ((name, weight) for name, weight in model.named_parameters()), tmp_path / "ours", file_bytes=100_000)
    model.save_pretrained(tmp_path / "theirs", max_shard_size=100_000)
    index = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "ours").glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == files and len(files) > 1
    theirs = json.loads((tmp_path / "theirs" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == theirs["weight_map"].keys()
    assert index["metadata"]["total_size"] == theirs["metadata"]["total_size"]
    again = from_folder(tmp_path / "ours").state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in model.state_dict().items())
    configs = [json.loads((tmp_path / side / "config.json").read_text()) for side in ("ours", "theirs")]
    assert configs[0] == configs[1]
