"""Neighbors within a side of a bridge and between its two sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from remadom.solvers.affinity import local_kernel
from remadom.solvers.ann import AnnIndex, Backend, Metric, Points
from remadom.solvers.mutual import listed
from remadom.types import BridgeEdges

Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Some edges: positions of both ends in the data set, weight, confidence."""


def joined(parts: Sequence[Part], n_cells: int) -> BridgeEdges:
    """Edges of several parts."""
    src, dst, weight, confidence = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return BridgeEdges.of(src, dst, weight, n_cells, confidence)


def no_edges() -> Part:
    """A part without edges."""
    return np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0)


def ranks_within(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rank of each entry among those of its group: 0 for the largest value, ties by position."""
    order = np.lexsort((-values, groups))
    ordered = groups[order]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))  # groups are not negative
    ranks = np.empty(len(groups), int)
    ranks[order] = np.arange(len(groups)) - np.repeat(first, np.diff(first, append=len(groups)))
    return ranks


def near(points: Points, k: int, metric: Metric, backend: Backend | None) -> sp.csr_matrix:
    """Who lists whom among the k nearest others: cell x cell, 0 or 1, not symmetric."""
    indices = AnnIndex(points, backend=backend, metric=metric).self_neighbors(k)[0].numpy()
    return listed(indices, np.ones(indices.shape), len(indices))


def affinity(points: Points, k: int, metric: Metric, backend: Backend | None) -> sp.csr_matrix:
    """Symmetric kNN graph with the weights of :func:`~remadom.solvers.affinity.local_kernel`."""
    indices, distance = AnnIndex(points, backend=backend, metric=metric).self_neighbors(k)
    if not indices.numel():
        return sp.csr_matrix((len(indices), len(indices)))
    weight = listed(indices.numpy(), local_kernel(indices, distance).double().numpy(), len(indices))
    return weight.maximum(weight.T).tocsr()
