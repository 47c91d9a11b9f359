"""`rayse init DATA…`: detects the format of a user's files, prints sample rows, writes a starter recipe.

    files ──sniffing──► format and rows ──amounts──► bytes of text ──Sizes──► recipe.yaml, with the reason for each size

The sizes depend only on the amount of text, so the same files give the same recipe on every machine.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pipelines.console import print_json
from pipelines.data.tokens.packing import min_fraction_repeats
from pipelines.stages.pretrain import Size
from pipelines.verbs.starter_sources import (
    BYTES_PER_TOKEN,
    HELD_OUT_FRACTION,
    DetectedSource,
    detect,
    format_bytes,
    opening,
    plain,
    print_sources,
    sft_epochs,
    source_lines,
    write,
)

TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022
MAX_EPOCHS = 4  # up to four epochs, repeated text is nearly as useful as new text (Muennighoff et al. 2023)
MIN_LANGUAGE_FRACTION = 0.2  # of the training tokens for the smaller language, as far as MAX_REPEATS allows
MAX_REPEATS = 3
CPU_FLOPS = 70e9  # FLOP/s of training on two cores of a recent CPU; 6 FLOPs per parameter and token
LITTLE_TEXT_BYTES = 1_000_000
# Running text that comes with Rayse, for users who have only conversations: UTF-8 bytes by language.
BUNDLED_TEXT = {
    "documentation": ("{kind: docstrings, language: en, limit_bytes: 20_000_000}", {"en": 20_000_000}),
    "essays": ("{kind: chinese, language: zh}", {"zh": 350_000}),
}

IMAGE_STAGE = [
    "  # Checked, compared, resampled: a corpus with images. No model learns from them yet.",
    "  images: {}",
]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the model, the vocabulary and the training, as functions of the amount of text.

    text_bytes: UTF-8 bytes by language; dialogues: whether there are conversations or preference pairs."""

    text_bytes: dict[str, int]
    dialogues: bool = False

    @property
    def total_bytes(self) -> int:
        return sum(self.text_bytes.values())

    @property
    def vocabulary(self) -> int:
        """Vocabulary in tokens: 2,048 below 2 MB, 4,096 below 50 MB, then doubled with each factor of ten."""
        steps = sum(self.total_bytes >= limit for limit in (2e6, 5e7, 5e8, 5e9))
        return 2048 << steps

    @property
    def smaller(self) -> tuple[str, float]:
        """The language with the least text, and its fraction of all text; ("", 0) if there is only one language."""
        sizes = {language: size for language, size in sorted(self.text_bytes.items()) if size}
        if len(sizes) < 2:
            return "", 0.0
        language = min(sizes, key=lambda name: sizes[name])
        return language, sizes[language] / self.total_bytes

    @property
    def repeats(self) -> dict[str, float]:
        """Repeats of each language's text in one epoch; above 1 for a language below MIN_LANGUAGE_FRACTION."""
        return min_fraction_repeats(self.text_bytes, MIN_LANGUAGE_FRACTION, MAX_REPEATS)

    @property
    def has_repeats(self) -> bool:
        """Whether a language is repeated within an epoch."""
        return any(times > 1 for times in self.repeats.values())

    @property
    def tokens(self) -> int:
        """Training tokens of one epoch, repeats included."""
        epoch_bytes = sum(size * self.repeats[language] for language, size in self.text_bytes.items())
        return round(epoch_bytes * (1 - HELD_OUT_FRACTION) / BYTES_PER_TOKEN)

    @property
    def size(self) -> str:
        """The largest model with 20 tokens of one epoch per parameter, at least 2m."""
        max_parameters = self.tokens / TOKENS_PER_PARAMETER
        sizes = [size for size in get_args(Size) if size != "micro" and _parameters(size) <= max_parameters]
        return sizes[-1] if sizes else "2m"

    @property
    def parameters(self) -> int:
        """Nominal number of parameters."""
        return _parameters(self.size)

    @property
    def length(self) -> int:
        """Tokens per row: 256 below 100 MB, 512 below 1 GB, then 1,024; at least 512 if a conversation must fit."""
        by_text = 256 << sum(self.total_bytes >= limit for limit in (1e8, 1e9))
        return max(by_text, 512) if self.dialogues else by_text

    @property
    def batch_tokens(self) -> int:
        """Tokens per step: 2,048 for 2m, more for larger models."""
        return {"2m": 2048, "6m": 8192, "14m": 16_384, "36m": 65_536}.get(self.size, 262_144)

    @property
    def budget_tokens(self) -> int:
        """One epoch; little text is repeated up to 4 times to reach 1,000,000 tokens. At most 20 per parameter."""
        budget = min(max(self.tokens, 1_000_000), MAX_EPOCHS * self.tokens, TOKENS_PER_PARAMETER * self.parameters)
        digits = max(0, len(str(budget)) - 2)
        return max(round(budget, -digits), self.batch_tokens)

    @property
    def cpu_s(self) -> float:
        """Seconds of training on two CPU cores."""
        return 6 * self.parameters * self.budget_tokens / CPU_FLOPS


def _parameters(size: str) -> int:
    """2m -> 2,000,000."""
    return int(size[:-1]) * {"m": 10**6, "b": 10**9}[size[-1]]


def write_recipe(data: list[Path], out: Path, *, as_json: bool) -> None:
    """`rayse init`: prints the format, size and sample rows of each file, and writes the recipe.

    data: files and folders; out: the recipe. Raises UserError if the recipe exists, or if a file is missing, empty or
    of no known kind, or if nothing of it was understood."""
    detected = detect(data, out)
    sources = detected.sources
    if as_json and detected.refusal:
        print_json({"recipe": None, **detected.facts()})
    detected.check()
    bundled = _bundled_text(sources)
    text_bytes = Counter[str]()
    for source in sources:
        text_bytes.update(source.amount.text_bytes)
    for name in bundled:
        text_bytes.update(BUNDLED_TEXT[name][1])
    sizes = Sizes(dict(text_bytes), any(source.rows in ("conversations", "preferences") for source in sources))
    write(out, recipe_text(out, sources, bundled, sizes))
    if as_json:
        return print_json({"recipe": str(out), **detected.facts(), "sizes": _facts(sizes)})
    print_sources(detected)
    if all(source.rows == "images" for source in sources):
        print(f"{out}: written. No model learns from images yet\nnext: rayse run {out}")
        return None
    return _print_summary(out, sizes)


def _bundled_text(sources: list[DetectedSource]) -> list[str]:
    """Names of the texts that come with Rayse and are needed because the user has no running text."""
    if any(source.rows == "text" for source in sources) or all(source.rows == "images" for source in sources):
        return []
    return list(BUNDLED_TEXT) if any(source.language != "en" for source in sources) else ["documentation"]


def recipe_text(out: Path, sources: list[DetectedSource], bundled: list[str], sizes: Sizes) -> str:
    """The recipe as YAML, with the reason for each size as a comment. bundled: names of BUNDLED_TEXT."""
    text = "None of your files is running text, so text that comes with Rayse replaces it."
    replaced = [f"  # {text}", *(f"  {name}: {BUNDLED_TEXT[name][0]}" for name in bundled)] if bundled else []
    lines = [*opening(out), "sources:", *replaced, *source_lines(sources)]
    if all(source.rows == "images" for source in sources):
        return "\n".join([*lines, "stages:", *IMAGE_STAGE]) + "\n"
    images = IMAGE_STAGE if any(source.rows == "images" for source in sources) else []
    lines += [*_pretraining_stages(sizes), *_alignment_stages(sources), *images, "evaluate: {}"]
    return "\n".join(lines) + "\n"


def _pretraining_stages(sizes: Sizes) -> list[str]:
    """The stages up to the base model."""
    languages = " and ".join(f"{format_bytes(size)} of {name}" for name, size in sizes.text_bytes.items() if size)
    languages = languages or "text that the corpus has yet to find"
    lines = [f"# Sizes follow from {languages}: about {sizes.tokens:,} training tokens of {BYTES_PER_TOKEN} bytes.",
             "stages:", "  corpus: {}",
             "  # 2,048 tokens below 2 MB of text, 4,096 below 50 MB, then doubled with each factor of ten.",
             f"  tokenizer: {{vocabulary: {sizes.vocabulary}}}"]  # fmt: skip
    language, fraction = sizes.smaller
    mixture = ""
    if sizes.has_repeats:
        lines.append(f"  # {language} is {fraction:.0%} of the text: if it is below {MIN_LANGUAGE_FRACTION:.0%} after "
                     f"cleaning, it is repeated.")  # fmt: skip
        mixture = f", min_language_fraction: {MIN_LANGUAGE_FRACTION}, max_repeats: {MAX_REPEATS}"
    elif language:
        lines.append(f"  # {language} is {fraction:.0%} of the text: enough, so it is not repeated.")
    pretrain = {"size": sizes.size, "budget_tokens": sizes.budget_tokens, "batch_tokens": sizes.batch_tokens}
    lines += [
        f"  tokens: {{length: {sizes.length}{mixture}}}",
        f"  # The model: {TOKENS_PER_PARAMETER} training tokens per parameter, at least 2m. The budget: one epoch,",
        f"  # up to {MAX_EPOCHS} if an epoch has less than 1,000,000 tokens; more epochs hardly improve the model.",
        f"  # {_training_time(sizes)}",
        f"  pretrain: {plain(pretrain)}",
    ]
    return lines


def _alignment_stages(sources: list[DetectedSource]) -> list[str]:
    """The stages after the base model for which the user has rows."""
    conversations = [source for source in sources if source.rows == "conversations"]
    preferences = [source for source in sources if source.rows == "preferences"]
    if not conversations and not preferences:
        return []
    lines = [
        "  # Your conversations, if any, and the built-in tasks in both languages (builtin_tasks: false: without).",
        "  conversations: {}",
        "  sft: {epochs: 1}" if sft_epochs(sources) == 1 else "  sft: {}  # three epochs",
    ]
    if preferences:
        lines += [
            "  # Your pairs, and pairs from the built-in tasks. dpo: {} needs no reward model.",
            "  preferences: {}",
            "  reward_model: {}",
            "  ppo: {}",
        ]
    return lines


def _training_time(sizes: Sizes) -> str:
    hours = sizes.cpu_s / 3600
    if hours > 48:
        return f"Two CPU cores take {hours / 24:,.0f} days: train on GPUs, or set size and budget lower."
    if hours > 2:
        return f"Two CPU cores take about {hours:.0f} hours."
    minutes = max(1, round(hours * 60))
    return f"Two CPU cores take about {minutes} {'minute' if minutes == 1 else 'minutes'}."


def _print_summary(out: Path, sizes: Sizes) -> None:
    if sizes.total_bytes < LITTLE_TEXT_BYTES:
        size = format_bytes(sizes.total_bytes)
        print(f"{size} of text are very little: enough for a first try, not for a model to learn a language")
    print(f"{out}: written. {_training_time(sizes)}\nnext: rayse run {out}")


def _facts(sizes: Sizes) -> dict[str, Any]:
    return {"vocabulary": sizes.vocabulary, "size": sizes.size, "budget_tokens": sizes.budget_tokens,
            "text_bytes": sizes.text_bytes, "training_tokens": sizes.tokens}  # fmt: skip
