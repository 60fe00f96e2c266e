"""Labels on the graph of nearest neighbors: how pure its neighborhoods are, and whether a label is in one piece."""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse.csgraph import connected_components

from remadom.eval.labels import Labels, complete_codes
from remadom.eval.neighbors import Neighbors, neighborhood

NEIGHBORS = 15
"""Nearest cells of a cell."""


def knn_purity(z: np.ndarray | Neighbors, labels: Labels, k: int = NEIGHBORS) -> float:
    """Mean share of a cell's ``k`` nearest other cells that have its label; NaN for fewer than two cells."""
    near = neighborhood(z, k)
    codes = complete_codes(labels, len(near), "labels")
    return float((codes[near.indices] == codes[:, None]).mean()) if near.indices.size else math.nan


def graph_connectivity(z: np.ndarray | Neighbors, labels: Labels, k: int = NEIGHBORS) -> float:
    """Whether each label is in one piece: mean over labels of the share of its cells in its largest component.

    Components are those of the label's cells in the symmetric graph of ``k`` neighbors, as in scIB. (scib-metrics
    takes the strong components of the directed graph, which are smaller.) NaN without cells.

    References
    ----------
    Luecken et al., Nature Methods 2022, doi:10.1038/s41592-021-01336-8
    """
    near = neighborhood(z, k)
    codes = complete_codes(labels, len(near), "labels")
    graph = near.graph(k)
    shares = []
    for code in np.unique(codes):
        here = np.flatnonzero(codes == code)
        _, piece = connected_components(graph[here][:, here], directed=False)
        shares.append(np.bincount(piece).max() / len(here))
    return float(np.mean(shares)) if shares else math.nan
