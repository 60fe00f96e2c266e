"""What the linear bridges share: the cells of two views, and ridge regression with its held-out predictions."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np

from remadom.solvers.ann import Metric
from remadom.types import View

RANKED = 1000
"""Most pairs that are ranked against each other."""


class Sides(NamedTuple):
    """Two views and their cells, as positions in the data set: measured in both, in one, in the other."""

    a: View
    b: View
    paired: np.ndarray
    only_a: np.ndarray
    only_b: np.ndarray


def overlapping(views: Mapping[str, View]) -> list[Sides]:
    """Every two views that share cells, by name, so that the order in which they come does not matter."""
    pairs = []
    for a, b in combinations(sorted(views.values(), key=lambda view: view.name), 2):
        paired = np.intersect1d(a.cells, b.cells)
        if len(paired):
            pairs.append(Sides(a, b, paired, np.setdiff1d(a.cells, b.cells), np.setdiff1d(b.cells, a.cells)))
    return pairs


def scores(view: View, cells: np.ndarray) -> np.ndarray:
    """Scores of some cells of a view, given by their positions in the data set; float64."""
    return view.scores[np.searchsorted(view.cells, cells)].astype(np.float64)


def ridge(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Ridge map from centered ``x`` to centered ``y``, and the prediction of each cell from all others.

    The penalty is ``strength`` times the mean variance of the columns of ``x`` times the number of cells, so that
    it means the same for any scale. Leave-one-out predictions are exact, from the leverages (Allen 1974,
    doi:10.1080/00401706.1974.10489157).

    Returns
    -------
    tuple of ndarray
        The map, column of x times column of y, and the predictions, cell x column of y.
    """
    gram = x.T @ x
    penalty = strength * np.trace(gram) / len(gram) + np.finfo(float).tiny
    solved = np.linalg.solve(gram + penalty * np.eye(len(gram)), x.T)
    leverage = (x * solved.T).sum(1) + 1 / len(x)
    slopes = solved @ y
    residual = (y - x @ slopes) / np.maximum(1 - leverage, 1e-6)[:, None]
    return slopes, y - residual


def correlations(predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation of each column with its prediction; 0 where negative or where either is constant."""
    p, y = predicted - predicted.mean(0), y - y.mean(0)
    scale = np.sqrt((p**2).sum(0) * (y**2).sum(0))
    r: np.ndarray = np.divide((p * y).sum(0), scale, out=np.zeros(y.shape[1]), where=scale > 0)
    return r.clip(0, 1)


def standardized(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and variance 1; what does not vary becomes 0."""
    centered = values - values.mean(0)
    scale = centered.std(0)
    varies = scale > 1e-9 * max(1e-300, float(scale.max(initial=0)))
    result: np.ndarray = np.divide(centered, scale, out=np.zeros_like(centered), where=varies)
    return result


def partner_rank(u: np.ndarray, v: np.ndarray, metric: Metric) -> float:
    """How much nearer a cell's own partner is than the others: 1 always the nearest, 0 as by chance.

    Row i of ``u`` and of ``v`` are partners; with more than ``RANKED`` of them, so many are taken, evenly spaced.
    """
    u, v = (x[:: -(-len(x) // RANKED)] for x in (u, v))
    if metric == "cosine":
        u, v = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (u, v))
    squared = (u**2).sum(1)[:, None] + (v**2).sum(1) - 2 * u @ v.T
    own = np.diag(squared)
    nearer = sum(
        (squared < one_side).mean() + ((squared == one_side).mean() - 1 / len(u)) / 2
        for one_side in (own[:, None], own[None])
    )
    return float(1 - nearer * len(u) / max(1, len(u) - 1))
