"""Distances along a k-nearest-neighbor graph of points: lengths of shortest paths, or numbers of hops."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components, dijkstra

from remadom.errors import InputError
from remadom.solvers.ann import AnnIndex


def neighbor_graph(points: np.ndarray, k: int) -> sp.csr_matrix:
    """Symmetric, connected graph of Euclidean distances: k nearest neighbors of each point, of both directions.

    Pieces that the neighbors leave apart are joined by the shortest link from each piece to the rest, until one
    piece is left (a step of Boruvka's minimum spanning tree): every distance is finite, and the neighborhoods
    inside a piece keep their scale, as they would not with a larger ``k``.

    Parameters
    ----------
    points
        Point x axis.
    k
        Neighbors of a point, itself not counted; at most all others.

    Raises
    ------
    InputError
        Fewer than 2 points, or values that are not finite.
    """
    n = len(points)
    if n < 2 or not np.isfinite(points).all():
        raise InputError(
            f"neighbor graph: found {n} points{'' if n < 2 else ', some not finite'}; expected 2 or more finite points"
        )
    k = min(k, n - 1)
    found, lengths = (part.numpy() for part in AnnIndex(points).self_neighbors(k))
    # a stored zero is no edge to scipy: duplicates stay neighbors at a tiny distance
    floor = max(float(lengths.max()), 1.0) * 1e-9
    edges = (np.maximum(lengths, floor).ravel(), found.ravel(), np.arange(0, n * k + 1, k))
    graph = sp.csr_matrix(edges, shape=(n, n))
    graph = graph.maximum(graph.T)
    while (pieces := connected_components(graph, directed=False))[0] > 1:
        links = [_link(points, pieces[1] == piece) for piece in range(pieces[0])]
        length, source, target = zip(*links, strict=True)
        joined = sp.csr_matrix((np.maximum(length, floor), (source, target)), shape=(n, n))
        graph = graph.maximum(joined).maximum(joined.T)
    return graph


def _link(points: np.ndarray, inside: np.ndarray) -> tuple[float, int, int]:
    """Length and ends of the shortest link between the points inside and those outside."""
    source, target = np.flatnonzero(inside), np.flatnonzero(~inside)
    nearest, length = (part.numpy().ravel() for part in AnnIndex(points[target]).search(points[source], 1))
    best = int(length.argmin())
    return float(length[best]), int(source[best]), int(target[nearest[best]])


def geodesics(graph: sp.csr_matrix, sources: np.ndarray | None = None, *, hops: bool = False) -> np.ndarray:
    """Shortest paths in a connected graph, source x point: their length, or their number of edges.

    Parameters
    ----------
    graph
        Of :func:`neighbor_graph`.
    sources
        Points to start from; all where not given.
    hops
        Count edges rather than add up their lengths.
    """
    distances: np.ndarray = dijkstra(graph, directed=False, indices=sources, unweighted=hops)
    return distances
