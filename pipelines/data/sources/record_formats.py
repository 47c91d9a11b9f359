"""Detects the format of a record by its columns: text, conversations, preferences or prompts.

    record ──names and values of its columns──► RowFormat: the recipe's `rows:`, what it is, which column is what

The parsers (data/dialogues) read exactly the columns that a RowFormat names; `columns_not_used` names all others that
hold something, so nothing that a row says is lost in silence. Names are compared without case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipelines.data.sources.cells import (
    as_turns,
    calls_of,
    ends_with_prompt,
    has_value,
    is_dialogue,
    is_of_turns,
    key_of,
    keys_beside_turns,
    keys_not_read,
    lists_within,
    num_characters,
    number_of,
    texts_within,
    tools_of,
    turns_of_texts,
    verdict,
)
from pipelines.data.sources.column_names import (
    BAD_COLUMNS,
    CALL_COLUMNS,
    CHOICE_COLUMNS,
    CHOICE_LABELS,
    CHOICE_SCORES,
    CONTEXT_COLUMNS,
    GOOD_COLUMNS,
    HINT_COLUMNS,
    HISTORY_COLUMNS,
    INSTANCE_COLUMNS,
    INSTANCE_KEYS,
    LABELLED_CHOICES,
    MEDIA_COLUMNS,
    OTHER_TURN_LISTS,
    PAIR_COLUMNS,
    PAIR_SCORES,
    PROMPT_COLUMNS,
    PROMPTS_OF_REPLIES,
    RANK_COLUMNS,
    RATED_REPLY_KEYS,
    RATING_COLUMNS,
    RATING_LISTS,
    REPLY_COLUMNS,
    REPLY_LISTS,
    ROLE_KEYS,
    STRENGTH_COLUMNS,
    SYSTEM_COLUMNS,
    TEXT_COLUMNS,
    TEXT_LISTS,
    THOUGHT_COLUMNS,
    TOOLS_COLUMNS,
    TURN_LISTS,
    WINNER_COLUMNS,
)
from pipelines.data.sources.row_format import Roles, RowFormat, columns_beside, first_column, named_format, two_columns
from pipelines.errors import printable


def detect_format(record: Mapping[str, Any]) -> RowFormat | None:
    """Detects the format of a record by its columns. Returns None if no column has text.

    >>> detect_format({"instruction": "Add", "input": "1, 2", "output": "3"}).description
    'Alpaca: instruction, input, output'
    """
    return _preferences(record) or _conversations(record) or _text_or_prompts(record)


def main_format(records: Iterable[Mapping[str, Any]]) -> tuple[RowFormat | None, int]:
    """The format of most records, with every column that any of them has, and the number of them.

    >>> main_format([{"prompt": "a", "answer": "b"}, {"prompt": "a", "answer": "b", "system": "s"}, {"text": "c"}])[1]
    2
    """
    formats = [row_format for record in records if (row_format := detect_format(record)) is not None]
    counts = Counter(row_format.content for row_format in formats)
    if not counts:
        return None, 0
    (key, count), *_ = counts.most_common(1)
    alike = (row_format for row_format in formats if row_format.content == key)
    return max(alike, key=lambda row_format: len(row_format.columns)), count


def format_as(record: Mapping[str, Any], rows: str) -> RowFormat | None:
    """The format in which a record is read where the recipe says `rows`; None where it cannot be.

    >>> format_as({"prompt": "1 + 1?", "completion": "2", "label": True}, "preferences").columns
    ('prompt', 'completion', 'label')
    """
    if rows == "preferences":
        return _preferences(record) or _rated_reply(record)
    if rows == "conversations":
        return _conversations(record) if _preferences(record) is None else None
    row_format = _text_or_prompts(record)
    return row_format if row_format is not None and row_format.rows == rows else None


def columns_not_used(record: Mapping[str, Any], rows: str) -> tuple[str, ...]:
    """Columns that hold something and that reading the record as `rows` leaves alone; keys of turns as column.key.

    >>> columns_not_used({"id": 7, "prompt": "a", "response": "b", "tools": "", "score": None}, "conversations")
    ('id',)
    """
    row_format = format_as(record, rows)
    used = set() if row_format is None else set(row_format.columns)
    names = [printable(str(name)) for name, value in record.items() if name not in used and has_value(value)]
    return (*names, *(_turn_keys_not_used(record, row_format) if row_format is not None else ()))


def column_names(record: Mapping[str, Any]) -> str:
    """The names of a record's columns, for messages."""
    return ", ".join(printable(str(name)) for name in record) or "none"


def _conversations(record: Mapping[str, Any]) -> RowFormat | None:
    """Turns in one column, or a prompt and its reply in two."""
    turns = _turns_column(record)
    exchange = _exchange(record, turns) or _instances(record)
    if turns is not None and (exchange is None or not ends_with_prompt(record[turns])):
        roles = [("turns", turns), *columns_beside(record, ("system", SYSTEM_COLUMNS), ("media", MEDIA_COLUMNS))]
        keys = (as_turns(record[turns]) or [{}])[0].keys()
        name = "ShareGPT" if "from" in keys else "OpenAI" if keys else "dialogues"
        content = "from and value" if "from" in keys else "role and content" if keys else "texts in turn"
        return named_format(
            "conversations", name, [*roles, *_tools(record), *_labels(record)], note=f"{turns} of {content}"
        )
    return None if exchange is None else named_format("conversations", _exchange_name(exchange), exchange)


def _turns_column(record: Mapping[str, Any]) -> str | None:
    """The column of a whole conversation: turns, or text of them, even if it is broken; where a row has neither a
    prompt with its reply nor running text, also turns whose names may be those of anything, and texts in turn."""
    turns = first_column(record, TURN_LISTS, is_of_turns)
    if turns is not None or _exchange(record) is not None or first_column(record, TEXT_COLUMNS, _is_text) is not None:
        return turns
    turns = first_column(record, (*TURN_LISTS, *OTHER_TURN_LISTS), is_dialogue)
    texts = first_column(record, TEXT_LISTS, lambda value: turns_of_texts(value) is not None)
    if turns is not None or texts is None:
        return turns
    others = {name.lower() for name, value in record.items() if name != texts and has_value(value)}
    return None if texts.lower() == "data" and not others <= {"id"} else texts  # `data` beside others may be anything


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _exchange(record: Mapping[str, Any], turns: str | None = None) -> Roles | None:
    """Columns of a prompt and its reply, with what stands beside them. turns: a column of turns that is the prompt."""
    prompt = turns or _prompt_column(record)
    reply = first_column(record, REPLY_COLUMNS, has_value) if turns else first_column(record, REPLY_COLUMNS)
    reply = reply or _calls_column(record)
    if prompt is None or reply is None or reply == prompt:
        return None
    if reply.lower() == "a" and (prompt.lower() != "q" or first_column(record, ("b",)) is not None):
        return None  # the first of several choices
    if reply.lower() == "ai" and (turns or prompt.lower() in PROMPT_COLUMNS or not isinstance(record[reply], str)):
        return None  # the name of a model, or whether one wrote the text
    roles = [("prompt", prompt), *_contexts(record, prompt), ("reply", reply)]
    beside = columns_beside(
        record,
        ("system", SYSTEM_COLUMNS),
        ("history", HISTORY_COLUMNS),
        ("media", MEDIA_COLUMNS),
    )
    thought = first_column(record, THOUGHT_COLUMNS, lambda value: isinstance(value, str | list) and has_value(value))
    beside += [] if thought is None else [("thought", thought)]  # a flag is none
    return [*roles, *beside, *_tools(record), *_labels(record)]


def _calls_column(record: Mapping[str, Any]) -> str | None:
    """A column with the calls that are the reply, beside the tools that they call."""
    column = first_column(record, CALL_COLUMNS, lambda value: calls_of(value) is not None)
    return column if column is not None and _tools(record) else None


def _instances(record: Mapping[str, Any]) -> Roles | None:
    """Columns of an instruction and of a list of its inputs and outputs."""
    prompt = first_column(record, PROMPT_COLUMNS, _is_text)
    instances = first_column(record, INSTANCE_COLUMNS, _is_list_of_outputs)
    if prompt is None or instances is None:
        return None
    return [("prompt", prompt), ("instances", instances), *columns_beside(record, ("system", SYSTEM_COLUMNS))]


def _is_list_of_outputs(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(item, dict) and "output" in item for item in value)
    )


def _exchange_name(roles: Roles) -> str:
    columns = {role: column.lower() for role, column in roles}
    if "instances" in columns:
        return "self-instruct"
    if columns["reply"] in CALL_COLUMNS:
        return "prompt and calls of tools"
    if "label" in columns or "bad_label" in columns:
        return "prompt, reply and label"
    if columns["prompt"] == "instruction":
        return "Dolly" if columns.get("context") == "context" else "Alpaca"
    return "prompt and reply"


def _prompt_column(record: Mapping[str, Any]) -> str | None:
    return first_column(record, PROMPTS_OF_REPLIES, lambda value: isinstance(value, str) or as_turns(value) is not None)


def _contexts(record: Mapping[str, Any], prompt: str) -> Roles:
    """What a prompt is about, which follows it: Alpaca's `input`, Dolly's `context`."""
    names = (first_column(record, (name,)) for name in CONTEXT_COLUMNS)
    return [("context", name) for name in names if name is not None and name != prompt]


def _tools(record: Mapping[str, Any]) -> Roles:
    """A column with the tools that the assistant may call."""
    column = first_column(record, TOOLS_COLUMNS, lambda value: tools_of(value) is not None)
    return [] if column is None else [("tools", column)]


def _labels(record: Mapping[str, Any]) -> Roles:
    """A column that says whether the reply is good."""
    good = first_column(record, GOOD_COLUMNS, lambda value: verdict(value) is not None)
    if good is not None:
        return [("label", good)]
    bad = first_column(record, BAD_COLUMNS, lambda value: verdict(value) is not None)
    return [] if bad is None else [("bad_label", bad)]


def _preferences(record: Mapping[str, Any]) -> RowFormat | None:
    """Two replies of which one is better, or several with ratings."""
    pair = two_columns(record, PAIR_COLUMNS)
    if pair is not None:
        roles = [*_prompts(record, of_pair=True), ("chosen", pair[0]), ("rejected", pair[1])]
        scores = two_columns(record, PAIR_SCORES) or ()
        roles += zip(("score_chosen", "score_rejected"), scores, strict=False)
        return named_format("preferences", "preference pairs", [*roles, *_tools(record)])
    choice = two_columns(record, CHOICE_COLUMNS)
    verdicts = [] if choice is None else _choice_verdicts(record, choice)
    if choice is not None and verdicts:
        roles = [*_prompts(record), ("first", choice[0]), ("second", choice[1]), *verdicts, *_tools(record)]
        return named_format("preferences", "two replies and which is better", roles)
    return _ranked(record)


def _choice_verdicts(record: Mapping[str, Any], replies: tuple[str, str]) -> Roles:
    """The column, or the two, that say which of two replies is better; none without."""
    is_labelled = tuple(map(str.lower, replies)) in LABELLED_CHOICES
    winner = (*WINNER_COLUMNS, *(CHOICE_LABELS if is_labelled else ()))
    for role, names in (("winner", winner), ("strength", STRENGTH_COLUMNS)):
        column = first_column(record, names, has_value)
        if column is not None:
            return [(role, column)]
    endings = [column[-1].lower() for column in replies]
    alike = [pair for pair in CHOICE_SCORES if [name[-1] for name in pair] == endings]
    scores = two_columns(record, alike or CHOICE_SCORES)
    return [] if scores is None else [("score_first", scores[0]), ("score_second", scores[1])]


def _ranked(record: Mapping[str, Any]) -> RowFormat | None:
    """A prompt and a list of replies, each with a rating of its own or in a list beside."""
    replies = first_column(record, REPLY_LISTS, lambda value: isinstance(value, list) and len(value) > 0)
    prompts = _prompts(record)
    if replies is None or "prompt" not in dict(prompts):
        return None
    roles = [*prompts, ("replies", replies), *_tools(record)]
    if all(isinstance(reply, dict) and rating_key(reply) is not None for reply in record[replies]):
        return named_format("preferences", "rated replies", roles)
    length = len(record[replies])
    ratings = first_column(record, RATING_LISTS, lambda value: isinstance(value, list) and len(value) == length)
    return None if ratings is None else named_format("preferences", "rated replies", [*roles, ("ratings", ratings)])


def rating_key(reply: Mapping[str, Any]) -> str | None:
    """The key with the rating of a reply that is an object; None unless it has one, and a text."""
    if not any(key in reply for key in (*RATED_REPLY_KEYS, *ROLE_KEYS)):
        return None
    return first_column(reply, (*RATING_COLUMNS, *RANK_COLUMNS))


def _rated_reply(record: Mapping[str, Any]) -> RowFormat | None:
    """One reply and whether, or how, it is good: pairs are made of several such rows with the same prompt."""
    row_format = _conversations(record)
    if row_format is None:
        return None
    roles = [*zip(row_format.roles, row_format.columns, strict=True)]
    if not _labels(record):
        rating = rating_column(record)
        if rating is None:
            return None
        roles.append(("rating", rating))
    return named_format("preferences", "replies with labels, paired by their prompt", roles)


def rating_of(record: Mapping[str, Any]) -> float | None:
    """The rating of a record with one reply; None without one."""
    column = rating_column(record)
    return None if column is None else number_of(record[column])


def rating_column(record: Mapping[str, Any]) -> str | None:
    """The column with the rating of a record with one reply."""
    return first_column(record, RATING_COLUMNS, lambda value: number_of(value) is not None)


def _prompts(record: Mapping[str, Any], *, of_pair: bool = False) -> Roles:
    """The columns of the prompt of a row with several replies; none where the replies are whole dialogues, as those of
    a pair may be, beside which a history is no prompt."""
    prompt = first_column(record, (*PROMPT_COLUMNS, *HINT_COLUMNS, "input"))
    prompt = prompt or first_column(record, TURN_LISTS, lambda value: isinstance(value, str | list | dict))
    if prompt is None and not of_pair:
        prompt = first_column(record, (*OTHER_TURN_LISTS, *HISTORY_COLUMNS), _is_text)
        prompt = prompt or first_column(
            record, (*OTHER_TURN_LISTS, *CONTEXT_COLUMNS), lambda v: as_turns(v) is not None
        )
    if prompt is None:
        return columns_beside(record, ("system", SYSTEM_COLUMNS))
    beside = columns_beside(record, ("system", SYSTEM_COLUMNS), ("history", HISTORY_COLUMNS), ("media", MEDIA_COLUMNS))
    return [("prompt", prompt), *_contexts(record, prompt), *(pair for pair in beside if pair[1] != prompt)]


def _text_or_prompts(record: Mapping[str, Any]) -> RowFormat | None:
    """A column with a usual name for text, else one with prompts, else the column with the longest text, or a.b within
    an object if b is a usual name; none where the texts of a list are longer: they are what the row says."""
    texts = {name: value for name, value in record.items() if isinstance(value, str)}
    candidates = [name for name in TEXT_COLUMNS if name in texts] or [n for n in texts if n.lower() in TEXT_COLUMNS]
    if not candidates:
        prompts = [name for name in PROMPT_COLUMNS if name in texts]
        if prompts:
            return RowFormat("prompts", f"prompts: {prompts[0]}", (prompts[0],), ("prompt",))
        within = texts_within(record)
        texts |= {name: text for name, text in within if name.rpartition(".")[2].lower() in TEXT_COLUMNS}
        candidates = sorted(texts, key=lambda name: -len(texts[name]))
        longest = len(texts[candidates[0]]) if candidates else 0
        if any(num_characters(value) > longest for value in lists_within(record)):
            return None
    return RowFormat("text", f"text: {candidates[0]}", (candidates[0],), ("text",)) if candidates else None


def _turn_keys_not_used(record: Mapping[str, Any], row_format: RowFormat) -> Iterator[str]:
    """column.key for the keys of turns and rated replies that hold something and are not read, each once."""
    for column, role in zip(row_format.columns, row_format.roles, strict=True):
        value = record.get(column)  # none where the column is a.b
        items = (value if role in UNREAD_KEYS else as_turns(value)) or []
        items = [item for item in items if isinstance(item, dict)]
        unread = UNREAD_KEYS.get(role, keys_not_read)
        keys = dict.fromkeys(key for item in items for key in unread(item))
        keys |= dict.fromkeys(keys_beside_turns(value) if items else ())
        yield from (f"{printable(column)}.{printable(str(key))}" for key in keys)


def _reply_keys_not_read(reply: Mapping[str, Any]) -> list[str]:
    """The keys of a rated reply that hold something and are not read."""
    read = {key_of(reply, RATED_REPLY_KEYS), rating_key(reply)}
    return [key for key, value in reply.items() if key not in read and has_value(value)]


def _instance_keys_not_read(instance: Mapping[str, Any]) -> list[str]:
    """The keys of an instance of an instruction that hold something and are not read."""
    return [key for key, value in instance.items() if key not in INSTANCE_KEYS and has_value(value)]


# By the role of a column of objects that are no turns.
UNREAD_KEYS = {"replies": _reply_keys_not_read, "instances": _instance_keys_not_read}
