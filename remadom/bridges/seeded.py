"""Known pairs, grown into their surroundings."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Annotated

import numpy as np
import scipy.sparse as sp
from pydantic import Field, NonNegativeInt, PositiveInt

from remadom.bridges.base import BRIDGES, Bridge
from remadom.bridges.neighbors import Part, affinity, joined, ranks_within
from remadom.errors import InputError
from remadom.solvers.ann import Backend, Metric
from remadom.types import BridgeEdges, View

BLOCK = 2_000
"""Rows of the grown edges that are held at once."""


@BRIDGES.register("seeded")
class SeededBridge(Bridge):
    """Known pairs of cells, grown along the kNN graphs of both sides.

    The neighbors of a known source are linked to the neighbors of its partner; then, for another hop, the
    neighbors of those. A side is the set of cells that were measured alike (in the same modalities), and its
    graph weighs neighbors in each of these modalities' scores by a self-tuned Gaussian. With ``K`` the weights
    of a side's graph, 1 for the cell itself, and ``E`` the edges found so far, the *support* of a pair is::

        (K E K')_ij / sqrt((K E 1)_i (1 E K')_j)

    the known pairs that lie around both ends, over the geometric mean of those that lie around each. It is 0 to
    1, the confidence of the edge; its weight is ``decay^hop`` times its support.

    Parameters
    ----------
    k
        Neighbors in the graphs of both sides.
    hops
        Steps along the graphs; 0 keeps the known pairs alone.
    decay
        Factor of the weight for each hop.
    max_per_cell
        Most grown edges of a cell in each hop, the strongest; known pairs are always kept.
    metric
        Distance between scores: ``"euclidean"`` or ``"cosine"``.
    ann_backend
        Search back end; faiss where it is installed if not given. The edges are the same for all.
    """

    def __init__(
        self,
        *,
        k: PositiveInt = 15,
        hops: NonNegativeInt = 1,
        decay: Annotated[float, Field(gt=0, le=1)] = 0.5,
        max_per_cell: PositiveInt = 10,
        metric: Metric = "euclidean",
        ann_backend: Backend | None = None,
    ) -> None:
        self.k, self.hops, self.decay, self.max_per_cell = k, hops, decay, max_per_cell
        self.metric, self.ann_backend = metric, ann_backend

    def build(self, views: Mapping[str, View], seeds: BridgeEdges, n_cells: int) -> BridgeEdges:
        """The known pairs and those grown from them.

        Parameters
        ----------
        views
            Features of the modalities; a cell that is in none keeps its known pairs and grows no others.
        seeds
            Known pairs.
        n_cells
            Cells of the data set.

        Raises
        ------
        InputError
            There is no known pair.
        """
        if not len(seeds):
            raise InputError(
                "bridge 'seeded': found no known pair, expected at least one; name the pairs in a file or an obs "
                "column, or choose another bridge.provider"
            )
        measured = np.zeros(n_cells, int)
        for bit, view in enumerate(views.values()):
            measured[view.cells] += 2**bit
        src, dst = seeds.src.cpu().numpy(), seeds.dst.cpu().numpy()
        weight, confidence = seeds.weight.cpu().double().numpy(), seeds.confidence.cpu().double().numpy()
        parts = [(src, dst, weight, confidence)]
        codes = [int(code) for code in np.unique(measured[np.r_[src, dst]]) if code]
        sides = {code: np.flatnonzero(measured == code) for code in codes}
        graphs = {code: self._graph(views, code, sides[code]) for code in codes} if self.hops else {}
        for a, b in product(graphs, graphs):
            of = (measured[src] == a) & (measured[dst] == b)
            if of.any():
                place = (np.searchsorted(sides[a], src[of]), np.searchsorted(sides[b], dst[of]))
                known = sp.csr_matrix((weight[of], place), shape=(len(sides[a]), len(sides[b])))
                i, j, grown, support = self._grown(known, graphs[a], graphs[b])
                apart = sides[a][i] != sides[b][j]
                parts.append((sides[a][i[apart]], sides[b][j[apart]], grown[apart], support[apart]))
        return joined(parts, n_cells)

    def _graph(self, views: Mapping[str, View], code: int, cells: np.ndarray) -> sp.csr_matrix:
        """Mean of the graphs in the modalities of a side, with weight 1 for the cell itself."""
        own = [view for bit, view in enumerate(views.values()) if code >> bit & 1]
        graph = sp.csr_matrix((len(cells), len(cells)))
        for view in own:
            scores = view.scores[np.searchsorted(view.cells, cells)]
            graph = graph + affinity(scores, self.k, self.metric, self.ann_backend) / len(own)
        return (graph + sp.eye(len(cells))).tocsr()

    def _grown(self, known: sp.csr_matrix, graph_a: sp.csr_matrix, graph_b: sp.csr_matrix) -> Part:
        """Rows, columns, weight and support of the pairs that are not known."""
        start = known.tocoo()
        seen = start.row.astype(np.int64) * known.shape[1] + start.col
        edges, out = known, []
        for hop in range(1, self.hops + 1):
            rows, columns, support = self._supported(edges, graph_a, graph_b, seen)
            weight = self.decay**hop * support
            out.append((rows, columns, weight, support))
            seen = np.r_[seen, rows.astype(np.int64) * known.shape[1] + columns]
            edges = edges + sp.csr_matrix((weight, (rows, columns)), shape=known.shape)
        rows, columns, weights, supports = (np.concatenate(part) for part in zip(*out, strict=True))
        return rows, columns, weights, supports

    def _supported(
        self, edges: sp.csr_matrix, graph_a: sp.csr_matrix, graph_b: sp.csr_matrix, seen: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best supported new pairs of each cell, one hop from these edges."""
        around_a = graph_a @ np.asarray(edges.sum(1)).ravel()
        around_b = graph_b @ np.asarray(edges.sum(0)).ravel()
        found = []
        for start in range(0, edges.shape[0], BLOCK):
            led = (graph_a[start : start + BLOCK] @ edges @ graph_b.T).tocoo()
            row, column = led.row + start, led.col
            new = (led.data > 0) & ~np.isin(row.astype(np.int64) * edges.shape[1] + column, seen)
            row, column = row[new], column[new]
            support = led.data[new] / np.sqrt(around_a[row] * around_b[column])
            best = ranks_within(row, support) < self.max_per_cell
            found.append((row[best], column[best], support[best]))
        rows, columns, support = (np.concatenate(part) for part in zip(*found, strict=True))
        best = ranks_within(columns, support) < self.max_per_cell
        return rows[best], columns[best], support[best]
