"""The stage `evaluate` through the real evaluator: figures against transformers, and what missing inputs leave out."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.dialogues import conversations
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.dialogues.verifier import is_acceptable
from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.tokenizing import Encoder
from pipelines.engines import EngineCluster
from pipelines.evaluator import EngineSettings, Evaluator
from pipelines.inference.estimates import Comparison
from pipelines.inference.reply import Sampling
from pipelines.metrics import few_shot
from pipelines.stage import Facts, Work
from pipelines.stages.evaluate import STAGE, EvaluateOptions
from pipelines.store.artifacts import Artifact, Draft, Manifest
from pipelines.store.digests import FileDigests
from tests import tiny_models
from tests.metrics.dialogues import dialogue, material
from tests.tiny_models import CONTEXT, Tiny

OPTIONS = EvaluateOptions.model_validate(
    {"held_out_bytes": 20_000, "samples": 2, "prompt_tokens": 12, "reply_tokens": 10}
)


class RecordedProgress:
    """Progress that a test can read."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: list[tuple[float, float]] = []

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        self.done.append((done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)


def artifact(folder: Path, kind: str, stage: str) -> Artifact:
    manifest = Manifest(
        kind=kind, fingerprint=folder.name, stage=stage, name=stage, stage_version=1, seed=0, options={}, code=""
    )
    return Artifact(folder, manifest, FileDigests(folder.parent / "digests.json"))


def tokens_artifact(folder: Path, tiny: Tiny, tokenizer: Path) -> Path:
    """What the stage `tokens` leaves for evaluations: counts of training tokens by language, and its tokenizer."""
    encoder = Encoder.open(tokenizer)
    counts = {
        language: pa.array(np.bincount(np.concatenate(encoder.encode(texts[2:])), minlength=encoder.vocabulary))
        for language, texts in tiny.texts.items()
    }
    (folder / "tokenizer").mkdir(parents=True)
    pq.write_table(pa.table(counts), folder / "unigram.parquet")
    shutil.copy(tokenizer / "tokenizer.json", folder / "tokenizer")
    return folder


def evaluate(
    evaluator: Evaluator, out: Path, inputs: dict[str, Path], *, previous: str = "sft", **changes: Any
) -> tuple[Facts, Path, RecordedProgress]:
    """Runs the stage as a run would; its facts, its files, its progress. previous: the stage of the previous model."""
    notes = RecordedProgress()
    work = Work(
        name="pretrain",
        options=OPTIONS.model_copy(update=changes),
        cluster=EngineCluster.model_validate({"threads": 1, "answer_s": 120}),
        seed=7,
        inputs={kind: artifact(path, kind, previous) for kind, path in inputs.items()},
        sources={},
        draft=Draft(out, "0" * 16),
        progress=notes,
        session=evaluator._session,
        evaluator=evaluator,
    )
    return STAGE.run(work), work.draft.out, notes


def without_costs(facts: Facts) -> Facts:
    """The facts that the same inputs give again."""
    return {name: value for name, value in facts.items() if name.partition("/")[0] not in ("plan", "memory", "time")}


@pytest.fixture(scope="module")
def inputs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    held_out = {language: texts[:2] for language, texts in tiny.texts.items()}
    corpus = tiny_models.write_corpus(folder / "corpus", held_out)
    return {"model": tiny.first, "corpus": corpus, "tokens": tokens_artifact(folder / "tokens", tiny, tiny.first)}


def test_a_previous_model_of_another_shape_is_compared(
    evaluator: Evaluator, inputs: dict[str, Path], tiny: Tiny, tmp_path: Path
) -> None:
    """First: the engine of test_evaluator.py, which runs before in the same process, still holds the other shape."""
    _, out, _ = evaluate(evaluator, tmp_path, inputs | {"previous": tiny.other})
    assert "reply_before" in json.loads((out / "samples.json").read_text(encoding="utf-8"))[0]


def test_figures_equal_transformers_and_samples_are_written(
    evaluator: Evaluator, inputs: dict[str, Path], tiny: Tiny, tmp_path: Path
) -> None:
    facts, out, notes = evaluate(evaluator, tmp_path, inputs)
    encoder = Encoder.open(tiny.first)
    for language, texts in tiny.texts.items():
        nats, num_bytes = 0.0, 0
        assert sum(len(text.encode()) for text in texts[:2]) <= OPTIONS.held_out_bytes, "documents are read whole"
        for text in texts[:2]:
            ids = encoder.tokenizer.encode(text, add_special_tokens=False).ids
            cut = [[encoder.bos_id or 0, *ids[i : i + CONTEXT - 1]] for i in range(0, len(ids), CONTEXT - 1)]
            nats -= sum(float(logprobs.sum()) for logprobs in tiny_models.reference_logprobs(tiny.first, cut))
            num_bytes += len(text.encode())
        assert facts[f"heldout/bits_per_byte_{language}"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
        uniform = float(facts[f"heldout/bits_per_byte_uniform_{language}"])
        assert 0 < float(facts[f"heldout/bits_per_byte_unigram_{language}"]) < uniform
    assert json.loads((out / "figures.json").read_text()) == without_costs(facts)
    rows = json.loads((out / "samples.json").read_text(encoding="utf-8"))
    assert [row["language"] for row in rows] == ["en", "en", "zh", "zh"]
    for row in rows:
        assert any(text.startswith(row["prompt"]) for text in tiny.texts[row["language"]]) and row["reply"]
    assert notes.done[-1] == (4, 4)
    assert float(facts["plan/time_error"]) > -1 and -0.5 < float(facts["plan/memory_error"]) < 0.5
    process = psutil.Process(evaluator.describe()["pid"]).memory_info().rss
    assert 0.3 * process < float(facts["memory/rank_bytes"]) < 2 * process


def test_an_evaluation_without_requests_has_no_costs(tiny: Tiny, tmp_path: Path) -> None:
    """The engine that an earlier evaluation left is none of its business."""
    idle: Any = SimpleNamespace(
        settings=EngineSettings(1, CONTEXT), count_anew=lambda: None, _session=SimpleNamespace(nodes=list),
        compare=lambda notify: (Comparison(100, 110, 9.0), 10.0),
    )  # fmt: skip
    facts, _, _ = evaluate(idle, tmp_path, {"model": tiny.first})
    assert facts == without_costs(facts)


def test_the_same_inputs_give_the_same_bytes_whatever_the_engine_did_between(
    evaluator: Evaluator, inputs: dict[str, Path], tiny: Tiny, tmp_path: Path
) -> None:
    evaluate(evaluator, tmp_path / "one", inputs)
    evaluate(evaluator, tmp_path / "between", inputs | {"model": tiny.second})
    evaluate(evaluator, tmp_path / "two", inputs)
    for name in ("figures.json", "samples.json"):
        first = (tmp_path / "one" / "out" / name).read_bytes()
        assert first == (tmp_path / "two" / "out" / name).read_bytes()
        assert first != (tmp_path / "between" / "out" / name).read_bytes()


def test_the_previous_model_continues_the_same_prompts_and_the_base_predicts_the_same_text(
    evaluator: Evaluator, inputs: dict[str, Path], tiny: Tiny, tmp_path: Path
) -> None:
    facts_alone, alone, _ = evaluate(evaluator, tmp_path / "alone", inputs | {"model": tiny.second})
    facts, out, notes = evaluate(evaluator, tmp_path / "both", inputs | {"previous": tiny.second, "base": tiny.second})
    assert facts["retention/bits_per_byte_before"] == pytest.approx(facts_alone["heldout/bits_per_byte"])
    assert facts["retention/bits_per_byte"] == facts["heldout/bits_per_byte"]
    assert sum("pushed" in note for note in notes.notes) == 1, "second, then first: both already held that once"
    before = json.loads((alone / "samples.json").read_text(encoding="utf-8"))
    rows = json.loads((out / "samples.json").read_text(encoding="utf-8"))
    assert [row["reply_before"] for row in rows] == [row["reply"] for row in before]
    assert [row["reply_before"] for row in rows] != [row["reply"] for row in rows]


def test_tokens_of_another_tokenizer_give_no_unigram_figure(
    evaluator: Evaluator, inputs: dict[str, Path], tiny: Tiny, tmp_path: Path
) -> None:
    from pipelines.data.tokens import tokenizing

    tokenizing.save(tokenizing.train(tiny.texts["en"], 600), tmp_path / "tokenizer", max_tokens=CONTEXT)
    tokens = tokens_artifact(tmp_path / "tokens", tiny, tmp_path / "tokenizer")
    facts, _, notes = evaluate(evaluator, tmp_path / "draft", inputs | {"tokens": tokens})
    assert "heldout/bits_per_byte_en" in facts and "heldout/bits_per_byte_unigram_en" not in facts
    assert any("another tokenizer" in note for note in notes.notes)


def test_without_a_corpus_the_model_is_not_run_and_there_are_no_figures(
    evaluator: Evaluator, inputs: dict[str, Path], tmp_path: Path
) -> None:
    facts, out, notes = evaluate(evaluator, tmp_path, {"model": inputs["model"]})
    assert facts == {} and json.loads((out / "samples.json").read_text()) == []
    assert any("no held-out text" in note for note in notes.notes)


@pytest.fixture(scope="module")
def dialogues(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conversations artifact. The model `first` is right about one prompt by what transformers says it replies."""
    folder = tmp_path_factory.mktemp("dialogues") / "conversations"
    folder.mkdir()
    held_out = [dialogue(f"{language}{n}", "sums", language, f"{n} + {n} = ?", f"{2 * n}") for n in range(6)
             for language in ("en", "zh")]  # fmt: skip
    known = by_transformers(tiny.first, held_out[3])
    held_out[3] = dataclasses.replace(held_out[3], answer=known)
    held_out += [
        dialogue("u", "refusal", "en", "Break it?", safety="unsafe"),
        dialogue("s", "small_talk", "zh", "你好"),
    ]
    held_out.append(dialogue("long", "open", "en", "word " * CONTEXT))
    conversations.write(folder / conversations.HELD_OUT, held_out)
    shots = [dataclasses.replace(one, id=f"shot {one.id}", answer="12") for one in held_out[:8]]
    conversations.write(folder / conversations.TRAIN, [*shots, *held_out[-3:]])
    return folder


REPLY_TOKENS = 6


@functools.cache
def reference(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def greedy(folder: Path, ids: list[int], stop_ids: tuple[int, ...]) -> list[int]:
    """What transformers takes for the likeliest tokens, one by one."""
    import torch

    model = reference(folder)
    row = list(ids)
    with torch.no_grad():
        while len(row) < len(ids) + REPLY_TOKENS and not (len(row) > len(ids) and row[-1] in stop_ids):
            row.append(int(model(torch.tensor([row])).logits[0, -1].argmax()))
    return row[len(ids) :]


def by_transformers(folder: Path, one: Conversation) -> str:
    chat = Chat.open(folder)
    return chat.text(greedy(folder, chat.prompt(one.prompt), chat.stop_ids))


def test_replies_are_those_of_transformers_and_win_where_the_rule_says(
    evaluator: Evaluator, tiny: Tiny, dialogues: Path, tmp_path: Path
) -> None:
    folders = {"model": tiny.first, "previous": tiny.second, "conversations": dialogues}
    facts, out, notes = evaluate(evaluator, tmp_path, folders, chat_reply_tokens=REPLY_TOKENS, sample_replies=99)
    held_out = [one for one in conversations.read(dialogues / conversations.HELD_OUT) if one.id != "long"]
    rows = {(row["language"], row["prompt"]): row for row in json.loads((out / "samples.json").read_text("utf-8"))}
    assert len(rows) == len(held_out) == 14
    wins = losses = 0
    for one in held_out:
        row = rows[one.language, one.prompt[-1]["content"]]
        reply, earlier = by_transformers(tiny.first, one), by_transformers(tiny.second, one)
        assert (row["reply"], row["reply_before"]) == (reply, earlier) and reply != earlier
        assert (row["right"], row["right_before"]) == (is_acceptable(one, reply), is_acceptable(one, earlier))
        wins, losses = wins + (row["right"] > row["right_before"]), losses + (row["right"] < row["right_before"])
    assert wins > 0 and facts["heldout/win_rate"] == pytest.approx(0.5 + (wins - losses) / 14 / 2)
    assert facts["heldout/win_rate_prompts"] == facts["heldout/prompts"] == 14
    assert facts["heldout/exact_match"] == pytest.approx(1 / 12)  # the one that was made right
    assert facts["heldout/exact_match_sums_zh"] == pytest.approx(1 / 6)
    assert facts["heldout/declined_unsafe"] == 0
    assert 0 < float(facts["heldout/distinct_2"]) <= 1 and "heldout/exact_match_baseline" not in facts
    assert any("1 of 15 held-out conversations are left out: 1 longer than the context" in each for each in notes.notes)
    assert json.loads((out / "figures.json").read_text()) == without_costs(facts)


def test_the_base_model_gets_plain_text_and_stops_at_a_line_end(
    evaluator: Evaluator, tiny: Tiny, dialogues: Path, tmp_path: Path
) -> None:
    held_out = [one for one in conversations.read(dialogues / conversations.HELD_OUT) if one.answer is not None]
    shots = [one for one in conversations.read(dialogues / conversations.TRAIN) if one.answer is not None]
    what = material(tiny, held_out, chat_sampling=Sampling(0.0, max_new_tokens=REPLY_TOKENS), num_shots=2,
                    previous_is_base=True, shots=shots)  # fmt: skip
    requests = few_shot.few_shot_prompts(what)
    assert requests is not None and len(requests.prompts) == 12
    for number, prompt in enumerate(requests.prompts[:5]):  # right about these, by what transformers says it replies
        tokens = greedy(tiny.second, prompt.tokens, requests.sampling.stop_ids)
        line = what.encoder.tokenizer.decode(tokens).split("\n")[0]
        held_out[number] = dataclasses.replace(held_out[number], answer=line)
    folder = tmp_path / "dialogues"
    folder.mkdir()
    conversations.write(folder / conversations.HELD_OUT, held_out)
    shutil.copy(dialogues / conversations.TRAIN, folder)
    inputs = {"model": tiny.first, "previous": tiny.second, "conversations": folder}
    facts, _, _ = evaluate(
        evaluator, tmp_path, inputs, previous="pretrain", chat_reply_tokens=REPLY_TOKENS, shots=2, sample_replies=0
    )
    assert facts["heldout/exact_match_few_shot_en"] == facts["heldout/exact_match_baseline_en"] == 3 / 6
    assert facts["heldout/exact_match_few_shot_zh"] == facts["heldout/exact_match_baseline_zh"] == 2 / 6
    assert facts["heldout/exact_match_commonest"] == 0.0
    assert facts["heldout/exact_match_baseline"] == pytest.approx(5 / 12)
    assert "heldout/win_rate" in facts


def test_a_model_without_a_chat_format_is_evaluated_on_text_alone_with_a_note(
    evaluator: Evaluator, inputs: dict[str, Path], tiny: Tiny, dialogues: Path, tmp_path: Path
) -> None:
    mute = tmp_path / "mute"
    shutil.copytree(tiny.first, mute, ignore=shutil.ignore_patterns("chat_template.jinja"))
    facts, _, notes = evaluate(evaluator, tmp_path / "draft", inputs | {"model": mute, "conversations": dialogues})
    assert "heldout/bits_per_byte" in facts and not any("exact_match" in key for key in facts)
    assert any("no replies are evaluated" in note and "chat_template.jinja" in note for note in notes.notes)
