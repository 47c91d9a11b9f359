"""The model that everything a user may write derives from: strict and frozen."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Options as a recipe gives them: an unknown key is an error, a value is never changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """What of these options decides the result: part of a fingerprint."""
        return self.model_dump(mode="json")
