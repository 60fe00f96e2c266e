"""From an embedding to a kNN graph over its cells."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from remadom.errors import InputError
from remadom.solvers.affinity import local_kernel
from remadom.solvers.ann import AnnIndex, Backend, Metric, Points
from remadom.types import SparseGraph


class GraphBuilder:
    """kNN graph of an embedding: symmetric, weighted, without self-loops.

    Parameters
    ----------
    k
        Neighbors of each cell; all others where there are fewer.
    metric
        ``"euclidean"`` or ``"cosine"``.
    backend
        Back end of :class:`~remadom.solvers.ann.AnnIndex`; the graph is the same for all of them.
    symmetrize
        Weight of a pair from the weights that both cells give each other, 0 where one does not list the other:
        ``"union"`` takes the larger one, ``"mean"`` the mean.
    mutual
        Keep only pairs in which each cell lists the other; cells can end up without neighbors.
    weights
        ``"connectivity"``: 1. ``"gaussian"``: :func:`~remadom.solvers.affinity.local_kernel`, which weighs dense
        and sparse regions alike.
    normalized
        Whether the Laplacian of the graph is the symmetric normalized one.
    """

    def __init__(
        self,
        *,
        k: int = 15,
        metric: Metric = "euclidean",
        backend: Backend | None = None,
        symmetrize: Literal["union", "mean"] = "union",
        mutual: bool = False,
        weights: Literal["connectivity", "gaussian"] = "connectivity",
        normalized: bool = False,
    ) -> None:
        self.k, self.metric, self.backend = k, metric, backend
        self.symmetrize, self.mutual, self.weights, self.normalized = symmetrize, mutual, weights, normalized

    def build(self, emb: Points, *, cells: Tensor | None = None, n_cells: int | None = None) -> SparseGraph:
        """Graph of the rows of an embedding.

        Parameters
        ----------
        emb
            Cell x dimension, finite. With fewer than two rows the graph has no edge.
        cells
            Position of each row in the whole data set, each once, where the embedding has only some of its
            cells; the others are in the graph without neighbors.
        n_cells
            Cells of the whole data set; needed with ``cells``.

        Returns
        -------
        SparseGraph
            On the CPU, float32.

        Raises
        ------
        InputError
            NaN or infinite values; positions that do not fit the embedding or the data set.
        """
        n = len(emb)
        places, total = torch.arange(n), n
        if cells is not None:
            places, total = self._places(cells, n, n_cells)
        if n < 2:
            none = torch.zeros(0, dtype=torch.long)
            return self._graph(none, none, torch.zeros(0), total)
        near, distance = AnnIndex(emb, backend=self.backend, metric=self.metric).self_neighbors(self.k)
        weight = torch.ones_like(distance) if self.weights == "connectivity" else local_kernel(near, distance)
        rows = places[:, None].expand_as(near).reshape(-1)
        return self._graph(rows, places[near.reshape(-1)], weight.reshape(-1), total)

    @staticmethod
    def _places(cells: Tensor, n: int, n_cells: int | None) -> tuple[Tensor, int]:
        places = torch.as_tensor(cells).long().cpu()
        if n_cells is None:
            raise InputError(
                "graph: found positions of cells, expected n_cells with them; pass both or neither"
            )
        inside = not len(places) or (int(places.min()) >= 0 and int(places.max()) < n_cells)
        if len(places) != n or not inside or len(torch.unique(places)) != n:
            raise InputError(
                f"graph: found {len(places)} positions for {n} rows of the embedding, expected one for each row, "
                f"all different, from 0 to {n_cells - 1}"
            )
        return places, n_cells

    def _graph(self, rows: Tensor, columns: Tensor, weight: Tensor, n: int) -> SparseGraph:
        """Symmetric CSR form of the directed pairs, each of which is listed once."""
        both_ways = torch.cat([rows * n + columns, columns * n + rows])
        pairs, at = torch.unique(both_ways, return_inverse=True)
        weight = torch.cat([weight, weight])
        if self.symmetrize == "union":
            merged = torch.zeros(len(pairs)).scatter_reduce_(0, at, weight, "amax")
        else:
            merged = torch.zeros(len(pairs)).index_add_(0, at, weight) / 2
        if self.mutual:
            listed_twice = torch.bincount(at, minlength=len(pairs)) == 2
            pairs, merged = pairs[listed_twice], merged[listed_twice]
        starts, ends = pairs // max(n, 1), pairs % max(n, 1)
        indptr = torch.zeros(n + 1, dtype=torch.long)
        indptr[1:] = torch.bincount(starts, minlength=n).cumsum(0)
        degrees = torch.zeros(n).index_add_(0, starts, merged)
        return SparseGraph(indptr, ends, merged, degrees, self.normalized)
