"""The stage `prefix_tuning`: a whole run on Ray Train workers leaves an adapter that PEFT opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cluster.session import Session
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.tokens.chat import Chat
from pipelines.learning.batch import PackedRows
from pipelines.learning.losses import IGNORE
from pipelines.stages import prefix_tuning
from tests.stages.test_sft import LENGTH, REPLIES, assistant, base, talks, user, write
from tests.stages.working import RecordedProgress, work_of

__all__ = ["base"]  # a fixture


def test_held_out_conversations_that_do_not_fit_leave_no_figures(base: Path, tmp_path: Path) -> None:
    inputs = {"model": base, "conversations": write(tmp_path / "talks", talks({"word " * 2000: "Yes."}))}
    stage_work = work_of(prefix_tuning.STAGE, tmp_path / "draft", Session(), inputs, {}, {})
    assert prefix_tuning.held_out_rows(stage_work, Chat.open(base), LENGTH) is None
    first, *_, last = cast(RecordedProgress, stage_work.progress).notes
    assert first == "conversations that are held out: 1"
    assert last.startswith("there will be no heldout/ figures: prefix_tuning.length: no conversation has")
    fits = prefix_tuning.held_out_rows(stage_work, Chat.open(base), 16_384)
    assert fits is not None and fits.is_file()


def test_figures_of_held_out_conversations_are_without_weights(base: Path, tmp_path: Path) -> None:
    turns = [user("a"), assistant("One."), user("b"), assistant("Two."), user("c"), assistant("Three.")]
    weighted = Conversation("w", "en", "mine", "open", turns, not_learnt=(3,), weights=(0.5, 0, 2))
    inputs = {"model": base, "conversations": write(tmp_path / "talks", [weighted])}
    stage_work = work_of(prefix_tuning.STAGE, tmp_path / "draft", Session(), inputs, {}, {})
    chat = Chat.open(base)
    file = prefix_tuning.held_out_rows(stage_work, chat, LENGTH)
    assert file is not None
    batch = PackedRows(file).read(np.arange(1))
    labels = batch.labels_BT[batch.labels_BT != IGNORE].tolist()
    assert chat.encoder.tokenizer.decode(labels, skip_special_tokens=True) == "One.Three."
    assert batch.weights_BT is None


@pytest.mark.slow
def test_a_prefix_is_learnt_and_opens_in_peft(base: Path, session: Session, tmp_path: Path) -> None:
    inputs = {"model": base, "conversations": write(tmp_path / "talks", talks(REPLIES) * 12)}
    options = {"batch_tokens": 4 * LENGTH, "epochs": 20, "num_virtual_tokens": 8, "projection": 32}
    cluster = {"workers": 2, "dtype": "float32"}
    stage_work = work_of(prefix_tuning.STAGE, tmp_path / "draft", session, inputs, options, cluster)
    facts = prefix_tuning.run(stage_work)
    assert float(facts["heldout/loss_nats"]) < float(facts["heldout/loss_nats_before"])
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(stage_work.draft.out))
    config: Any = adapted.active_peft_config
    assert (config.peft_type.value, config.num_virtual_tokens) == ("PREFIX_TUNING", 8)
    assert (stage_work.draft.out / "chat_template.jinja").is_file()
