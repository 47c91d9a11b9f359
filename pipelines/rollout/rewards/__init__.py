"""Rewards by name. A new one is a file here and a line below."""

from collections.abc import Callable

from pipelines.rollout.rewards.exact_match import exact_match
from pipelines.rollout.rewards.function import function
from pipelines.rollout.rewards.length import length
from pipelines.rollout.rewards.reward import Reward, RewardContext
from pipelines.rollout.rewards.reward_model import reward_model
from pipelines.rollout.rewards.safety import safety

REWARDS: dict[str, Callable[[RewardContext], Reward]] = {
    "reward_model": reward_model,
    "exact_match": exact_match,
    "length": length,
    "safety": safety,
    "function": function,
}
