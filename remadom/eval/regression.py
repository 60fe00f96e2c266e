"""Principal component regression: how much of the variance the batches explain, before and after."""

from __future__ import annotations

import math

import numpy as np

from remadom.eval.labels import Labels, complete_codes
from remadom.eval.neighbors import centered


def pcr(before: np.ndarray, after: np.ndarray, batch: Labels) -> float:
    """Share of the variance explained by batches that integration removed: (before - after) / before, at least 0.

    Parameters
    ----------
    before
        Cell x component: the principal components of the features.
    after
        Cell x latent: the embedding.
    batch
        One a cell.

    Returns
    -------
    float
        1 where the batches explain nothing of the embedding, 0 where they explain as large a share of it as of
        the features, or a larger one; NaN where they explain nothing of the features, and for one batch.

    References
    ----------
    Luecken et al., Nature Methods 2022, doi:10.1038/s41592-021-01336-8
    """
    of_features = explained_variance(before, batch)
    if not of_features > 0:
        return math.nan
    return max(0.0, 1 - explained_variance(after, batch) / of_features)


def explained_variance(values: np.ndarray, batch: Labels) -> float:
    """Share of the variance of ``values`` (cell x dimension) that lies between batches; 0 where there is none.

    The R2 of each principal component in a regression on the batches, weighted by its variance and summed, is the
    trace of the covariance of the batch means over that of the cells: the same in any rotation, so no component
    has to be computed.
    """
    values = centered(values)
    lots = complete_codes(batch, len(values), "batch")
    if len(np.unique(lots)) < 2:
        return math.nan
    values = values - values.mean(0)
    total = float((values**2).sum())
    size = np.bincount(lots)
    sums = np.stack([np.bincount(lots, weights=axis) for axis in values.T], axis=1)
    between = float((sums**2 / size[:, None]).sum())
    return min(1.0, between / total) if total > 0 else 0.0
