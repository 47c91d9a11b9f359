"""Options of the corpus stage. Imported when a recipe is read, so no heavy imports here."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipelines.data.corpus.filters import Filters
from pipelines.data.corpus.rules import Rules
from pipelines.data.sources.source import Source
from pipelines.data.text.harm_kinds import HarmOptions
from pipelines.data.text.privacy_kinds import PrivacyOptions
from pipelines.engines import Endpoint, EndpointCluster
from pipelines.stage import Options, RowLimit


class Decontamination(Options):
    """What documents are compared with, so that no evaluation is on training text."""

    sets: tuple[str, ...] = Field(
        default=(),
        description="Names of sources that are evaluation sets, with any kind of rows; rows: prompts are trained on by "
        "no stage",
    )
    held_out_prompts: bool = Field(
        default=False,
        description="Whether the held-out rows of the stage conversations are an evaluation set, too; it stands before "
        "the corpus then",
    )
    ngram_words: int = Field(
        default=13,
        ge=5,
        le=100,
        description="Length of the runs of words that are compared: a document with one of them is dropped. In Chinese "
        "1.6 times as many characters",
    )

    @model_validator(mode="after")
    def _has_something_to_compare_with(self) -> Self:
        if not self.sets and not self.held_out_prompts:
            raise ValueError("expected sets, or held_out_prompts: true; without both, nothing is compared")
        return self


class QualityModelOptions(Options):
    """A classifier by which documents are scored: of reference text against random text of the corpus, or of text that
    an endpoint rates high against other text."""

    good: tuple[str, ...] = Field(
        default=(),
        description="Names of sources with rows: text that are reference text; those that the corpus reads, too, are "
        "scored but never dropped",
    )
    endpoint: Endpoint | None = Field(
        default=None,
        description="Server whose model rates documents of a sample from 0 to 5, instead of good: {url: "
        "https://api.openai.com/v1, model: NAME, key_env: OPENAI_API_KEY}",
    )
    num_rated: int = Field(
        default=1000, ge=100, le=3000, description="Number of documents of each language that the endpoint rates"
    )
    min_rating: int = Field(default=3, ge=1, le=5, description="Rating from which on a document is good")
    prompt: str | None = Field(
        default=None,
        description="Prompt of a rating, with {text} for the beginning of the document; the number after the last "
        "`score`, `rating` or `分数` of the answer, or else its last number, is the rating: whole, from 0 to 5. "
        "Default: how much one learns from it, in the language of the document",
    )
    keep_fraction: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="About which fraction of each language's documents to keep, of those that the filters kept: the "
        "ones with the highest scores; the threshold is a percentile of a sample. 1: documents are only scored",
    )

    @model_validator(mode="after")
    def _has_one_kind_of_judgement(self) -> Self:
        if bool(self.good) == (self.endpoint is not None):
            raise ValueError("expected either good: [SOURCE], reference text, or endpoint: {url: …, model: …}")
        if self.good and (extra := sorted(self.model_fields_set & {"num_rated", "min_rating", "prompt"})):
            raise ValueError(
                f"{extra[0]} is for ratings of an endpoint; expected endpoint beside it, or not {extra[0]}"
            )
        if self.prompt is not None and "{text}" not in self.prompt:
            raise ValueError("prompt: expected {text} in it, where the document goes")
        return self

    def identity(self) -> dict[str, Any]:
        """Reference text alone has the identity that it had before there were ratings."""
        identity = super().identity()
        if self.endpoint is None:
            return {name: identity[name] for name in ("good", "keep_fraction")}
        return identity | {"endpoint": self.endpoint.identity()}


class SemanticDuplicates(Options):
    """Documents that mean nearly the same as another of their language, by embeddings."""

    threshold: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="Cosine of the embeddings of two documents from which on they are semantic duplicates",
    )
    excerpt_bytes: int = Field(
        default=600,
        ge=100,
        le=8000,
        description="Bytes of a document that are embedded, half of them from its beginning and half from its end; the "
        "cost grows with them: some 2 ms of a core for 3 bytes",
    )

    def identity(self) -> dict[str, Any]:
        """The options and the embedder: another finds other duplicates."""
        from pipelines.data.text.embeddings import embedder

        return {**super().identity(), "embedder": embedder()}


class CorpusOptions(Options):
    """Text → cleaned, deduplicated documents, split into training and held-out text."""

    filters: Filters = Field(default=Filters(), description="Options of each filter; null disables one")
    privacy: PrivacyOptions = Field(
        default={},
        description="What happens to personal data, by kind (email, phone, ip, card, id_number, passport, address, "
        "names): mask, surrogate (another value, the same one for equal values), drop (the document) or keep. Default: "
        "keep",
    )
    decontaminate: Decontamination | None = Field(
        default=None,
        description="Evaluation sets of which no document may have a run of words: {sets: [gsm8k]}. Default: none",
    )
    quality_model: QualityModelOptions | None = Field(
        default=None,
        description="Classifier by which documents are scored (column quality), and the worst of each language "
        "dropped: {good: [books], keep_fraction: 0.7}, or {endpoint: {url: …, model: …}}. Default: none",
    )
    harm: HarmOptions = Field(
        default={},
        description="What happens to harmful documents, by kind (toxicity, discrimination, unsafe by the guard of an "
        "earlier stage): drop, or count alone; documents are counted by the groups of people that they mention, read "
        "and kept. Default: nothing is looked for",
    )
    near_duplicates: float | None = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Jaccard similarity from which on documents are near duplicates; null: exact dedup only",
    )
    semantic_duplicates: SemanticDuplicates | None = Field(
        default=None,
        description="Documents that mean nearly the same as a longer one are dropped, after exact and near duplicates: "
        "{threshold: 0.95}. Default: none are looked for",
    )
    permutations: int = Field(
        default=128,
        ge=16,
        le=1024,
        description="Hash functions of MinHash; the standard error of the similarity is 0.5 / √permutations",
    )
    max_line_groups: PositiveInt | None = Field(
        default=None,
        description="Number of groups (files, packages, or what a source's `group` names) that a line may stand in; "
        "lines and paragraphs of more groups, such as menus, footers and licences, are cut. Default: none is",
    )
    held_out: float = Field(
        default=0.05, ge=0, le=0.5, description="Fraction of each language's bytes to hold out, in whole groups"
    )
    held_out_bytes: PositiveInt = Field(
        default=100_000_000,
        description="Largest size of each language's held-out text, whatever the fraction: every task of the stage "
        "compares its training text with all of it",
    )
    max_held_out_similarity: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Jaccard similarity to a training text from which on held-out text is dropped",
    )
    max_held_out_overlap: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Maximum fraction of a held-out text in lines of training text, which are removed; over it, the "
        "whole text is dropped",
    )
    max_bad_rows: RowLimit | None = Field(
        default=None,
        description="Maximum number of rows that cannot be read (in rejected.parquet) before the stage fails, or "
        "their share of each source's rows, such as 1%. Default: 100 rows, and 5% of each source's rows (of few: 5, "
        "but at most half)",
    )
    block_bytes: PositiveInt = Field(
        default=2_000_000,
        description="Bytes of text read by one task: the work that a kill can lose; decides where files end",
    )
    part_bytes: PositiveInt = Field(default=256_000_000, description="Bytes of text in one file of the corpus")

    def identity(self) -> dict[str, Any]:
        """What was added later is left out where it is not set, so that earlier results keep their identity."""
        identity = super().identity() | {"filters": self.filters.identity()}
        if self.quality_model is not None:
            identity["quality_model"] = self.quality_model.identity()
        if self.semantic_duplicates is not None:
            identity["semantic_duplicates"] = self.semantic_duplicates.identity()
        for name in ("privacy", "decontaminate", "quality_model", "harm", "max_line_groups", "semantic_duplicates"):
            if not identity[name]:
                del identity[name]
        return identity

    def rules(self, source: Source, seed: int) -> Rules:
        """The rules of cleaning for this source: those of the stage, with those of the source laid over them.

        Raises UserError for a custom filter that cannot be read."""
        filters = self.filters if not source.filters else Filters.model_validate(source.filters).over(self.filters)
        return Rules(filters.enabled(), filters.split_words, {**self.privacy, **(source.privacy or {})}, seed)


def references(options: CorpusOptions) -> dict[str, tuple[str, ...]]:
    """The sources that the options name, by the key."""
    named = {} if options.decontaminate is None else {"decontaminate.sets": options.decontaminate.sets}
    return (
        named
        if options.quality_model is None or not options.quality_model.good
        else {**named, "quality_model.good": options.quality_model.good}
    )


def needs_for(options: CorpusOptions) -> tuple[str, ...]:
    """Kinds of artifact that the options require."""
    held_out_prompts = options.decontaminate is not None and options.decontaminate.held_out_prompts
    return (*(("conversations",) if held_out_prompts else ()), *(("guard",) if "unsafe" in options.harm else ()))


class CorpusCluster(EndpointCluster):
    """Resources to read and clean the corpus."""

    tasks: PositiveInt | None = Field(
        default=None, description="Number of parallel tasks; default: this machine's cores, or the cluster's CPUs"
    )
    cpus_per_task: PositiveFloat = Field(default=1, description="Logical CPUs of a task")
