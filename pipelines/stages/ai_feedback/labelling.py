"""Two replies to each prompt, compared by the judge in both orders."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.dialogues import builtin_tasks, conversations, preferences
from pipelines.data.dialogues.answer_match import normalised
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.dialogues.preferences import Pair
from pipelines.data.dialogues.synthetic import verdicts
from pipelines.data.dialogues.synthetic.rows import Written
from pipelines.data.dialogues.synthetic.templates import TEMPLATES, fill
from pipelines.data.sources.bad_rows import Problem
from pipelines.data.tokens.chat_calls import uses_tools
from pipelines.errors import UserError
from pipelines.inference.reply import Sampling
from pipelines.stage import Facts, Work
from pipelines.stages.ai_feedback.options import AiFeedbackOptions
from pipelines.writers.requests import ChatAnswer, text_of
from pipelines.writers.writer import ROUND, Requests, Writer

REQUESTS = {"model": 4, "preferences": 2}  # of a pair


@dataclass(frozen=True)
class TwoReplies:
    """Two replies to compare. row_id: of the conversation or the pair."""

    row_id: str
    language: str
    prompt: list[dict[str, str]]
    first: str
    second: str


def _has_tools(row: Conversation | Pair) -> bool:
    """Whether a row has tools or calls them, in its prompt or a reply of a pair: the judge compares texts alone."""
    calls = isinstance(row, Pair) and (row.chosen_calls or row.rejected_calls)
    return bool(row.tools or calls or uses_tools(row.prompt))


class Labelling:
    """One attempt at an `ai_feedback` stage. Raises UserError where a key is missing."""

    def __init__(self, work: Work):
        options: AiFeedbackOptions = work.options
        self.work, self.options, self.written = work, options, Written()
        self.requests = Requests(work, "ai_feedback", options.max_requests)
        self.judge = Writer.open(self.requests, options.judge or options.endpoint, context=options.context)
        self.writer: Writer | None = None
        if options.pairs_from == "model":
            self.writer = Writer.open(self.requests, options.endpoint, context=options.context)
        self.templates_used: dict[str, str] = {}
        self.counts = Counter[str]()

    def run(self) -> Facts:
        """Compares replies in rounds, until there are enough rows or nothing is left. Returns facts about the data."""
        rows, facts = self._rows()
        random.Random(self.work.seed).shuffle(rows)
        left = iter(rows)
        while round_rows := self._next(left):
            self._compare(list(self._replies(round_rows)))
        return facts

    def _next(self, rows: Iterator[Any]) -> list[Any]:
        """The rows of the next round: as many as are missing, and as there are requests left for."""
        missing = self.options.rows - len(self.written.rows)
        number = min(ROUND, missing, self.requests.left // REQUESTS[self.options.pairs_from])
        return [row for _, row in zip(range(number), rows, strict=False)]

    def _rows(self) -> tuple[list[Any], Facts]:
        """Conversations for training, or pairs; facts about those that are left out."""
        read: Sequence[Conversation | Pair]
        if self.writer is None:
            read = preferences.read(self.work.inputs["preferences"].local() / preferences.TRAIN)
        else:
            read = conversations.read(self.work.inputs["conversations"].local() / conversations.TRAIN)
        rows = [row for row in read if self.options.builtin_tasks or row.source != builtin_tasks.SOURCE]
        without_tools = [row for row in rows if not _has_tools(row)]
        num_builtin, num_tools = len(read) - len(rows), len(rows) - len(without_tools)
        if not without_tools:
            raise UserError(
                f"{self.work.name}: no prompts: of {len(read):,} training rows {num_builtin:,} are of the built-in "
                f"tasks and {num_tools:,} have tools or call them; expected others. Set builtin_tasks: true, or "
                f"add a source with rows: {'preferences' if self.writer is None else 'conversations'}"
            )
        facts: Facts = {"ai_feedback/read": len(read), "ai_feedback/left_out_builtin_tasks": num_builtin,
                        "ai_feedback/left_out_tools": num_tools}  # fmt: skip
        return without_tools, facts

    def _replies(self, rows: Sequence[Any]) -> Iterator[TwoReplies]:
        """Two replies to each prompt, without those that cannot be compared."""
        if self.writer is None:
            for pair in rows:
                yield TwoReplies(pair.id, pair.language, pair.prompt, pair.chosen, pair.rejected)
            return
        sampling = Sampling(self.options.temperature, max_new_tokens=self.options.max_new_tokens)
        answers = self.writer.answers([row.prompt for row in rows for _ in range(2)], sampling)
        for row, first, second in zip(rows, answers[::2], answers[1::2], strict=True):
            texts = [text_of(answer) for answer in (first, second)]
            problem = next((text for text in texts if isinstance(text, Problem)), None)
            replies = [text for text in texts if isinstance(text, str)]
            if problem is None and normalised(replies[0]) == normalised(replies[1]):
                problem = Problem("equal_replies", "both replies say the same; expected two different ones")
            if problem is None:
                yield TwoReplies(row.id, row.language, row.prompt, *replies)
            else:
                self.written.drop(
                    problem.reason, problem.text, first.text, row.language, self._meta(row.id, row.language)
                )

    def _compare(self, pairs: Sequence[TwoReplies]) -> None:
        """Keeps the pairs on which the judge agrees with itself, whatever their order."""
        orders = [(pair, first, second) for pair in pairs
                  for first, second in ((pair.first, pair.second), (pair.second, pair.first))]  # fmt: skip
        prompts = [self._prompt(*order) for order in orders]
        answers = self.judge.answers(prompts, Sampling(0.0, max_new_tokens=self.options.judge_tokens))
        for pair, answer, swapped in zip(pairs, answers[::2], answers[1::2], strict=True):
            self._label(pair, answer, swapped)

    def _label(self, pair: TwoReplies, answer: ChatAnswer, swapped: ChatAnswer) -> None:
        """Keeps or drops a pair by the judge's two answers; swapped: where the second reply comes first."""
        meta = self._meta(pair.row_id, pair.language)
        said = [text_of(each) for each in (answer, swapped)]
        problem = next((text for text in said if isinstance(text, Problem)), None)
        if problem is not None:
            self.written.drop(f"judge_{problem.reason}", problem.text, answer.text, pair.language, meta)
            return
        labels = [verdicts.parse_verdict(str(text)) for text in said]
        self.counts.update(judged=int(None not in labels), first_place=labels.count("A"),
                           decided=labels.count("A") + labels.count("B"))  # fmt: skip
        better = verdicts.outcome(labels[0], labels[1])
        if better not in ("first", "second"):
            problem_text = (
                f"verdicts {labels[0]} and, swapped, {labels[1]}; expected the same reply to be better in both"
            )
            self.written.drop(better, problem_text, "\n\n".join(map(str, said)), pair.language, meta)
            return
        self.counts.update(agreed=1)
        chosen, rejected = (pair.first, pair.second) if better == "first" else (pair.second, pair.first)
        self.written.keep({"prompt": pair.prompt, "chosen": chosen, "rejected": rejected}, pair.language, meta)

    def _prompt(self, pair: TwoReplies, first: str, second: str) -> list[dict[str, str]]:
        """The judge's prompt. Of several turns each begins with its role."""
        template = (
            self.options.template.get("zh" if pair.language == "zh" else "en") or TEMPLATES["compare"][pair.language]
        )
        self.templates_used[f"compare.{pair.language}"] = template
        turns = [f"{turn['role']}: {turn['content']}" for turn in pair.prompt]
        prompt = pair.prompt[0]["content"] if len(turns) == 1 else "\n\n".join(turns)
        return [{"role": "user", "content": fill(template, {"prompt": prompt, "reply_a": first, "reply_b": second})}]

    def _meta(self, row_id: str, language: str) -> dict[str, Any]:
        """Provenance of a row."""
        return {
            "method": "ai_feedback", "template": f"compare.{language}", "judge": self.judge.name,
            "writer": None if self.writer is None else self.writer.name, "seeds": [row_id], "derived_from": row_id,
        }  # fmt: skip

    @property
    def shares(self) -> Facts:
        """Of what was judged: the share on which both orders agree, and of verdicts for the reply in the first place,
        which is 0.5 for a judge without a preference for a place."""
        counts = self.counts
        shares: Facts = {"ai_feedback/judged": counts["judged"]}
        if counts["judged"]:
            shares["ai_feedback/agreement"] = counts["agreed"] / counts["judged"]
        if counts["decided"]:
            shares["ai_feedback/first_place"] = counts["first_place"] / counts["decided"]
        return shares
