"""Improves a model by reinforcement learning: PPO (Schulman et al. 2017) on the rewards of its own replies.

    prompts ──policy──► replies ──rewards──► scores ──critic, reference──► advantages ──► policy, critic ──► sampler
                ▲                                                                                              │
                └──────────────────────────── weights, published every iteration ◄────────────────────────────┘

Each actor of one gang is a rank of the learners (policy and critic) and a sampler in the same process. The curve of the
run stays in the artifact (curve.jsonl), without times: two runs leave the same bytes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipelines.stage import Facts, Stage, Work
from pipelines.stages.ppo.options import PpoCluster, PpoOptions, files

if TYPE_CHECKING:
    from pipelines.stages.ppo.journal import Journal, Steps
    from pipelines.stages.ppo.learners import Learners
    from pipelines.stages.ppo.task import Task


def run(work: Work) -> Facts:
    """Goes on from the last complete step of the draft; actors that are lost are replaced, and it goes on from there.

    Raises UserError for what cannot be trained with, ClusterError when actors are lost again and again, or write
    replies with other weights than the policy's."""
    from cluster.errors import ClusterError, MemberLost
    from cluster.rendezvous import lost_peer
    from cluster.session import log_location
    from pipelines.inference.probe import NotProven
    from pipelines.stages.ppo.journal import Steps
    from pipelines.stages.ppo.learners import Learners
    from pipelines.stages.ppo.task import Task

    task = Task.open(work)
    if task.left_out:
        work.progress.note(f"{task.left_out:,} prompts left out: with a reply they are longer than the model's context")
    work.session.start()
    steps = Steps(work.draft.folder("iterations"))
    losses, reached = 0, 0
    while True:
        try:
            with Learners(work, max_tokens=task.max_tokens) as learners:
                return attempt(work, task, learners, steps)
        except NotProven as error:
            who = "; ".join(getattr(error, "__notes__", ()))
            raise ClusterError(f"ppo: {error} ({who}); expected a model that vLLM runs as its learner does. "
                               f"Logs: {log_location()}") from error  # fmt: skip
        except (MemberLost, RuntimeError) as error:
            if not isinstance(error, MemberLost) and not lost_peer(error):
                raise ClusterError(f"ppo: an actor failed ({type(error).__name__}: {error}); expected it to learn and "
                                   f"to write replies. Logs: {log_location()}") from error  # fmt: skip
            latest = steps.latest()
            done = latest[1].iterations if latest else 0
            losses, reached = (losses + 1 if done == reached else 1), done
            if losses > work.cluster.restarts:
                raise
            work.progress.note(f"{error}\n  a new gang goes on after iteration {done}")


def attempt(work: Work, task: Task, learners: Learners, steps: Steps) -> Facts:
    """One gang's life: from the last complete step to the finished model."""
    from pipelines.stages.ppo.journal import Journal
    from pipelines.training import copy_tokenizer

    latest = steps.latest()
    journal = Journal(kl_coefficient=work.options.kl_coefficient)
    if latest is not None:
        journal = latest[1]
        learners.load(latest[0])
    learners.publish()
    train(work, task, learners, journal, steps)
    distance = held_out_kl(work, task, learners)
    journal.logprob_gap = max(journal.logprob_gap, learners.prove())
    facts = journal.facts() | distance
    learners.export(work.draft.out, journal.curve)
    copy_tokenizer(work.inputs["model"].local(), work.draft.out)
    return facts | {"prompts/train": len(task.train), "prompts/left_out": task.left_out}


def train(work: Work, task: Task, learners: Learners, journal: Journal, steps: Steps) -> None:
    """Every iteration that the journal does not have yet."""
    from pipelines.learning.schedule import Schedule
    from pipelines.rollout.advantage import KlControl
    from pipelines.rollout.experience import Experience, Rollout
    from pipelines.stages.ppo.journal import figures
    from pipelines.stages.ppo.learners import seed_of

    options: PpoOptions = work.options
    rewards, control = task.rewards(learners.score), KlControl(options.kl_target)
    schedule = Schedule.from_shares("wsd", options.iterations, 0, options.decay_share)
    learners.spent()
    begin = time.perf_counter()
    for iteration in range(journal.iterations, options.iterations):
        asked = task.prompts(iteration)
        replies = learners.generate([one.tokens for one in asked], task.sampling, seed_of(work.seed, iteration))
        rollouts = [Rollout(a.tokens, r.tokens, r.logprobs) for a, r in zip(asked, replies, strict=True)]
        scores = task.score(rewards, asked, replies)
        experience = Experience.build(
            rollouts, scores.total, learners.annotate(rollouts),
            kl_coefficient=journal.kl_coefficient, gamma=options.gamma, lam=options.gae_lambda,
            group=options.group,
        )  # fmt: skip
        learnt, gap = learners.learn(
            experience.steps(
                seed=work.seed, iteration=iteration, epochs=options.epochs, minibatches=options.minibatches,
                world=learners.size,
            ),
            schedule.share(iteration),
        )  # fmt: skip
        point, tokens = figures(scores, replies, experience, learnt), sum(len(r.tokens) for r in replies)
        journal.add(point, learners.spent(), reply_tokens=tokens, gap=gap)
        journal.kl_coefficient = control.next(journal.kl_coefficient, point["rollout/kl_nats"])
        due = journal.iterations % work.cluster.save_every == 0 or journal.iterations == options.iterations
        if due:
            learners.save(steps.begin(journal))
        begin, journal.whole_s = time.perf_counter(), journal.whole_s + time.perf_counter() - begin
        if due:
            steps.complete(journal)
        tell(work, journal)


def held_out_kl(work: Work, task: Task, learners: Learners) -> Facts:
    """How far the model has gone from where it began: nats a reply, on held-out prompts."""
    from pipelines.rollout.experience import Rollout, kl_nats
    from pipelines.stages.ppo.learners import seed_of

    if not task.held_out:
        work.progress.note("no held-out prompts: no heldout/kl_nats")
        return {}
    prompts = [asked.tokens for asked in task.held_out]
    replies = learners.generate(prompts, task.sampling, seed_of(work.seed, work.options.iterations))
    rollouts = [Rollout(p, reply.tokens, reply.logprobs) for p, reply in zip(prompts, replies, strict=True)]
    return {"heldout/kl_nats": float(kl_nats(rollouts, learners.annotate(rollouts)).mean())}


def tell(work: Work, journal: Journal) -> None:
    """Shows how it goes."""
    point = journal.curve[-1]
    shown = {"reward": "reward/mean", "kl": "rollout/kl_nats", "tokens": "rollout/reply_tokens",
             "entropy": "rollout/entropy_nats"}  # fmt: skip
    work.progress.update(
        journal.iterations, work.options.iterations, "iterations", **{name: point[key] for name, key in shown.items()}
    )


STAGE = Stage(
    kind="ppo",
    version=2,
    makes="model",
    needs=("model", "conversations"),
    takes=("reward_model",),
    options=PpoOptions,
    cluster=PpoCluster,
    files=files,
    run=run,
)
