"""Imputed beside measured values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from remadom.errors import InputError
from remadom.eval.figures import drawing
from remadom.eval.figures.drawing import (
    NORMAL,
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

PANELS = 9
"""Features that have a panel of their own: the best, the median and the worst three."""
MOST_VALUES = 4_000_000
"""Most values whose density is drawn; of more, those of cells drawn at random."""


def draw_imputation(
    truth: np.ndarray,
    predicted: np.ndarray,
    path: str | Path,
    *,
    features: Sequence[str] | None = None,
    title: str = "",
    unit: str = "log(1 + count)",
    seed: int = 0,
) -> None:
    """Draw predicted against measured values: all of them by density, and some features one by one.

    The dashed line is where both are equal. Features are ranked by their correlation over the cells; those with
    the best, median and worst have a panel. Correlations and errors in the titles are of all cells.

    Parameters
    ----------
    truth, predicted
        Cell x feature, both on the scale ``unit``. Values that are not finite in either are left out.
    path
        PNG, SVG or PDF file, by its ending; written atomically.
    features
        Name of each feature.
    title
        What was imputed.
    unit
        Scale of the values, for the axes.
    seed
        Seed of the sample of cells, where there are too many values.

    Raises
    ------
    InputError
        The arrays are no matrices of one shape, or there is another number of names.
    """
    truth, predicted = np.asarray(truth, dtype=float), np.asarray(predicted, dtype=float)
    same_shape(truth=truth, predicted=predicted)
    if truth.ndim != 2 or (features is not None and len(features) != truth.shape[1]):
        named = "" if features is None else f" and {len(features)} names"
        raise InputError(f"figure: found values of shape {truth.shape}{named}; expected cell x feature")
    names = [str(at) for at in range(truth.shape[1])] if features is None else [str(f) for f in features]
    pearson = np.array([correlation(truth[:, at], predicted[:, at]) for at in range(truth.shape[1])])
    rows = _chosen(pearson)
    right = 2.2 * max((len(row) for _, row in rows), default=0)
    size = (5.0 + right, max(4.9, 2.25 * len(rows)))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    parts = figure.add_gridspec(1, 2, width_ratios=(5.0, right)) if rows else figure.add_gridspec(1, 1)
    main = figure.add_subfigure(parts[0]).add_subplot()
    order = np.sort(np.random.default_rng(seed).permutation(len(truth))[: _most_cells(truth.shape[1])])
    cells = "all" if len(order) == len(truth) else f"{len(order):,} of {len(truth):,}"
    _draw_all(figure, main, truth[order].ravel(), predicted[order].ravel())
    head = f"{title}, {cells} cells" if title else f"{cells} cells"
    heading(main, f"{head}\n{_fit(truth.ravel(), predicted.ravel())}")
    literal(main.set_xlabel(f"measured, {unit}", fontsize=SMALL))
    literal(main.set_ylabel(f"predicted, {unit}", fontsize=SMALL))
    beside = figure.add_subfigure(parts[-1])
    for row, (words, chosen) in enumerate(rows):
        for column, feature in enumerate(chosen):
            axes = beside.add_subplot(len(rows), 3, 3 * row + column + 1)
            _draw_feature(axes, truth[:, feature], predicted[:, feature], names[feature])
            if column == 0 and words:
                axes.set_ylabel(words, fontsize=NORMAL)
    save(figure, path)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of the pairs that are finite; NaN where one side does not vary."""
    here = np.isfinite(a) & np.isfinite(b)
    a, b = a[here], b[here]
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def _fit(truth: np.ndarray, predicted: np.ndarray, *, short: bool = False) -> str:
    squares = (truth - predicted)[np.isfinite(truth) & np.isfinite(predicted)] ** 2
    if not len(squares):
        return "no value"
    pearson = correlation(truth, predicted)
    digits = 2 if short else 3
    words = "not defined" if math.isnan(pearson) else f"{pearson:.{digits}f}"
    return f"{'r' if short else 'Pearson'} {words}, RMSE {math.sqrt(squares.mean()):.{digits}f}"


def _most_cells(n_features: int) -> int:
    return max(1, MOST_VALUES // max(1, n_features))


def _chosen(pearson: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Features with a panel, in rows: the best, the median and the worst of those with a correlation."""
    ranked = np.argsort(-pearson, kind="stable")[: np.count_nonzero(~np.isnan(pearson))]
    if len(pearson) == 1:
        return []
    if len(ranked) <= PANELS:
        return [("", ranked[at : at + 3]) for at in range(0, len(ranked), 3)]
    middle = (len(ranked) - 3) // 2
    return [("best", ranked[:3]), ("median", ranked[middle : middle + 3]), ("worst", ranked[-3:])]


def _limits(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Least and greatest value of either, with room around."""
    low, high = min(a.min(), b.min()), max(a.max(), b.max())
    room = 0.04 * (high - low) or 0.5
    return float(low - room), float(high + room)


def _draw_all(figure: Figure, axes: Axes, truth: np.ndarray, predicted: np.ndarray) -> None:
    here = np.isfinite(truth) & np.isfinite(predicted)
    if not here.any():
        empty(axes, "no value was held out")
        return
    limits = _limits(truth[here], predicted[here])
    counts, *_ = np.histogram2d(truth[here], predicted[here], bins=160, range=(limits, limits))
    image = axes.imshow(
        np.ma.masked_equal(counts.T, 0),
        extent=(*limits, *limits),
        origin="lower",
        norm=LogNorm(1, max(2, counts.max())),
        cmap="cividis_r",
        interpolation="nearest",
    )
    place = axes.inset_axes((0.2, -0.2, 0.6, 0.025))
    bar = figure.colorbar(image, cax=place, orientation="horizontal")
    bar.set_label("values", fontsize=SMALL)
    place.tick_params(labelsize=SMALL)
    _draw_identity(axes, limits)


def _draw_identity(axes: Axes, limits: tuple[float, float]) -> None:
    axes.axline((0, 0), slope=1, color=PALETTE[1], linewidth=1, linestyle="--")
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    plain_axes(axes)


def _draw_feature(axes: Axes, truth: np.ndarray, predicted: np.ndarray, name: str) -> None:
    here = np.flatnonzero(np.isfinite(truth) & np.isfinite(predicted))
    drawn = here[:: math.ceil(len(here) / drawing.MOST_POINTS)]
    size = min(10.0, max(0.5, 200 / math.sqrt(len(here))))
    axes.scatter(
        truth[drawn], predicted[drawn], s=size, c=PALETTE[0], alpha=0.5, linewidths=0, rasterized=True
    )
    _draw_identity(axes, _limits(truth[here], predicted[here]))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    heading(axes, f"{one_line(name, 24)}\n{_fit(truth, predicted, short=True)}", SMALL)
