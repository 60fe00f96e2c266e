"""Prediction intervals that hold what they promise: widened by what calibration cells show, and their coverage."""

from __future__ import annotations

import numpy as np

from remadom.eval.scales import COUNTS, Scale

SHIFT = 0.8
"""What a batch shifts at least, where few have the modality: standard deviation of the log counts of a feature."""


def calibrated_widths(
    lower: np.ndarray, upper: np.ndarray, truth: np.ndarray, *, level: float, scale: Scale = COUNTS
) -> np.ndarray:
    """By how much the intervals of each feature must be widened to hold ``level`` of the calibration cells.

    Split conformal quantile regression: the ``ceil((n + 1) level) / n`` quantile of how far, on the scale (for counts
    log1p), the truth lies outside (negative: inside) of its interval (Romano, Patterson and Candes 2019,
    arXiv:1905.03222).

    Parameters
    ----------
    lower, upper
        Cell x feature, ends of the intervals.
    truth
        Cell x feature, values of cells that the model was not fitted on; NaN where nothing was measured.
    level
        Share that the intervals are to hold.
    scale
        On which the widths are measured.

    Returns
    -------
    array
        One width a feature; infinite where the cells are too few to promise the level.
    """
    outside = np.stack([scale.to(lower) - scale.to(truth), scale.to(truth) - scale.to(upper)])
    scores = np.sort(outside.max(0), axis=0)  # what is not known comes last
    n = (~np.isnan(scores)).sum(0)
    rank = np.ceil((n + 1) * level).astype(int)
    promised = (rank > 0) & (rank <= n)
    at = np.where(promised, rank - 1, 0)
    widths: np.ndarray = np.where(promised, np.take_along_axis(scores, at[None], axis=0)[0], np.inf)
    return widths


def widened(
    lower: np.ndarray, upper: np.ndarray, widths: np.ndarray, scale: Scale = COUNTS
) -> tuple[np.ndarray, np.ndarray]:
    """Intervals, cell x feature, with both ends moved by the width of their feature on the scale.

    They do not cross (an interval can become a point) and do not leave the bounds of the values.
    """
    low, high = scale.to(lower), scale.to(upper)
    middle = (low + high) / 2
    ends = np.minimum(low - widths, middle), np.maximum(high + widths, middle)
    low, high = (scale.back(end).clip(scale.least, scale.most) for end in ends)
    return low, high


def shifted(
    ends: tuple[np.ndarray, np.ndarray], before: np.ndarray, after: np.ndarray, scale: Scale = COUNTS
) -> tuple[np.ndarray, np.ndarray]:
    """Intervals moved on the scale as what is expected was, from ``before`` to ``after``, cell x feature."""
    by = scale.to(after) - scale.to(before)
    low, high = (scale.back(scale.to(end) + by).clip(scale.least, scale.most) for end in ends)
    return low, high


def coverage(lower: np.ndarray, upper: np.ndarray, truth: np.ndarray) -> float:
    """Share of the values that lie in their interval, both ends included; NaN is none."""
    slack = 1e-5 * (1 + np.abs(truth))  # the ends went to a scale and back
    inside = (truth >= lower - slack) & (truth <= upper + slack)
    return float(inside[~np.isnan(truth)].mean())
