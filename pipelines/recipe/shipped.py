"""Recipes by their file, or by the name of one that comes with Rayse."""

from __future__ import annotations

from pathlib import Path

from pipelines.errors import UserError

SHIPPED = Path(__file__).parent.parent / "recipes"


def find(path: str | Path) -> Path:
    """The file of a recipe: a path, or a recipe that comes with Rayse (`demo`, `pipelines/recipes/demo.yaml`).

    Raises UserError if there is neither."""
    file = Path(path)
    if file.is_file():
        return file.absolute()
    shipped = SHIPPED / (file.name if file.suffix else f"{file.name}.yaml")
    if shipped.is_file() and file.parent.as_posix() in (".", "pipelines/recipes"):
        return shipped
    names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
    raise UserError(f"{path}: no such recipe; give a YAML file or one that comes with Rayse: {names}")
