"""Components of one side of a bridge, and the directions that two sides have in common."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.linalg import eigh

from remadom.types import View
from remadom.types.view import dense

FEATURES = 2000
"""Most features of a side that are used: those that vary most."""
COMPONENTS = 30
"""Principal components of a side."""
CLIP = 10.0
"""Largest standardized value: one cell with a rare feature must not make a component of its own."""
BLOCK = 4096
"""Cells that are dense at once."""


def standard_components(view: View) -> np.ndarray:
    """Principal components of the standardized features of a view, cell x component, float32.

    Each of the ``FEATURES`` that vary most counts alike; features that came ready are taken as they are.
    """
    if view.ready:
        return view.scores
    deviation = deviations(view)
    kept = most_varying(deviation)
    if not len(kept):
        return np.zeros((len(view), 1), np.float32)
    chosen, scale = view.features[:, kept], deviation[kept]
    mean = _mean(chosen)
    n = min(COMPONENTS, len(kept), max(1, len(view) - 1))

    def block(at: int) -> np.ndarray:
        values: np.ndarray = np.clip((dense(chosen[at : at + BLOCK]) - mean) / scale, -CLIP, CLIP)
        return values

    starts = range(0, len(view), BLOCK)
    covariance = sum((x.T @ x for x in map(block, starts)), np.zeros((len(kept), len(kept)))) / len(view)
    axes = eigh(covariance, subset_by_index=(len(kept) - n, len(kept) - 1))[1][:, ::-1]
    return np.concatenate([block(at) @ axes for at in starts]).astype(np.float32)


def leading_vectors(
    a: np.ndarray, b: np.ndarray, n: int, *, passes: int = 12
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leading singular vectors and values of ``a @ b.T``, which is never formed.

    By subspace iteration from a fixed start (Halko et al., SIAM Review 2011, doi:10.1137/090771806); exact where
    ``a`` has no more than ``n + 10`` columns.

    Returns
    -------
    tuple of ndarray
        Left vectors (row of ``a`` x n), values, right vectors (row of ``b`` x n); n is lowered to the rank.
    """
    width = min(a.shape[1], len(a), len(b), n + 10)
    probe = np.random.default_rng(0).standard_normal((a.shape[1], width)).astype(np.float32)
    right = np.linalg.qr(b @ probe)[0]
    for _ in range(passes):
        left = np.linalg.qr(a @ (b.T @ right))[0]
        right = np.linalg.qr(b @ (a.T @ left))[0]
    u, values, vt = np.linalg.svd((left.T @ a) @ (b.T @ right))
    n = max(1, min(n, int((values > 1e-6 * values[0]).sum())))
    return left @ u[:, :n], values[:n], right @ vt[:n].T


def canonical_scores(
    a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray, weight: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Canonical scores of two sides over weighted pairs of cells, every cell of length 1.

    A pair counts in proportion to its weight, and the less, the more pairs its cells have. A direction counts by
    its canonical correlation, which pairs that are no true pairs can raise above 1: that counts as 1.

    Parameters
    ----------
    a, b
        White components of all cells of both sides, see :func:`white`.
    rows, columns, weight
        The pairs.
    n
        Canonical directions.
    """
    of_row, of_column = np.bincount(rows, weight, len(a)), np.bincount(columns, weight, len(b))
    weight = weight / np.sqrt(of_row[rows] * of_column[columns])
    pairs = sp.csr_matrix((weight, (rows, columns)), shape=(len(a), len(b)))
    u, correlation, vt = np.linalg.svd(a.T @ (pairs @ b) / weight.sum(), full_matrices=False)
    scale = np.minimum(correlation[:n], 1)
    return unit(a @ u[:, :n] * scale), unit(b @ vt[:n].T * scale)


def white(components: np.ndarray) -> np.ndarray:
    """Uncorrelated directions of mean 0 and variance 1 that span the same as the components."""
    u, s, _ = np.linalg.svd(components - components.mean(0), full_matrices=False)
    kept: np.ndarray = u[:, s > 1e-5 * s.max()] * np.sqrt(len(components))
    return kept


def standardized(values: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and variance 1, clipped; a constant column is 0."""
    scale = values.std(0)
    result: np.ndarray = np.clip((values - values.mean(0)) / np.where(scale > 0, scale, 1), -CLIP, CLIP)
    return result


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; a row of zeros stays."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: np.ndarray = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
    return result


def deviations(view: View) -> np.ndarray:
    """Standard deviation of each feature, float64; 0 where it is rounding noise."""
    values, mean = view.features, _mean(view.features)
    if isinstance(values, np.ndarray):
        square = _mean(np.square(values, dtype=np.float64))
    else:
        square = _mean(values.multiply(values))
    variance = square - mean**2
    deviation: np.ndarray = np.sqrt(np.where(variance > 1e-6 * mean**2, variance, 0))
    return deviation


def most_varying(deviation: np.ndarray) -> np.ndarray:
    """Positions of the ``FEATURES`` largest deviations above 0, ascending."""
    largest = np.argsort(-deviation, kind="stable")[:FEATURES]
    return np.sort(largest[deviation[largest] > 0])


def _mean(values: np.ndarray | sp.csr_matrix) -> np.ndarray:
    mean: np.ndarray = np.asarray(values.sum(0, dtype=np.float64)).ravel() / max(1, values.shape[0])
    return mean
