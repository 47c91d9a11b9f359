"""Kinds of personal data and what may happen to them, as recipes name them. Recipes are read with it."""

from __future__ import annotations

from typing import Literal, get_args

PrivateKind = Literal["email", "phone", "ip", "card", "id_number", "passport", "address", "names"]
PrivacyAction = Literal["keep", "mask", "surrogate", "drop"]
PrivacyOptions = dict[PrivateKind, PrivacyAction]
PERSONAL_DATA = "personal_data"  # the reason of a dropped document
MASKS: dict[PrivateKind, str] = {**{kind: f"[{kind}]" for kind in get_args(PrivateKind)}, "names": "[name]"}
