"""Learner: one rank of PPO. Policy and critic that learn (DeepSpeed), the frozen reference and reward model, and the
sampler that generates replies (vLLM), all in one process, taking turns.

    generate ──► score, annotate ──► update ──► publish: from the policy's tensors in memory into the sampler, which
                                                proves them with the next batch that it generates

A plain class: cluster/gang.py makes N of them, which share a torch process group. Advantages are computed elsewhere,
over the whole batch (experience.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from pipelines.errors import UserError
from pipelines.inference import probe
from pipelines.inference.estimates import Comparison
from pipelines.inference.hardware import PeakMemory
from pipelines.inference.model_config import engine_dtype
from pipelines.inference.probe import PushResult
from pipelines.inference.reply import Reply, Sampling
from pipelines.inference.sampler import Sampler
from pipelines.learning import checkpoint
from pipelines.learning import model as models
from pipelines.learning.actor_critic import (
    Policy,
    PolicyBatch,
    Sequences,
    SummedLoss,
    hidden_and_logprobs,
    logprobs,
    new_critic,
)
from pipelines.learning.dealing import cut_evenly
from pipelines.learning.engine import Engine, OptimizerPlan, partitioned
from pipelines.learning.lesson import Batch
from pipelines.learning.memory import Setting
from pipelines.learning.pairs import open_reward_model
from pipelines.learning.precision import DTYPES, name_of, stored_dtype
from pipelines.learning.saving import Weights, save_proven
from pipelines.learning.shapes import Recompute
from pipelines.rollout.critics import Critic, HeadCritic, ModelCritic, ReferencePass
from pipelines.rollout.estimates import compare
from pipelines.rollout.experience import Annotation, Rollout, Row, Step
from pipelines.rollout.footprint import Rollouts
from pipelines.rollout.process_group import join_process_group
from pipelines.rollout.rewards.reward_model import scores


@dataclass(frozen=True)
class LearnerPlan:
    """How a learner learns; the stage's options, as plain values."""

    learning_rate: float
    critic_learning_rate: float
    clip_norm: float
    clip: float
    value_clip: float
    entropy_bonus: float
    temperature: float
    max_tokens: int  # of a prompt with its reply
    micro_batch_rows: int
    zero_stage: int
    critic_body: str  # "learnt": the critic is a second model; "frozen": a head on a frozen model
    dtype: str  # of the policy in training, and of all frozen models; "auto": the sampler's
    recompute: Recompute
    offload: bool
    threads: int
    seed: int
    lora: dict[str, Any] | None = None  # adapters.Lora's fields; the reference is the base without adapters then
    kv_cache_bytes: int | None = None
    cache: str | None = None


@dataclass(frozen=True)
class RankUpdate:
    """Figures of one rank's update."""

    num_tokens: int  # of its rows' replies, all steps together
    sums: dict[str, float]  # over its tokens, by figure
    gradient_norms: dict[str, float]  # by model, means over steps; the same on every rank
    logprob_gap: float  # between sampler and policy when the replies were generated, nats


MODEL = "model."  # of the names of the policy's weights in its engine


class Learner:
    """model: folder of the initial policy, which is also the reference. reward_model: folder of the reward model, if
    there is one. critic: folder of the critic's initial model, `reward_model` or `model`; None: no critic. beat: called
    again and again in calls that take long.

    Raises UserError for a folder that cannot be read or trained."""

    def __init__(
        self,
        *,
        model: Path,
        critic: Path | None,
        reward_model: Path | None,
        plan: Mapping[str, Any],
        rank: int,
        world: int,
        beat: Callable[[], object] = lambda: None,
    ):
        self.plan = LearnerPlan(**plan)
        self.rank, self.world, self._beat = rank, world, beat
        self.device = join_process_group()
        self._memory = PeakMemory(self.device.type)
        sampler_dtype = engine_dtype(model, on_cpu=self.device.type == "cpu")
        name = sampler_dtype if self.plan.dtype == "auto" else self.plan.dtype
        self._dtype = DTYPES["bfloat16" if name == "float16" else name]  # float16 would need a loss scale
        self._stored, self._folder = stored_dtype(model), model
        with partitioned(self.plan.zero_stage, self._dtype):
            initial = self._adapted(models.from_folder(model, self._dtype))
            frozen = {} if self._peft else {"reference": models.from_folder(model, self._dtype)}
            if reward_model is not None:
                frozen["reward_model"] = open_reward_model(reward_model, self._dtype)
            critic_model = new_critic(critic, self._dtype) if critic and self.plan.critic_body == "learnt" else None
        models.recompute(initial, self.plan.recompute)
        self._policy = Policy(
            initial, temperature=self.plan.temperature, clip=self.plan.clip, entropy_bonus=self.plan.entropy_bonus,
            frozen=frozen,
        ).eval()  # fmt: skip
        self._frozen = frozen
        self._critic_model = critic_model
        self._critic: Critic | None = None
        if critic_model is not None:
            self._critic = ModelCritic(critic_model, value_clip=self.plan.value_clip)
        elif critic is not None:
            body = frozen.get("reward_model") if critic == reward_model else None
            hidden_size, value_clip = initial.config.hidden_size, self.plan.value_clip
            self._critic = HeadCritic.on(body, self._evaluate, hidden_size, value_clip=value_clip)
        self._engines = {"policy": self._engine(self._policy, self.plan.learning_rate)}
        if self._critic is not None:
            self._engines["critic"] = self._engine(self._critic.module.eval(), self.plan.critic_learning_rate)
        self._sampler = Sampler(
            model,
            max_tokens=self.plan.max_tokens,
            kv_cache_bytes=self.plan.kv_cache_bytes,
            threads=self.plan.threads,
            cache=None if self.plan.cache is None else Path(self.plan.cache),
            memory=self._memory,
            beat=beat,
        )
        # Where both are float32, the sampler's log-probabilities are the learner's to 1e-4 and need no further pass.
        self._sampler_is_exact = self._dtype == torch.float32 and self._sampler.dtype == "float32"
        self._steps = 0
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None  # the state that is being written

    def _adapted(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model, with adapters where the plan has them."""
        self._peft: Any = None
        if self.plan.lora is None:
            return model
        from pipelines.learning import adapters

        self._peft = adapters.fused(adapters.attach(model, adapters.Lora(**self.plan.lora), self.plan.seed))
        return self._peft.get_base_model()

    def _engine(self, module: SummedLoss, learning_rate: float) -> Engine:
        plan = OptimizerPlan("adamw", learning_rate, learning_rate, weight_decay=0.0, clip_norm=self.plan.clip_norm)
        return Engine(module, [], plan, zero_stage=self.plan.zero_stage, offload=self.plan.offload)

    def _evaluate(self, function: Callable[..., Any], *args: Any) -> Any:
        """function(*args) on the policy and the frozen models, without a gradient; every rank calls as often."""
        self._beat()
        return self._engines["policy"].evaluate(function, *args)

    # ---- rollouts ----------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Sequence[int]], *, sampling: Sampling, seed: int) -> list[Reply]:
        """A reply to each prompt, drawn from the policy as it was last published. seed: of all ranks together.

        Raises NotProven, in place of replies, where the sampler does not compute what the policy does."""
        rank_seed = np.random.SeedSequence([seed, self.rank]).generate_state(1, np.uint64)[0] >> np.uint64(1)
        if prompts:
            replies = self._sampler.generate(prompts, sampling=sampling, seeds=int(rank_seed))
        else:  # of few prompts this rank has none; what was published is proven all the same
            self._sampler.prove()
            replies = []
        self._sampler.release_memory()
        return replies

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The reward model's score of whole conversations (token ids)."""
        if "reward_model" not in self._frozen:
            raise ValueError("score: there is no reward model")
        values, model = np.zeros(len(rows)), self._frozen["reward_model"]
        for indices in self._by_length([len(row) for row in rows]):
            values[indices] = scores(model, [rows[index] for index in indices], self.device, self._evaluate)
        return values.tolist()

    @torch.no_grad()
    def annotate(self, rollouts: Sequence[Rollout]) -> list[Annotation]:
        """Log-probabilities of each reply's tokens under reference and policy, and the critic's values."""
        annotations: dict[int, Annotation] = {}
        for indices in self._by_length([rollout.num_tokens for rollout in rollouts]):
            annotations.update(self._annotate([rollouts[index] for index in indices], indices.tolist()))
        return [annotations[index] for index in range(len(rollouts))]

    def _annotate(self, rollouts: Sequence[Rollout], indices: list[int]) -> dict[int, Annotation]:
        """Annotations of one micro-batch, by the rollouts' indices."""
        replies = [rollout.reply.tokens for rollout in rollouts]
        batch = Sequences.pack([rollout.prompt for rollout in rollouts], replies).to(self.device)
        lengths = [len(reply) for reply in replies]
        hidden_NH, ref_logprobs_N = self._reference_pass(batch)
        columns = {"ref_logprobs": ref_logprobs_N}
        if self._critic is not None:
            reference_pass = ReferencePass(indices, lengths, batch, hidden_NH)
            columns["values"] = self._critic.values(self._engines["critic"], reference_pass)
        if not self._sampler_is_exact:
            columns["old_logprobs"] = self._evaluate(logprobs, self._policy.model, batch, self.plan.temperature)
        parts = {name: [part.cpu().numpy() for part in column.split(lengths)] for name, column in columns.items()}
        return {
            index: Annotation(**{name: of_replies[number] for name, of_replies in parts.items()})
            for number, index in enumerate(indices)
        }

    def _alive(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The tensors, each with a sign of life."""
        for tensor in tensors:
            self._beat()
            yield tensor

    def _reference_pass(self, batch: Sequences) -> tuple[Tensor, Tensor]:
        """The reference's hidden states where each token of a reply is predicted [N, H], and its log-probabilities."""
        if self._peft is None:
            return self._evaluate(hidden_and_logprobs, self._frozen["reference"], batch, self.plan.temperature)
        with self._peft.disable_adapter():
            return self._evaluate(hidden_and_logprobs, self._policy.model, batch, self.plan.temperature)

    def _num_pieces(self, num_rows: int) -> int:
        return -(-num_rows // self.plan.micro_batch_rows)

    def _by_length(self, lengths: Sequence[int]) -> list[np.ndarray]:
        """Indices of rows in micro-batches of about one length each, as many on every rank, since at ZeRO 3 all must
        evaluate as often; some may be empty."""
        num_pieces = torch.tensor(max(1, self._num_pieces(len(lengths))))
        dist.all_reduce(num_pieces, dist.ReduceOp.MAX)
        return cut_evenly(np.argsort(-np.asarray(lengths), kind="stable"), int(num_pieces))

    # ---- learning ----------------------------------------------------------------------------------------------------

    def update(self, steps: Sequence[Step], lr_factor: float = 1.0) -> RankUpdate:
        """Optimiser steps of policy and critic on this rank's rows, at lr_factor × their peak learning rates.

        Raises UserError when a gradient is no longer a number."""
        norms: dict[str, list[float]] = {name: [] for name in self._engines}
        for step in steps:
            batches = self._micro_batches(step)
            for name, engine in self._engines.items():
                for number, batch in enumerate(batches[name], 1):
                    self._beat()
                    engine.backward(batch, scale=self.world / step.num_tokens, last=number == len(batches[name]))
                norms[name].append(engine.step(lr_factor))
                _check_finite(name, norms[name][-1])
            self._steps += 1
        return RankUpdate(
            num_tokens=sum(len(row.reply) for step in steps for row in step.rows),
            sums=self._policy.pop_sums() | ({} if self._critic is None else self._critic.module.pop_sums()),
            gradient_norms={name: float(np.mean(values)) for name, values in norms.items()},
            logprob_gap=self._sampler.gap_nats or 0.0,
        )

    def _micro_batches(self, step: Step) -> dict[str, Sequence[Batch]]:
        """Of each engine, as many on every rank, since each backward pass may communicate; some may be empty."""
        pieces = cut_evenly(step.rows, self._num_pieces(step.max_rows))
        batches: dict[str, Sequence[Batch]] = {"policy": [_policy_batch(rows) for rows in pieces]}
        if self._critic is not None:
            batches["critic"] = self._critic.micro_batches(step, self.plan.micro_batch_rows)
        return batches

    # ---- weights -----------------------------------------------------------------------------------------------------

    def publish(self) -> PushResult:
        """The policy's weights into the sampler, from memory. The next batch proves them, by a probe's
        log-probabilities."""
        policy, output = self._engines["policy"], models.output_embedding(self._policy.model)
        tied = next(name for name, weight in policy.parameters.items() if weight is output).removeprefix(MODEL)
        return self._sampler.push(self._live_weights(), self._probe, tied=tied, prove_now=False)

    def _live_weights(self) -> Iterable[tuple[str, Tensor]]:
        """The policy's weights, adapters merged, by the names that its folder has."""

        def live(select: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
            named = self._engines["policy"].live_weights(lambda name: name.startswith(MODEL) and select(name))
            return ((name.removeprefix(MODEL), weight) for name, weight in self._alive(named))

        model = self._policy.model
        if self._peft is None:
            return models.file_weights(model, live(lambda _: True))
        from pipelines.learning import adapters

        return models.file_weights(model, adapters.merged_weights(model, live))

    def prove(self) -> float:
        """The largest difference of a probe's log-probability between sampler and policy, in nats; weights that no
        batch has proven yet are proven now.

        Raises NotProven where that is too far."""
        return self._sampler.prove() or 0.0

    def _probe(self) -> probe.Probe:
        """The policy's probe, in the type that it learns in."""
        model = self._policy.model
        row = probe.tokens(model.config.vocab_size, min(model.config.max_position_embeddings, self.plan.max_tokens))
        logits_TV = self._evaluate(models.all_logits, model, torch.tensor([row], device=self.device))[0]
        return probe.from_logits(row, logits_TV.cpu().numpy(), dtype=name_of(self._dtype))

    def compare(self, rollouts: Rollouts) -> Comparison:
        """Memory and time of this rank by the plan's formulas, and the memory that it took."""
        plan = self.plan
        setting = Setting(
            tokens=min(plan.micro_batch_rows, -(-rollouts.replies // self.world)) * rollouts.tokens,
            device=self.device.type, dtype=name_of(self._dtype), world=self.world, zero_stage=plan.zero_stage,
            recompute=plan.recompute, offload=plan.offload,
        )  # fmt: skip
        critic = self._critic_model and models.shape_of(self._critic_model)
        return compare(models.shape_of(self._policy.model), critic, setting, rollouts, self._memory)

    def save(self, folder: Path) -> None:
        """Copies this rank's part of the training state; writes it into folder/rank-R in a thread, beside what follows.
        The step before must have been waited for."""
        rank_folder = folder / f"rank-{self.rank}"
        rank_folder.mkdir(parents=True, exist_ok=True)
        states = ((name, self._alive(engine.state())) for name, engine in self._engines.items())
        state = {f"{name}/{key}": tensor for name, tensors in states for key, tensor in tensors}
        self._writing = self._writer.submit(
            checkpoint.write, rank_folder, self.rank, state.items(), {"steps": self._steps}
        )

    def wait_until_saved(self) -> None:
        """Waits until what `save` copied is written; raises what went wrong there."""
        while self._writing is not None and not self._writing.done():
            self._beat()
            wait([self._writing], timeout=1.0)
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def load(self, folder: Path) -> None:
        """Continues from what `save` wrote, on any number of learners."""
        tensors, progress = checkpoint.read(folder, self._beat)
        self._steps = progress["steps"]
        padding: dict[str, Batch] = {"policy": _policy_batch([])}
        if self._critic is not None:
            padding["critic"] = self._critic.empty_batch()
        for name, engine in self._engines.items():
            engine.load_state(tensors.below(f"{name}/"), step=self._steps, padding=padding[name])

    def export(self, out: Path, curve: Sequence[Mapping[str, float]]) -> None:
        """Rank 0 writes the policy in Hugging Face layout, its probe and the curve: the same bytes for the same run."""
        dtype = self._stored if self._peft is None else torch.float32  # adapters are merged in float32
        named = self._alive(self._engines["policy"].each_weight(dtype, only_trainable=True))
        weights = ((name.removeprefix(MODEL), weight) for name, weight in named)
        if self.rank == 0:
            if self._peft is None:
                save_proven(self._policy.model, weights, out)
            else:
                self._export_adapters(weights, out)
            (out / "curve.jsonl").write_text("".join(json.dumps(dict(point)) + "\n" for point in curve))
        for _ in weights:  # other ranks take part in gathering each
            continue

    def _export_adapters(self, weights: Weights, out: Path) -> None:
        from pipelines.learning import adapters

        adapted = adapters.attach(
            models.from_folder(self._folder, self._stored), adapters.Lora(**self.plan.lora or {}), self.plan.seed
        )
        adapters.export(adapted, weights, out, save_proven)


def _policy_batch(rows: Sequence[Row]) -> PolicyBatch:
    return PolicyBatch.pack(
        [row.prompt for row in rows], [row.reply for row in rows],
        old_logprobs_N=[row.old_logprobs for row in rows], advantages_N=[row.advantages for row in rows],
    )  # fmt: skip


def _check_finite(name: str, norm: float) -> None:
    if not math.isfinite(norm):
        raise UserError(
            f"ppo: the {name}'s gradient has a norm of {norm}; expected a number. Lower its learning rate, or look at "
            f"the rewards: they may be too large"
        )
