"""Local inverse Simpson index: how many batches, or labels, are around a cell."""

from __future__ import annotations

import math

import numpy as np

from remadom.eval.labels import Labels, complete_codes
from remadom.eval.neighbors import Neighbors, neighborhood, perplexity_weights

NEIGHBORS = 90
"""Cells in a neighborhood, the cell itself included, as in the published code."""
PERPLEXITY = 30
"""Effective number of cells in it."""


def lisi(
    z: np.ndarray | Neighbors, codes: Labels, *, neighbors: int = NEIGHBORS, perplexity: float = PERPLEXITY
) -> np.ndarray:
    """Effective number of categories around each cell: the inverse Simpson index of its neighborhood.

    Neighbors weigh ``exp(-beta * distance)``, with ``beta`` per cell such that the weights have the wanted
    perplexity.

    Parameters
    ----------
    z
        Cell x latent, or what a search in it has found.
    codes
        One category a cell.
    neighbors
        Size of a neighborhood. The cell itself is one of them, as in the published code, and has no weight.
    perplexity
        Effective number of neighbors; at most a third of a neighborhood.

    Returns
    -------
    array
        One value a cell, from 1 to the number of categories; NaN for a cell that is alone.

    References
    ----------
    Korsunsky et al., Nature Methods 2019, doi:10.1038/s41592-019-0619-0
    """
    near = neighborhood(z, neighbors - 1)
    categories = complete_codes(codes, len(near), "codes")
    n_cells, found = near.indices.shape
    if not found:
        return np.full(n_cells, math.nan)
    weight = perplexity_weights(near.distances, min(perplexity, (found + 1) / 3))
    shares = np.zeros((n_cells, categories.max() + 1))
    np.add.at(shares, (np.arange(n_cells)[:, None], categories[near.indices]), weight)
    index: np.ndarray = (1 / (shares**2).sum(1)).clip(1, shares.shape[1])  # but for rounding, it is there
    return index


def ilisi(
    z: np.ndarray | Neighbors, batch: Labels, *, neighbors: int = NEIGHBORS, perplexity: float = PERPLEXITY
) -> float:
    """Mixing of batches: median of :func:`lisi`, 0 for one batch a neighborhood, 1 for equal shares of all."""
    n_batches = len(np.unique(complete_codes(batch, len(z), "batch")))
    if n_batches < 2:
        return math.nan
    index = lisi(z, batch, neighbors=neighbors, perplexity=perplexity)
    return float((np.median(index) - 1) / (n_batches - 1))


def clisi(
    z: np.ndarray | Neighbors, labels: Labels, *, neighbors: int = NEIGHBORS, perplexity: float = PERPLEXITY
) -> float:
    """Purity of labels: median of :func:`lisi`, 1 for one label a neighborhood, 0 for equal shares of all."""
    n_labels = len(np.unique(complete_codes(labels, len(z), "labels")))
    if n_labels < 2:
        return math.nan
    index = lisi(z, labels, neighbors=neighbors, perplexity=perplexity)
    return float((n_labels - np.median(index)) / (n_labels - 1))
