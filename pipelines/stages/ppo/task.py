"""What PPO is to learn: prompts as tokens, the rewards of replies, all checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.dialogues import conversations
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.chat import Chat
from pipelines.data.tokens.tokenizing import same_tokenizer
from pipelines.errors import UserError
from pipelines.inference.model_config import context_length
from pipelines.inference.reply import Reply, Sampling
from pipelines.rollout.prompts import PromptOrder
from pipelines.rollout.rewards import REWARDS
from pipelines.rollout.rewards.reward import Answered, Reward, Scores, Setting, score
from pipelines.stage import Work
from pipelines.stages.ppo.options import PpoOptions


@dataclass(frozen=True)
class Asked:
    """A prompt, and how it is asked."""

    conversation: Conversation
    tokens: list[int]


@dataclass(frozen=True)
class Task:
    """The prompts and the rewards of one run."""

    options: PpoOptions
    chat: Chat
    train: list[Asked]
    held_out: list[Asked]
    left_out: int  # training prompts over the context
    order: PromptOrder

    @classmethod
    def open(cls, work: Work) -> Task:
        """Reads and checks everything. Raises UserError for what could not be trained with."""
        options: PpoOptions = work.options
        model, data = work.inputs["model"].local(), work.inputs["conversations"].local()
        check(work)
        chat = Chat.open(model)
        longest = context_length(model) - options.max_new_tokens
        found = conversations.read(data / conversations.TRAIN)
        train = _asked(chat, found, longest)
        if not train:
            raise UserError(_no_prompts(len(found), longest, options.max_new_tokens))
        order = PromptOrder([_group(asked.conversation) for asked in train], work.seed)
        file = data / conversations.HELD_OUT
        return cls(options, chat, train, _held_out(chat, file, longest, work), len(found) - len(train), order)

    @property
    def max_tokens(self) -> int:
        """Of a prompt with its reply."""
        return max(len(asked.tokens) for asked in [*self.train, *self.held_out]) + self.options.max_new_tokens

    @property
    def sampling(self) -> Sampling:
        options = self.options
        stop = self.chat.stop_ids
        return Sampling(temperature=options.temperature, max_new_tokens=options.max_new_tokens, stop_ids=stop)

    def prompts(self, iteration: int) -> list[Asked]:
        """The prompts of an iteration, each as often as it is to be replied to."""
        numbers = self.order.batch(iteration, self.options.prompts_per_iteration)
        return [self.train[number] for number in numbers for _ in range(self.options.replies_per_prompt)]

    def rewards(self, judge: Callable[[list[list[int]]], Sequence[float]]) -> dict[str, Reward]:
        """The rewards that the recipe names. judge: the reward model, where there is one."""
        setting = Setting(self.chat, judge, self.options.target_tokens, self.options.function)
        return {name: REWARDS[name](setting) for name in self.options.rewards}

    def score(self, rewards: dict[str, Reward], asked: Sequence[Asked], replies: Sequence[Reply]) -> Scores:
        """The reward of each reply, less the penalty of those that were cut off."""
        answered = [
            Answered(
                name=one.conversation.id,
                messages=one.conversation.prompt,
                reply=self.chat.text(reply.tokens),
                num_tokens=len(reply.tokens),
                answer=one.conversation.answer,
                safety=one.conversation.safety,
            )
            for one, reply in zip(asked, replies, strict=True)
        ]
        scores = score(rewards, {**self.options.rewards}, answered)
        penalty = self.options.unfinished_penalty
        total = [
            own - penalty * (reply.finish == "length") for own, reply in zip(scores.total, replies, strict=True)
        ]  # fmt: skip
        return Scores(total, scores.parts)


def check(work: Work) -> None:
    """Raises UserError where options and artifacts do not go together."""
    options: PpoOptions = work.options
    model = work.inputs["model"].local()
    if not any(options.rewards.values()):
        raise UserError("ppo.rewards: no reward counts; give one a weight, such as reward_model: 1.0")
    if options.minibatches > options.replies:
        raise UserError(
            f"ppo.minibatches: {options.minibatches} for {options.replies} replies an iteration; expected at most one "
            f"optimiser step a reply"
        )
    if options.advantage == "group" and options.replies_per_prompt < 2:
        raise UserError("ppo.replies_per_prompt: 1 with advantage: group; expected 2 or more, since they are measured "
                        "against each other")  # fmt: skip
    if options.advantage == "group" and options.critic is not None:
        raise UserError(f"ppo.critic: {options.critic}, but advantage: group has none; leave critic out")
    if ("function" in options.rewards) != (options.function is not None):
        raise UserError("ppo.function: path/to/file.py:name and ppo.rewards.function: WEIGHT go together; expected "
                        "both or none")  # fmt: skip
    if "reward_model" not in options.rewards:
        if options.critic == "reward_model":
            raise UserError("ppo.critic: reward_model, but none gives rewards; leave critic out")
        return
    if "reward_model" not in work.inputs:
        raise UserError("ppo.rewards.reward_model: no stage before ppo made a reward model; put the stage reward_model "
                        "before it, or weigh other rewards: exact_match, length, safety, function")  # fmt: skip
    judge = work.inputs["reward_model"].local()
    if not same_tokenizer(model, judge):
        raise UserError(
            f"ppo: the policy ({model}) and the reward model ({judge}) have different tokenizers; expected the same. "
            f"Train the reward model on this policy's model"
        )


def _asked(chat: Chat, found: Sequence[Conversation], longest: int) -> list[Asked]:
    """Those that leave room for a reply."""
    every = [Asked(one, chat.prompt(one.prompt)) for one in found]
    return [asked for asked in every if len(asked.tokens) <= longest]


def _held_out(chat: Chat, file: Path, longest: int, work: Work) -> list[Asked]:
    """Some held-out prompts, tasks in turn, always the same; none twice."""
    fit = _asked(chat, conversations.read(file) if file.is_file() else [], longest)
    count = min(work.options.held_out_prompts, len(fit))
    order = PromptOrder([_group(asked.conversation) for asked in fit], work.seed)
    return [fit[number] for number in dict.fromkeys(order.batch(0, count) if count else [])]


def _group(one: Conversation) -> str:
    return f"{one.task} {one.language}"


def _no_prompts(found: int, longest: int, max_new_tokens: int) -> str:
    if not found:
        return "ppo: the conversations have no training prompts; expected at least one"
    return (
        f"ppo.max_new_tokens: {max_new_tokens:,} leave {max(0, longest):,} tokens of the model's context for a prompt, "
        f"and none of {found:,} prompts is so short; lower max_new_tokens, or take shorter prompts"
    )
