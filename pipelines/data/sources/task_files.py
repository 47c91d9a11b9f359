"""Task files of Natural Instructions: a definition, examples of it, and instances with inputs and outputs.

    {"Definition": ["Name the next month."], "Positive Examples": […], "Instances": [{"input": "May", "output": […]}]}
        ──► {"instruction": "Name the next month.", "input": "May", "output": "June"}

Of several outputs the first is learnt. Examples show what instances are like, and are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFINITION = "definition"
EXAMPLES = ("positive examples", "negative examples")
EXAMPLE = "example"  # reason of rows that are examples
OTHER_OUTPUTS = "other outputs"  # column of those after the first one


def definition_of(document: Mapping[str, Any]) -> str:
    """The definition of a task file, which may be a list of paragraphs; empty for any other document.

    >>> definition_of({"Definition": ["Add.", "Be brief."], "Instances": [{"input": "1, 2", "output": ["3"]}]})
    'Add.\\nBe brief.'
    """
    named = {name.lower(): value for name, value in document.items()}
    definition = named.get(DEFINITION)
    paragraphs = definition if isinstance(definition, list) else [definition]
    texts = [text for text in paragraphs if isinstance(text, str)]
    return "\n".join(texts) if "instances" in named and len(texts) == len(paragraphs) else ""


def row(definition: str, instance: Any) -> Any:
    """The row of an instance: with the definition, and the first of its outputs as the only one.

    >>> row("Add.", {"id": "a", "input": "1, 2", "output": ["3", "three"]})
    {'instruction': 'Add.', 'id': 'a', 'input': '1, 2', 'output': '3', 'other outputs': ['three']}
    """
    if not isinstance(instance, dict):
        return instance
    outputs = instance.get("output")
    with_definition = {"instruction": definition, **instance}
    if not isinstance(outputs, list) or not outputs or not all(isinstance(output, str) for output in outputs):
        return with_definition
    others = list(dict.fromkeys(output for output in outputs if output != outputs[0]))
    return with_definition | {"output": outputs[0]} | ({OTHER_OUTPUTS: others} if others else {})
