"""The baseline of exact match: prompts as plain text, the commonest answer, the better of the two."""

from __future__ import annotations

from statistics import mode
from typing import Any

import pytest

from pipelines.data.dialogues.conversations import Conversation
from pipelines.metrics.few_shot import commonest_answers, few_shot_prompts, line_ends, score
from pipelines.metrics.metric import Material, Outputs
from tests.metrics.dialogues import dialogue, material, replies
from tests.tiny_models import CONTEXT, Tiny

SHOTS = [dialogue(f"e{n}", "sums", "en", f"{n} + {n}?", f"{n + n}") for n in range(5)]
SHOTS += [dialogue(f"z{n}", "sums", "zh", f"{n}加{n}？", "四") for n in range(3)]
SHOTS += [dialogue(f"n{n}", "names", "en", f"Who is {n}?", ("Ann", "Bob", "bob.")[n % 3]) for n in range(6)]
HELD_OUT = [
    dialogue("1", "sums", "en", "7 + 7?", "14"),
    dialogue("2", "sums", "zh", "二加二？", "四"),
    dialogue("3", "names", "en", "Who is 9?", "Bob"),
    dialogue("4", "names", "en", "Who is 10?", "Ann"),
    dialogue("5", "small_talk", "en", "Hello"),
]


def base(tiny: Tiny, held_out: list[Conversation] = HELD_OUT, **changes: Any) -> Material:
    return material(tiny, held_out, **({"shots": SHOTS, "previous_is_base": True, "num_shots": 3} | changes))


def test_prompts_are_questions_and_answers_of_the_same_task_as_plain_text(tiny: Tiny) -> None:
    what = base(tiny)
    requests = few_shot_prompts(what)
    assert requests is not None and requests.models == "previous" and requests.sampling.temperature == 0
    assert [prompt.conversation for prompt in requests.prompts] == HELD_OUT[:4]  # what has an answer
    for prompt in requests.prompts:
        assert prompt.tokens[0] == what.start_id
        text = what.encoder.tokenizer.decode(prompt.tokens[1:], skip_special_tokens=False)
        *examples, question = text.split("\n\n")
        pool = [
            one for one in SHOTS if (one.task, one.language) == (prompt.conversation.task, prompt.conversation.language)
        ]
        assert len(set(examples)) == 3 and set(examples) <= {
            f"{one.prompt[0]['content']}\n{one.answer}" for one in pool
        }
        assert question == f"{prompt.conversation.prompt[0]['content']}\n"
    assert few_shot_prompts(base(tiny, previous_is_base=False)) is None
    assert few_shot_prompts(base(tiny, HELD_OUT[4:])) is None


def test_examples_are_drawn_by_the_seed_and_left_out_where_the_context_ends(tiny: Tiny) -> None:
    def tokens(**changes: Any) -> list[list[int]]:
        requests = few_shot_prompts(base(tiny, **changes))
        assert requests is not None
        return [prompt.tokens for prompt in requests.prompts]

    assert tokens() == tokens() != tokens(seed=8)
    long = [dialogue(f"e{n}", "sums", "en", f"{n} + {n}? " * 8, "2") for n in range(9)]
    first = tokens(shots=long, num_shots=9)[0]
    assert CONTEXT // 2 < len(first) <= CONTEXT - 20
    (bare,) = tokens(held_out=HELD_OUT[:1], num_shots=0)
    assert len(bare) < 12


def test_a_reply_ends_with_any_token_that_breaks_a_line(tiny: Tiny) -> None:
    what = base(tiny)
    requests = few_shot_prompts(what)
    assert requests is not None
    ends = {i for token, i in what.encoder.tokenizer.get_vocab(with_added_tokens=False).items() if "Ċ" in token}
    assert len(ends) > 1 and ends == set(line_ends(what.encoder))  # Ċ is how byte-level BPE spells a line feed
    assert set(requests.sampling.stop_ids) == ends | {what.encoder.eos_id}


def test_the_commonest_answer_whatever_its_spelling() -> None:
    answers = commonest_answers(SHOTS)
    assert answers[("names", "en")] == mode(str(one.answer).lower().rstrip(".") for one in SHOTS if one.task == "names")
    assert answers == {("sums", "en"): "0", ("sums", "zh"): "四", ("names", "en"): "bob"}


def test_the_baseline_is_the_better_of_both_in_all_and_in_each_language(tiny: Tiny) -> None:
    what = base(tiny)
    requests = few_shot_prompts(what)
    assert requests is not None
    previous = replies(tiny, ["14\n\n8 + 8?", "五\n", " Bob\n", "Ann"])
    facts = score(what, requests, Outputs(), previous).facts
    few_shot = {"": (1 + 0 + 1) / 3, "_en": 1, "_zh": 0}
    fixed = {"": (0 + 1 + 0.5) / 3, "_en": 0.25, "_zh": 1}
    for language in ("", "_en", "_zh"):
        assert facts[f"heldout/exact_match_few_shot{language}"] == pytest.approx(few_shot[language])
        assert facts[f"heldout/exact_match_commonest{language}"] == pytest.approx(fixed[language])
        assert facts[f"heldout/exact_match_baseline{language}"] == max(
            facts[f"heldout/exact_match_few_shot{language}"], facts[f"heldout/exact_match_commonest{language}"]
        )
    alone = score(what, requests, Outputs(), None).facts  # the base model could not run
    assert set(alone) == {f"heldout/exact_match_commonest{language}" for language in few_shot}
