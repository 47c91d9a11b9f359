"""The filters of a corpus, in the order in which they run. A new one is a file here and a line in Filters.

recipe: preset, then keys ──Filters──► over(the stage's) for a source with filters ──enabled()──► rules in order
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, get_args

from pydantic import Field, model_validator

from pipelines import user_functions
from pipelines.data.corpus.filters.c4 import C4
from pipelines.data.corpus.filters.custom import Custom
from pipelines.data.corpus.filters.filter import Filter, MaxWords
from pipelines.data.corpus.filters.fineweb import FineWeb
from pipelines.data.corpus.filters.gopher import GopherQuality, GopherRepetition
from pipelines.data.corpus.filters.language import Language
from pipelines.data.corpus.filters.length import Length
from pipelines.data.corpus.filters.quality import Quality
from pipelines.data.corpus.filters.repetition import Repetition
from pipelines.data.corpus.filters.verdict import KEEP, Verdict
from pipelines.errors import UserError
from pipelines.options import Options

if TYPE_CHECKING:
    import numpy as np

    from pipelines.data.corpus.filters.verdicts import Verdicts
    from pipelines.data.text.document_stats import Documents

__all__ = ["FILTERS", "KEEP", "PRESETS", "Filter", "Filters", "Verdict", "apply_filters", "reasons_of"]

OURS_OFF: dict[str, Any] = {"length": None, "repetition": None, "quality": None}
GOPHER: dict[str, Any] = {**OURS_OFF, "gopher_repetition": {}, "gopher_quality": {}}
# The filters of each preset; `language` is on in all. FineWeb keeps lines of C4's that end in no terminal mark.
PRESETS: dict[str, dict[str, Any]] = {
    "gopher": GOPHER,
    "c4": {**OURS_OFF, "c4": {}},
    "fineweb": {**GOPHER, "c4": {"lines_end_in_punctuation": False}, "fineweb": {}},
}
ADDED_LATER = ("gopher_repetition", "gopher_quality", "c4", "fineweb", "custom")  # left out of identities at defaults


class Filters(Options):
    """Options of every filter by name, as a recipe writes them: {length: {min_words: 20}, quality: null}."""

    preset: Literal["gopher", "c4", "fineweb"] | None = Field(
        default=None,
        exclude=True,  # an abbreviation of the filters that it sets
        description="Published set of filters instead of length, repetition and quality: gopher (MassiveText), c4, or "
        "fineweb (with FineWeb2's limits for Chinese); the keys beside it change its filters, or add others",
    )
    length: Length | None = Field(default=Length(), description="Options of the length filter; null disables it")
    language: Language | None = Field(
        default=Language(), description="Options of the language filter, of which there are none; null disables it"
    )
    repetition: Repetition | None = Field(
        default=Repetition(), description="Options of the repetition filter; null disables it"
    )
    quality: Quality | None = Field(default=Quality(), description="Options of the quality filter; null disables it")
    gopher_repetition: GopherRepetition | None = Field(
        default=None, description="Options of Gopher's repetition filter; {} enables it"
    )
    gopher_quality: GopherQuality | None = Field(
        default=None, description="Options of Gopher's quality filter; {} enables it"
    )
    c4: C4 | None = Field(default=None, description="Options of C4's filter; {} enables it")
    fineweb: FineWeb | None = Field(default=None, description="Options of FineWeb's filter; {} enables it")
    custom: tuple[str, ...] = Field(
        default=(),
        description="Functions of your own, [path/to/file.py:name]: called with a text, or with (text, meta) if they "
        "have two parameters, each returns whether it is kept, or (kept, reason)",
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        preset = PRESETS.get(str(values.get("preset"))) if isinstance(values, dict) else None
        return values if preset is None else _merged(preset, values)

    def over(self, stage: Filters) -> Filters:
        """The filters of a source with these keys: those of the stage with these laid over; a preset replaces them."""
        if self.preset is not None:
            return self
        return Filters.model_validate(_merged(stage.model_dump(), self.model_dump(exclude_unset=True)))

    def identity(self) -> dict[str, Any]:
        """The options, those added later only where they are set; custom functions by name and digest of their code.

        Raises UserError for a custom function whose file cannot be read."""
        identity = super().identity()
        for name in ADDED_LATER:
            if not getattr(self, name):
                del identity[name]
        if self.custom:
            identity["custom"] = [user_functions.read(where).identity for where in self.custom]
        return identity

    def enabled(self) -> list[Filter | Custom]:
        """The filters that are not null, in order. Raises UserError for a custom function that cannot be read."""
        filters: list[Filter | None] = [getattr(self, name) for name in FILTERS]
        custom = [Custom(user_functions.read(where)) for where in self.custom]
        return [*(filter_ for filter_ in filters if filter_ is not None), *custom]

    @property
    def split_words(self) -> MaxWords:
        """Words beyond which documents are split, so that neither `length` nor Gopher's filter drops them as long."""
        length, gopher = self.length, self.gopher_quality
        result = MaxWords(length.max_words if length is not None and length.split_long else None)
        if gopher is None or not gopher.split_long:
            return result
        return result._replace(en=gopher.en.max_words, zh=gopher.zh.max_words)


FILTERS = tuple(name for name in Filters.model_fields if name not in ("preset", "custom"))


def reasons_of(name: str) -> tuple[str, ...]:
    """The reasons for which the filter with this key drops documents; none if there is no such filter.

    >>> reasons_of("length")
    ('too_short', 'too_long')
    """
    kinds = get_args(Filters.model_fields[name].annotation) if name in FILTERS else ()
    return kinds[0].reasons if kinds else ()


def apply_filters(
    filters: Sequence[Filter | Custom],
    documents: Documents,
    where: Callable[[int], str] | None = None,
    rows: np.ndarray | None = None,
    metas: Sequence[Mapping[str, str]] | None = None,
) -> Verdicts:
    """Returns of each document the first verdict that drops it, else that it is kept, with what is left of its text.

    where: the place from which a document comes, for the error of a custom filter. rows: the ascending places of the
    documents that are filtered; the others are kept. metas: of each document, for custom filters; without them empty.
    Raises UserError if a custom filter fails."""
    import numpy as np

    from pipelines.data.corpus.filters.verdicts import Verdicts  # with numpy: not for reading a recipe

    verdicts = Verdicts(len(documents))
    rows = np.arange(len(documents)) if rows is None else rows
    for filter_ in filters:
        if not len(rows):
            break
        if filter_.reads_web_words:
            documents.plan_web_words(rows)
        known = len(verdicts.shared)
        if isinstance(filter_, Custom):
            _decide(filter_, documents, rows, where, metas, verdicts)
        else:
            filter_.decide(documents, rows, verdicts)
        shortened = verdicts.shortened(known)
        texts = {row: verdict.text or "" for row, verdict in shortened.items()}
        documents = documents.with_texts(texts, {row: verdict.lines for row, verdict in shortened.items()})
        rows = rows[verdicts.is_kept[rows]]
    return verdicts


def _decide(
    custom: Custom,
    documents: Documents,
    rows: np.ndarray,
    where: Callable[[int], str] | None,
    metas: Sequence[Mapping[str, str]] | None,
    verdicts: Verdicts,
) -> None:
    """Sets the verdicts of a custom filter that drop documents."""
    for row in rows.tolist():
        try:
            verdict = custom.apply(documents.text(row), {} if metas is None else metas[row])
        except UserError as error:
            raise UserError(f"{where(row)}: {error}" if where else str(error)) from error
        if not verdict.keep:
            verdicts[row] = verdict


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keys of both; those of `above` win. Lists replace each other, and so do limits by number ({2: 0.2}): in a
    source as in the stage, they are all that there are."""
    merged = dict(below)
    for key, value in above.items():
        lower = merged.get(key)
        merged[key] = _merged(lower, value) if _has_names(lower) and _has_names(value) else value
    return merged


def _has_names(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
