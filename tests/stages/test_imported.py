"""The recipe's `base:`, a pretrained model in a folder. Hub ids need a network; here they only fail."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cluster.session import Session
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.errors import UserError
from pipelines.learning.quantising import Quantiser
from pipelines.run.progress import RunLog
from pipelines.stage import ClusterOptions, Facts, Work
from pipelines.stages.imported import STAGE, BaseOptions, files
from pipelines.store.artifacts import Draft
from pipelines.training import check_trainable, copy_tokenizer
from tests.stages import gguf_files
from tests.tiny_models import Tiny

FILES = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
}  # fmt: skip
IGNORED = {
    "pytorch_model.bin": "pickled",
    "README.md": "about",
    "modeling_own.py": "import os",
    "training_args.bin": "x",
}


@pytest.fixture
def model(tiny: Tiny, tmp_path: Path) -> Path:
    """A model in two files, beside files that are not to be read."""
    folder = tmp_path / "model"
    shutil.copytree(tiny.other, folder)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny.other).save_pretrained(folder, max_shard_size="180KB")
    for name, text in IGNORED.items():
        (folder / name).write_text(text)
    return folder


def options(model: str | Path) -> BaseOptions:
    return BaseOptions.model_validate({"model": str(model)})


def run(options: BaseOptions, folder: Path) -> tuple[Path, Facts]:
    draft = Draft(folder / "draft", "f")
    work = Work(name="base", options=options, cluster=ClusterOptions(), seed=0, inputs={}, sources={}, draft=draft,
                progress=RunLog(io.StringIO()), session=Session())  # fmt: skip
    return draft.out, STAGE.run(work)


def test_weights_tokenizer_and_template_are_copied_but_not_code_or_pickles(model: Path, tmp_path: Path) -> None:
    out, facts = run(options(model), tmp_path)
    assert {path.name for path in out.iterdir()} == FILES
    assert all((out / name).read_bytes() == (model / name).read_bytes() for name in FILES)
    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    assert facts == {"model/architecture": "LlamaForCausalLM", "model/dtype": "float32", "model/bytes": size}


def test_only_copied_files_are_part_of_the_fingerprint(model: Path) -> None:
    assert {path.name for path in files(options(model))} == FILES
    assert options(model).identity() == {"folder": True}  # the path does not count: the files' bytes are digested


def test_fingerprint_of_a_hub_model_is_its_id_and_revision() -> None:
    hub_model = BaseOptions.model_validate({"model": "no-such-owner/no-such-model", "revision": "abc"})
    assert files(hub_model) == []
    assert hub_model.identity() == {"model": "no-such-owner/no-such-model", "revision": "abc"}


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["config.json"], "has no config.json; expected a Hugging Face folder"),
        (["tokenizer.json"], "has no tokenizer.json; expected"),
        (sorted(name for name in FILES if name.endswith(".safetensors")),
         r"has no \*.safetensors \(pickled weights are not read\); expected"),
    ],
)  # fmt: skip
def test_folder_without_a_required_file_is_refused(
    model: Path, tmp_path: Path, missing: list[str], message: str
) -> None:
    for name in missing:
        (model / name).unlink()
    with pytest.raises(UserError, match=f"base.model: {model}: {message}"):
        run(options(model), tmp_path)


@pytest.mark.parametrize("name", ["no such folder", "../nowhere", "a/b/c"])
def test_name_that_is_neither_a_folder_nor_on_the_hub_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is neither a folder, a GGUF file nor a model that the hub can deliver"):
        run(options(name), tmp_path)


def cut_off(model: Path) -> None:
    file = model / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def lose_a_file(model: Path) -> None:
    (model / "model-00002-of-00002.safetensors").unlink()


def spoil_a_weight(model: Path) -> None:
    file = model / "model-00001-of-00002.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[3] = torch.nan
    save_file(tensors, file, {"format": "pt"})


def bring_code(model: Path) -> None:
    change_config(model, model_type="own", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})


def become_gpt2(model: Path) -> None:
    change_config(model, model_type="gpt2", architectures=["GPT2LMHeadModel"])


def take_another_tokenizer(model: Path) -> None:
    change_config(model, vocab_size=100)


def change_config(model: Path, **changes: object) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut_off, r"model-00002-of-00002.safetensors is damaged or cut off .*fetch the model again"),
        (lose_a_file, r"model.safetensors.index.json says that model-00002-of-00002.safetensors holds .* not there"),
        (spoil_a_weight, r"model-00001-of-00002.safetensors: 1 of .* weights of .* are no finite numbers"),
        (bring_code, r"model_type 'own' is not known to transformers .*code of its own, which is not run"),
        (become_gpt2, r"GPT2LMHeadModel stores its matrices transposed .*choose one with linear layers"),
        (take_another_tokenizer, r"its tokenizer has \d+ tokens, config.json a vocab_size of 100; expected"),
    ],
)
def test_a_model_of_no_use_is_refused(model: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(model)
    with pytest.raises(UserError, match=message):
        run(options(model), tmp_path)


def test_a_quantised_model_is_imported_to_be_served_but_a_stage_that_trains_refuses_it(
    tiny: Tiny, tmp_path: Path
) -> None:
    """The trial's test serves one that was imported."""
    Quantiser().quantise(tiny.first, tmp_path / "int8", "int8")
    copy_tokenizer(tiny.first, tmp_path / "int8")
    out, facts = run(options(tmp_path / "int8"), tmp_path)
    assert facts["model/quantisation"] == "compressed-tensors"
    model: Any = SimpleNamespace(local=lambda: out, manifest=SimpleNamespace(name="base"))
    with pytest.raises(UserError, match=r"sft: the weights of its model \(base\) are quantised \(compressed-tensors\)"):
        check_trainable(cast(Any, SimpleNamespace(name="sft", inputs={"model": model})))
    model = SimpleNamespace(local=lambda: tiny.first, manifest=model.manifest)
    check_trainable(cast(Any, SimpleNamespace(name="sft", inputs={"model": model})))


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF but not really")
    assert files(options(file)) == [file] and options(file).identity() == {"gguf": True}
    with pytest.raises(UserError, match=r"model.gguf: cannot be read as GGUF"):
        run(options(file), tmp_path)


def test_a_gguf_file_becomes_a_bfloat16_folder_with_its_tokenizer(tmp_path: Path) -> None:
    """Written by hand with the gguf package: a Qwen2 whose matrices are quantised to 8 bits."""
    expected = gguf_files.write(tmp_path / "tiny.gguf")
    out, facts = run(options(tmp_path / "tiny.gguf"), tmp_path)
    assert facts["model/dtype"] == "bfloat16" and facts["model/architecture"] == "Qwen2ForCausalLM"
    weights = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).state_dict()
    for name, tensor in expected.items():
        assert (weights[name] - tensor).norm() < 0.01 * tensor.norm(), name
    assert Encoder.open(out).tokenizer.encode("abc", add_special_tokens=False).tokens == ["ab", "c"]
