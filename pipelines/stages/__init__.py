"""The stages, in the order of the story."""

from pipelines.stage import Stage
from pipelines.stages import corpus, evaluate, imported, pretrain, tokenizer, tokens

STAGES: dict[str, Stage] = {
    stage.kind: stage for stage in (imported.STAGE, corpus.STAGE, tokenizer.STAGE, tokens.STAGE, pretrain.STAGE, evaluate.STAGE)
}
