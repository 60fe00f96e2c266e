"""Votes of the nearest labeled cells."""

from __future__ import annotations

import numpy as np

from remadom.solvers.ann import AnnIndex


def nearest_others(
    search: AnnIndex, z: np.ndarray, cells: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distance and position of the neighbors of reference cells, themselves left out."""
    index, distance = (found.numpy() for found in search.search(z[cells], k + 1))
    other = index != cells[:, None]
    other[other.all(1), -1] = False  # among duplicates a cell need not find itself
    shape = (len(cells), k)
    return distance[other].reshape(shape), index[other].reshape(shape)


def shares(codes: np.ndarray, n_labels: int) -> np.ndarray:
    """Share of the votes for each label, cell x label; the nearer neighbor decides between equals."""
    n, k = codes.shape
    weight = 1 + np.arange(k, 0, -1) * (1e-3 / k)
    votes = np.zeros((n, n_labels))
    np.add.at(votes, (np.arange(n)[:, None], codes), weight)
    share: np.ndarray = votes / weight.sum()
    return share
