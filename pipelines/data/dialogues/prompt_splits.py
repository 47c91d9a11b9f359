"""Which prompts are held out: chosen by hash, so that no prompt is on both sides, however it is spelled.

    messages ──first user message, normalised──► key ──near duplicates──► group ──seeded hash, by language──► side

Prompts that are nearly the same share a group, and so a side; a prompt like none other is a group of its own.
A conversation is identified by its first user message: one that continues a training prompt would be no unseen one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from pipelines.data.corpus import splitting
from pipelines.data.dialogues import similar_texts
from pipelines.data.dialogues.answer_match import normalised

SIMILAR = 0.8  # similarity from which on prompts belong on one side of the held-out split


class Prompted(Protocol):
    """A conversation or a preference pair."""

    @property
    def prompt(self) -> Sequence[Mapping[str, str]]: ...

    @property
    def language(self) -> str: ...


Row = TypeVar("Row", bound=Prompted)


def split_rows(
    rows: Sequence[Row],
    *,
    train: Iterable[Prompted],
    held_out: Iterable[Prompted],
    fraction: float,
    max_rows: int,
    seed: int,
) -> tuple[list[Row], list[Row]]:
    """Rows for training and held-out rows, in their order; fraction, max_rows, seed: as choose_held_out takes them.

    train, held_out: earlier rows, whose prompts stay on their side, with all that are nearly the same. What is nearly
    the same as prompts on both sides is for training: held out, it would not be unseen."""
    keys = [prompt_key(row.prompt) for row in rows]
    groups = prompt_groups(keys)
    train_keys = {prompt_key(row.prompt) for row in train}
    held_out_keys = {prompt_key(row.prompt) for row in held_out}
    held_out_groups = choose_held_out(
        ((groups[key], row.language) for key, row in zip(keys, rows, strict=True)),
        fraction=fraction,
        max_rows=max_rows,
        seed=seed,
        train_keys=_groups_beside(groups, train_keys),
        held_out_keys=_groups_beside(groups, held_out_keys),
    )
    sides: tuple[list[Row], list[Row]] = [], []
    for key, row in zip(keys, rows, strict=True):
        is_earlier = key in held_out_keys and key not in train_keys
        sides[is_earlier or groups[key] in held_out_groups].append(row)
    return sides


def prompt_groups(keys: Iterable[str]) -> dict[str, str]:
    """The group of each key: the first, in alphabetical order, of the keys that are nearly the same.

    >>> prompt_groups(["how do i boil an egg", "how do i boil an egg please", "how do i peel it"])["how do i peel it"]
    'how do i peel it'
    """
    ordered = sorted(set(keys))  # groups do not depend on the order of rows
    first = similar_texts.first_similar(ordered, SIMILAR)
    return {key: ordered[position] for key, position in zip(ordered, first, strict=True)}


def _groups_beside(groups: Mapping[str, str], earlier: Collection[str]) -> set[str]:
    """The groups with a prompt that is among the earlier ones, or nearly the same as one of them."""
    keys = list(groups)
    similar = similar_texts.similar(keys, sorted(earlier), SIMILAR)
    return {groups[key] for key, near in zip(keys, similar, strict=True) if near or key in earlier}


def prompt_key(messages: Sequence[Mapping[str, str]]) -> str:
    """The key under which all spellings of a prompt are the same: its first user message, normalised.

    >>> prompt_key([{"role": "system", "content": "Be kind."}, {"role": "user", "content": " HELLO,  you! "}])
    'hello, you'
    """
    text = next((message["content"] for message in messages if message["role"] == "user"), "")
    return normalised(text) or text.strip()  # a prompt of punctuation alone is normalised to ""


def choose_held_out(
    prompts: Iterable[tuple[str, str]],
    *,
    fraction: float,
    max_rows: int,
    seed: int,
    train_keys: Collection[str] = (),
    held_out_keys: Collection[str] = (),
) -> set[str]:
    """Keys of the prompts that are held out: about `fraction` of each language's rows, at most `max_rows` of them.

    prompts: (key, language) of each row; a key has the language of most of its rows. train_keys, held_out_keys: keys
    whose side earlier conversations decided already; of both, training. The only prompt of a language stays in
    training."""
    rows_by_language: dict[str, Counter[str]] = defaultdict(Counter)  # key → language → rows
    for key, language in prompts:
        rows_by_language[key][language] += 1
    num_rows = {key: counts.total() for key, counts in rows_by_language.items()}
    languages = {
        key: min(counts, key=lambda language: (-counts[language], language)) for key, counts in rows_by_language.items()
    }
    chosen = {key for key in num_rows if key in held_out_keys and key not in train_keys}
    undecided: dict[str, dict[str, int]] = defaultdict(dict)  # language → key → rows
    for key, number in num_rows.items():
        if key not in held_out_keys and key not in train_keys:
            undecided[languages[key]][key] = number
    for language, sizes in sorted(undecided.items()):
        total = sum(number for key, number in num_rows.items() if languages[key] == language)
        already = sum(num_rows[key] for key in chosen if languages[key] == language)
        limit = min(fraction * total, max_rows) - already
        chosen |= splitting.choose_groups(sizes, limit, salt=f"{seed}/{language}")
    return chosen
