"""The recipe's `base:`, a pretrained model in a folder. Hub ids need a network; here they only fail."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from cluster.session import Session
from pipelines.errors import UserError
from pipelines.run.progress import RunLog
from pipelines.stage import ClusterOptions, Facts, Work
from pipelines.stages.imported import STAGE, BaseOptions, files
from pipelines.store.artifacts import Draft

FILES = {
    "config.json": json.dumps({"architectures": ["LlamaForCausalLM"]}),
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "chat_template.jinja": "{{ messages }}",
    "model-00001-of-00002.safetensors": "12345",
    "model-00002-of-00002.safetensors": "678",
    "model.safetensors.index.json": "{}",
}
IGNORED = {
    "pytorch_model.bin": "pickled",
    "README.md": "about",
    "modeling_own.py": "import os",
    "training_args.bin": "x",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in (FILES | IGNORED).items():
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
    assert {path.name: path.read_text() for path in out.iterdir()} == FILES
    assert facts == {"model/architecture": "LlamaForCausalLM", "model/bytes": 8}


def test_only_copied_files_are_part_of_the_fingerprint(model: Path) -> None:
    assert [path.name for path in files(options(model))] == sorted(FILES)
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
        ([name for name in FILES if name.endswith(".safetensors")],
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
    with pytest.raises(UserError, match="is neither a folder nor a model that the hub can deliver"):
        run(options(name), tmp_path)
