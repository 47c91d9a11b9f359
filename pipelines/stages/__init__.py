"""The table of stages, in the order in which a recipe runs them."""

from pipelines.stage import Stage
from pipelines.stages import (
    ai_feedback,
    augment,
    conversations,
    corpus,
    dpo,
    evaluate,
    guard,
    images,
    imported,
    knowledge,
    ppo,
    preferences,
    prefix_tuning,
    pretrain,
    quantise,
    reward_model,
    sft,
    tokenizer,
    tokens,
)

_IN_ORDER = (
    imported, corpus, images, tokenizer, tokens, pretrain, augment, conversations, sft, prefix_tuning,
    ai_feedback, preferences, reward_model, ppo, dpo, quantise, guard, knowledge, evaluate,
)  # fmt: skip

STAGES: dict[str, Stage] = {module.STAGE.kind: module.STAGE for module in _IN_ORDER}
