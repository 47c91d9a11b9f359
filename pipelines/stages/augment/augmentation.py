"""What the methods of `augment` share: seeds, the writer, the rules on replies, and what becomes of each answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.data.dialogues.conversation_records import text_of
from pipelines.data.dialogues.conversations import Conversation
from pipelines.data.dialogues.outliers import OutlierRules
from pipelines.data.dialogues.synthetic import rows as synthetic
from pipelines.data.dialogues.synthetic.rows import Written
from pipelines.data.dialogues.synthetic.templates import TEMPLATES, fill
from pipelines.data.sources.bad_rows import Problem, row_language
from pipelines.data.sources.column_names import RATING_COLUMNS
from pipelines.data.text.languages import language_name
from pipelines.data.tokens.chat_calls import uses_tools
from pipelines.data.tokens.chat_messages import said
from pipelines.dialogue_rows import DialogueRows, read_conversations, synthetic_source, with_synthetic
from pipelines.errors import UserError
from pipelines.inference.reply import Sampling
from pipelines.stage import Facts, Work
from pipelines.writers.requests import ChatAnswer
from pipelines.writers.writer import Requests, Writer


@dataclass
class Augmentation:
    """One attempt at an `augment` stage."""

    work: Work
    seeds: list[Conversation]
    seed_facts: Facts
    synthetic_seeds: str | None  # name of the source of those seeds that a model wrote
    requests: Requests
    writer: Writer
    rules: OutlierRules
    written: Written = field(default_factory=Written)
    templates_used: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, work: Work) -> Augmentation:
        """Reads the seeds and opens the writer. Raises UserError where there are no seeds, or no key.

        Where seeds are written anew, they are read without thoughts, as answers are, and those that call tools are left
        out: a call, its result and the turns around it cannot be changed one by one."""
        options = work.options
        requests = Requests(work, "augment", options.max_requests)
        writer = Writer.open(requests, options.endpoint, context=options.context)
        with_earlier = with_synthetic(work, "augmented", "conversations")
        ratings = RATING_COLUMNS if options.min_rating is not None else ()
        rows = DialogueRows(with_earlier, "conversations", "seeds", also_read=ratings)
        seeds, counts = read_conversations(
            rows,
            area="seeds",
            keep_thoughts=options.thoughts == "keep" and not options.derives,
            min_rating=options.min_rating,
            near_duplicates=options.near_duplicates,
        )
        facts = rows.finish(counts)
        if not seeds:
            raise rows.nothing_left("the recipe has no sources with rows: conversations that hold any. Add one: the "
                                    "model writes rows like those")  # fmt: skip
        usable = [seed for seed in seeds if not (options.derives and uses_tools(seed.messages))]
        if len(usable) < len(seeds):
            facts["augment/left_out_tools"] = len(seeds) - len(usable)
        if not usable:
            raise UserError(f"{work.name}: no seeds: all {len(seeds):,} call tools, which {options.method} leave out; "
                            f"expected conversations without calls. Add some, or set method: instructions")  # fmt: skip
        source = synthetic_source(work, "augmented")
        return cls(work, usable, facts, source, requests, writer, options.outlier_rules())

    @property
    def missing(self) -> int:
        """Number of rows that are still to be written, as far as there are requests left: each takes one at least."""
        return max(0, min(self.work.options.rows - len(self.written.rows), self.requests.left))

    def prompt(self, name: str, language: str, **values: object) -> list[dict[str, str]]:
        """The messages of a request: a template, filled in."""
        template = {**TEMPLATES[name], **self.work.options.template}[language]
        self.templates_used[f"{name}.{language}"] = template
        return [{"role": "user", "content": fill(template, values)}]

    def answers(self, prompts: Sequence[list[dict[str, str]]]) -> list[ChatAnswer]:
        """The answers to the prompts; to the first ones only, where no more requests are left."""
        options = self.work.options
        return self.writer.answers(prompts, Sampling(options.temperature, max_new_tokens=options.max_new_tokens))

    def meta(self, template: str, *, seeds: Sequence[Conversation] = (), derived_from: Conversation | None = None
             ) -> dict[str, Any]:  # fmt: skip
        """Provenance of a row. template: its name; seeds: examples in the prompt; derived_from: the row that it was
        made from."""
        return {
            "method": self.work.options.method,
            "template": template,
            "writer": self.writer.name,
            "seeds": [self._reference(seed) for seed in seeds],
            "derived_from": None if derived_from is None else self._reference(derived_from),
        }

    def _reference(self, seed: Conversation) -> str:
        return synthetic.reference(seed.id, is_synthetic=seed.source == self.synthetic_seeds)

    def problem(self, messages: Sequence[dict[str, str]], language: str) -> Problem | None:
        """Why a conversation is dropped, if it is. The last turn is the reply; language: as expected."""
        text = text_of([*messages])
        problem = self.rules.problem(text, [said(messages[-1])])
        if problem is not None:
            return problem
        actual = row_language(text, language)
        if actual != language:
            return Problem("language", f"is in {language_name(actual)}; expected {language_name(language)}")
        return None

    def keep_or_drop(
        self, messages: list[dict[str, str]], language: str, meta: dict[str, Any], seed: Conversation | None = None
    ) -> bool:
        """Keeps a conversation, or drops it by the rules. Returns whether it is kept.

        seed: that it was made from, whose tools it has, and the weights of whose turns."""
        problem = self.problem(messages, language)
        if problem is None:
            weights, tools = (_weights(seed, messages), seed.tools) if seed is not None else ({}, "")
            turns = [turn | ({"weight": weights[n]} if n in weights else {}) for n, turn in enumerate(messages)]
            self.written.keep({"messages": turns, **({"tools": tools} if tools else {})}, language, meta)
        else:
            self.drop(problem, messages[-1]["content"], language, meta)
        return problem is None

    def drop(self, problem: Problem, text: str, language: str, meta: dict[str, Any]) -> None:
        self.written.drop(problem.reason, problem.text, text, language, meta)


def _weights(seed: Conversation, messages: Sequence[Mapping[str, str]]) -> dict[int, float]:
    """The weights of the assistant's turns that do not count once, by their position."""
    if not seed.weights:
        return dict.fromkeys(seed.not_learnt, 0)
    positions = [position for position, turn in enumerate(messages) if turn["role"] == "assistant"]
    return {position: weight for position, weight in zip(positions, seed.weights, strict=True) if weight != 1}
