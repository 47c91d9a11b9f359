"""The real lm-evaluation-harness scores a served model as it scores the same folder through transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import KEY, Served

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
QUESTIONS = (
    ("The JSON module exposes", [" an API", " a boat", " tea"]),
    ("Return a random", [" element", " string of text", " 数字"]),
    ("春天来了，", ["花开了。", "下雪了。", "the end"]),
    ("Threads are", [" started", " 结束", " made of cotton"]),
    ("今天的天气", ["很好。", " is nice", "不好，下雨。"]),
)


def scores(folder: Path, model: str, arguments: str) -> tuple[dict[str, float], list[list[float]]]:
    """lm-eval's metrics, and the log-likelihoods of each question's choices."""
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments, "--tasks", "tiny_choice",
        "--include_path", str(folder), "--output_path", str(folder / model), "--log_samples", "--device", "cpu",
        "--batch_size", "16",
    ]  # fmt: skip
    environment = os.environ | {"OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment |= {"HF_HOME": str(folder / "cache")}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    (results,) = (folder / model).rglob("results_*.json")
    (samples,) = (folder / model).rglob("samples_*.jsonl")
    metrics = json.loads(results.read_text())["results"]["tiny_choice"]
    rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
    likelihoods = [[float(reply[0][0]) for reply in row["resps"]] for row in rows]
    return {name: metrics[name] for name in ("acc,none", "acc_norm,none")}, likelihoods


@pytest.mark.slow
def test_lm_eval_scores_the_server_as_transformers_does(served: Served, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    rows = [{"question": text, "choices": choices, "answer": 0} for text, choices in QUESTIONS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(TASK.replace("FILE", str(tmp_path / "rows.jsonl")))
    folder = served.settings.model
    by_transformers, expected = scores(tmp_path, "hf", f"pretrained={folder},dtype=float32")
    url = f"{served.server.url}/v1/completions"
    by_server, likelihoods = scores(
        tmp_path, "local-completions",
        f"base_url={url},model={served.settings.name},tokenizer={folder},tokenizer_backend=huggingface,max_length=160,"
        "add_bos_token=True",  # as its `hf` has it by default: what the tokenizer itself puts before a text
    )  # fmt: skip
    assert by_server == by_transformers
    assert [len(row) for row in likelihoods] == [3] * len(QUESTIONS)
    for row, reference in zip(likelihoods, expected, strict=True):
        assert row == pytest.approx(reference, abs=0.02)
    assert len({round(value, 1) for row in expected for value in row}) > 10  # they differ, and could be mixed up
