"""The sampler against transformers: log-probabilities, greedy and seeded replies, weights pushed and proven.

All through the one evaluator process, so through the real actor as well.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.evaluator import EngineSettings, Evaluator
from pipelines.inference import probe
from pipelines.inference.model_config import shape
from pipelines.inference.probe import PushResult
from pipelines.inference.reply import Sampling
from pipelines.inference.sampler import draw
from tests import tiny_models
from tests.tiny_models import CONTEXT, VOCABULARY, Tiny

SETTINGS = EngineSettings(threads=1, max_tokens=CONTEXT, answer_s=120)
GREEDY = Sampling(temperature=0, max_new_tokens=24)


@pytest.fixture
def first(evaluator: Evaluator, tiny: Tiny) -> Evaluator:
    """The evaluator with the first model."""
    evaluator.load(tiny.first, SETTINGS)
    return evaluator


def load(evaluator: Evaluator, folder: Path) -> PushResult:
    """Sampler.load itself: no fresh process when it fails."""
    evaluator._folder = None
    return evaluator._call("load", folder, deadline_s=120)


def gap(evaluator: Evaluator, folder: Path) -> float:
    """Largest difference between the engine and transformers on a model's folder, over rows of several lengths."""
    rows = [
        row[:length] for row, length in zip(tiny_models.rows(6, CONTEXT), (CONTEXT, 2, 33, 64, 65, 95), strict=True)
    ]
    ours, expected = evaluator.logprobs(rows), tiny_models.reference_logprobs(folder, rows)
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, expected, strict=True))


def test_logprobs_equal_transformers(first: Evaluator, tiny: Tiny) -> None:
    assert gap(first, tiny.first) < 1e-4
    assert gap(first, tiny.second) > 1  # the test can fail


def test_logprobs_of_a_single_token_are_empty_and_keep_their_place(first: Evaluator, tiny: Tiny) -> None:
    rows = [[7], [1, 8, 9], [3]]
    logprobs = first.logprobs(rows)
    assert [len(row) for row in logprobs] == [0, 2, 0] and logprobs[1].dtype == np.float32
    assert logprobs[1] == pytest.approx(tiny_models.reference_logprobs(tiny.first, [rows[1]])[0], abs=1e-4)


def test_one_seed_for_all_gives_the_same_replies_again(first: Evaluator) -> None:
    prompts = [row[: 5 + number % 30] for number, row in enumerate(tiny_models.rows(70, 40, seed=6))]
    sampling = Sampling(temperature=1.0, max_new_tokens=20)

    def replies(seed: int) -> list[list[int]]:
        options = {"sampling": sampling, "seeds": seed, "deadline_s": 120}
        return [reply.tokens for reply in first._call("generate", prompts, **options)]

    tokens = replies(5)
    assert tokens == replies(5) != replies(6)
    assert len({tuple(reply[:5]) for reply in tokens}) > 60  # each is drawn independently


def test_a_seed_for_each_of_more_prompts_than_a_forward_pass_holds(first: Evaluator) -> None:
    """vLLM on a CPU dies of a prompt with a seed that is prefilled in chunks."""
    prompts = tiny_models.rows(40, 110, seed=8)
    sampling = Sampling(temperature=1.0, max_new_tokens=4)
    replies = first.generate(prompts, sampling=sampling, seeds=list(range(40)))
    again = first.generate(prompts[3:], sampling=sampling, seeds=list(range(3, 40)))
    assert [reply.tokens for reply in replies[3:]] == [reply.tokens for reply in again]


def test_tokens_are_drawn_with_their_probabilities() -> None:
    """Frequencies of 200,000 draws are within five standard errors of the softmax; an impossible token never comes."""
    logits_V = torch.tensor([0.0, 1.0, 2.5, -1.0, float("-inf"), 0.3])
    torch.manual_seed(0)
    drawn = draw(logits_V.expand(200_000, -1))
    frequencies_V = torch.bincount(drawn, minlength=6) / len(drawn)
    expected_V = logits_V.softmax(0)
    assert ((frequencies_V - expected_V).abs() <= 5 * (expected_V * (1 - expected_V) / len(drawn)).sqrt()).all()
    assert frequencies_V[4] == 0


def push(evaluator: Evaluator, folder: Path, tensors: dict[str, Any], *, prove_now: bool = True) -> PushResult:
    """Sampler.push of these tensors, to be proven with the model of a folder."""
    evaluator._folder = None
    expected = partial(probe.by_transformers, folder)
    return evaluator._call("push", list(tensors.items()), expected, prove_now=prove_now, deadline_s=120)


def test_weights_from_memory_are_proven(first: Evaluator, tiny: Tiny) -> None:
    tensors = load_file(tiny.second / "model.safetensors")
    whole = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    loaded = push(first, tiny.second, whole)
    assert loaded.pushed and loaded.gap_nats is not None and 0 < loaded.gap_nats <= 1e-4
    assert gap(first, tiny.second) < 1e-4
    stale = push(first, tiny.second, {**whole, "model.norm.weight": whole["model.norm.weight"] * 1.01})
    assert not stale.pushed and "nats off" in stale.reason
    forgotten = push(first, tiny.first, load_file(tiny.first / "model.safetensors"))  # without the output matrix
    assert not forgotten.pushed and "nats off" in forgotten.reason


def test_weights_are_proven_by_the_batch_that_follows(first: Evaluator, tiny: Tiny) -> None:
    """The probe's row changes no reply; where the proof fails, this batch and all later ones raise."""
    tensors = load_file(tiny.second / "model.safetensors")
    whole = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    prompts = tiny_models.rows(3, 12, seed=5)
    loaded = push(first, tiny.second, whole, prove_now=False)
    assert loaded.pushed and loaded.gap_nats is None
    for prompt, reply in zip(prompts, first.generate(prompts, sampling=GREEDY), strict=True):
        assert reply.tokens == greedy(tiny.second, prompt, len(reply.tokens))
    assert 0 < first.describe()["gap_nats"] <= 1e-4
    assert push(first, tiny.second, whole, prove_now=False).pushed
    drawn = first.generate(prompts, sampling=Sampling(temperature=0.7, max_new_tokens=24), seeds=3)
    for prompt, reply in zip(
        prompts, drawn, strict=True
    ):  # the probe's row, sampled with other parameters, changes no reply
        logits = tiny_models.reference_logits(tiny.second, [*prompt, *reply.tokens])[len(prompt) - 1 : -1] / 0.7
        logits = logits - logits.max(1, keepdims=True)
        known = logits[np.arange(len(reply.tokens)), reply.tokens] - np.log(np.exp(logits).sum(1))
        assert reply.logprobs == pytest.approx(known, abs=1e-4)
    assert [reply.tokens for reply in drawn] != [greedy(tiny.second, prompt, 24) for prompt in prompts]
    stale = {**whole, "model.layers.0.mlp.down_proj.weight": whole["model.layers.0.mlp.down_proj.weight"] * 1.01}
    for request in (lambda: first.generate(prompts, sampling=GREEDY), lambda: first.logprobs(prompts)):
        assert push(first, tiny.second, stale, prove_now=False).pushed
        for _ in range(2):
            with pytest.raises(probe.NotProven, match=r"nats off; at most 0\.0001"):
                request()
    assert push(first, tiny.second, whole, prove_now=False).pushed
    assert gap(first, tiny.second) < 1e-4


def test_a_probe_that_cannot_be_compared_proves_nothing(first: Evaluator, tiny: Tiny) -> None:
    tensors = load_file(tiny.second / "model.safetensors")
    whole = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    damaged = partial(probe.Probe, [1, 2, 3, 4], [-1.0, -2.0])  # one log-probability is missing
    first._folder = None
    assert first._call("push", list(whole.items()), damaged, prove_now=False, deadline_s=120).pushed
    with pytest.raises(ValueError, match="broadcast"):
        first.logprobs([[1, 2, 3]])
    with pytest.raises(probe.NotProven, match="the proof of the learner did not end"):
        first.logprobs([[1, 2, 3]])
    assert push(first, tiny.second, whole).pushed


def greedy(folder: Path, prompt: list[int], num_tokens: int) -> list[int]:
    """Tokens of transformers' greedy `generate`."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    whole = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=num_tokens,
        eos_token_id=VOCABULARY + 1, pad_token_id=0,
    )  # fmt: skip
    return whole[0, len(prompt) :].tolist()


def test_greedy_replies_equal_transformers(first: Evaluator, tiny: Tiny) -> None:
    prompts = [row[:length] for row, length in zip(tiny_models.rows(3, 130, seed=5), (1, 12, 130), strict=True)]
    for prompt, reply in zip(prompts, first.generate(prompts, sampling=GREEDY), strict=True):
        assert reply.tokens == greedy(tiny.first, prompt, GREEDY.max_new_tokens)
        assert reply.finish == "length"


def test_a_reply_does_not_depend_on_the_rest_of_the_batch(first: Evaluator) -> None:
    prompts = [row[: 5 + number % 30] for number, row in enumerate(tiny_models.rows(70, 40, seed=6))]
    seeds = list(range(1000, 1070))
    sampling = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=20)
    together = first.generate(prompts, sampling=sampling, seeds=seeds)
    for number in (0, 33, 69):
        (alone,) = first.generate([prompts[number]], sampling=sampling, seeds=[seeds[number]])
        assert alone.tokens == together[number].tokens
        assert alone.logprobs == pytest.approx(together[number].logprobs, abs=1e-5)
    again = first.generate([prompts[0]] * 2, sampling=sampling, seeds=[1, 2])
    assert again[0].tokens != again[1].tokens


def test_replies_are_drawn_from_the_models_distribution(first: Evaluator, tiny: Tiny) -> None:
    """Chi-squared over 2,000 seeded draws of one token at temperature 0.7; and the log-probabilities beside them."""
    prompt, temperature, draws = tiny_models.rows(1, 10, seed=8)[0], 0.7, 2000
    logits_V = tiny_models.reference_logits(tiny.first, prompt)[-1].astype(np.float64) / temperature
    p_V = np.exp(logits_V - logits_V.max())
    p_V /= p_V.sum()
    sampling = Sampling(temperature=temperature, max_new_tokens=1)
    replies = first.generate([prompt] * draws, sampling=sampling, seeds=range(draws))
    tokens = [reply.tokens[0] for reply in replies]
    assert [r.logprobs[0] for r in replies] == pytest.approx(np.log(p_V[tokens]), abs=1e-4)
    likely = np.flatnonzero(p_V * draws >= 5)
    expected = np.append(p_V[likely], 1 - p_V[likely].sum()) * draws
    counts = np.bincount(tokens, minlength=VOCABULARY)[likely]
    observed = np.append(counts, draws - counts.sum())
    freedom = len(expected) - 1
    statistic = float(((observed - expected) ** 2 / np.maximum(expected, 1e-9)).sum())
    assert freedom >= 3
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)  # mean and deviation of chi-squared


def test_top_k_of_one_is_greedy(first: Evaluator) -> None:
    prompts = tiny_models.rows(3, 9, seed=9)
    one = first.generate(prompts, sampling=Sampling(temperature=2.0, top_k=1, max_new_tokens=8), seeds=[1, 2, 3])
    greedy = first.generate(prompts, sampling=Sampling(temperature=0, max_new_tokens=8))
    assert [reply.tokens for reply in one] == [reply.tokens for reply in greedy]


def test_a_reply_ends_at_a_stop_token_or_at_the_contexts_end(first: Evaluator) -> None:
    prompt = tiny_models.rows(1, 10, seed=5)[0]
    (whole,) = first.generate([prompt], sampling=GREEDY)
    end = next(i for i in range(3, 24) if whole.tokens[i] not in whole.tokens[:i])
    stop = Sampling(temperature=0, max_new_tokens=24, stop_ids=(whole.tokens[end],))
    (stopped,) = first.generate([prompt], sampling=stop)
    assert stopped.tokens == whole.tokens[: end + 1] and stopped.finish == "stop"
    assert len(stopped.logprobs) == end + 1
    (full,) = first.generate([tiny_models.rows(1, CONTEXT - 3)[0]], sampling=GREEDY)
    assert len(full.tokens) == 3 and full.finish == "length"


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([[1, 2], []], f"row 1: 0 tokens; expected 1 to {CONTEXT}"),
        ([[1] * (CONTEXT + 1)], f"row 0: {CONTEXT + 1} tokens; expected 1 to {CONTEXT}"),
        ([[1, VOCABULARY]], f"row 0: tokens 1 to {VOCABULARY}; expected 0 to {VOCABULARY - 1}"),
    ],
)
def test_rows_the_model_cannot_take_are_refused(first: Evaluator, rows: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        first.logprobs(rows)


def test_sampling_without_seeds_is_refused(first: Evaluator) -> None:
    with pytest.raises(ValueError, match="seeds: missing"):
        first.generate([[1, 2]], sampling=Sampling(temperature=1.0))


def test_weights_are_pushed_exactly_there_and_back(first: Evaluator, tiny: Tiny) -> None:
    """The models' output matrix is tied: a CPU engine's packed copy of it would stay stale if it were not named."""
    for folder in (tiny.second, tiny.first, tiny.second):
        loaded = load(first, folder)
        assert loaded.pushed and loaded.gap_nats is not None and loaded.gap_nats < 1e-4
        assert gap(first, folder) < 1e-4


def test_a_push_empties_the_prefix_cache(first: Evaluator, tiny: Tiny) -> None:
    prompt = tiny_models.rows(1, 140, seed=11)[0]  # over a block of 128 tokens, whose keys and values are kept
    sampling = Sampling(temperature=0, max_new_tokens=8)
    before = first.generate([prompt], sampling=sampling)[0].tokens
    assert load(first, tiny.second).pushed
    after = first.generate([prompt], sampling=sampling)[0].tokens
    assert (before, after) == (greedy(tiny.first, prompt, 8), greedy(tiny.second, prompt, 8))


def test_a_push_that_does_not_match_the_recorded_probe_is_caught(first: Evaluator, tiny: Tiny, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(tiny.second, wrong)
    probe.write(wrong, probe.by_transformers(tiny.first))
    loaded = load(first, wrong)
    assert not loaded.pushed and "nats off; at most 0.0001" in loaded.reason
    with pytest.raises(probe.NotProven, match="weights that are not proven"):
        first.logprobs([[1, 2, 3]])
    assert load(first, tiny.first).pushed
    assert gap(first, tiny.first) < 1e-4


def test_a_push_that_forgets_a_matrix_is_caught(first: Evaluator, tiny: Tiny, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny.second, broken)
    probe.write(broken, probe.by_transformers(tiny.second))
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.self_attn.o_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    loaded = load(first, broken)
    assert not loaded.pushed and "kept its old weights of 1 layers, such as model.layers.1.self_attn.o_proj" in (
        loaded.reason
    )
    assert load(first, tiny.first).pushed


def test_an_engine_that_released_its_memory_needs_weights_before_the_next_call(first: Evaluator, tiny: Tiny) -> None:
    """A CPU keeps them, but goes by the rule of GPUs, where they are gone."""
    prompts = tiny_models.rows(2, 12)
    first._call("release_memory", deadline_s=60)
    for request in (lambda: first.generate(prompts, sampling=GREEDY), lambda: first.logprobs(prompts)):
        with pytest.raises(probe.NotProven, match="released its memory, and none were pushed since"):
            request()
    assert load(first, tiny.second).pushed
    assert gap(first, tiny.second) < 1e-4


def test_another_shape_is_not_pushed_and_changes_nothing(first: Evaluator, tiny: Tiny) -> None:
    assert load(first, tiny.other) == PushResult(False, "another shape")
    assert gap(first, tiny.first) < 1e-4


def test_shape_is_the_config_without_what_changes_no_computation(tiny: Tiny, tmp_path: Path) -> None:
    assert shape(tiny.first) == shape(tiny.second) != shape(tiny.other)
    config = json.loads((tiny.first / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_version": "0", "_name_or_path": "x"}))
    assert shape(tmp_path) == shape(tiny.first)
    (tmp_path / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert shape(tmp_path) != shape(tiny.first)


def test_plain_vectors_are_pushed_too(first: Evaluator, tiny: Tiny, tmp_path: Path) -> None:
    """Norms are copied in place, not loaded as matrices are."""
    folder = tmp_path / "norms"
    shutil.copytree(tiny.first, folder)
    tensors = load_file(folder / "model.safetensors")
    norms = [name for name in tensors if name.endswith("norm.weight")]
    assert len(norms) == 5
    for number, name in enumerate(norms):
        tensors[name] *= 0.6 + 0.1 * number
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / probe.FILE).unlink(missing_ok=True)
    assert gap(first, folder) > 0.1
    assert load(first, folder).pushed and gap(first, folder) < 1e-4
    assert load(first, tiny.first).pushed and gap(first, tiny.first) < 1e-4


def test_a_probe_longer_than_the_rows_is_used_as_far_as_they_go(
    evaluator: Evaluator, tiny: Tiny, tmp_path: Path
) -> None:
    shutil.copytree(tiny.first, tmp_path / "model")
    probe.write(tmp_path / "model", probe.by_transformers(tiny.first))
    short = EngineSettings(threads=1, max_tokens=probe.LENGTH // 2, answer_s=120)
    evaluator.load(tmp_path / "model", short)
    assert len(evaluator.logprobs([[5] * short.max_tokens])[0]) == short.max_tokens - 1
    broken = probe.by_transformers(tiny.second)
    probe.write(tmp_path / "model", broken)  # it is still a proof
    evaluator._folder = None
    assert not evaluator._call("load", tmp_path / "model", deadline_s=120).pushed
