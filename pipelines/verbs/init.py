"""`rayse init DATA…`: looks at a user's files, shows the rows as they were understood, writes a starter recipe.

    files ──sniffing──► what they hold ──amounts──► how much ──the rule in Sizes──► recipe.yaml, with its reasons

The sizes follow from the amount of text alone, so the same files give the same recipe on every machine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pipelines.console import print_json
from pipelines.data.sources import sniffing
from pipelines.data.sources.amounts import Amount, amount
from pipelines.data.sources.sniffing import RowFormat, SniffResult
from pipelines.data.tokens.packing import lifted_counts
from pipelines.errors import UserError
from pipelines.recipe import yaml_lines
from pipelines.stages.pretrain import Size
from pipelines.store.artifacts import write_atomically

SHOWN_CHARACTERS = 100
BYTES_PER_TOKEN = 3.5
TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022
MOST_EPOCHS = 4  # up to four passes, repeated text teaches nearly as much as new text (Muennighoff et al. 2023)
HELD_OUT = 0.05  # the corpus stage's default
LEAST_SHARE = 0.2  # of the smaller language's training tokens, as far as MOST_REPEATS lets it
MOST_REPEATS = 3
CPU_FLOPS = 70e9  # what training reaches on two cores of a recent CPU; 6 operations a parameter and token
LITTLE_BYTES = 1_000_000
LATER = {"prompts": "ppo, which asks the prompts of conversations so far"}  # rows that no stage reads yet
LEARNT_THREE_TIMES = 50_000  # conversations up to which sft's three epochs are worth their time
# Running text that comes with Rayse, for those who bring only conversations: UTF-8 bytes by language.
OWN_TEXT = {
    "documentation": ("{kind: docstrings, language: en, limit_bytes: 20_000_000}", {"en": 20_000_000}),
    "essays": ("{kind: chinese, language: zh}", {"zh": 350_000}),
}


@dataclass(frozen=True)
class Found:
    """One source of the recipe: files of one kind that were understood alike."""

    name: str
    row_format: RowFormat
    language: str
    options: dict[str, Any]  # as the recipe has them, path included
    sample: tuple[str, ...]
    problems: tuple[str, ...]
    amount: Amount


@dataclass(frozen=True)
class Sizes:
    """What the rule makes of the amount of text.

    text_bytes: UTF-8, by language. dialogues: conversations or preference pairs are there as well."""

    text_bytes: dict[str, int]
    dialogues: bool = False

    @property
    def total_bytes(self) -> int:
        return sum(self.text_bytes.values())

    @property
    def vocabulary(self) -> int:
        """2,048 below 2 MB, 4,096 below 50 MB, then doubled with each tenfold."""
        steps = sum(self.total_bytes >= limit for limit in (2e6, 5e7, 5e8, 5e9))
        return 2048 << steps

    @property
    def smaller(self) -> tuple[str, float]:
        """The language with less text, and its share of all text; ("", 0) where there is one language."""
        there = {language: size for language, size in sorted(self.text_bytes.items()) if size}
        if len(there) < 2:
            return "", 0.0
        language = min(there, key=lambda name: there[name])
        return language, there[language] / self.total_bytes

    @property
    def repeats(self) -> dict[str, float]:
        """How often each language's text is read in one pass, so that the smaller one is heard."""
        return lifted_counts(self.text_bytes, LEAST_SHARE, MOST_REPEATS)

    @property
    def lifts(self) -> bool:
        return any(times > 1 for times in self.repeats.values())

    @property
    def tokens(self) -> int:
        """Training tokens of one pass, repetitions included."""
        read = sum(size * self.repeats[language] for language, size in self.text_bytes.items())
        return round(read * (1 - HELD_OUT) / BYTES_PER_TOKEN)

    @property
    def size(self) -> str:
        """The largest model with 20 tokens of one pass for each parameter, at least 2m."""
        most = self.tokens / TOKENS_PER_PARAMETER
        return [name for name in get_args(Size) if name == "2m" or (name != "micro" and _parameters(name) <= most)][-1]

    @property
    def parameters(self) -> int:
        return _parameters(self.size)

    @property
    def length(self) -> int:
        """256 tokens below 100 MB, 512 below 1 GB, then 1,024; at least 512 where a conversation must fit in."""
        return max(256 << sum(self.total_bytes >= limit for limit in (1e8, 1e9)), 512 if self.dialogues else 0)

    @property
    def batch_tokens(self) -> int:
        """2,048 for 2m; larger models take larger steps."""
        return {"2m": 2048, "6m": 8192, "14m": 16_384, "36m": 65_536}.get(self.size, 262_144)

    @property
    def budget_tokens(self) -> int:
        """One pass; little text is read up to 4 times to reach 1,000,000 tokens. Never over 20 a parameter."""
        wanted = min(max(self.tokens, 1_000_000), MOST_EPOCHS * self.tokens, TOKENS_PER_PARAMETER * self.parameters)
        digits = max(0, len(str(wanted)) - 2)
        return max(round(wanted, -digits), self.batch_tokens)

    @property
    def cpu_s(self) -> float:
        """Seconds of training on two CPU cores."""
        return 6 * self.parameters * self.budget_tokens / CPU_FLOPS


def _parameters(size: str) -> int:
    return int(size[:-1]) * {"m": 10**6, "b": 10**9}[size[-1]]


def write_recipe(data: list[Path], out: Path, *, as_json: bool) -> None:
    """`rayse init`: shows what each file holds, writes the recipe.

    Raises UserError if the recipe exists, or a file is missing, empty or of no known kind."""
    if out.exists():
        raise UserError(f"{out}: exists already; name another recipe with --out, or move this one away")
    sniffed = [(path, one) for path in data for one in sniffing.sniff(path)]
    known = [(path, one) for path, one in sniffed if one.row_format is not None]
    problems = [text for _, one in sniffed if one.row_format is None for text in one.problems]
    if not known:
        raise UserError(f"none of these files was understood: {'; '.join(problems)}")
    found = _sources(known, out.absolute().parent)
    own = _own_text(found)
    text_bytes: dict[str, int] = {}
    for sizes in [one.amount.text_bytes for one in found] + [OWN_TEXT[name][1] for name in own]:
        for language, size in sizes.items():
            text_bytes[language] = text_bytes.get(language, 0) + size
    sizes = Sizes(text_bytes, any(one.row_format.rows in ("conversations", "preferences") for one in found))
    try:
        write_atomically(out, recipe_text(out, found, own, sizes))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); name another recipe with --out") from None
    if as_json:
        return print_json(_facts(out, found, problems, sizes))
    _show(out, found, problems, sizes)


def _sources(sniffed: Iterable[tuple[Path, SniffResult]], folder: Path) -> list[Found]:
    """One source for each group of files of an argument that were understood alike."""
    groups: dict[str, list[tuple[Path, SniffResult]]] = {}
    for given, one in sniffed:
        groups.setdefault(f"{given} {sorted(one.options.items())} {one.row_format}", []).append((given, one))
    found: list[Found] = []
    for members in groups.values():
        given, first = members[0]
        assert first.row_format is not None
        paths = [one.path for _, one in members]
        if len(paths) > 1 and set(paths) == _files_below(given, first.kind):
            paths = [given]
        absolute = [os.path.abspath(path) for path in paths]
        found.append(
            Found(
                name=_unused(paths[0] if len(paths) == 1 else given, {one.name for one in found}),
                row_format=first.row_format,
                language=first.language,
                options={**first.options, "path": _written([_beside(path, folder) for path in absolute])},
                sample=first.sample,
                problems=tuple(problem for _, one in members for problem in one.problems),
                amount=amount({**first.options, "path": absolute}),
            )
        )
    return found


def _files_below(folder: Path, kind: str) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file() and sniffing.source_kind(file) == kind}


def _unused(path: Path, taken: set[str]) -> str:
    """A name for a source, from its file's: no dots, for --set takes them apart."""
    stem = re.sub(r"(\.(jsonl|ndjson|txt|md|rst|csv|tsv|parquet|gz))+$", "", path.absolute().name)
    name = re.sub(r"[^\w-]+", "_", stem).strip("_") or "text"
    return next(n for number in range(1, 10**6) if (n := name if number == 1 else f"{name}_{number}") not in taken)


def _beside(path: str, folder: Path) -> str:
    """Relative to the recipe's folder if below it."""
    try:
        return Path(path).relative_to(folder).as_posix()
    except ValueError:
        return path


def _written(paths: list[str]) -> str | list[str]:
    return paths[0] if len(paths) == 1 else paths


def _own_text(found: list[Found]) -> list[str]:
    """The text of Rayse's own that stands in where a user brings none."""
    if any(one.row_format.rows == "text" for one in found):
        return []
    return list(OWN_TEXT) if any(one.language != "en" for one in found) else ["documentation"]


def recipe_text(out: Path, found: list[Found], own: list[str], sizes: Sizes) -> str:
    """The recipe, with the reason for each size."""
    name = _unused(out.absolute().parent if out.stem == "recipe" else Path(out.stem), set())
    lines = [
        "# Written by `rayse init`; yours to change. Each key is explained by `rayse recipe --keys STAGE`.",
        f"name: {plain(name)}",
        "seed: 7",
        "store: ./store  # where everything made is kept",
        "sources:",
    ]
    if own:
        lines.append("  # None of your files is running text, so text that comes with Rayse stands in for it.")
        lines += [f"  {source}: {OWN_TEXT[source][0]}" for source in own]
    for one in found:
        if one.row_format.rows in LATER:
            lines.append(f"  # {one.row_format.rows}: listed, not used; they are for {LATER[one.row_format.rows]}")
        lines.append(f"  {plain(one.name)}: {plain(one.options)}  # {_about(one.amount)}")
    lines += [*_stages(sizes), *_alignment(found), "evaluate: {}"]
    return "\n".join(lines) + "\n"


def _stages(sizes: Sizes) -> list[str]:
    there = " and ".join(f"{_bytes(size)} of {name}" for name, size in sizes.text_bytes.items() if size)
    lines = [f"# Sizes follow from {there}: about {sizes.tokens:,} training tokens of {BYTES_PER_TOKEN} bytes.",
             "stages:", "  corpus: {}",
             "  # 2,048 tokens below 2 MB of text, 4,096 below 50 MB, then doubled with each tenfold.",
             f"  tokenizer: {{vocabulary: {sizes.vocabulary}}}"]  # fmt: skip
    smaller, share = sizes.smaller
    lift = ""
    if sizes.lifts:
        lines.append(f"  # {smaller} is {share:.0%} of the text: where it is under {LEAST_SHARE:.0%} of what is left "
                     f"after cleaning, it is read more often.")  # fmt: skip
        lift = f", least_share: {LEAST_SHARE}, max_repeats: {MOST_REPEATS}"
    elif smaller:
        lines.append(f"  # {smaller} is {share:.0%} of the text: it is heard as it is.")
    pretrain = {"size": sizes.size, "budget_tokens": sizes.budget_tokens, "batch_tokens": sizes.batch_tokens}
    lines += [
        f"  tokens: {{length: {sizes.length}{lift}}}",
        f"  # The model: {TOKENS_PER_PARAMETER} training tokens a parameter, at least 2m. The budget: one pass,",
        f"  # up to {MOST_EPOCHS} where one has less than 1,000,000 tokens. {MOST_EPOCHS} are worth their time.",
        f"  # {_time(sizes)}",
        f"  pretrain: {plain(pretrain)}",
    ]
    return lines


def _alignment(found: list[Found]) -> list[str]:
    """The stages after the base model, as far as there are files for them."""
    rows = {kind: [one for one in found if one.row_format.rows == kind] for kind in ("conversations", "preferences")}
    if not any(rows.values()):
        return []
    many = sum(one.amount.rows for one in rows["conversations"]) > LEARNT_THREE_TIMES
    lines = [
        "  # Your conversations, if any, and the built-in tasks in both languages (builtin_tasks: false: without).",
        "  conversations: {}",
        "  sft: {epochs: 1}" if many else "  sft: {}  # each conversation three times",
    ]
    if rows["preferences"]:
        lines += [
            "  # Your pairs, and pairs from the built-in tasks. dpo: {} learns from them without a reward model.",
            "  preferences: {}",
            "  reward_model: {}",
            "  ppo: {}",
        ]
    return lines


def plain(value: Any) -> str:
    """A value as YAML on one line, with quotes only where it would be read as something else without them."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{plain(key)}: {plain(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(plain, value)) + "]"
    text = f"{value:_}" if isinstance(value, int) and value >= 10_000 else str(value)
    if isinstance(value, str) and (not re.fullmatch(r"[\w./~][\w./+@-]*", text) or yaml_lines.scalar(text) != text):
        return json.dumps(text, ensure_ascii=not text.isprintable())
    return text


def _about(found: Amount) -> str:
    rows = f"{'' if found.exact else 'about '}{found.rows:,} {'row' if found.rows == 1 else 'rows'}"
    text = f", {_bytes(sum(found.text_bytes.values()))} of text" if found.text_bytes else ""
    return f"{rows}, {_bytes(found.file_bytes)}{text}"


def _bytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,} bytes"


def _time(sizes: Sizes) -> str:
    hours = sizes.cpu_s / 3600
    if hours > 48:
        return f"Two CPU cores take {hours / 24:,.0f} days: train on GPUs, or set size and budget lower."
    return f"Two CPU cores take about {f'{hours:.0f} hours' if hours > 2 else f'{max(1, hours * 60):.0f} minutes'}."


def _show(out: Path, found: list[Found], problems: list[str], sizes: Sizes) -> None:
    for one in found:
        rows, columns = one.row_format.rows, one.row_format.columns
        text = rows == "text" and columns
        read = f"text in column {columns[0]}" if text else f"{rows} ({one.row_format.description})"
        group = f", grouped by {one.options['group']}" if "group" in one.options else ""
        print(f"{one.name}: {one.options['kind']}, {_about(one.amount)}, {read}, language {one.language}{group}")
        for text in one.sample:
            print(f"    {text[:SHOWN_CHARACTERS]}{'…' if len(text) > SHOWN_CHARACTERS else ''}")
        for problem in one.problems:
            print(f"    note: {problem}")
        if one.row_format.rows in LATER:
            print(f"    listed, not used; they are for {LATER[one.row_format.rows]}")
    for problem in problems:
        print(f"left out: {problem}")
    if sizes.total_bytes < LITTLE_BYTES:
        print(f"{_bytes(sizes.total_bytes)} of text are very little: enough to try things out, not to learn a language")
    print(f"{out}: written. {_time(sizes)}\nnext: rayse run {out}")


def _facts(out: Path, found: list[Found], problems: list[str], sizes: Sizes) -> dict[str, Any]:
    sources = {
        one.name: {
            "options": one.options,
            "rows": one.row_format.rows,
            "spelling": one.row_format.description,
            "columns": list(one.row_format.columns),
            "language": one.language,
            "num_rows": one.amount.rows,
            "exact": one.amount.exact,
            "file_bytes": one.amount.file_bytes,
            "text_bytes": one.amount.text_bytes,
            "sample": list(one.sample),
            "problems": list(one.problems),
        }
        for one in found
    }
    chosen = {"vocabulary": sizes.vocabulary, "size": sizes.size, "budget_tokens": sizes.budget_tokens,
              "text_bytes": sizes.text_bytes, "training_tokens": sizes.tokens}  # fmt: skip
    return {"recipe": str(out), "sources": sources, "left_out": problems, "sizes": chosen}
