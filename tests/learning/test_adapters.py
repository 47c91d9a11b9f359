"""LoRA, IA3 and prefixes: what learns, at several ZeRO stages, against the same trained by a loop of a few lines."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipelines.errors import UserError
from pipelines.inference import probe
from pipelines.learning import adapters, checkpoint, prefix
from pipelines.learning.adapters import Adapter, Ia3, Lora
from pipelines.learning.batch import DataOrder, PackedRows
from pipelines.learning.engine import OptimizerPlan
from pipelines.learning.lesson import Lesson, next_token
from pipelines.learning.loop import TrainingPlan, train
from pipelines.learning.model import NextTokenLearner, Size, from_scratch
from pipelines.learning.saving import save_proven
from pipelines.learning.schedule import Schedule
from tests.learning.packed import write_tokens
from tests.learning.processes import Killed, PlainWorker, in_processes

SIZE = Size(32, 2, 2, 1, 56)
LORA = Lora(rank=4, alpha=12.0, dropout=0.0)
STEPS, SEED = 6, 5
PREFIX = 3  # keys and values of each layer
ADAMW = OptimizerPlan("adamw", learning_rate=0.02, adam_learning_rate=1.0, weight_decay=0.1, clip_norm=0.3)
SCHEDULE = Schedule("wsd", STEPS, warmup=1, decay=2)
STAGES = (0, 1, 2, 3)


def open_model(dtype: torch.dtype = torch.float32, four_bit: bool = False) -> PreTrainedModel:
    model: Any = from_scratch(SIZE, vocabulary=128, length=32, seed=4)
    return model.to(dtype)


def plan(out: Path, zero_stage: int) -> TrainingPlan:
    out.mkdir(parents=True, exist_ok=True)
    return TrainingPlan(
        out=out, seed=SEED, total_steps=STEPS, batch_rows=8, optimizer=ADAMW, schedule=SCHEDULE, micro_batch_rows=2,
        zero_stage=zero_stage, dtype="float32", hidden_size=32, checkpoint_every_steps=3, log_every_steps=100,
    )  # fmt: skip


def run(folder: Path, name: str, zero_stage: int, *, adapter: Adapter = LORA, die_after: int | None = None) -> None:
    worker = PlainWorker(folder / name / "checkpoints", die_after=die_after)
    rows = PackedRows(folder / "train")
    try:
        train(
            worker,
            plan(folder / name / "out", zero_stage),
            lambda dtype: adapters.lesson(
                lambda model: next_token(model, rows), open_model, save_proven, adapter, seed=SEED, dtype=dtype
            ),
        )
    except Killed:
        return


def two_processes(folder: Path) -> None:
    for stage in STAGES:
        run(folder, f"zero-{stage}", stage)
    run(folder, "again", 1)
    run(folder, "killed", 1, die_after=3)
    run(folder, "killed", 1)
    run(folder, "moved", 3, die_after=3)
    run(folder, "moved", 0)
    run(folder, "dropout", 1, adapter=replace(LORA, dropout=0.5))
    run(folder, "ia3-1", 1, adapter=Ia3())
    run(folder, "ia3-3", 3, adapter=Ia3(), die_after=3)
    run(folder, "ia3-3", 3, adapter=Ia3())
    run_prefix(folder, "prefix-1", 1, projection=None)
    run_prefix(folder, "prefix-3", 3, projection=24, die_after=3)
    run_prefix(folder, "prefix-3", 3, projection=24)


def run_prefix(
    folder: Path, name: str, zero_stage: int, *, projection: int | None, die_after: int | None = None
) -> None:
    rows, held_out = PackedRows(folder / "train"), PackedRows(folder / "held_out")
    worker = PlainWorker(folder / name / "checkpoints", die_after=die_after)

    def lesson(dtype: torch.dtype) -> Lesson:
        return prefix.lesson(
            open_model, rows, held_out, tokens=PREFIX, projection=projection, seed=SEED, dtype=dtype, batch_rows=5
        )

    try:
        facts = train(worker, plan(folder / name / "out", zero_stage), lesson)
    except Killed:
        return
    if worker.rank == 0:
        (folder / name / "facts.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tokens(tmp_path_factory.mktemp("adapters"), num_rows=24, length=32, vocabulary=128)
    in_processes(two_processes, 2, folder)
    return folder


def merged_by_hand(folder: Path, adapter: Adapter) -> dict[str, torch.Tensor]:
    """All weights after the same steps: plain torch, one process, whole batches; the merge written out."""
    adapted = adapters.attach(open_model(), adapter, SEED)
    inner = adapted.get_base_model()
    learner = NextTokenLearner(cast(Any, inner))
    learnt = [p for p in inner.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(learnt, lr=ADAMW.learning_rate, betas=ADAMW.betas, weight_decay=ADAMW.weight_decay)
    rows = PackedRows(folder / "train")
    order = DataOrder(len(rows), 8, SEED)
    for step in range(STEPS):
        batch = rows.read(order.rows_of_step(step))
        adam.zero_grad()
        (learner(batch) / batch.num_labels).backward()
        torch.nn.utils.clip_grad_norm_(learnt, ADAMW.clip_norm)
        adam.param_groups[0]["lr"] = ADAMW.learning_rate * SCHEDULE.lr_factor(step)
        adam.step()
    weights = {name: p.detach() for name, p in inner.named_parameters()}
    merged = {}
    for name, weight in weights.items():
        if ".lora_" in name or ".ia3_" in name:
            continue
        if ".base_layer." in name and isinstance(adapter, Ia3):
            scales = weights[name.replace("base_layer.weight", "ia3_l.default")].flatten()
            weight = weight * scales if "down_proj" in name else torch.diag(scales) @ weight
        elif ".base_layer." in name:
            a, b = (weights[name.replace("base_layer", f"lora_{side}.default")] for side in "AB")
            weight = weight + LORA.alpha / LORA.rank * b @ a
        merged[name.replace(".base_layer", "")] = weight
    return merged


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / name / "out" / "model.safetensors")


@pytest.fixture(scope="module")
def by_hand(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {"lora": merged_by_hand(folder, LORA), "ia3": merged_by_hand(folder, Ia3())}


@pytest.mark.parametrize("name", [*(f"zero-{stage}" for stage in STAGES), "moved", "ia3-1", "ia3-3"])
def test_learns_what_a_plain_loop_learns(folder: Path, by_hand: dict[str, dict[str, torch.Tensor]], name: str) -> None:
    kind = "ia3" if name.startswith("ia3") else "lora"
    ours, start = weights(folder, name), dict(open_model().named_parameters())
    assert ours.keys() == by_hand[kind].keys() == start.keys()
    moved = 0
    for key, weight in by_hand[kind].items():
        distance = (weight - start[key].detach()).norm()
        if distance == 0:
            assert torch.equal(ours[key], start[key].detach())
            continue
        assert (ours[key] - weight).norm() < 1e-3 * distance, key
        moved += 1
    # Every linear layer of both blocks under LoRA; neither embeddings nor norms.
    assert moved == 2 * {"lora": 7, "ia3": 3}[kind]


def edges(positions_T: torch.Tensor) -> list[int]:
    """Where the documents of a row begin, and where the last one ends."""
    return [0, *(place for place in range(1, len(positions_T)) if positions_T[place] == 0), len(positions_T)]


def prefix_losses(folder: Path, name: str) -> list[float]:
    """Summed nats of the documents of the held-out rows, each alone, without the prefix and with it, by PEFT; and the
    number of tokens that are predicted."""
    base: Any = open_model()
    base.set_attn_implementation("eager")
    adapted = PeftModel.from_pretrained(base, str(folder / name / "out")).eval()
    without, behind, num = 0.0, 0.0, 0
    rows = PackedRows(folder / "held_out")
    batch = rows.read(np.arange(len(rows)))
    for tokens, positions in zip(batch.tokens_BT, batch.positions_BT, strict=True):
        for begin, end in pairwise(edges(positions)):
            if end - begin < 2:
                continue
            ids = tokens[None, begin:end]
            with torch.no_grad(), adapted.disable_adapter():
                without += float(adapted(input_ids=ids, labels=ids).loss) * (end - begin - 1)
            with torch.no_grad():
                behind += float(adapted(input_ids=ids, labels=ids).loss) * (end - begin - 1)
            num += end - begin - 1
    assert num == batch.num_labels
    return [without / num, behind / num]


@pytest.mark.parametrize("name", ["prefix-1", "prefix-3"])
def test_the_losses_with_a_prefix_are_those_of_peft(folder: Path, name: str) -> None:
    """The saved adapter, opened by PEFT on its base: packed rows and ZeRO change nothing, and it has learnt."""
    facts = json.loads((folder / name / "facts.json").read_text())
    before, after = prefix_losses(folder, name)
    assert facts["heldout/loss_nats_before"] == pytest.approx(before, abs=1e-5)
    assert facts["heldout/loss_nats"] == pytest.approx(after, abs=1e-5)
    assert after < before
    assert {path.name for path in (folder / name / "out").iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "curve.jsonl"
    }  # fmt: skip


@pytest.mark.parametrize("projection", [None, 24])
def test_a_prefix_learns_what_peft_makes_it_learn(folder: Path, projection: int | None) -> None:
    """The gradient of packed rows is that of PEFT's own forward of each document alone."""
    adapted: Any = adapters.attach_prefix(open_model(), PREFIX, projection, SEED)
    model, encoder = adapted.get_base_model(), adapted.prompt_encoder["default"]
    learner = prefix.PrefixLearner(model, encoder, adapted.active_peft_config)
    rows = PackedRows(folder / "train")
    batch = rows.read(np.arange(3))
    learner(batch).backward()
    gradients = {name: p.grad.clone() for name, p in learner.encoder.named_parameters() if p.grad is not None}
    assert len(gradients) == (1 if projection is None else 5)
    adapted.zero_grad()
    model.set_attn_implementation("eager")
    for tokens, positions, labels in zip(batch.tokens_BT, batch.positions_BT, batch.labels_BT, strict=True):
        for begin, end in pairwise(edges(positions)):
            logits = adapted(input_ids=tokens[None, begin:end]).logits[0]
            torch.nn.functional.cross_entropy(logits, labels[begin:end], reduction="sum").backward()
    for name, parameter in learner.encoder.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_two_runs_and_a_killed_one_leave_the_same_bytes(folder: Path) -> None:
    def files(name: str) -> dict[str, bytes]:
        out = folder / name / "out"
        return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}

    assert files("zero-1") == files("again") == files("killed")
    assert set(files("zero-1")) == {
        "model.safetensors", "config.json", "generation_config.json", "probe.json", "curve.jsonl",
        "adapter/adapter_model.safetensors", "adapter/adapter_config.json",
    }  # fmt: skip
    assert b"/tmp" not in files("zero-1")["adapter/adapter_config.json"]


def test_dropout_is_used(folder: Path) -> None:
    ours, without = weights(folder, "dropout"), weights(folder, "zero-1")
    assert any(not torch.equal(ours[name], without[name]) for name in ours)


def test_checkpoints_hold_adapters_only(folder: Path) -> None:
    (newest,) = sorted((folder / "zero-2" / "checkpoints").glob("*/complete"))[-1:]
    tensors, _ = checkpoint.read(newest.parent)
    assert len(tensors) == 3 * 2 * 14  # weight and two moments, of A and B, of 14 layers
    assert all(".lora_" in name for name in tensors)


def test_the_adapter_on_its_base_is_the_merged_model(folder: Path) -> None:
    out = folder / "zero-3" / "out"
    adapted = PeftModel.from_pretrained(open_model(), str(out / "adapter")).eval()
    merged = AutoModelForCausalLM.from_pretrained(out)
    ids = torch.tensor([probe.tokens(128, 32)])
    with torch.no_grad():
        torch.testing.assert_close(adapted(input_ids=ids).logits, merged(input_ids=ids).logits, rtol=0, atol=1e-4)
    recorded = probe.read(out)
    assert recorded is not None
    logits = merged(input_ids=ids).logits[0].detach().numpy()
    assert recorded.logprobs == pytest.approx(probe.from_logits(recorded.tokens, logits).logprobs, abs=1e-6)


@pytest.mark.parametrize("lora", [LORA, replace(LORA, dora=True), replace(LORA, rslora=True)], ids=str)
def test_a_merge_that_changes_the_model_is_refused(lora: Lora) -> None:
    model: Any = adapters.attach(open_model(), lora, SEED).get_base_model()
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter)

    def live(select: Any) -> Any:
        return ((name, parameter.detach()) for name, parameter in model.named_parameters() if select(name))

    merged = dict(adapters.merged_weights(model, live, check=True))
    layer, weight = model.model.layers[0].self_attn.q_proj, merged["model.layers.0.self_attn.q_proj.weight"]
    adapters.check_merge("q_proj", layer, weight)
    for wrong in (weight + 1e-2, weight * torch.nan, layer.get_base_layer().weight):
        with pytest.raises(UserError, match="merging the adapter of q_proj changes its output by"):
            adapters.check_merge("q_proj", layer, wrong)


def test_targets_are_layers() -> None:
    adapted = adapters.attach(open_model(), replace(LORA, targets=("q_proj", "v_proj")), 1)
    learnt = {name for name, p in adapted.get_base_model().named_parameters() if p.requires_grad}
    assert len(learnt) == 2 * 2 * 2 and all("q_proj" in name or "v_proj" in name for name in learnt)
    with pytest.raises(UserError, match=r"lora.targets: q_prjo: .*layers here: down_proj, gate_proj, k_proj"):
        adapters.attach(open_model(), replace(LORA, targets=("q_prjo",)), 1)
    with pytest.raises(
        UserError, match=r"ia3.targets: q_prjo: no such layer; layers here: down_proj, gate_proj, k_proj"
    ):
        adapters.attach(open_model(), Ia3(("k_proj", "q_prjo")), 1)
    with pytest.raises(UserError, match=r"lora.targets: embed_tokens: no such layer"):
        adapters.attach(open_model(), replace(LORA, targets=("embed_tokens",)), 1)


def test_adapters_change_nothing_at_first_and_are_the_seeds() -> None:
    plain, adapted = open_model(), adapters.attach(open_model(), LORA, 1).eval()
    ids = torch.tensor([np.arange(20).tolist()])
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, adapted(input_ids=ids).logits)
    again, other = (adapters.attach(open_model(), LORA, seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(w, again[name]) for name, w in adapted.state_dict().items())
    assert any(not torch.equal(w, other[name]) for name, w in adapted.state_dict().items())


@pytest.mark.parametrize("bias", [False, True])
def test_fused_layers_give_pefts_outputs_and_gradients(bias: bool) -> None:
    """In float64, where only rounding could differ; with the adapter, and with it disabled."""

    def outputs_and_gradients(fuse: bool) -> list[Any]:
        model = open_model().double()
        for layer in model.modules():
            if bias and isinstance(layer, torch.nn.Linear):
                layer.bias = torch.nn.Parameter(torch.linspace(-1, 1, layer.out_features, dtype=torch.float64))
        adapted = adapters.attach(model, LORA, SEED)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if fuse:
            adapters.fused(adapted)
        inputs_BTH = torch.randn(2, 5, 32, generator=generator, dtype=torch.float64, requires_grad=True)
        layers = [layer for layer in adapted.modules() if isinstance(layer, LoraLayer)][:3]
        assert len({type(layer.forward) for layer in layers}) == 1
        outputs = [layer(inputs_BTH) for layer in layers]
        torch.stack([output.square().sum() for output in outputs]).sum().backward()
        learnt = [p.grad for layer in layers for p in layer.parameters() if p.requires_grad]
        with adapted.disable_adapter():
            outputs += [layer(inputs_BTH) for layer in layers]
        return [*outputs, inputs_BTH.grad, *learnt]

    results, expected = outputs_and_gradients(True), outputs_and_gradients(False)
    assert len(results) == 6 + 1 + 6
    for result, other in zip(results, expected, strict=True):
        torch.testing.assert_close(result, other, rtol=1e-12, atol=1e-12)


def test_layers_that_are_no_plain_lora_stay_pefts() -> None:
    for adapter in (replace(LORA, dropout=0.1), replace(LORA, dora=True), Ia3()):
        adapted = adapters.fused(adapters.attach(open_model(), adapter, SEED))
        assert not any(hasattr(layer.forward, "func") for layer in adapted.modules())
