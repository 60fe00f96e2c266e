"""The embedding in a plane, colored by what is known of the cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from remadom.errors import InputError
from remadom.eval.figures import drawing
from remadom.eval.figures.drawing import (
    SMALL,
    Groups,
    any_glyph,
    grouped,
    heading,
    literal,
    one_line,
    save,
)

BINS = 300
"""Places along each side of a panel that is drawn by density."""


def draw_embedding(
    xy: np.ndarray,
    columns: Mapping[str, Sequence[Any] | np.ndarray],
    path: str | Path,
    layout_name: str,
    *,
    seed: int = 0,
) -> None:
    """Draw the cells in a plane, one panel for each column, colored by its categories.

    Cells are drawn in random order, so that no category hides another, on top of those without a value (grey).
    More than ``MOST_POINTS`` cells are drawn by density: each place has the color of the category that most of
    its cells have, stronger where there are more.

    Parameters
    ----------
    xy
        Cell x 2.
    columns
        Category of each cell (``None`` or NaN: none) by the title of its panel.
    path
        PNG, SVG or PDF file, by its ending; written atomically.
    layout_name
        Method of the layout, for the axes.
    seed
        Seed of the order.

    Raises
    ------
    InputError
        ``xy`` is not a finite cell x 2 array, there is no column, or a column has another length.
    """
    xy = np.asarray(xy, dtype=float)
    if xy.ndim != 2 or xy.shape[1] != 2 or not np.isfinite(xy).all():
        raise InputError(f"figure: found coordinates of shape {xy.shape}; expected finite ones, cells x 2")
    wrong = {name: len(values) for name, values in columns.items() if len(values) != len(xy)}
    if wrong or not columns:
        raise InputError(f"figure: expected columns of {len(xy)} values, found {wrong or 'no column'}")
    by_density = len(xy) > drawing.MOST_POINTS
    order = np.random.default_rng(seed).permutation(len(xy))
    figure = Figure(facecolor="white")
    for title, values in columns.items():
        axes = figure.add_subplot()
        of = grouped(values)
        if by_density:
            _draw_density(axes, xy, of)
        else:
            _draw_points(axes, xy, order, of)
        _draw_legend(axes, of)
        heading(axes, one_line(title))
        literal(axes.set_xlabel(f"{layout_name} 1", fontsize=SMALL))
        literal(axes.set_ylabel(f"{layout_name} 2", fontsize=SMALL))
    how = (
        "; the color of most of the cells in each place, stronger where there are more" if by_density else ""
    )
    figure.text(0.5, 0.01, f"{len(xy):,} cell{'s'[: len(xy) != 1]}{how}", ha="center", fontsize=SMALL)
    with any_glyph():
        _place(figure)
    save(figure, path)


def _place(figure: Figure) -> None:
    """Two square panels a row, each with room for the names in its legend; all measures in inches."""
    panel, left, top, bottom, foot = 4.0, 0.35, 0.4, 0.35, 0.25
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    legends = [axes.get_legend() for axes in figure.axes]
    room = [legend.get_window_extent(renderer).width / figure.dpi for legend in legends if legend]
    widths = [left + panel + 0.2 + max(room[column::2]) for column in range(min(2, len(room)))]
    rows, row_height = math.ceil(len(room) / 2), top + panel + bottom
    width, height = sum(widths), foot + rows * row_height
    figure.set_size_inches(width, height)
    for at, axes in enumerate(figure.axes):
        x = left + sum(widths[: at % 2])
        y = foot + bottom + (rows - 1 - at // 2) * row_height
        axes.set_position((x / width, y / height, panel / width, panel / height))


def _draw_points(axes: Axes, xy: np.ndarray, order: np.ndarray, of: Groups) -> None:
    area = min(16.0, max(0.4, 350 / math.sqrt(max(1, len(order)))))
    missing = of.codes[order] == len(of.names) - 1
    for layer in (order[missing], order[~missing]):
        at = xy[layer]
        axes.scatter(at[:, 0], at[:, 1], s=area, c=of.colors[of.codes[layer]], linewidths=0, rasterized=True)


def _draw_density(axes: Axes, xy: np.ndarray, of: Groups) -> None:
    """An image of ``BINS`` x ``BINS`` places; a cell without a value counts only where no other is."""
    low = xy.min(0)
    span = np.maximum(xy.max(0) - low, 1e-12)
    column, row = np.minimum((xy - low) / span * BINS, BINS - 1).astype(int).T
    groups = len(of.names)
    counts = np.bincount((row * BINS + column) * groups + of.codes, minlength=BINS * BINS * groups)
    counts = counts.reshape(BINS, BINS, groups)
    total = counts.sum(2)
    known = counts[..., :-1].argmax(2)
    most = np.where(counts[..., :-1].any(2), known, groups - 1)
    color = np.array([to_rgb(name) for name in of.colors])[most]
    strength = np.log1p(total) / np.log1p(total.max())
    alpha = np.where(total, 0.3 + 0.7 * strength, 0)
    axes.imshow(
        np.dstack([color, alpha]),
        extent=(low[0], low[0] + span[0], low[1], low[1] + span[1]),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )


def _draw_legend(axes: Axes, of: Groups) -> None:
    dots = [
        Line2D([], [], color=color, marker="o", markersize=5, linestyle="") for color in of.colors[of.used]
    ]
    legend = axes.legend(
        dots,
        [""] * len(dots),
        loc="upper left",
        bbox_to_anchor=(1.01, 1.01),
        ncols=math.ceil(len(dots) / 16) or 1,
        fontsize=SMALL,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.0,
    )
    for text, at in zip(legend.get_texts(), of.used, strict=True):
        literal(text).set_text(of.names[at])
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#BBBBBB")
