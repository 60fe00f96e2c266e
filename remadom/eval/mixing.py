"""Where the cells of one cohort lie among those of another in an embedding."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from remadom.eval.neighbors import nearest_cells

NEIGHBORS = 10
"""Cells of the other cohort that a profile is predicted from, as many as label transfer commonly takes."""
FRACTION = 40
"""Of a cohort, no more than one in so many cells: ten of a small one would not be of one population any more."""
AROUND = 15
"""Cells around a cell among which the other cohort's are counted."""


def mixing(z: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Mixing of two cohorts whatever they measured: mean over the cells of each of them, 0 to about 0.9."""
    other = around(z, second)
    means = []
    for mine in (~second, second):
        cells = np.flatnonzero(mine)
        back = other[across(z, cells, np.flatnonzero(~mine))].mean(1)
        means.append(float(np.minimum(other[cells] / np.maximum(1 - back, 1e-9), 1).mean()))
    return means[0], means[1]


def around(z: np.ndarray, mine: np.ndarray) -> np.ndarray:
    """Share of the other cohort around each cell."""
    share: np.ndarray = (mine[nearest_cells(z, AROUND)[0]] != mine[:, None]).mean(1)
    return share


def reach(n_cells: int) -> int:
    """Neighbors taken of a cohort."""
    return max(1, min(NEIGHBORS, n_cells // FRACTION))


def across(z: np.ndarray, cells: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The nearest of the others of each cell."""
    index = NearestNeighbors(n_neighbors=reach(len(others))).fit(z[others])
    nearest: np.ndarray = others[index.kneighbors(z[cells], return_distance=False)]
    return nearest
