"""The task of a PPO run: prompts as tokens and the rewards of replies, all checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.dialogues import conversations
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.chat_refusals import TemplateRows
from pipelines.data.tokens.tokenizing import same_tokenizer
from pipelines.errors import UserError
from pipelines.inference.model_config import context_length
from pipelines.inference.reply import Sampling
from pipelines.rollout.experience import Rollout
from pipelines.rollout.prompts import PromptOrder
from pipelines.rollout.rewards import REWARDS
from pipelines.rollout.rewards.reward import Exchange, Reward, RewardContext, Scores, score
from pipelines.stage import Facts, Work
from pipelines.stages.ppo.options import PpoOptions


@dataclass(frozen=True)
class Prompt:
    """A conversation whose last turn the policy is to write; tokens: ids of what stands before it."""

    conversation: Conversation
    tokens: list[int]


@dataclass(frozen=True)
class Task:
    """Prompts and rewards of one run."""

    options: PpoOptions
    chat: Chat
    train: list[Prompt]
    held_out: list[Prompt]
    num_left_out: int  # training prompts that are too long for the context
    # Prompts that the chat template refuses, those whose system turn is folded, held-out ones that are too long.
    row_facts: Facts
    order: PromptOrder

    @classmethod
    def open(cls, work: Work) -> Task:
        """Reads and checks everything. Raises UserError for what could not be trained with."""
        options: PpoOptions = work.options
        model, data = work.inputs["model"].local(), work.inputs["conversations"].local()
        check(work)
        chat = Chat.open(model, name=work.base)
        max_tokens = context_length(model) - options.max_new_tokens
        rows = conversations.read(data / conversations.TRAIN)
        template = TemplateRows(chat, "prompts")
        train = _prompts(template, rows, max_tokens)
        template.check("ppo")
        for note in template.notes:
            work.progress.note(note)
        if not train:
            raise UserError(_no_prompts(len(rows), max_tokens, options.max_new_tokens))
        held_out, held_out_facts, held_out_notes = _held_out(
            chat, data / conversations.HELD_OUT, max_tokens, options.held_out_prompts, work.seed
        )
        for note in held_out_notes:
            work.progress.note(note)
        return cls(
            options=options,
            chat=chat,
            train=train,
            held_out=held_out,
            num_left_out=len(rows) - template.refused - len(train),
            row_facts={**template.facts, **held_out_facts},
            order=_order(train, work.seed),
        )

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest prompt with the longest reply."""
        return max(len(prompt.tokens) for prompt in [*self.train, *self.held_out]) + self.options.max_new_tokens

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            temperature=self.options.temperature,
            max_new_tokens=self.options.max_new_tokens,
            stop_ids=self.chat.stop_ids,
        )

    def prompts(self, iteration: int) -> list[Prompt]:
        """Prompts of an iteration, each replies_per_prompt times in a row."""
        numbers = self.order.batch(iteration, self.options.prompts_per_iteration)
        return [self.train[number] for number in numbers for _ in range(self.options.replies_per_prompt)]

    def rewards(self, reward_model: Callable[[list[list[int]]], Sequence[float]]) -> dict[str, Reward]:
        """Rewards by the names that the recipe gives. reward_model: scores conversations of token ids, if there is
        one."""
        context = RewardContext(self.chat, reward_model, self.options.target_tokens, self.options.function)
        return {name: REWARDS[name](context) for name in self.options.rewards}

    def score(self, rewards: dict[str, Reward], prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Scores:
        """The rewards of each reply; the total is less the penalty of replies that were cut off."""
        exchanges = [
            Exchange(
                name=prompt.conversation.id,
                messages=prompt.conversation.prompt,
                reply=self.chat.text(rollout.reply.tokens),
                num_tokens=len(rollout.reply.tokens),
                answer=prompt.conversation.answer,
                safety=prompt.conversation.safety,
                tools=prompt.conversation.tools,
            )
            for prompt, rollout in zip(prompts, rollouts, strict=True)
        ]
        scores = score(rewards, {**self.options.rewards}, exchanges)
        penalty = self.options.unfinished_penalty
        total = [
            value - penalty * (rollout.reply.finish == "length")
            for value, rollout in zip(scores.total, rollouts, strict=True)
        ]
        return Scores(total, scores.parts)


def check(work: Work) -> None:
    """Raises UserError where options and artifacts do not go together."""
    options: PpoOptions = work.options
    model = work.inputs["model"].local()
    if not any(options.rewards.values()):
        raise UserError("ppo.rewards: all weights are 0; expected one reward with a weight, such as reward_model: 1.0")
    if options.minibatches > options.replies_per_iteration:
        raise UserError(
            f"ppo.minibatches: {options.minibatches} for {options.replies_per_iteration} replies an iteration; "
            f"expected at most one optimiser step a reply"
        )
    if options.advantage == "group" and options.replies_per_prompt < 2:
        raise UserError("ppo.replies_per_prompt: 1 with advantage: group; expected 2 or more, since they are compared "
                        "with each other")  # fmt: skip
    if options.advantage == "group" and options.critic is not None:
        raise UserError(f"ppo.critic: {options.critic}, but advantage: group has no critic; leave critic out")
    if ("function" in options.rewards) != (options.function is not None):
        raise UserError("ppo.function: path/to/file.py:name and ppo.rewards.function: WEIGHT go together; expected "
                        "both or neither")  # fmt: skip
    if "reward_model" not in options.rewards:
        if options.critic == "reward_model":
            raise UserError("ppo.critic: reward_model, but ppo.rewards has no reward_model; leave critic out")
        return
    if "reward_model" not in work.inputs:
        raise UserError("ppo.rewards.reward_model: no stage before ppo made a reward model; put the stage reward_model "
                        "before it, or choose other rewards: exact_match, length, safety, function")  # fmt: skip
    reward_model = work.inputs["reward_model"].local()
    if not same_tokenizer(model, reward_model):
        raise UserError(
            f"ppo: the policy ({model}) and the reward model ({reward_model}) have different tokenizers; expected the "
            f"same. Train the reward model on this policy's model"
        )


def _prompts(template: TemplateRows, rows: Sequence[Conversation], max_tokens: int) -> list[Prompt]:
    """The prompts of at most max_tokens tokens that the chat template takes."""
    prompts = [(f"conversation {row.id}", row.prompt) for row in rows]
    results = template.chat.prompts([row.prompt for row in rows], [row.tools for row in rows])
    template.count_tools(row.tools for row in rows)
    taken = [Prompt(rows[index], tokens) for index, tokens in template.taken(prompts, results)]
    return [prompt for prompt in taken if len(prompt.tokens) <= max_tokens]


def _held_out(chat: Chat, file: Path, max_tokens: int, count: int, seed: int) -> tuple[list[Prompt], Facts, list[str]]:
    """At most `count` different held-out prompts, tasks in turn, the same for the same seed; facts and notes about the
    prompts that cannot be used."""
    template = TemplateRows(chat, "held-out prompts", area="heldout")
    rows = conversations.read(file) if count and file.is_file() else []
    prompts = _prompts(template, rows, max_tokens)
    facts, notes, num_left_out = template.facts, template.notes, len(rows) - template.refused - len(prompts)
    if num_left_out:
        facts["heldout/prompts_left_out"] = num_left_out
        notes.append(
            f"{num_left_out:,} held-out prompts left out: with a reply they are longer than the model's context"
        )
    numbers = _order(prompts, seed).batch(0, min(count, len(prompts))) if prompts else []
    return [prompts[number] for number in dict.fromkeys(numbers)], facts, notes


def _order(prompts: Sequence[Prompt], seed: int) -> PromptOrder:
    return PromptOrder([f"{prompt.conversation.task} {prompt.conversation.language}" for prompt in prompts], seed)


def _no_prompts(num_rows: int, max_tokens: int, max_new_tokens: int) -> str:
    if not num_rows:
        return "ppo: the conversations have no training prompts; expected at least one"
    return (
        f"ppo.max_new_tokens: {max_new_tokens:,} leave {max(0, max_tokens):,} tokens of the model's context for a "
        f"prompt, and none of {num_rows:,} prompts is so short; lower max_new_tokens, or use shorter prompts"
    )
