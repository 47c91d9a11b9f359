"""Improves a model by reinforcement learning: PPO (Schulman et al. 2017) on the rewards of its replies.

    prompts ──policy──► replies ──rewards──► scores ──critic, reference──► advantages ──► policy, critic ──► sampler
                ▲                                                                                              │
                └──────────────────────────── weights, published every iteration ◄────────────────────────────┘

Each actor of one gang is a rank of the learners (policy and critic) and a sampler in the same process. The curve of the
run stays in the artifact (curve.jsonl), without times: two runs leave the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

from pipelines.stage import Facts, Stage, Work
from pipelines.stages.ppo.options import PpoCluster, PpoOptions, files

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.rollout.experience import Experience
    from pipelines.stages.ppo.journal import Journal, Steps
    from pipelines.stages.ppo.learners import Learners
    from pipelines.stages.ppo.task import Task


def train(work: Work, task: Task, learners: Learners, journal: Journal, steps: Steps) -> None:
    """Every iteration that the journal does not have yet. The samplers hold the policy's weights before and after."""
    from pipelines.learning.schedule import Schedule
    from pipelines.rollout.advantage import KlController
    from pipelines.rollout.experience import optimizer_steps
    from pipelines.stages.ppo.journal import Checkpoints, curve_point

    options: PpoOptions = work.options
    rewards = task.rewards(learners.score)
    estimate_advantages, normalise = advantage_estimator(options)
    kl_controller = KlController(options.kl_target)
    schedule = Schedule.from_fractions("wsd", options.iterations, 0, options.decay_fraction)
    checkpoints = Checkpoints(steps, learners, work.cluster.save_every)
    learners.clock.restart()
    for iteration in range(journal.iterations, options.iterations):
        prompts = task.prompts(iteration)
        rollouts = learners.generate([prompt.tokens for prompt in prompts], task.sampling, iteration)
        learners.clock.leave_out(checkpoints.complete())  # of what was written meanwhile
        scores = task.score(rewards, prompts, rollouts)
        experience = learners.annotate(rollouts)
        totals = journal.normalised(scores.total) if options.normalise_rewards else scores.total
        rewards_BA = experience.token_rewards(totals, kl_coefficient=journal.kl_coefficient)
        advantages_BA = estimate_advantages(experience, rewards_BA)
        rows = experience.rows(advantages_BA, normalise=normalise)
        minibatches = optimizer_steps(
            rows, seed=work.seed, iteration=iteration, epochs=options.epochs, minibatches=options.minibatches,
            world=learners.size,
        )  # fmt: skip
        update = learners.update(minibatches, schedule.lr_factor(iteration))
        learners.publish()

        point = curve_point(scores, rollouts, experience, update)
        journal.add(point, learners.clock.restart(), rollouts=rollouts, logprob_gap=update.logprob_gap)
        journal.kl_coefficient = kl_controller.next(journal.kl_coefficient, point["rollout/kl_nats"])
        checkpoints.after(journal, last=journal.iterations == options.iterations)
        show_progress(work, journal)
        learners.clock.restart()  # a checkpoint is no part of the next iteration


def advantage_estimator(
    options: PpoOptions,
) -> tuple[Callable[[Experience, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Advantages [B, A] from experience and the rewards of its tokens [B, A]; and how they are normalised."""
    from pipelines.rollout import advantage

    if options.advantage == "group":
        of_groups = partial(advantage.group_advantages, group_size=options.replies_per_prompt)
        return (
            lambda experience, rewards_BA: of_groups(rewards_BA.sum(1), experience.action_mask_BA),
            advantage.scaled_by_reply,
        )
    gae = partial(advantage.generalised_advantages, gamma=options.gamma, lam=options.gae_lambda)
    return (
        lambda experience, rewards_BA: gae(rewards_BA, experience.values_BA, experience.action_mask_BA),
        advantage.whitened,
    )


def run(work: Work) -> Facts:
    """Continues from the last complete step of the draft. Lost actors are replaced, and the new ones continue there.

    Raises UserError for what cannot be trained with, ClusterError when actors are lost again and again, or generate
    replies with other weights than the policy's."""
    from cluster.errors import ClusterError, MemberLost
    from cluster.rendezvous import lost_peer
    from cluster.session import log_location
    from pipelines.inference.probe import NotProven
    from pipelines.stages.ppo.journal import Steps
    from pipelines.stages.ppo.learners import Learners
    from pipelines.stages.ppo.task import Task
    from pipelines.training import check_trainable

    check_trainable(work)
    task = Task.open(work)
    if task.num_left_out:
        work.progress.note(
            f"{task.num_left_out:,} prompts left out: with a reply they are longer than the model's context"
        )
    work.session.start()
    steps = Steps(work.draft.folder("iterations"))
    num_losses, reached = 0, 0
    while True:
        try:
            with Learners(work, max_tokens=task.max_tokens) as learners:
                return attempt(work, task, learners, steps)
        except NotProven as error:
            rank = "; ".join(getattr(error, "__notes__", ()))
            raise ClusterError(f"ppo: {error} ({rank}); expected a model that vLLM runs as its learner does. "
                               f"Logs: {log_location()}") from error  # fmt: skip
        except (MemberLost, RuntimeError) as error:
            if not isinstance(error, MemberLost) and not lost_peer(error):
                raise ClusterError(f"ppo: an actor failed ({type(error).__name__}: {error}); expected it to learn and "
                                   f"to generate replies. Logs: {log_location()}") from error  # fmt: skip
            done = steps.iterations_done()
            num_losses = num_losses + 1 if done == reached else 1
            reached = done
            if num_losses > work.cluster.restarts:
                raise
            work.progress.note(f"{error}\n  a new gang goes on after iteration {done}")


def attempt(work: Work, task: Task, learners: Learners, steps: Steps) -> Facts:
    """One gang's life: from the last complete step to the finished model."""
    from pipelines.stages.ppo.journal import Journal
    from pipelines.training import copy_tokenizer

    latest = steps.latest()
    if latest is None:
        journal = Journal(kl_coefficient=work.options.kl_coefficient)
    else:
        folder, journal = latest
        learners.load(folder)
    learners.publish()
    train(work, task, learners, journal, steps)
    held_out_facts = held_out_kl(work, task, learners)
    journal.logprob_gap = max(journal.logprob_gap, learners.prove())
    learners.export(work.draft.out, journal.curve)
    copy_tokenizer(work.inputs["model"].local(), work.draft.out)
    prompt_facts = {"prompts/train": len(task.train), "prompts/left_out": task.num_left_out}
    facts = journal.facts() | held_out_facts | prompt_facts | task.row_facts
    return facts | estimation_errors(work, task, learners, journal)


def estimation_errors(work: Work, task: Task, learners: Learners, journal: Journal) -> Facts:
    """plan/memory_error and plan/time_error: by which fraction the formulas of `rayse plan` are above (or, negative,
    below) what an iteration took, the first left out where there are others."""
    from pipelines.rollout.footprint import Rollouts

    comparison = learners.compare(
        Rollouts(
            replies=task.options.replies_per_iteration,
            tokens=round(fmean(len(prompt.tokens) for prompt in task.train) + journal.mean_reply_tokens),
            reply_tokens=round(journal.mean_reply_tokens),
            max_tokens=task.max_tokens,
            epochs=task.options.epochs,
            has_reference=task.options.lora is None,
            has_reward_model="reward_model" in task.options.rewards,
            kv_cache_bytes=work.cluster.kv_cache_bytes,
            minibatches=task.options.minibatches,
        )
    )
    return {**comparison.errors(journal.iteration_s, time_fact="time/iteration_s")}


def held_out_kl(work: Work, task: Task, learners: Learners) -> Facts:
    """KL divergence of the trained policy from the reference on held-out prompts, mean nats a reply."""
    if not task.held_out:
        work.progress.note("no held-out prompts: no heldout/kl_nats")
        return {}
    prompts = [prompt.tokens for prompt in task.held_out]
    experience = learners.annotate(learners.generate(prompts, task.sampling, work.options.iterations))
    return {"heldout/kl_nats": experience.kl_nats_B.mean().item()}


def show_progress(work: Work, journal: Journal) -> None:
    point = journal.curve[-1]
    columns = {"reward": "reward/mean", "kl": "rollout/kl_nats", "tokens": "rollout/reply_tokens",
               "entropy": "rollout/entropy_nats"}  # fmt: skip
    figures = {name: point[key] for name, key in columns.items()}
    work.progress.update(journal.iterations, work.options.iterations, "iterations", **figures)


STAGE = Stage(
    kind="ppo",
    version=5,
    makes="model",
    needs=("model", "conversations"),
    takes=("reward_model",),
    options=PpoOptions,
    cluster=PpoCluster,
    files=files,
    run=run,
)
