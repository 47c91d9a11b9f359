"""Every family of models: what is trained is what transformers computes, with adapters too, and what is saved opens."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipelines.errors import UserError
from pipelines.learning import adapters, attention, model
from pipelines.learning.adapters import Ia3, Lora
from pipelines.learning.batch import PackedBatch
from pipelines.learning.losses import IGNORE
from pipelines.learning.model import NextTokenLearner, from_folder, head, last_hidden
from pipelines.learning.saving import save_proven
from tests import families

LENGTHS = [[40, 1, 30, 9], [25, 70]]  # documents of two rows; the rest is padding
ROW = 100


def packed() -> PackedBatch:
    """Two rows of documents, with labels."""
    generator = torch.Generator().manual_seed(1)
    tokens, positions = torch.zeros(2, 2, ROW, dtype=torch.int64)
    labels = torch.full((2, ROW), IGNORE)
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for length in lengths:
            end = start + length
            tokens[row, start:end] = torch.randint(3, families.VOCABULARY, (length,), generator=generator)
            positions[row, start:end] = torch.arange(length)
            labels[row, start : end - 1] = tokens[row, start + 1 : end]
            start = end
    return PackedBatch(tokens, positions, labels)


def documents(batch: PackedBatch) -> list[tuple[int, slice]]:
    """Row and columns of each document."""
    places = []
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for length in lengths:
            places.append((row, slice(start, start + length)))
            start += length
    return places


@pytest.fixture(scope="module", params=families.FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.write(tmp_path_factory.mktemp("family") / "model", request.param)


@pytest.fixture(scope="module")
def opened(folder: Path) -> PreTrainedModel:
    """The family's model as training opens it; to be copied before it is changed."""
    return from_folder(folder)


def reference_loss(theirs: Any, batch: PackedBatch) -> Tensor:
    """Summed cross-entropy by transformers' eager attention, one document at a time."""
    total = torch.zeros(())
    for row, columns in documents(batch):
        logits = theirs(input_ids=batch.tokens_BT[row : row + 1, columns], use_cache=False).logits[0]
        labels = batch.labels_BT[row, columns]
        total = total + torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return total


def test_logits_loss_and_gradient_of_packed_rows_equal_transformers_on_documents_alone(
    folder: Path, opened: PreTrainedModel
) -> None:
    batch, ours = packed(), copy.deepcopy(opened)
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        logits = head(ours).logits(last_hidden(ours, batch.tokens_BT, batch.positions_BT))
        for row, columns in documents(batch):
            expected = theirs(input_ids=batch.tokens_BT[row : row + 1, columns], use_cache=False).logits[0]
            torch.testing.assert_close(logits[row, columns], expected, rtol=1e-4, atol=1e-4)
    loss, expected_loss = NextTokenLearner(ours)(batch), reference_loss(theirs, batch)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    loss.backward()
    expected_loss.backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        difference = (parameter.grad - gradients[name].grad).norm()
        assert difference < 1e-3 * gradients[name].grad.norm() + 1e-6, name


def test_recomputing_changes_no_gradient(opened: PreTrainedModel) -> None:
    batch, (plain, attention_again, all_again) = packed(), (copy.deepcopy(opened) for _ in range(3))
    model.recompute(attention_again, "attention")
    model.recompute(all_again, "full")
    for each in (plain, attention_again, all_again):
        NextTokenLearner(each)(batch).backward()
    for one, *others in zip(*(each.parameters() for each in (plain, attention_again, all_again)), strict=True):
        assert one.grad is not None
        assert all(other.grad is not None and torch.equal(one.grad, other.grad) for other in others)


@pytest.mark.parametrize("adapter", [
    Lora(4, 12.0, 0.0, rslora=True), Lora(4, 12.0, 0.0, dora=True), Ia3()], ids=["rslora", "dora", "ia3"],
)  # fmt: skip
def test_adapters_merge_into_what_was_trained_and_peft_opens_them(
    folder: Path, opened: PreTrainedModel, tmp_path: Path, adapter: adapters.Adapter
) -> None:
    """Saved, pushed tensor by tensor, and opened by PEFT on the base: always the same logits."""
    from peft import PeftModel

    if isinstance(adapter, Lora) and adapter.dora and "num_experts_per_tok" in (folder / "config.json").read_text():
        with pytest.raises(UserError, match=r"lora\.dora: does not fit the experts of a mixture"):
            adapters.attach(copy.deepcopy(opened), adapter, 1)
        return
    adapted = adapters.attach(copy.deepcopy(opened), adapter, 1)
    inner: Any = adapted.get_base_model()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in inner.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        ids = packed().tokens_BT[:1, :40]
        expected = head(inner).logits(last_hidden(inner, ids))
    trained = {name: p.detach().clone() for name, p in inner.named_parameters() if p.requires_grad}
    pushed = dict(
        adapters.merged_weights(
            inner, lambda select: ((n, p.detach()) for n, p in inner.named_parameters() if select(n))
        )
    )
    out = tmp_path / "out"
    adapters.export(adapters.attach(copy.deepcopy(opened), adapter, 1), trained, out, save_proven)
    merged: Any = AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager")
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-3, atol=2e-3)
        for name, weight in merged.named_parameters():
            torch.testing.assert_close(pushed[name], weight, rtol=1e-5, atol=1e-5)
        base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        by_peft = PeftModel.from_pretrained(base, str(out / adapters.FOLDER)).eval()
        torch.testing.assert_close(by_peft(input_ids=ids).logits, expected, rtol=1e-3, atol=2e-3)


def test_a_bfloat16_model_is_read_and_saved_in_bfloat16(tmp_path: Path) -> None:
    folder = families.write(tmp_path / "model", "Qwen2", dtype="bfloat16")
    ours = from_folder(folder, torch.bfloat16)
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    batch = packed()
    rough, exact = NextTokenLearner(ours)(batch), NextTokenLearner(from_folder(folder))(batch)
    assert rough.item() == pytest.approx(exact.item(), rel=1e-2) and rough.item() != exact.item()


def test_a_head_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """Nemotron-H and others multiply, cap or shift their logits in ways of their own."""
    ours = from_folder(families.write(tmp_path / "model", "Gemma 2"))
    ours.config.final_logit_softcapping = 3.9  # as if `head` had read it wrongly
    stub = type("Shifted", (type(ours),), {"forward": shifted})
    ours.__class__ = stub
    with pytest.raises(UserError, match="Shifted changes its logits after the output embedding"):
        model.check_head(ours, tmp_path)


def shifted(self: Any, **kwargs: Any) -> Any:
    out = type(self).__mro__[1].forward(self, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
    out.logits = out.logits + torch.arange(out.logits.shape[-1])
    return out


def test_a_model_whose_layers_mix_documents_is_refused(tmp_path: Path) -> None:
    ours: Any = from_folder(families.write(tmp_path / "model", "Llama, tied"))
    ours.config.num_hidden_layers = 3  # as if one layer had no attention
    with pytest.raises(UserError, match="2 of 3 layers keep packed documents apart"):
        last_hidden(ours, packed().tokens_BT)


def test_runs_of_zeros_are_one_document() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0, 0], [5, 6, 0, 1, 2, 3, 4]])
    assert attention.Documents.of(positions).edges == [0, 3, 5, 7, 8, 10, 14, 16, 21]
