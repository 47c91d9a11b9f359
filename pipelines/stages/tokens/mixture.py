"""What training text is made of, and in which order.

    mixture: {by: source, weights: {general: 0.7, domain: 0.2, synthetic: 0.1}}
    order: quality, or by sources [[web], [books, maths]]

Imported when a recipe is read, so no heavy imports here.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, NonNegativeFloat, PositiveInt, Tag, model_validator

from pipelines.stage import Options

COLUMNS = ("language", "source")  # of a corpus; any other name is a key of its documents' `meta`
NO_GROUP = ""  # of documents without a weight
Sources = tuple[tuple[str, ...], ...]


def _in_phases(sources: Sources) -> Sources:
    """Raises ValueError for fewer than two phases, an empty one, and a source in two of them."""
    if len(sources) < 2 or not all(sources):
        raise ValueError("expected two phases or more with a source in each, such as [[web], [books, maths]]")
    times = Counter(name for phase in sources for name in phase)
    if twice := sorted(name for name in times if times[name] > 1):
        raise ValueError(f"{twice[0]} is named twice; expected each source in one phase")
    return sources


Order = Annotated[
    Annotated[Literal["shuffled", "quality", "length"], Tag("value")]
    | Annotated[Sources, AfterValidator(_in_phases), Tag("sources")],
    Discriminator(lambda order: "value" if isinstance(order, str) else "sources"),
]


class Mixture(Options):
    """Weights of training tokens by groups of documents."""

    by: str = Field(
        min_length=1,
        description="Group of a document: its language, its source, or a key of its `meta` such as domain",
    )
    weights: dict[str, NonNegativeFloat] = Field(
        description="Weights of training tokens by group, {general: 0.7, domain: 0.2, synthetic: 0.1}; documents "
        "without a weight are not used, and counted"
    )
    groups: dict[str, tuple[str, ...]] = Field(
        default={},
        description="Sources or values that are one group, {general: [web, books]}; any other is a group by itself",
    )
    total_tokens: PositiveInt | None = Field(
        default=None,
        description="Number of training tokens, repeated ones included; a group that would be used more than "
        "max_repeats times is an error. Default: as many as there are with no group above max_repeats",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Mixture:
        if not any(self.weights.values()):
            raise ValueError("expected at least one group with a weight above 0, such as weights: {general: 0.8}")
        if without := sorted(self.groups.keys() - self.weights.keys()):
            raise ValueError(f"groups.{without[0]} has no weight; expected one in weights, 0 to leave the group out")
        members = Counter(value for group in self.weights for value in self.groups.get(group, (group,)))
        if twice := sorted(value for value, times in members.items() if times > 1):
            raise ValueError(f"{twice[0]} is in two groups; expected each {self.by} in one")
        return self

    @property
    def group_of(self) -> dict[str, str]:
        """The group of each language, source or value."""
        return {value: group for group in self.weights for value in self.groups.get(group, (group,))}


def spelling(mixture: Any) -> str:
    """Which of the two spellings a recipe uses: weights by language, {en: 0.8, zh: 0.2}, or the keys of a Mixture."""
    if mixture is None:
        return "none"
    is_grouped = isinstance(mixture, Mixture) or (isinstance(mixture, dict) and mixture.keys() & Mixture.model_fields)
    return "groups" if is_grouped else "languages"
