"""Which prompts are held out: chosen by hash, so that a prompt never stands on both sides, however it is spelled.

    messages ──first user's turn, normalised──► key ──seeded hash, by language──► held out or training

A conversation is known by how its user begins: one that goes on from a prompt in training is no unseen one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from pipelines.data.corpus import splitting
from pipelines.data.dialogues.answers import normalised


def key(messages: Sequence[Mapping[str, str]]) -> str:
    """What two spellings of one prompt share.

    >>> key([{"role": "system", "content": "Be kind."}, {"role": "user", "content": " HELLO,  you! "}])
    'hello, you'
    """
    said = next((message["content"] for message in messages if message["role"] == "user"), "")
    return normalised(said) or said.strip()  # a prompt of nothing but punctuation is itself


def held_out(
    prompts: Iterable[tuple[str, str]],
    *,
    share: float,
    most: int,
    seed: int,
    train: Collection[str] = (),
    held: Collection[str] = (),
) -> set[str]:
    """Keys that are held out: about `share` of each language's rows and at most `most` of them.

    prompts: (key, language) of each row; a key belongs to the language it is first seen with. train, held: keys whose
    side is known already, from conversations. A language with one prompt keeps it for training."""
    rows: Counter[str] = Counter()
    languages: dict[str, str] = {}
    for own, language in prompts:
        rows[own] += 1
        languages.setdefault(own, language)
    chosen = {own for own in rows if own in held}
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    for own, number in rows.items():
        if own not in held and own not in train:
            sizes[languages[own]][own] = number
    for language, keys in sorted(sizes.items()):
        limit = min(share * keys_total(rows, languages, language), most)
        limit -= sum(rows[own] for own in chosen if languages[own] == language)
        chosen |= splitting.choose_groups(keys, limit, salt=f"{seed}/{language}")
    return chosen


def keys_total(rows: Mapping[str, int], languages: Mapping[str, str], language: str) -> int:
    """Rows of a language."""
    return sum(number for own, number in rows.items() if languages[own] == language)
