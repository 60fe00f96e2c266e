"""Whether intervals of imputed values hold what they promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from remadom.eval.figures.drawing import (
    OTHER,
    PALETTE,
    SMALL,
    empty,
    heading,
    literal,
    one_line,
    plain_axes,
    same_shape,
    save,
)

MOST_INTERVALS = 150
"""Intervals that are drawn."""


class Intervals(NamedTuple):
    """Held-out values with the interval that each was expected in: arrays of one value each, and the level."""

    truth: np.ndarray
    predicted: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float = 0.9


def draw_calibration(
    nominal: Sequence[float] | np.ndarray,
    measured: Sequence[float] | np.ndarray,
    path: str | Path,
    *,
    intervals: Intervals | None = None,
    title: str = "",
    unit: str = "log(1 + count)",
    seed: int = 0,
) -> None:
    """Draw which share of held-out values lies in intervals that promise 50 %, 60 % ... of them.

    Below the dashed line intervals are too narrow, above it too wide. Beside that, some of the intervals from the
    lowest to the highest prediction, with the measured values: a cross where it lies outside.

    Parameters
    ----------
    nominal
        Promised shares, 0 to 1, ascending.
    measured
        Share of the held-out values that lie in the interval of each level.
    path
        PNG, SVG or PDF file, by its ending; written atomically.
    intervals
        The intervals of one level; a sample of ``MOST_INTERVALS`` is drawn.
    title
        What was imputed.
    unit
        Scale of the intervals.
    seed
        Seed of the sample.

    Raises
    ------
    InputError
        Arrays that belong together differ in shape.
    """
    nominal, measured = np.asarray(nominal, dtype=float), np.asarray(measured, dtype=float)
    same_shape(nominal=nominal, measured=measured)
    figure = Figure(figsize=(4.2 if intervals is None else 9.5, 4.0), layout="constrained", facecolor="white")
    parts = figure.add_gridspec(1, 1 if intervals is None else 5)
    axes = figure.add_subplot(parts[0, :2])
    axes.axline((0, 0), slope=1, color=OTHER, linestyle="--", linewidth=1)
    axes.plot(100 * nominal, 100 * measured, color=PALETTE[0], marker="o", markersize=4, linewidth=1.4)
    low = 5 * math.floor(20 * min([0.5, *nominal, *measured[np.isfinite(measured)]])) - 3
    axes.set(xlim=(low, 102), ylim=(low, 102), aspect="equal")
    axes.text(98, low + 3, "too narrow", ha="right", fontsize=SMALL, color="#444444")
    axes.text(low + 3, 97, "too wide", va="top", fontsize=SMALL, color="#444444")
    axes.set_xlabel("interval promises, % of values", fontsize=SMALL)
    axes.set_ylabel("interval holds, % of values", fontsize=SMALL)
    heading(axes, one_line(title or "calibration"))
    plain_axes(axes)
    if intervals is not None:
        _draw_intervals(figure.add_subplot(parts[0, 2:]), intervals, unit, seed)
    save(figure, path)


def _draw_intervals(axes: Axes, of: Intervals, unit: str, seed: int) -> None:
    truth, predicted, low, high = (np.asarray(part, dtype=float).ravel() for part in of[:4])
    same_shape(truth=truth, predicted=predicted, low=low, high=high)
    if not len(truth):
        empty(axes, "no value was held out")
        return
    some = np.random.default_rng(seed).permutation(len(truth))[:MOST_INTERVALS]
    some = some[np.argsort(predicted[some], kind="stable")]
    inside = (low <= truth) & (truth <= high)
    place = np.arange(len(some))
    axes.vlines(place, low[some], high[some], color="#9DB8CC", linewidth=1.6, label="interval")
    axes.plot(place, predicted[some], color=PALETTE[6], linewidth=1, label="expected")
    for here, marker, color, words in (
        (inside, "o", PALETTE[0], "measured, inside"),
        (~inside, "X", PALETTE[1], "measured, outside"),
    ):
        at = here[some]
        axes.scatter(
            place[at], truth[some][at], s=12, c=color, marker=marker, linewidths=0, label=words, zorder=3
        )
    heading(axes, f"{of.level:.0%} intervals hold {inside.mean():.1%} of {len(truth):,} values")
    axes.set_xlabel(f"{len(some):,} values, by prediction", fontsize=SMALL)
    literal(axes.set_ylabel(unit, fontsize=SMALL))
    axes.set_xticks([])
    plain_axes(axes, grid="y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=4, fontsize=SMALL, frameon=False)
