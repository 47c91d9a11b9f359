"""Detects conversations by the columns of a record: turns in one column, a prompt and its reply, an instruction with
its instances; and what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.sources import moss
from pipelines.data.sources.cells import (
    as_turns,
    calls_of,
    ends_with_prompt,
    has_value,
    is_dialogue,
    is_of_turns,
    number_of,
    tools_of,
    turns_of_texts,
    verdict,
)
from pipelines.data.sources.column_names import (
    BAD_COLUMNS,
    CALL_COLUMNS,
    CONTEXT_COLUMNS,
    DEFINITION_COLUMNS,
    GOOD_COLUMNS,
    HISTORY_COLUMNS,
    INSTANCE_COLUMNS,
    MARKED_SYSTEMS,
    MARKED_TEXTS,
    MEDIA_COLUMNS,
    OTHER_TURN_LISTS,
    PROMPT_COLUMNS,
    PROMPTS_OF_REPLIES,
    REPLY_COLUMNS,
    ROW_FLAGS,
    SYSTEM_COLUMNS,
    TASK_INPUTS,
    TEXT_COLUMNS,
    TEXT_LISTS,
    THOUGHT_COLUMNS,
    TOOLS_COLUMNS,
    TURN_LISTS,
)
from pipelines.data.sources.row_format import Roles, RowFormat, columns_beside, first_column, named_format


def conversations(record: Mapping[str, Any]) -> RowFormat | None:
    """Turns in one column, or a prompt and its reply in two."""
    turns = _turns_column(record)
    exchange = _exchange(record, turns) or _instances(record)
    if turns is not None and (exchange is None or not ends_with_prompt(record[turns])):
        systems = (*SYSTEM_COLUMNS, *(MARKED_SYSTEMS if turns.lower() in MARKED_TEXTS else ()))
        roles = [("turns", turns), *columns_beside(record, ("system", systems), ("media", MEDIA_COLUMNS))]
        keys = (as_turns(record[turns]) or [{}])[0].keys()
        name, content = ("OpenAI", "role and content") if keys else ("dialogues", "texts in turn")
        name, content = ("ShareGPT", "from and value") if "from" in keys else (name, content)
        name, content = ("MOSS", "turns with marks") if moss.exchanges(record[turns]) else (name, content)
        roles += [*tools_beside(record), *labels_beside(record), *flags_beside(record)]
        return named_format("conversations", name, roles, note=f"{turns} of {content}")
    if exchange is None:
        return None
    return named_format("conversations", _exchange_name(exchange), [*exchange, *flags_beside(record)])


def _turns_column(record: Mapping[str, Any]) -> str | None:
    """The column of a whole conversation: turns, or text of them, even if it is broken; where a row has neither a
    prompt with its reply nor running text, also turns whose names may be those of anything, and texts in turn."""
    turns = first_column(record, TURN_LISTS, is_of_turns)
    if turns is not None or _exchange(record) is not None or first_column(record, TEXT_COLUMNS, is_text) is not None:
        return turns
    turns = first_column(record, (*TURN_LISTS, *OTHER_TURN_LISTS, *MARKED_TEXTS), is_dialogue)
    texts = first_column(record, TEXT_LISTS, lambda value: turns_of_texts(value) is not None)
    if turns is not None or texts is None:
        return turns
    others = {name.lower() for name, value in record.items() if name != texts and has_value(value)}
    return None if texts.lower() == "data" and not others <= {"id"} else texts  # `data` beside others may be anything


def is_text(value: Any) -> bool:
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
    roles = [("prompt", prompt), *contexts(record, prompt), ("reply", reply)]
    beside = columns_beside(
        record,
        ("system", SYSTEM_COLUMNS),
        ("history", HISTORY_COLUMNS),
        ("media", MEDIA_COLUMNS),
    )
    thought = first_column(record, THOUGHT_COLUMNS, lambda value: isinstance(value, str | list) and has_value(value))
    beside += [] if thought is None else [("thought", thought)]  # a flag is none
    return [*roles, *beside, *tools_beside(record), *labels_beside(record)]


def _calls_column(record: Mapping[str, Any]) -> str | None:
    """A column with the calls that are the reply, beside the tools that they call."""
    column = first_column(record, CALL_COLUMNS, lambda value: calls_of(value) is not None)
    return column if column is not None and tools_beside(record) else None


def _instances(record: Mapping[str, Any]) -> Roles | None:
    """Columns of an instruction and of a list of its inputs and outputs."""
    prompt = first_column(record, PROMPT_COLUMNS, is_text)
    instances = first_column(record, INSTANCE_COLUMNS, _is_list_of_outputs)
    if prompt is None or instances is None:
        return None
    beside = columns_beside(record, ("system", SYSTEM_COLUMNS), ("media", MEDIA_COLUMNS))
    return [("prompt", prompt), ("instances", instances), *beside, *tools_beside(record), *labels_beside(record)]


def has_instances(record: Mapping[str, Any]) -> bool:
    """Whether a record is an instruction with a list of its inputs and outputs (self-instruct).

    >>> has_instances({"instruction": "Add", "instances": [{"input": "1, 2", "output": "3"}]})
    True
    """
    return _instances(record) is not None


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
    """The column of a prompt; of a task's inputs, that of its definition, which they follow."""
    prompt = first_column(
        record, PROMPTS_OF_REPLIES, lambda value: isinstance(value, str) or as_turns(value) is not None
    )
    is_input = prompt is not None and prompt.lower() in TASK_INPUTS and is_text(record[prompt])
    definition = first_column(record, DEFINITION_COLUMNS, lambda value: is_text(value) and has_value(value))
    return definition if is_input and definition is not None else prompt


def contexts(record: Mapping[str, Any], prompt: str) -> Roles:
    """What a prompt is about, which follows it: Alpaca's `input`, Dolly's `context`, a task's inputs."""
    of_task = TASK_INPUTS if prompt.lower() in DEFINITION_COLUMNS else ()
    names = (first_column(record, (name,)) for name in dict.fromkeys((*CONTEXT_COLUMNS, *of_task)))
    return [("context", name) for name in names if name is not None and name != prompt]


def tools_beside(record: Mapping[str, Any]) -> Roles:
    """A column with the tools that the assistant may call."""
    column = first_column(record, TOOLS_COLUMNS, lambda value: tools_of(value) is not None)
    return [] if column is None else [("tools", column)]


def flags_beside(record: Mapping[str, Any]) -> Roles:
    """The columns that say whether the row is learnt, or how much it weighs."""
    columns = (first_column(record, (name,), _weighs_row) for name in ROW_FLAGS)
    return [("flag", column) for column in columns if column is not None]


def _weighs_row(value: Any) -> bool:
    """Whether a row's value says yes, no, or a share: a larger number may be the weight of anything, in kilograms."""
    number = number_of(value)
    return verdict(value) is not None if number is None else 0 <= number <= 1


def labels_beside(record: Mapping[str, Any]) -> Roles:
    """A column that says whether the reply is good."""
    good = first_column(record, GOOD_COLUMNS, lambda value: verdict(value) is not None)
    if good is not None:
        return [("label", good)]
    bad = first_column(record, BAD_COLUMNS, lambda value: verdict(value) is not None)
    return [] if bad is None else [("bad_label", bad)]
