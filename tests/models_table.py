"""The table of docs/models.md, from what the tests try.

python -m tests.models_table        prints it
"""

from __future__ import annotations

from tests.families import FAMILIES
from tests.learning.test_family_training import CASES

BEGIN, END = "<!-- table: python -m tests.models_table -->", "<!-- end of the table -->"


def table() -> str:
    """Markdown: a row a family, a column a thing that a test proves for it."""
    stages = ", ".join(sorted({str(case.zero_stage) for case in CASES.values()}))
    types = ", ".join(sorted({case.dtype for case in CASES.values()}, reverse=True))
    header = ["family", "models", "packed rows = transformers", f"trained at ZeRO {stages}, {types}", "LoRA, rsLoRA",
              "DoRA", "pushed into vLLM"]  # fmt: skip
    rows = [header, ["---"] * len(header)]
    for name, family in FAMILIES.items():
        lora = "yes, experts too" if family.has_experts else "yes"
        rows.append([name, family.known_as, "yes", "yes", lora, "no" if family.has_experts else "yes", "yes"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table())
