"""Learner: one rank of PPO. A policy and a critic that learn (DeepSpeed), what they are measured against (the frozen
reference and reward model), and the sampler that writes replies (vLLM), all in one process, taking turns.

    generate ──► score, annotate ──► update ──► publish: from the policy's tensors in memory into the sampler, which
                                                proves them with the next batch that it generates

Plain: cluster/gang.py makes N of them, which share a torch process group. Advantages are made elsewhere, over the whole
batch (experience.py).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.errors import UserError
from pipelines.inference import probe
from pipelines.inference.reply import Reply, Sampling
from pipelines.inference.sampler import Loaded, Sampler
from pipelines.learning import checkpoint
from pipelines.learning import model as models
from pipelines.learning.actor_critic import (
    ExperienceBatch,
    Learning,
    Policy,
    Sequences,
    hidden_at,
    logprobs,
    logprobs_at,
)
from pipelines.learning.batch import cut_evenly
from pipelines.learning.engine import Engine, OptimizerPlan
from pipelines.rollout.critics import FrozenBody, OwnBody, Values
from pipelines.rollout.experience import Annotation, Rollout, Row, Step, joined
from pipelines.rollout.rewards.reward_model import RewardModel


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
    critic_body: str  # "learnt": a model of its own; "frozen": a head on the reward model's body, or the reference's
    dtype: str  # "auto": bfloat16 on a GPU, float32 on a CPU
    threads: int
    kv_cache_bytes: int | None = None
    cache: str | None = None


class Learner:
    """model: the folder that training begins with, and the reference. reward_model: its folder, if one judges.
    critic: the folder whose body and head the critic begins with: `reward_model` or `model`; None: no critic.

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
    ):
        self.plan = LearnerPlan(**plan)
        self.rank, self.world = rank, world
        self.device = _join_group()
        self._dtype = models.dtype_of(self.plan.dtype, self.device.type)
        self._policy = Policy(
            models.from_folder(model), self._dtype, temperature=self.plan.temperature, clip=self.plan.clip,
            entropy_bonus=self.plan.entropy_bonus,
        ).eval()  # fmt: skip
        self._reference = _frozen(models.from_folder(model), self.device)
        self._judge = None if reward_model is None else RewardModel(reward_model, self.device, self._dtype)
        self._engines = {"policy": self._engine(self._policy, self.plan.learning_rate)}
        self._critic = None if critic is None else self._new_critic(critic, shared=critic == reward_model)
        if self._critic is not None:
            self._engines["critic"] = self._engine(self._critic.module.eval(), self.plan.critic_learning_rate)
        self._sampler = Sampler(
            model,
            max_tokens=self.plan.max_tokens,
            kv_cache_bytes=self.plan.kv_cache_bytes,
            threads=self.plan.threads,
            cache=None if self.plan.cache is None else Path(self.plan.cache),
        )
        # The sampler's log-probabilities are the learner's to 1e-4 where both are float32, and cost nothing more.
        self._exact = self._dtype == torch.float32 and self._sampler.dtype == "float32"
        self._steps = 0

    def _new_critic(self, folder: Path, *, shared: bool) -> Values:
        """shared: its body is the reward model's."""
        if self.plan.critic_body == "learnt":
            return OwnBody(folder, self._dtype, value_clip=self.plan.value_clip)
        body = self._judge.model if shared and self._judge is not None else None
        score_1H = (
            torch.zeros(1, self._reference.config.hidden_size)
            if body is None
            else models.score_head(body).weight.detach()
        )
        return FrozenBody(score_1H, body, self._dtype, value_clip=self.plan.value_clip)

    def _engine(self, learner: Learning, rate: float) -> Engine:
        plan = OptimizerPlan("adamw", rate, rate, weight_decay=0.0, clip_norm=self.plan.clip_norm)
        return Engine(learner, [], plan, zero_stage=self.plan.zero_stage)

    # ---- rollouts ----------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Sequence[int]], *, sampling: Sampling, seed: int) -> list[Reply]:
        """A reply to each prompt, drawn from the policy as it was last published. seed: of all ranks together.

        Raises NotProven where the sampler does not compute what the policy does: nothing is learnt from its replies."""
        own = np.random.SeedSequence([seed, self.rank]).generate_state(1, np.uint64)[0] >> np.uint64(1)
        replies = self._sampler.generate(prompts, sampling=sampling, seeds=int(own)) if prompts else []
        self._sampler.rest()
        return replies

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The reward model's score of whole conversations (token ids)."""
        if self._judge is None:
            raise ValueError("score: no reward model was given")
        if not rows:  # fewer conversations than ranks
            return []
        scores = np.zeros(len(rows))
        for piece in self._by_length([len(row) for row in rows]):
            scores[piece] = self._judge.scores([rows[number] for number in piece])
        return scores.tolist()

    @torch.no_grad()
    def annotate(self, rollouts: Sequence[Rollout]) -> list[Annotation]:
        """What policy, reference and critic think of each token of each reply."""
        notes: dict[int, Annotation] = {}
        if self._critic is not None:
            self._critic.begin(len(rollouts))
        most = torch.tensor(max(1, -(-len(rollouts) // self.plan.micro_batch_rows)))
        dist.all_reduce(most, dist.ReduceOp.MAX)  # at ZeRO 3 every rank must ask as often
        for piece in self._by_length([len(r.prompt) + len(r.reply) for r in rollouts], pieces=int(most)):
            own = [rollouts[number] for number in piece]
            batch = Sequences.pack([r.prompt for r in own], [r.reply for r in own]).to(self.device)
            lengths = [len(r.reply) for r in own]
            hidden_NH = hidden_at(self._reference, batch, self._dtype)
            columns = {"reference": logprobs_at(self._reference, hidden_NH, batch, self.plan.temperature, self._dtype)}
            if self._critic is not None:
                columns["values"] = self._critic.values(self._engines["critic"], batch, hidden_NH, piece, lengths)
            if not self._exact:
                columns["old"] = self._engines["policy"].evaluate(
                    logprobs, self._policy.model, batch, self.plan.temperature, self._dtype
                )
            edges = np.cumsum(lengths)[:-1]
            cut = {name: np.split(column.cpu().numpy(), edges) for name, column in columns.items()}
            for place, number in enumerate(piece):
                notes[int(number)] = Annotation(**{name: parts[place] for name, parts in cut.items()})
        return [notes[number] for number in range(len(rollouts))]

    def _by_length(self, lengths: Sequence[int], pieces: int | None = None) -> list[np.ndarray]:
        """Numbers of rows in micro-batches of about one length each; in so many, some perhaps empty."""
        order = np.argsort(-np.asarray(lengths), kind="stable")
        return cut_evenly(order, -(-len(order) // self.plan.micro_batch_rows) if pieces is None else pieces)

    # ---- learning ----------------------------------------------------------------------------------------------------

    def update(self, steps: Sequence[Step], share: float = 1.0) -> dict[str, float]:
        """Optimiser steps of policy and critic on this rank's rows, at this share of their learning rates.

        Returns sums over its tokens (`tokens` of them, those of all steps together), the mean gradient norms of all
        ranks, and `logprob_gap`, how far its sampler was from the policy when it wrote, in nats. Raises UserError when
        a gradient is no longer a number."""
        norms: dict[str, list[float]] = {name: [] for name in self._engines}
        for step in steps:
            rows = self._micro_batches(step)
            batches: dict[str, Sequence[Any]] = {"policy": rows}
            if self._critic is not None:
                batches["critic"] = self._critic.batches(step, rows, self.plan.micro_batch_rows)
            for name, engine in self._engines.items():
                for number, batch in enumerate(batches[name], 1):
                    engine.backward(batch, scale=self.world / step.tokens, last=number == len(batches[name]))
                norms[name].append(engine.step(share))
                _check_finite(name, norms[name][-1])
            self._steps += 1
        figures = {f"{name}_gradient_norm": float(np.mean(own)) for name, own in norms.items()}
        tokens = sum(len(row.reply) for step in steps for row in step.rows)
        critics = {} if self._critic is None else self._critic.module.told()
        gap = self._sampler.gap_nats or 0.0
        return {"tokens": float(tokens), "logprob_gap": gap, **self._policy.told(), **critics, **figures}

    def _micro_batches(self, step: Step) -> list[ExperienceBatch]:
        """As many on every rank, since each backward pass may communicate; some may be empty."""
        pieces = cut_evenly(np.arange(len(step.rows)), -(-step.most_rows // self.plan.micro_batch_rows))
        return [_batch([step.rows[number] for number in piece]) for piece in pieces]

    # ---- weights -----------------------------------------------------------------------------------------------------

    def publish(self) -> Loaded:
        """The policy's weights into the sampler, from memory. The next batch proves them, by a probe's
        log-probabilities."""
        policy, output = self._engines["policy"], models.output_embedding(self._policy.model)
        tied = next(name for name, weight in policy.parameters.items() if weight is output).removeprefix("model.")
        named = ((name.removeprefix("model."), weight) for name, weight in policy.live_weights())
        return self._sampler.push(named, self._probe, tied=tied, at_once=False)

    def prove(self) -> float:
        """How far the sampler is from the policy, in nats: of weights that no batch has proven yet it is asked now.

        Raises NotProven where that is too far."""
        return self._sampler.prove() or 0.0

    def _probe(self) -> probe.Probe:
        """What the policy says of the probe's row, in float32."""
        model = self._policy.model
        row = probe.tokens(model.config.vocab_size, min(model.config.max_position_embeddings, self.plan.max_tokens))
        tokens_BT = torch.tensor([row], device=self.device)
        logits_TV = self._engines["policy"].evaluate(
            lambda: models.last_hidden(model, tokens_BT)[0] @ models.output_embedding(model).T
        )
        return probe.from_logits(row, logits_TV.cpu().numpy())

    def save(self, folder: Path) -> None:
        """This rank's share of all that is needed to go on, into folder/rank-R."""
        own = folder / f"rank-{self.rank}"
        own.mkdir(parents=True, exist_ok=True)
        state = ((f"{name}/{key}", t) for name, engine in self._engines.items() for key, t in engine.state())
        checkpoint.write(own, self.rank, state, {"steps": self._steps})

    def load(self, folder: Path) -> None:
        """Goes on from what `save` left, by as many learners or not."""
        tensors, journal = checkpoint.read(folder)
        self._steps = journal["steps"]
        for name, engine in self._engines.items():
            learns = self._critic if name == "critic" and self._critic is not None else ExperienceBatch
            nothing = learns.nothing()
            engine.load_state(_Part(tensors, f"{name}/"), step=self._steps, padding=nothing)

    def export(self, out: Path, curve: Sequence[Mapping[str, float]]) -> None:
        """Rank 0 writes the policy in Hugging Face layout, its probe and the curve: the same bytes for the same run."""
        expected = self._probe()
        weights = self._engines["policy"].weights()
        if self.rank == 0:
            models.save(self._policy.model, {k.removeprefix("model."): w for k, w in weights.items()}, out)
            probe.write(out, expected)
            (out / "curve.jsonl").write_text("".join(json.dumps(dict(point)) + "\n" for point in curve))


class _Part(Mapping[str, Tensor]):
    """The tensors whose names begin with a prefix, by the rest of their names; each is read when asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str):
        self._tensors, self._prefix = tensors, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._tensors if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _join_group() -> torch.device:
    """Joins the process group that the environment describes (as under torchrun); says where this rank computes."""
    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl")
    return device


def _frozen(model: nn.Module, device: torch.device) -> Any:
    return model.requires_grad_(False).eval().to(device)


def _batch(rows: Sequence[Row]) -> ExperienceBatch:
    """Rows as tensors; none give a batch without labels."""
    names = ("old_logprobs", "advantages", "values", "returns")
    columns = [joined(getattr(row, name) for row in rows) for name in names]
    return ExperienceBatch.of([row.prompt for row in rows], [row.reply for row in rows], columns)


def _check_finite(name: str, norm: float) -> None:
    if not math.isfinite(norm):
        raise UserError(
            f"ppo: the {name}'s gradient has a norm of {norm}; expected a number. Lower its learning rate, or look at "
            f"the rewards: they may be too large"
        )
