"""Features that two cohorts share, in two halves: populations are found in one and judged in the other."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import PCA

from remadom.types import View
from remadom.types.view import dense

FEATURES = 2000
"""Most features of a modality, those that vary most within both cohorts: more add noise and time."""
SPLIT_FROM = 100
"""Fewest features that are split in halves; of a small panel all are used for both, as each is precise."""
COMPONENTS = 20
"""Principal components of a half: beyond them it is noise in the data sets that this was tried on."""


def varying(view: View, rows: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features that vary in both cohorts (cell x feature, dense), and their names."""
    picked = view.features[rows]
    variance = np.stack([_variance(picked[mask]) for mask in (~second, second)])
    usable = np.flatnonzero((variance > 0).all(0))
    usable = np.sort(usable[np.argsort(-variance.sum(0)[usable], kind="stable")[:FEATURES]])
    return dense(picked[:, usable]), np.asarray(view.names, dtype=object)[usable]


def _variance(values: np.ndarray | sp.csr_matrix) -> np.ndarray:
    if isinstance(values, sp.csr_matrix):
        mean = np.asarray(values.mean(0)).ravel()
        square = np.asarray(values.multiply(values).mean(0)).ravel()
    else:
        mean, square = values.mean(0), (values**2).mean(0)
    variance: np.ndarray = np.where(square - mean**2 > 1e-9 * (square + 1e-12), square - mean**2, 0)
    return variance


def halves(values: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Components of two halves of the features, each centered within the cohorts."""
    n = values.shape[1]
    order = rng.permutation(n)
    parts = (order[: n // 2], order[n // 2 :]) if n >= SPLIT_FROM else (order,)
    scores = []
    for part in parts:
        centered = values[:, part].astype(np.float64)
        for mask in (~second, second):
            centered[mask] -= centered[mask].mean(0)
        if min(centered.shape) > COMPONENTS + 1:
            solver = PCA(COMPONENTS, svd_solver="randomized", random_state=int(rng.integers(2**31)))
            centered = solver.fit_transform(centered)
        scores.append(centered)
    return scores[0], scores[-1]
