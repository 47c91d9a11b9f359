"""The kinds of harm that a corpus is checked for, and what happens to documents that have one."""

from __future__ import annotations

from typing import Literal

HarmKind = Literal["toxicity", "discrimination", "unsafe"]
HarmAction = Literal["drop", "count"]
HarmOptions = dict[HarmKind, HarmAction]
