"""Figures of counts: edges of a cell, labels that were transferred, modalities of the cohorts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from remadom.errors import InputError
from remadom.eval.figures import drawing
from remadom.eval.figures.drawing import (
    MISSING,
    OTHER,
    PALETTE,
    SMALL,
    empty,
    heading,
    literal,
    names_at,
    natural,
    one_line,
    plain_axes,
    save,
)

DENSE = 16
"""Labels up to which a heat map has its shares written into it."""


def draw_degrees(degrees: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Draw how many edges of a bridge the cells have, one panel for each side.

    Cells without an edge have a grey bar of their own. Where a cell has more than 12 edges, a bar holds a range of
    doubling width.

    Parameters
    ----------
    degrees
        Number of edges of each cell, by the name of the side.
    path
        PNG, SVG or PDF file, by its ending; written atomically.

    Raises
    ------
    InputError
        There is no side, or a number of edges is negative.
    """
    counts = {name: np.asarray(values, dtype=int) for name, values in degrees.items()}
    if not counts or any((values < 0).any() for values in counts.values()):
        raise InputError("figure: expected the number of edges of each cell, 0 or more, by side")
    scales = {name: _ranges(int(values.max(initial=0))) for name, values in counts.items()}
    widths = [max(3.4, 0.64 * len(words)) for _, words in scales.values()]
    size = (0.6 + sum(widths), 3.2)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    grid = figure.add_gridspec(1, len(counts), width_ratios=widths)
    for at, (name, values) in enumerate(counts.items()):
        axes = figure.add_subplot(grid[at])
        linked = values[values > 0]
        bars, words = scales[name]
        heights = np.histogram(values, bins=bars)[0]
        axes.bar(
            np.arange(len(heights)), heights, width=0.9, color=[OTHER, *[PALETTE[0]] * (len(heights) - 1)]
        )
        names_at(axes, "x", words)
        axes.set_xlabel("edges of a cell (grey: none)", fontsize=SMALL)
        axes.set_ylabel("cells", fontsize=SMALL)
        share = f"{len(linked):,} of {len(values):,} cells have an edge"
        middle = f"; median {np.median(linked):.0f}, most {linked.max():,}" if len(linked) else ""
        heading(axes, f"{one_line(name)}\n{share}{middle}", 9)
        plain_axes(axes, grid="y")
    save(figure, path)


def _ranges(most: int) -> tuple[np.ndarray, list[str]]:
    """Bounds of the bars, and their names."""
    if most <= 12:
        return np.arange(most + 2), [str(at) for at in range(most + 1)]
    starts = [0, *(2**power for power in range(most.bit_length()))]
    bounds = np.array([*starts, 2 ** most.bit_length()])
    pairs = zip(bounds[:-1], bounds[1:] - 1, strict=True)
    return bounds, [f"{a}" if a == b else f"{a}-{b}" for a, b in pairs]


def draw_confusion(
    true: Sequence[Any] | np.ndarray,
    given: Sequence[Any] | np.ndarray,
    path: str | Path,
    *,
    title: str = "",
) -> None:
    """Draw which labels the cells of each true label were given, as shares of the row.

    Parameters
    ----------
    true, given
        Label of each cell, known and transferred; cells without either are left out.
    path
        PNG, SVG or PDF file, by its ending; written atomically.
    title
        From where to where labels were transferred.

    Raises
    ------
    InputError
        The lengths differ.
    """
    if len(true) != len(given):
        raise InputError(f"figure: found {len(true)} true and {len(given)} given labels; expected as many")
    cells = pd.DataFrame({"true": np.asarray(true, object), "given": np.asarray(given, object)}).dropna()
    cells = cells.astype(str)
    sizes = pd.concat([cells["true"], cells["given"]]).value_counts()
    kept = sorted(sizes.index[: drawing.MOST_GROUPS], key=natural)
    rest = f"other ({len(sizes) - len(kept)} smaller)"
    shown = cells.where(cells.isin(kept), rest)
    columns = [*kept, rest] if len(sizes) > len(kept) else kept
    rows = [name for name in columns if (shown["true"] == name).any()]
    table = pd.crosstab(shown["true"], shown["given"]).reindex(index=rows, columns=columns, fill_value=0)
    counts = table.to_numpy()
    of_row = counts.sum(1)
    shares = counts / of_row[:, None]
    long = max([4, *(len(one_line(name)) for name in rows)]) * 0.07
    wide, high = max(3.0, 0.34 * len(columns)), max(2.0, 0.3 * len(rows))
    figure = Figure(figsize=(wide + long + 1.6, high + long + 0.9), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    right = (cells["true"] == cells["given"]).mean() if len(cells) else math.nan
    head = f"{len(cells):,} cells, {right:.1%} given their own label" if len(cells) else "no labeled cell"
    heading(axes, f"{one_line(title, 60)}\n{head}" if title else head)
    if not len(cells):
        empty(axes, "no cell has both labels")
        save(figure, path)
        return
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto", interpolation="nearest")
    names_at(axes, "x", columns)
    names_at(axes, "y", [f"{one_line(name)} ({size:,})" for name, size in zip(rows, of_row, strict=True)])
    axes.tick_params(axis="x", rotation=90, length=0)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("label that was given", fontsize=SMALL)
    axes.set_ylabel("true label (cells)", fontsize=SMALL)
    if max(shares.shape) <= DENSE:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                color = "white" if share > 0.55 else "black"
                axes.text(
                    column, row, f"{100 * share:.0f}", ha="center", va="center", color=color, fontsize=7
                )
    bar = figure.colorbar(image, ax=axes, shrink=0.6, format=lambda share, _: f"{share:.0%}")
    bar.set_label("share of the row", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    save(figure, path)


def draw_mosaic(
    counts: np.ndarray,
    cohorts: Sequence[str],
    modalities: Sequence[str],
    path: str | Path,
    *,
    title: str = "",
) -> None:
    """Draw which modality was measured in how many cells of each cohort; what was not measured is empty.

    Parameters
    ----------
    counts
        Cells, cohort x modality.
    cohorts, modalities
        Their names.
    path
        PNG, SVG or PDF file, by its ending; written atomically.
    title
        What the data is.

    Raises
    ------
    InputError
        ``counts`` is not cohort x modality.
    """
    counts = np.asarray(counts, dtype=int)
    if counts.shape != (len(cohorts), len(modalities)):
        raise InputError(
            f"figure: found counts of shape {counts.shape}; expected {len(cohorts)} cohorts x "
            f"{len(modalities)} modalities"
        )
    long = 0.075 * max((len(one_line(str(name))) for name in cohorts), default=0)
    size = (1.0 + long + 1.15 * len(modalities), 0.9 + 0.36 * len(cohorts))
    figure = Figure(figsize=(max(3.5, size[0]), max(1.6, size[1])), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for (row, column), cells in np.ndenumerate(counts):
        box = Rectangle((column - 0.46, row - 0.42), 0.92, 0.84, linewidth=0)
        if cells:
            box.set(facecolor=PALETTE[column % len(PALETTE)], alpha=0.35)
        else:
            box.set(facecolor="white", edgecolor=MISSING, hatch="///")
        axes.add_patch(box)
        words = f"{cells:,}" if cells else "none"
        axes.text(column, row, words, ha="center", va="center", fontsize=SMALL)
    names_at(axes, "x", [str(name) for name in modalities])
    names_at(axes, "y", [str(name) for name in cohorts])
    axes.set(xlim=(-0.5, len(modalities) - 0.5), ylim=(len(cohorts) - 0.5, -0.5))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if title:
        literal(axes.set_title(one_line(title, 60), loc="left", fontsize=9))
    save(figure, path)
