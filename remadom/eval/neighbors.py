"""Cells near a cell in an embedding, and how much each of them weighs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from remadom.errors import InputError


@dataclass(frozen=True)
class Neighbors:
    """What one search found, for every score that needs it: the nearest other cells of each, nearest first.

    ``indices`` and ``distances`` are cell x neighbor.
    """

    indices: np.ndarray
    distances: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def first(self, k: int) -> Neighbors:
        """The ``k`` nearest of them."""
        assert self.indices.shape[1] >= min(k, len(self) - 1)
        return Neighbors(self.indices[:, :k], self.distances[:, :k])

    def graph(self, k: int) -> sparse.csr_matrix:
        """Cell x cell, symmetric: 1 where one is among the ``k`` nearest of the other, else 0."""
        indices = self.first(k).indices
        rows = np.repeat(np.arange(len(self)), indices.shape[1])
        directed = sparse.csr_matrix((np.ones(indices.size), (rows, indices.ravel())), (len(self),) * 2)
        return directed.maximum(directed.T)


def neighborhood(z: np.ndarray | Neighbors, k: int) -> Neighbors:
    """The ``k`` nearest other cells of each: searched in an embedding, or taken from a search that was done."""
    return z.first(k) if isinstance(z, Neighbors) else Neighbors(*nearest_cells(centered(z), k))


def centered(z: np.ndarray) -> np.ndarray:
    """An embedding as float64 with the median of each dimension at 0, which changes no distance.

    Identical cells become exactly zero and large offsets do not cost precision.

    Raises
    ------
    InputError
        ``z`` is not a matrix of finite numbers.
    """
    points = np.asarray(z, np.float64)
    if points.ndim != 2 or not points.shape[1]:
        raise InputError(
            f"embedding: found an array of shape {points.shape}, expected cells x latent dimensions"
        )
    odd = ~np.isfinite(points).all(axis=1)
    if odd.any():
        raise InputError(
            f"embedding: {odd.sum()} of {len(points)} cells have NaN or infinite values (the first is cell "
            f"{odd.argmax()}); leave them out, or train again from the last good checkpoint"
        )
    return points - np.median(points, axis=0) if points.size else points


def nearest_cells(z: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest other cells of each cell, nearest first, and their distances.

    Among identical cells a cell need not be its own first hit, nor a hit at all: it is told by its index.
    """
    n_cells, k = len(z), min(k, len(z) - 1)
    if k < 1:
        return np.zeros((n_cells, 0), int), np.zeros((n_cells, 0))
    hits = NearestNeighbors(n_neighbors=k + 1).fit(z).kneighbors(z, return_distance=False)
    other = hits != np.arange(n_cells)[:, None]
    other[other.all(axis=1), -1] = False
    nearest = hits[other].reshape(n_cells, k)
    squared = np.zeros(nearest.shape)
    for axis in z.T:
        squared += (axis[nearest] - axis[:, None]) ** 2
    return nearest, np.sqrt(squared)


def perplexity_weights(distance: np.ndarray, perplexity: float) -> np.ndarray:
    """Rows ``exp(-beta d)`` that sum to 1 and have an entropy of log(perplexity), by bisection on log2(beta).

    Where more than ``perplexity`` neighbors are equally near, these share the weight.
    """
    excess = distance - distance.min(axis=1, keepdims=True)
    scale = excess.mean(axis=1, keepdims=True)
    excess /= np.where(scale > 0, scale, 1)
    target = math.log(max(1.0, perplexity))
    low, high = np.full(scale.shape, -20.0), np.full(scale.shape, 60.0)
    for _ in range(48):
        middle = (low + high) / 2
        energy = excess * 2**middle
        weight = np.exp(-energy)
        total = weight.sum(axis=1, keepdims=True)
        entropy = np.log(total) + (weight * energy).sum(axis=1, keepdims=True) / total
        wide = entropy > target
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    result: np.ndarray = weight / total
    return result
