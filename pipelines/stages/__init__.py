"""The stages, in the order of the story."""

from pipelines.stage import Stage
from pipelines.stages import base, corpus, evaluate, pretrain, tokenizer, tokens

STAGES: dict[str, Stage] = {
    stage.kind: stage for stage in (base.STAGE, corpus.STAGE, tokenizer.STAGE, tokens.STAGE, pretrain.STAGE, evaluate.STAGE)
}
