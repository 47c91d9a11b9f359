"""The stages, in the order of the story."""

from pipelines.stage import Stage
from pipelines.stages import corpus, evaluate, imported, pretrain, tokenizer, tokens

_IN_ORDER = (imported, corpus, tokenizer, tokens, pretrain, evaluate)

STAGES: dict[str, Stage] = {module.STAGE.kind: module.STAGE for module in _IN_ORDER}
