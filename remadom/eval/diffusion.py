"""Diffusion maps of some of the cells of a neighbor graph."""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh

from remadom.eval.neighbors import Neighbors

COMPONENTS = 100
"""Most dimensions of a diffusion map."""
DENSE = 500
"""Cells up to which all eigenvectors are computed."""
NARROWEST = 1e-3
"""Smallest width of a cell's kernel, as a share of the mean distance."""


def affinities(near: Neighbors) -> sparse.csr_matrix:
    """Cell x cell, symmetric, 0 to 1: the fuzzy union of each cell's neighborhood, as in UMAP.

    Neighbors weigh ``exp(-(distance - nearest) / width)``, with a width per cell such that the weights sum to log2 of
    the cells in the neighborhood (itself included).

    References
    ----------
    McInnes et al., Journal of Open Source Software 2018, doi:10.21105/joss.00861
    """
    n_cells, k = near.indices.shape
    if not k:
        return sparse.csr_matrix((n_cells, n_cells))
    distance = near.distances
    nearest = np.where(distance > 0, distance, np.inf).min(axis=1, keepdims=True)
    excess = (distance - np.where(np.isfinite(nearest), nearest, 0)).clip(0)
    mean = distance.sum(axis=1, keepdims=True) / (k + 1)
    width = np.maximum(_widths(excess, math.log2(k + 1)), NARROWEST * np.where(mean > 0, mean, mean.mean()))
    weight = np.exp(-excess / np.where(width > 0, width, 1))
    rows = np.repeat(np.arange(n_cells), k)
    directed = sparse.csr_matrix((weight.ravel(), (rows, near.indices.ravel())), (n_cells, n_cells))
    directed.eliminate_zeros()
    return directed + directed.T - directed.multiply(directed.T)


def diffusion_map(affinity: sparse.csr_matrix) -> np.ndarray:
    """Coordinates whose distances are those of diffusion over all times.

    Eigenvectors of the density-normalized transitions, at most ``COMPONENTS``, times e / (1 - e) of their eigenvalue e;
    a constant one (e = 1) stays as it is.

    Parameters
    ----------
    affinity
        Cell x cell, symmetric, not negative, every cell with a neighbor.

    Returns
    -------
    array
        Cell x component.

    References
    ----------
    Haghverdi et al., Nature Methods 2016, doi:10.1038/nmeth.3971
    """
    n_cells = affinity.shape[0]
    scale = sparse.diags(1 / np.asarray(affinity.sum(0)).ravel())
    kernel = scale @ affinity @ scale
    scale = sparse.diags(1 / np.sqrt(np.asarray(kernel.sum(0)).ravel()))
    transitions = scale @ kernel @ scale
    most = min(COMPONENTS, n_cells - 1)
    if n_cells <= DENSE:
        values, vectors = eigh(transitions.toarray())
        largest = np.argsort(-np.abs(values), kind="stable")[:most]
        values, vectors = values[largest], vectors[:, largest]
    else:
        start = np.random.default_rng(0).uniform(size=n_cells)
        values, vectors = eigsh(transitions, k=most, v0=start)
    constant = values > 1 - 1e-7
    coordinates: np.ndarray = vectors * np.where(constant, 1, values / np.where(constant, 1, 1 - values))
    return coordinates


def _widths(excess: np.ndarray, target: float) -> np.ndarray:
    """Width of each row's kernel, by bisection on its log2; next to 0 where more neighbors than that are nearest."""
    scale = excess.mean(axis=1, keepdims=True)
    low, high = np.full(scale.shape, -40.0), np.full(scale.shape, 40.0)
    relative = excess / np.where(scale > 0, scale, 1)
    for _ in range(48):
        middle = (low + high) / 2
        wide = np.exp(-relative / 2**middle).sum(axis=1, keepdims=True) > target
        low, high = np.where(wide, low, middle), np.where(wide, middle, high)
    widths: np.ndarray = scale * 2 ** ((low + high) / 2)
    return widths
