"""Agreement of clusters with labels: NMI and ARI of the best of some Leiden partitions, or of k-means."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans

from remadom.eval.labels import Labels, complete_codes
from remadom.eval.neighbors import Neighbors, centered, neighborhood

RESOLUTIONS = (0.1, 0.2, 0.4, 0.6, 1.0, 1.5, 2.0)
"""Resolutions that Leiden is run at; the partition with the highest NMI counts."""
NEIGHBORS = 15
"""Nearest cells that a cell is joined to in the graph that is partitioned."""


class Agreement(NamedTuple):
    """NMI and ARI of a clustering with the labels, and its name: ``"leiden"`` or ``"k-means"``."""

    clustering: str
    nmi: float
    ari: float


def cluster_agreement(
    z: np.ndarray, labels: Labels, *, near: Neighbors | None = None, seed: int = 0
) -> Agreement | None:
    """How well clusters of an embedding match the labels.

    Leiden (modularity, on the symmetrized graph of 15 neighbors with Jaccard weights) at each of
    ``RESOLUTIONS``; the partition with the highest NMI counts. Without the package igraph: k-means with as many
    clusters as labels, the best of 10 starts.

    Parameters
    ----------
    z
        Cell x latent.
    labels
        One a cell.
    near
        Neighbors found in ``z``, 15 or more; searched where not given.
    seed
        Seed of the clustering.

    Returns
    -------
    Agreement or None
        NMI (arithmetic mean of the entropies), 0 to 1, and ARI, 0 by chance and 1 at best; ``None`` for fewer than
        two labels.

    References
    ----------
    Luecken et al., Nature Methods 2022, doi:10.1038/s41592-021-01336-8; Traag et al., Scientific Reports 2019,
    doi:10.1038/s41598-019-41695-z
    """
    z = centered(z)
    codes = complete_codes(labels, len(z), "labels")
    if len(np.unique(codes)) < 2:
        return None
    if importlib.util.find_spec("igraph") is None:
        return Agreement("k-means", *agreement(codes, _k_means(z, len(np.unique(codes)), seed)))
    graph = neighborhood(z if near is None else near, NEIGHBORS).graph(NEIGHBORS)
    return Agreement("leiden", *max(agreement(codes, clusters) for clusters in _leiden(graph, seed)))


def agreement(codes: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """NMI and ARI of two groupings, codes 0, 1, ... of the same cells."""
    counts = sparse.csr_matrix((np.ones(len(codes)), (codes, clusters)))
    rows, columns = (np.asarray(counts.sum(axis)).ravel() for axis in (1, 0))
    entropy = _entropy(rows) + _entropy(columns)
    shared = entropy - _entropy(counts.data)
    both, left, right, every = (_pairs(n) for n in (counts.data, rows, columns, np.array([len(codes)])))
    chance = left * right / every if every else 0.0
    best = (left + right) / 2
    return (
        float(np.clip(2 * shared / entropy, 0, 1)) if entropy else 1.0,
        (both - chance) / (best - chance) if best != chance else 1.0,
    )


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _pairs(counts: np.ndarray) -> float:
    return float((counts * (counts - 1)).sum() / 2)


def jaccard_edges(graph: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Edge x 2 cells of a symmetric graph, each edge once, and their weights.

    A weight is the share that two cells have in common of the neighbors of either, plus one in the numerator, so that
    no edge is without weight.
    """
    edges = sparse.triu(graph, k=1).tocoo()
    degree = np.diff(graph.indptr)
    common = np.asarray(graph[edges.row].multiply(graph[edges.col]).sum(1)).ravel()
    weights = (common + 1) / (degree[edges.row] + degree[edges.col] - common)
    return np.column_stack([edges.row, edges.col]), weights


def _leiden(graph: sparse.csr_matrix, seed: int) -> Iterator[np.ndarray]:
    """A partition for each resolution."""
    import igraph

    edges, weights = jaccard_edges(graph)
    network = igraph.Graph(n=graph.shape[0], edges=edges)
    igraph.set_random_number_generator(random.Random(seed))
    try:
        for resolution in RESOLUTIONS:
            found = network.community_leiden(
                objective_function="modularity",
                weights=weights.tolist(),
                resolution=resolution,
                n_iterations=2,
            )
            yield np.array(found.membership)
    finally:
        igraph.set_random_number_generator(random)  # what it starts with


def _k_means(z: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    n_clusters = min(n_clusters, len(np.unique(z, axis=0)))
    clusters: np.ndarray = KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(z)
    return clusters
