"""The stage `ppo`: what it refuses, a whole run of two actors, and runs whose actors or driver are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
import pytest
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cluster.errors import ClusterError
from cluster.gang import Gang, PendingCall
from cluster.session import Session
from pipelines.data.dialogues import conversations
from pipelines.errors import UserError
from pipelines.inference import probe
from pipelines.stage import Facts
from pipelines.stages import ppo
from pipelines.stages.ppo import learners
from pipelines.stages.ppo.journal import Journal, Steps
from pipelines.stages.ppo.learners import Learners, PhaseClock
from pipelines.stages.ppo.task import Task
from tests import tiny_models
from tests.data.tokens.test_chat_templates import TIDE_TOOL, WITH_TOOLS
from tests.learning.test_actor_critic import reward_model
from tests.runs import contents
from tests.stages.ppo_work import work, write_conversations
from tests.stages.working import RecordedProgress
from tests.tiny_models import Tiny

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def inputs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    judge = reward_model(folder / "judge")
    shutil.copy(tiny.first / "tokenizer.json", judge)
    return {"model": tiny.first, "reward_model": judge, "conversations": write_conversations(folder / "data")}


@pytest.fixture(scope="module")
def whole(inputs: dict[str, Path], session: Session, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Facts]:
    """An undisturbed run and its facts."""
    job = work(tmp_path_factory.mktemp("whole") / "draft", session, inputs, {})
    return job, ppo.run(job)


def test_leaves_a_model_that_learnt_and_the_curve_of_the_run(whole: tuple[Any, Facts], tiny: Tiny) -> None:
    out = whole[0].draft.out
    names = {"model.safetensors", "config.json", "generation_config.json", "curve.jsonl", "probe.json"}
    assert {path.name for path in out.iterdir()} == names | {
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
    }  # fmt: skip
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny.first, out))
    assert before.keys() == after.keys() and all(not before[name].equal(after[name]) for name in before)
    recorded = probe.read(out)
    assert recorded is not None
    assert probe.gap_nats(recorded, tiny_models.reference_logprobs(out, [recorded.tokens])[0]) < 1e-4
    assert AutoModelForCausalLM.from_pretrained(out).config.tie_word_embeddings
    points = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert [point["ppo/iteration"] for point in points] == [1, 2, 3]
    assert points[0]["rollout/kl_nats"] == pytest.approx(0, abs=1e-3)  # the first replies are the reference's
    assert points[2]["rollout/kl_nats"] != pytest.approx(0, abs=1e-3)
    assert points[0]["kl/coefficient"] != points[1]["kl/coefficient"]
    assert {"reward/reward_model", "reward/exact_match"} <= points[0].keys()


def test_shows_progress_and_notes_and_returns_facts(whole: tuple[Any, Facts]) -> None:
    job, facts = whole
    assert isinstance(job.progress, RecordedProgress)
    assert [update[:3] for update in job.progress.updates] == [(done, 3, "iterations") for done in (1, 2, 3)]
    assert job.progress.updates[0][3].keys() == {"reward", "kl", "tokens", "entropy"}
    assert [note.partition(":")[0] for note in job.progress.notes] == [
        "1 held-out prompts left out", "1 prompts left out"
    ]  # fmt: skip
    assert facts["prompts/train"] == 12 and facts["prompts/left_out"] == facts["heldout/prompts_left_out"] == 1
    assert 0 < float(facts["publish/logprob_gap"]) <= 1e-4
    for name in ("generate_s", "learn_s", "publish_s", "other_s"):
        assert float(facts[f"iteration/{name}"]) > 0
    names = {"rollout/tokens_per_s", "heldout/kl_nats", "reward/first", "reward/last", "plan/time_error"}
    assert names <= facts.keys() and all(isinstance(facts[name], float) for name in names)
    process = 1.5 * 2**30  # of torch and vLLM, beside which these models are nothing
    assert (
        0.3 * process < float(facts["memory/rank_bytes"]) < 2 * process and -0.7 < float(facts["plan/memory_error"]) < 1
    )


@pytest.mark.parametrize(
    ("cluster", "options"),
    [
        ({}, {"critic_body": "learnt", "normalise_rewards": True, "prompts_per_iteration": 1, "replies_per_prompt": 1,
              "minibatches": 1, "held_out_prompts": 0}),
        # One rank has a row less, but as many micro-batches; in steps of one reply one has none. One held-out prompt: a
        # rank has none of those either, and proves its last weights all the same.
        ({"zero_stage": 3, "micro_batch_rows": 1}, {"critic": "policy", "prompts_per_iteration": 1, "minibatches": 3,
                                                    "replies_per_prompt": 3, "held_out_prompts": 1}),
        ({"workers": 1, "dtype": "bfloat16"}, {"rewards": {"exact_match": 1.0}, "held_out_prompts": 0}),
    ],
    ids=["a second model, one reply for two ranks", "a head on the reference, one reply a step", "a head in bfloat16"],
)  # fmt: skip
def test_critics(
    inputs: dict[str, Path], session: Session, tmp_path: Path, cluster: dict[str, Any], options: dict[str, Any]
) -> None:
    job = work(tmp_path / "draft", session, inputs, cluster, iterations=2, **options)
    facts = ppo.run(job)
    exact = cluster.get("dtype") != "bfloat16"
    assert 0 < float(facts["publish/logprob_gap"]) <= (1e-4 if exact else 0.5)
    assert ("heldout/kl_nats" in facts) == (job.options.held_out_prompts > 0)
    points = [json.loads(line) for line in (job.draft.out / "curve.jsonl").read_text().splitlines()]
    assert len(points) == 2 and all(point["train/policy_gradient_norm"] > 0 for point in points)
    assert all(point["train/critic_gradient_norm"] > 0 and point["train/value_loss"] > 0 for point in points)
    journal = json.loads(next(job.draft.folder("iterations").glob("step-*/complete.json")).read_text())
    assert journal["iterations"] == 2
    num_rewards = 2 * job.options.replies_per_iteration if job.options.normalise_rewards else 0
    assert journal["reward_moments"][0] == num_rewards


def test_without_a_critic_and_replies_of_stale_weights_are_refused(
    inputs: dict[str, Path], session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner that publishes old weights after its third iteration; until then an ordinary run without a critic."""

    def stale(learner: str, *arguments: Any, **options: Any) -> Gang:
        assert learner == "pipelines.rollout.learner:Learner"
        return Gang("tests.stages.stale_learner:StaleLearner", *arguments, **options)

    monkeypatch.setattr(learners, "Gang", stale)
    options = {"advantage": "group", "prompts_per_iteration": 1, "replies_per_prompt": 3, "minibatches": 3}
    job = work(tmp_path / "draft", session, inputs, {"workers": 1}, iterations=4, **options)
    with pytest.raises(
        ClusterError, match=r"the probe of the learner is .* nats off; at most 0\.0001 .*raised by rank 0"
    ):
        ppo.run(job)
    latest = Steps(job.draft.folder("iterations")).latest()
    assert latest is not None and latest[1].iterations == 2, "nothing is kept of what came after"
    points = latest[1].curve
    assert len(points) == 2 and all(point["train/policy_gradient_norm"] > 0 for point in points)
    assert not [name for name in points[0] if "critic" in name or "value" in name]


def kill_once(monkeypatch: pytest.MonkeyPatch, phases: list[tuple[str, int]]) -> list[str]:
    """kill -9 of an actor while the result of the n-th call of a method, or of a later one, is awaited; then in the
    next phase. Returns the methods at which actors were killed."""
    done: list[str] = []
    counted: dict[str, int] = {}
    collect = Gang.collect

    def killing(self: Gang, sent: PendingCall, **options: Any) -> list[Any]:
        counted[sent.method] = counted.get(sent.method, 0) + 1
        if phases and sent.method == phases[0][0] and counted[sent.method] >= phases[0][1]:
            children = psutil.Process().children(recursive=True)
            victims = [child for child in children if "".join(child.cmdline()).startswith("ray::Member")]
            os.kill(max(victims, key=lambda p: p.create_time()).pid, signal.SIGKILL)
            done.append(sent.method)
            phases.pop(0)
        return collect(self, sent, **options)

    monkeypatch.setattr(Gang, "collect", killing)
    return done


@pytest.mark.slow
def test_a_lost_actor_costs_an_iteration_and_changes_nothing(
    whole: tuple[Any, Facts], inputs: dict[str, Path], session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = kill_once(monkeypatch, [("update", 2)])
    job = work(tmp_path / "draft", session, inputs, {})
    ppo.run(job)
    assert killed == ["update"]
    assert isinstance(job.progress, RecordedProgress)
    assert any("a new gang goes on after iteration 1" in note for note in job.progress.notes)
    assert contents(job.draft.out) == contents(whole[0].draft.out)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_learners(
    inputs: dict[str, Path], session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two learners at ZeRO 3 make two iterations and are stopped; one learner at ZeRO 1 makes the third."""
    first = work(tmp_path / "draft", session, inputs, {"zero_stage": 3})
    with monkeypatch.context() as patch:
        patch.setattr(Learners, "score", stopped_in_iteration(3))
        with pytest.raises(KeyboardInterrupt):
            ppo.run(first)
    latest = Steps(first.draft.folder("iterations")).latest()
    assert latest is not None and latest[1].iterations == 2
    second = work(tmp_path / "draft", session, inputs, {"workers": 1})
    facts = ppo.run(second)
    assert facts["ppo/iterations"] == 3 and 0 < float(facts["publish/logprob_gap"]) <= 1e-4
    points = [json.loads(line) for line in (second.draft.out / "curve.jsonl").read_text().splitlines()]
    assert points[:2] == latest[1].curve and points[2]["train/critic_gradient_norm"] > 0
    assert points[2]["rollout/kl_nats"] != pytest.approx(0, abs=1e-3), "the policy that goes on is not the initial one"


def stopped_in_iteration(number: int) -> Any:
    """Learners.score that is stopped, as by Ctrl-C, at its n-th call."""
    score, calls = Learners.score, []

    def stopping(self: Learners, rows: Any) -> list[float]:
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return score(self, rows)

    return stopping


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize(
    "phases",
    [{"generate": 2, "annotate": 2, "save": 2}, {"build": 1, "score": 2, "publish": 2, "export": 1}],
    ids=" ".join,
)
def test_an_actor_may_die_in_any_phase(
    phases: dict[str, int], whole: tuple[Any, Facts], inputs: dict[str, Path], session: Session, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    killed = kill_once(monkeypatch, [*phases.items()])
    job = work(tmp_path / "draft", session, inputs, {})
    ppo.run(job)
    assert killed == [*phases] and contents(job.draft.out) == contents(whole[0].draft.out)


def test_actors_that_die_again_and_again_end_the_run(
    inputs: dict[str, Path], session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an engine: building the gang raises MemberLost."""
    from cluster.errors import MemberLost

    attempts: list[int] = []

    def lost(self: Learners, *arguments: Any, **options: Any) -> None:
        attempts.append(1)
        raise MemberLost("gang ppo: rank 1 on here died in build")

    monkeypatch.setattr(Learners, "__init__", lost)
    with pytest.raises(ClusterError, match="rank 1 on here died"):
        ppo.run(work(tmp_path / "draft", session, inputs, {"restarts": 2}))
    assert len(attempts) == 3


# ---- what is refused before anything starts --------------------------------------------------------------------------


def opened(inputs: dict[str, Path], tmp_path: Path, notes: list[str] | None = None, **options: Any) -> Task:
    job = work(tmp_path / "draft", Session(on_message=str), inputs, {}, **options)
    task = Task.open(job)
    assert isinstance(job.progress, RecordedProgress)
    (notes if notes is not None else []).extend(job.progress.notes)
    return task


def test_another_tokenizer_than_the_reward_models(inputs: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "judge"
    shutil.copytree(inputs["reward_model"], other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="have different tokenizers; expected the same"):
        opened({**inputs, "reward_model": other}, tmp_path)


def test_no_reward_model(inputs: dict[str, Path], tmp_path: Path) -> None:
    inputs = {kind: path for kind, path in inputs.items() if kind != "reward_model"}
    with pytest.raises(UserError, match=r"no stage before ppo made a reward model; put .* or choose other rewards"):
        opened(inputs, tmp_path)
    assert opened(inputs, tmp_path, rewards={"exact_match": 1.0, "length": 0.0}).train


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewards": {"length": 0.0}}, "all weights are 0"),
        ({"minibatches": 9}, "9 for 8 replies an iteration"),
        ({"function": "a.py:f"}, "go together"),
        ({"rewards": {"function": 1.0}}, "go together"),
        ({"rewards": {"length": 1.0}, "critic": "reward_model"}, "ppo.rewards has no reward_model"),
        ({"advantage": "group", "replies_per_prompt": 1}, "1 with advantage: group; expected 2 or more"),
        ({"advantage": "group", "critic": "policy"}, "policy, but advantage: group has no critic"),
        ({"max_new_tokens": 155}, r"leave 5 tokens of the model's context .* none of 13 prompts is so short"),
    ],
)
def test_options_that_do_not_go_together(
    inputs: dict[str, Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        opened(inputs, tmp_path, **options)


def test_weights_in_4_bits_do_not_fit_ppo() -> None:
    with pytest.raises(ValidationError, match=r"lora.qlora: does not fit ppo, whose replies come from the weights as"):
        ppo.PpoOptions.model_validate({"lora": {"qlora": True}})


def test_prompts_that_the_template_refuses_are_set_aside(inputs: dict[str, Path], tmp_path: Path) -> None:
    model = shutil.copytree(inputs["model"], tmp_path / "strict")
    template = "{% if messages[-1].content | length is odd %}{{ raise_exception('even lengths only') }}{% endif %}"
    file = model / "chat_template.jinja"
    file.write_text(template + file.read_text(encoding="utf-8"), encoding="utf-8")
    notes: list[str] = []
    task = opened({**inputs, "model": model}, tmp_path, notes=notes)
    refused = task.row_facts["rows/not_used_template_refuses"]
    assert isinstance(refused, int) and 0 < refused < 12
    assert len(task.train) + task.num_left_out + refused == 13
    held_out = conversations.read(inputs["conversations"] / conversations.HELD_OUT)
    num_odd = sum(len(each.prompt[-1]["content"]) % 2 for each in held_out)
    assert 0 < num_odd < len(held_out)
    assert task.row_facts["heldout/not_used_template_refuses"] == num_odd
    assert any(note.startswith(f"{num_odd} of {len(held_out)} held-out prompts are set aside") for note in notes)
    assert opened({**inputs, "model": model}, tmp_path, held_out_prompts=0).row_facts.keys() == {
        "rows/not_used_template_refuses"
    }


def test_tools_stand_in_the_prompts_of_a_template_that_takes_them(inputs: dict[str, Path], tmp_path: Path) -> None:
    data = shutil.copytree(inputs["conversations"], tmp_path / "data")
    first, *others = conversations.read(data / conversations.TRAIN)
    conversations.write(data / conversations.TRAIN, [replace(first, tools=TIDE_TOOL), *others])
    assert opened({**inputs, "conversations": data}, tmp_path).row_facts == {"rows/tools_left_out": 1,
                                                                             "heldout/prompts_left_out": 1}  # fmt: skip
    model = shutil.copytree(inputs["model"], tmp_path / "model")
    (model / "chat_template.jinja").write_text(WITH_TOOLS, encoding="utf-8")
    task = opened({**inputs, "conversations": data, "model": model}, tmp_path)
    tokens = {prompt.conversation.id: prompt.tokens for prompt in task.train}
    assert tokens[first.id] == task.chat.prompt([{"role": "system", "content": "tide"}, *first.prompt])
    assert tokens[others[0].id] == task.chat.prompt(others[0].prompt)
    assert "rows/tools_left_out" not in task.row_facts


def test_prompts_over_the_context_are_left_out(inputs: dict[str, Path], tmp_path: Path) -> None:
    task = opened(inputs, tmp_path)
    assert (len(task.train), task.num_left_out) == (12, 1)
    assert task.max_tokens <= tiny_models.CONTEXT
    assert len({prompt.conversation.id for prompt in task.held_out}) == 5


def test_a_function_is_known_by_its_name_and_bytes_not_by_its_path() -> None:
    first, second = (
        ppo.PpoOptions.model_validate({"function": f"{place}.py:f"}) for place in ("here/mine", "there/mine")
    )
    assert first.identity() == second.identity() != ppo.PpoOptions.model_validate({"function": "mine.py:g"}).identity()
    assert [path.name for path in ppo.files(first)] == ["mine.py"]


def test_the_driver_loads_neither_deepspeed_nor_vllm() -> None:
    parts = ("task", "learners", "journal")
    code = "import sys; " + "".join(f"import pipelines.stages.ppo.{part}; " for part in parts)
    code += "print({'deepspeed', 'vllm', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stdout + result.stderr


def test_only_the_last_complete_step_is_kept(tmp_path: Path) -> None:
    steps, journal = Steps(tmp_path), Journal(iterations=1, kl_coefficient=0.3)
    (steps.begin(journal) / "rank-0").mkdir()
    assert steps.latest() is None and not list(tmp_path.iterdir())  # cut by a kill
    steps.complete(steps.begin(journal), journal)
    steps.begin(Journal(iterations=2))
    assert steps.latest() == (tmp_path / "step-000001", journal)
    steps.complete(steps.begin(Journal(iterations=2)), Journal(iterations=2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


def test_the_time_of_an_iteration_leaves_out_the_first(tmp_path: Path) -> None:
    journal = Journal()
    for seconds in (9.0, 2.0, 4.0):
        journal.add({}, {"generate": seconds / 2, "learn": seconds / 2}, rollouts=(), logprob_gap=0.0)
        assert journal.iteration_s == (9.0 if seconds == 9.0 else fmean([2.0, 4.0][: journal.iterations - 1]))
        Steps(tmp_path).complete(Steps(tmp_path).begin(journal), journal)
        latest = Steps(tmp_path).latest()
        assert latest is not None
        journal = latest[1]  # as after a kill
    begun_before = Journal(iterations=2, seconds={"generate": 6.0})  # by a version that did not note the first's time
    begun_before.add({}, {"generate": 3.0}, rollouts=(), logprob_gap=0.0)
    assert begun_before.iteration_s == 3.0


def test_what_is_left_out_is_in_no_phase() -> None:
    clock = PhaseClock()
    clock.leave_out(1000.0)
    assert clock.restart()["other"] < 0
