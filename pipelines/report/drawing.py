"""Plots as inline SVG, without frames, in colours that are legible on light and dark backgrounds."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("svg")  # before pyplot is imported: the backend is chosen once
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, BLUE, ORANGE, GREY = "#64748b", "#2563eb", "#ea580c", "#94a3b8"


def new_axes(*, width: float = 6.4, height: float) -> tuple[Any, Axes]:
    """A matplotlib figure of this size in inches, and its axes."""
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def svg(figure: Any) -> str:
    """The figure as an SVG element, the same bytes every time. Closes the figure."""
    buffer = io.StringIO()
    settings: dict[Any, str] = {"svg.fonttype": "none", "svg.hashsalt": "rayse", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Text stays text: the reader's browser has fonts for Chinese names, which matplotlib's own font has not.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
