"""Mutual nearest neighbors of two sets of points."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from remadom.solvers.ann import AnnIndex, Backend, Metric, Points


def listed(indices: np.ndarray, values: np.ndarray, n_columns: int) -> sp.csr_matrix:
    """Neighbor lists, cell x neighbor, as a sparse matrix with these values."""
    n, k = indices.shape
    lists = (values.reshape(-1), indices.reshape(-1), np.arange(n + 1) * k)
    return sp.csr_matrix(lists, shape=(n, n_columns))


def mutual_pairs(
    a: Points, b: Points, k: int, metric: Metric, backend: Backend | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs that are among each other's k nearest of the other side, in the order of (row in a, row in b).

    Returns
    -------
    tuple of ndarray
        Row in ``a``, row in ``b``, and the weight ``sqrt((1 - r/k) (1 - s/k))``, where ``r`` and ``s`` are the
        places, from 0, at which the two list each other: 1 for two first choices, 1/k for two last ones. Places
        do not depend on a shift between the sides, as distances do.
    """
    forward = AnnIndex(b, backend=backend, metric=metric).search(a, k)[0].numpy()
    backward = AnnIndex(a, backend=backend, metric=metric).search(b, k)[0].numpy()
    place = 1 - np.arange(k) / k
    rows, columns = (
        listed(found, np.broadcast_to(place[: found.shape[1]], found.shape), n_columns)
        for found, n_columns in ((forward, len(b)), (backward, len(a)))
    )
    both = rows.multiply(columns.T).tocoo()
    order = np.lexsort((both.col, both.row))
    return both.row[order], both.col[order], np.sqrt(both.data[order])
