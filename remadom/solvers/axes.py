"""Axes of cells: those along which they vary most, and less of those along which batches lie apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import scipy.sparse as sp

from remadom.solvers.ann import AnnIndex
from remadom.solvers.mutual import mutual_pairs

NEAREST = 20
"""Cells of the other batch among which mutual neighbors are looked for; smaller batches are left out."""

BESIDE = 5
"""Cells of its own batch that a cell is compared with."""

MOST_PAIRS = 100
"""Most pairs of batches that are compared."""

FLAT = 1e-12
"""Variance of every feature below which all cells are alike."""


def principal_axes(values: sp.csr_matrix, n_axes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal axes of some cells, and their mean.

    Parameters
    ----------
    values
        Cell x feature; it is not densified.
    n_axes
        Most axes; there is one less than there are cells or features at most.
    seed
        Of the vector that the search starts at.

    Returns
    -------
    tuple of ndarray
        Feature x axis, over the deviation of the scores of the first one; without any where all cells are alike. And
        the mean of each feature.
    """
    from sklearn.decomposition import PCA  # takes a second to import
    from sklearn.utils.sparsefuncs import mean_variance_axis

    mean, variance = mean_variance_axis(values, axis=0)
    n_axes = min(n_axes, *(size - 1 for size in values.shape))
    if n_axes < 1 or variance.max() < FLAT:
        return np.zeros((values.shape[1], 0)), mean
    found = PCA(n_axes, svd_solver="arpack", random_state=seed % 2**32).fit(values)
    return found.components_.T / max(float(found.explained_variance_[0]), FLAT) ** 0.5, mean


def batch_shrinkage(scores: np.ndarray, batch: np.ndarray, seed: int) -> np.ndarray:
    """A linear map of scores that shrinks the directions in which batches lie apart.

    Mutual nearest neighbors of two batches (Haghverdi et al. 2018, doi:10.1038/nbt.4091) are taken for cells of one
    kind. A direction in which they differ more than neighbors within a batch do, compared with how it is in the
    directions altogether, is divided by the root of how much more: what sets cells of one kind apart by their batch
    becomes as small as what sets them apart within it, as in within-class covariance normalization (Hatch et al. 2006,
    Interspeech). Neither labels nor shares of cell types play a part.

    Parameters
    ----------
    scores
        Cell x axis.
    batch
        Code of the batch of each cell; below 0: none.
    seed
        Of the pairs of batches that are compared, where there are more than ``MOST_PAIRS``.

    Returns
    -------
    ndarray
        Axis x axis, for ``scores @ map``; the identity where no two batches can be compared.
    """
    groups = [scores[batch == code] for code in np.unique(batch[batch >= 0])]
    groups = [group for group in groups if len(group) > NEAREST]
    pairs = list(combinations(range(len(groups)), 2))
    if len(pairs) > MOST_PAIRS:
        drawn = np.random.default_rng(seed).permutation(len(pairs))[:MOST_PAIRS]
        pairs = [pairs[i] for i in np.sort(drawn)]
    found = [_across(groups[i], groups[j]) for i, j in pairs]
    across = [moments for moments in found if moments is not None]
    if not across:
        return np.eye(scores.shape[1])
    variance, turn = np.linalg.eigh(np.mean([_within(group) for group in groups], axis=0))
    if variance.max() <= 0:  # copies of few cells
        return np.eye(scores.shape[1])
    root = np.sqrt(np.maximum(variance, 1e-6 * variance.max()))
    to, back = turn / root @ turn.T, turn * root @ turn.T
    more, directions = np.linalg.eigh(to @ np.mean(across, axis=0) @ to)
    shrink = np.maximum(more / np.median(more), 1) ** -0.5
    shrinkage: np.ndarray = to @ (directions * shrink) @ directions.T @ back
    return shrinkage


def _across(one: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """Second moments of what mutual neighbors of two batches differ by; ``None`` without any."""
    i, j, _ = mutual_pairs(one, other, NEAREST, "cosine", None)
    return _moments(one[i] - other[j]) if len(i) else None


def _within(group: np.ndarray) -> np.ndarray:
    """Second moments of what cells of a batch differ by from those nearest to them."""
    nearest = AnnIndex(group, metric="cosine").self_neighbors(BESIDE)[0].numpy()
    return _moments((group[:, None] - group[nearest]).reshape(-1, group.shape[1]))


def _moments(differences: np.ndarray) -> np.ndarray:
    moments: np.ndarray = differences.T @ differences / len(differences)
    return moments
