"""Prediction intervals that hold what they promise: widened by what calibration cells show, and their coverage."""

from __future__ import annotations

import numpy as np


def calibrated_widths(lower: np.ndarray, upper: np.ndarray, truth: np.ndarray, *, level: float) -> np.ndarray:
    """By how much the intervals of each feature must be widened to hold ``level`` of the calibration cells.

    Split conformal quantile regression on log1p: the ``ceil((n + 1) level) / n`` quantile of how far the truth lies
    outside (negative: inside) of its interval (Romano, Patterson and Candes 2019, arXiv:1905.03222).

    Parameters
    ----------
    lower, upper
        Cell x feature, ends of the intervals of counts.
    truth
        Cell x feature, counts of cells that the model was not fitted on.
    level
        Share that the intervals are to hold.

    Returns
    -------
    array
        One width a feature, on log1p; infinite where the cells are too few to promise the level.
    """
    outside = np.log1p([lower, truth]) - np.log1p([truth, upper])
    scores = np.sort(outside.max(0), axis=0)
    n = len(scores)
    rank = int(np.ceil((n + 1) * level))
    widths: np.ndarray = scores[rank - 1] if 0 < rank <= n else np.full(scores.shape[1:], np.inf)
    return widths


def widened(lower: np.ndarray, upper: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of counts, cell x feature, with both ends moved by the width of their feature on log1p.

    They do not cross (an interval can become a point) and do not go below zero.
    """
    low, high = np.log1p(lower) - widths, np.log1p(upper) + widths
    middle = (low + high) / 2
    return np.expm1(np.minimum(low, middle).clip(0)), np.expm1(np.maximum(high, middle).clip(0))


def coverage(lower: np.ndarray, upper: np.ndarray, truth: np.ndarray) -> float:
    """Share of the values that lie in their interval, both ends included."""
    slack = 1e-5 * (1 + np.abs(truth))  # the ends went through log1p and back
    return float(((truth >= lower - slack) & (truth <= upper + slack)).mean())
