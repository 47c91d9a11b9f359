"""Options of the stage `ai_feedback`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from pipelines.engines import Endpoint
from pipelines.stage import Options


class AiFeedbackOptions(Options):
    pairs_from: Literal["model", "preferences"] = Field(
        "model",
        description="Where the two replies come from: the model writes them to training prompts of the conversations, "
        "or they are the training pairs of the preferences stage before, which are labelled anew",
    )
    rows: PositiveInt = Field(100, description="Number of pairs to keep; fewer where requests or prompts run out")
    max_requests: PositiveInt = Field(
        1000, description="Maximum number of requests, to writer and judge together: 4 for a pair, 2 for one of the "
        "preferences"
    )  # fmt: skip
    builtin_tasks: bool = Field(False, description="Whether prompts of the built-in tasks are used too")
    endpoint: Endpoint | None = Field(
        None, description="Endpoint that writes the replies; default: the nearest model before the stage"
    )
    judge: Endpoint | None = Field(
        None, description="Endpoint that compares them; default: the same model or endpoint that writes the replies"
    )
    temperature: float = Field(1.0, ge=0, le=2, description="Sampling temperature of the replies; the judge is greedy")
    max_new_tokens: int = Field(
        512, ge=1, le=32_768, description="Maximum length of a reply, in tokens; one that is cut off makes no pair"
    )
    judge_tokens: int = Field(
        512, ge=1, le=32_768, description="Maximum length of what the judge writes, in tokens, its reasons included"
    )
    context: int = Field(
        4096, ge=16, description="Tokens of a prompt with its answer at most, where the model can attend to so many"
    )
    template: dict[Literal["en", "zh"], str] = Field(
        {},
        description="Prompts of the judge in place of the built-in ones, by language, with {prompt}, {reply_a} and "
        "{reply_b}; they request [[A]], [[B]], or [[C]] for a tie",
    )

    @field_validator("template")
    @classmethod
    def _has_places(cls, template: dict[str, str]) -> dict[str, str]:
        for language, text in template.items():
            for name in ("{prompt}", "{reply_a}", "{reply_b}"):
                if name not in text:
                    raise ValueError(f"{language}: has no {name}, which is filled in; add it")
        return template

    @model_validator(mode="after")
    def _options_of_the_writer(self) -> Self:
        for key in ("endpoint", "temperature", "max_new_tokens"):
            if self.pairs_from == "preferences" and key in self.model_fields_set:
                hint = "; the judge's endpoint is judge" if key == "endpoint" else ""
                raise ValueError(f"{key}: only pairs_from: model has it, and this is preferences{hint}; remove it")
        return self

    def identity(self) -> dict[str, Any]:
        """Where keys are, and what tokens cost, do not change the rows."""
        endpoints = {"endpoint": self.endpoint, "judge": self.judge}
        return super().identity() | {name: None if e is None else e.identity() for name, e in endpoints.items()}

    @property
    def needs(self) -> tuple[str, ...]:
        """The kinds of artifact that these options require."""
        rows = "conversations" if self.pairs_from == "model" else "preferences"
        local_judge = self.judge is None and self.endpoint is None
        local_writer = self.pairs_from == "model" and self.endpoint is None
        return (rows, "model") if local_judge or local_writer else (rows,)
