"""Pairs that a judge labels: kept where both orders agree, counted by reason elsewhere, read by a later stage."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.dialogues import preferences
from pipelines.data.dialogues.synthetic import rows as synthetic
from pipelines.errors import UserError
from pipelines.stages import STAGES
from tests.stages.chat_endpoint import ChatEndpoint, serving
from tests.stages.single import Made, jsonl, make, prompts, talk

REPLIES = ("Short.", "A reply that is quite a bit longer.")
JUDGES = {  # what a judge says, from the two replies in the order in which it gets them
    "longer": lambda a, b: f"Well. [[{'A' if len(a) > len(b) else 'B'}]]",
    "longer, but not of the sky": lambda a, b: "I like turtles." if "sky" in a + b else JUDGES["longer"](a, b),
    "first place": lambda a, b: "A",
    "tie": lambda a, b: "They are equally good.",
    "nonsense": lambda a, b: "I like turtles.",
}


@pytest.fixture
def endpoint() -> Iterator[ChatEndpoint]:
    """A server that writes a short reply and a long one in turn."""
    with serving(lambda prompt: "") as server:
        yield server


def play(server: ChatEndpoint, judge: str) -> None:
    """Lets the server write and compare. Which of the replies it writes depends on the request's seed alone."""

    def reply(prompt: str) -> str:
        sides = re.search(r"\[Reply A\]\n(.*)\n\n\[Reply B\]\n(.*)\n\nEnd with", prompt, re.DOTALL)
        if sides:
            return JUDGES[judge](*sides.groups())
        number = sum(body["messages"][-1]["content"] == prompt for body in server.bodies)
        return f"{REPLIES[number % 2]} {prompt}"

    server.reply = reply


@pytest.fixture
def talks(tmp_path: Path) -> Made:
    words = ("river", "bread", "clock", "violin", "snow", "map", "ship", "ant")
    jsonl(tmp_path / "talks.jsonl", [talk(f"What is a {word} made of, {number}?", "Yes.")
                                     for number, word in enumerate(words)])  # fmt: skip
    return make("conversations", tmp_path, builtin_tasks=False, held_out=0.25, files={"talks": {"path": "talks.jsonl"}})


def feedback(folder: Path, server: ChatEndpoint, talks: Made | None, **options: Any) -> Made:
    options = {"endpoint": server.options, "cluster": {"concurrency": 1, "retries": 0}} | options
    return make("ai_feedback", folder, talks=talks, **options)


def test_pairs_on_which_both_orders_agree(tmp_path: Path, endpoint: ChatEndpoint, talks: Made) -> None:
    play(endpoint, "longer")
    made = feedback(tmp_path, endpoint, talks)
    rows = synthetic.read(made.out)
    assert len(rows) == made.facts["ai_feedback/kept"] == talks.facts["conversations/train"]
    assert all(row["chosen"].startswith(REPLIES[1]) and row["rejected"].startswith(REPLIES[0]) for row in rows)
    assert made.facts["ai_feedback/requests"] == 4 * len(rows) == len(endpoint.bodies)
    assert (made.facts["ai_feedback/agreement"], made.facts["ai_feedback/first_place"]) == (1.0, 0.5)
    pairs = make("preferences", tmp_path, talks=talks, held_out=0.5, inputs={"ai_feedback": made.out})
    train = preferences.read(pairs.out / preferences.TRAIN)
    assert sorted(pair.chosen for pair in train) == sorted(row["chosen"] for row in rows)
    assert {pair.source for pair in train} == {"stage:ai_feedback"} and prompts(train) == {
        f"what is a {row['prompt'][0]['content'].split()[3]} made of, {row['prompt'][0]['content'][-2]}" for row in rows
    }
    assert preferences.read(pairs.out / preferences.HELD_OUT) == []  # the prompts are for training


@pytest.mark.parametrize(
    ("judge", "reason"), [("first place", "judge_disagrees"), ("tie", "tied"), ("nonsense", "no_verdict")]
)
def test_a_judge_that_is_of_no_use(
    tmp_path: Path, endpoint: ChatEndpoint, talks: Made, judge: str, reason: str
) -> None:
    play(endpoint, judge)
    number = talks.facts["conversations/train"]
    with pytest.raises(UserError, match=rf"no row after {4 * int(number)} of .*{number} {reason}\. See .*dropped"):
        feedback(tmp_path, endpoint, talks)
    (dropped,) = tmp_path.rglob("dropped.jsonl")
    assert {json.loads(line)["reason"] for line in dropped.read_text().splitlines()} == {reason}


def test_pairs_of_the_user_are_labelled_anew(tmp_path: Path, endpoint: ChatEndpoint) -> None:
    play(endpoint, "longer, but not of the sky")
    rows = [
        *({"prompt": f"Why {word}?", "chosen": "No.", "rejected": f"Because of {word}."} for word in ("ice", "sky")),
        {"prompt": "Why tea?", "chosen": "Because of tea.", "rejected": "No."},
    ]
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "tide", "arguments": {}}}]}
    ask = {"role": "user", "content": "When is high water?"}
    calling = [
        {"prompt": [ask], "chosen": [call], "rejected": [{"role": "assistant", "content": "No."}]},
        {"prompt": [ask, call, {"role": "tool", "content": "6"}], "chosen": "At six.", "rejected": "No."},
    ]
    jsonl(tmp_path / "pairs.jsonl", [*rows, *calling])
    files = {"pairs": {"path": "pairs.jsonl"}}
    pairs = make("preferences", tmp_path, held_out=0, files=files)
    options: dict[str, Any] = {"pairs_from": "preferences", "judge": endpoint.options}
    cluster = {"concurrency": 1, "retries": 0}
    made = make("ai_feedback", tmp_path, inputs={"preferences": pairs.out}, cluster=cluster, **options)
    labelled = synthetic.read(made.out)
    assert sorted(row["chosen"] for row in labelled) == ["Because of ice.", "Because of tea."]
    assert len(endpoint.bodies) == 6 and {row["meta"]["writer"] for row in labelled} == {None}
    assert made.facts["ai_feedback/left_out_tools"] == 2
    assert (made.facts["ai_feedback/judged"], made.facts["ai_feedback/agreement"]) == (2, 1.0)
    again = make("preferences", tmp_path, held_out=0, files=files, inputs={"ai_feedback": made.out})
    train = preferences.read(again.out / preferences.TRAIN)
    assert sorted((pair.source, pair.chosen) for pair in train) == [
        ("pairs", ""), ("pairs", "At six."), ("pairs", "No."),
        ("stage:ai_feedback", "Because of ice."), ("stage:ai_feedback", "Because of tea."),
    ]  # fmt: skip
    assert again.facts["pairs/labelled_anew"] == 2 == again.facts["rows/not_used_labelled_anew"]


def test_bounds(tmp_path: Path, endpoint: ChatEndpoint, talks: Made) -> None:
    play(endpoint, "longer")
    assert len(synthetic.read(feedback(tmp_path, endpoint, talks, rows=2).out)) == 2
    endpoint.bodies.clear()
    made = feedback(tmp_path, endpoint, talks, max_requests=11)
    assert len(synthetic.read(made.out)) == 2 and len(endpoint.bodies) == 8
    assert any("2 of 100 rows after 8 of at most 11 requests" in note for note in made.notes)


def test_what_the_options_need() -> None:
    stage, there = STAGES["ai_feedback"], {"url": "http://127.0.0.1:1/v1", "model": "m"}
    needs = [
        stage.needs_for(stage.options.model_validate(options))
        for options in ({}, {"endpoint": there}, {"judge": there}, {"pairs_from": "preferences"},
                        {"pairs_from": "preferences", "judge": there})
    ]  # fmt: skip
    both, conversations = ("conversations", "model"), ("conversations",)
    assert needs == [both, conversations, both, ("preferences", "model"), ("preferences",)]
    for option in ({"endpoint": there}, {"temperature": 0.5}, {"max_new_tokens": 9}):
        with pytest.raises(ValueError, match=rf"{next(iter(option))}: only pairs_from: model has it"):
            stage.options.model_validate({"pairs_from": "preferences", "judge": there, **option})


def test_no_prompts_is_an_error(tmp_path: Path, endpoint: ChatEndpoint) -> None:
    builtin = make("conversations", tmp_path, rows_per_task=5, held_out_rows_per_task=2)
    with pytest.raises(UserError, match=r"no prompts: .*Set builtin_tasks: true"):
        feedback(tmp_path, endpoint, builtin)
