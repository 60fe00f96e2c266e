"""Nearest neighbors: one answer, whichever back end finds the candidates."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from remadom.errors import InputError, MissingExtra, nearest
from remadom.solvers.ann_backends import (
    EXACT_BELOW,
    Engine,
    faiss_engine,
    hnsw_engine,
    load_faiss,
    load_hnswlib,
)

Backend = Literal["faiss", "hnsw", "numpy"]
Metric = Literal["euclidean", "cosine"]
Points = np.ndarray | Tensor

RECALL = 0.9995
"""Share of the true neighbors that a sample of the queries must find before the others are searched."""
SAMPLE = 500
"""Queries in that sample; no more queries than this are searched exactly."""
SLACK = 8
"""Candidates beyond k, among which ties and rounding of the back end are settled."""
BLOCK = 2**22
"""Numbers held at once while distances are computed (float64: 32 MiB)."""


class AnnIndex:
    """Nearest neighbors among points, nearest first and ties by index: the same for every back end.

    A back end only proposes candidates. Distances are then computed in float64 from the points as given,
    rounded to float32 and sorted by (distance, index); where a tie or the back end's rounding could have hidden
    a neighbor, the query is searched exactly. Identical points are indexed once, so copies cost nothing and
    confuse no back end.
    Below ``EXACT_BELOW`` distinct points the search is exact. Above, faiss (IVF-flat) and hnsw raise their
    effort until a sample of the queries finds at least ``RECALL`` of its true neighbors, or all is searched.
    Everything is deterministic and runs on the CPU, with torch's number of threads.

    Parameters
    ----------
    points
        Point x dimension, finite, at least one of each.
    backend
        ``"faiss"``, ``"hnsw"`` or ``"numpy"`` (exact, in blocks of bounded memory); ``None``: faiss where it is
        installed, else numpy.
    metric
        ``"euclidean"`` (not squared), or ``"cosine"``: 1 minus the cosine; a vector of zeros has distance 1 to
        every other vector and 0 to another of zeros.

    Raises
    ------
    InputError
        No points, NaN or infinite values, an unknown back end or metric; :class:`MissingExtra` where the
        package of a back end is not installed.
    """

    def __init__(
        self, points: Points, *, backend: Backend | None = None, metric: Metric = "euclidean"
    ) -> None:
        for word, kinds, what in ((backend or "numpy", Backend, "back end"), (metric, Metric, "metric")):
            if word not in get_args(kinds):
                raise InputError(f"neighbors: unknown {what} '{word}': {nearest(word, get_args(kinds))}")
        self.metric = metric
        self.n_dims: int | None = None
        placed = self._placed(points)
        if not placed.numel():
            raise InputError(f"neighbors: found points of shape {tuple(placed.shape)}, expected at least one")
        self.n_dims = points.shape[1]
        values = placed.numpy() + 0.0  # -0.0 is 0.0
        _, first, of = np.unique(values, axis=0, return_index=True, return_inverse=True)
        by_index = np.argsort(first)
        rank = np.empty_like(by_index)
        rank[by_index] = np.arange(len(first))
        self._distinct = torch.from_numpy(values[first[by_index]])
        self._copy_of = torch.from_numpy(rank[of.reshape(-1)])
        self._copies = self._copy_of.argsort(stable=True)
        self._n_copies = torch.bincount(self._copy_of)
        self._start = self._n_copies.cumsum(0) - self._n_copies
        self._norm = self._distinct.square().sum(1)
        self._center = self._distinct.mean(0)
        self._radius = float((self._distinct - self._center).square().sum(1).max())
        self._engine = self._built(backend)

    def __len__(self) -> int:
        return len(self._copy_of)

    def search(self, queries: Points, k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` points nearest to each query.

        Parameters
        ----------
        queries
            Query x dimension, finite.
        k
            Neighbors per query; at most the number of points, a larger one is lowered to it.

        Returns
        -------
        tuple of Tensor
            Indices (query x k, int64) and distances (query x k, float32), nearest first, ties by index.

        Raises
        ------
        InputError
            ``k`` below 1, NaN or infinite values, or other dimensions than the points have.
        """
        return self._neighbors(self._placed(queries), self._checked(k, len(self)))

    def self_neighbors(self, k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` other points nearest to each point; a copy of a point is another point.

        ``k`` is at most the number of points less one, a larger one is lowered to it. Returns and raises as
        :meth:`search` does.
        """
        n, k = len(self), self._checked(k, len(self) - 1)
        if k < 1:
            return torch.zeros(n, 0, dtype=torch.long), torch.zeros(n, 0)
        indices, distances = (found[self._copy_of] for found in self._neighbors(self._distinct, k + 1))
        other = indices != torch.arange(n)[:, None]
        other[other.all(1), -1] = False
        return indices[other].reshape(n, k), distances[other].reshape(n, k)

    @staticmethod
    def _checked(k: int, most: int) -> int:
        if k < 1:
            raise InputError(f"neighbors: found k = {k}, expected at least 1")
        return min(k, most)

    def _placed(self, points: Points) -> Tensor:
        """Points in float64, placed so that their squared euclidean distances order them as the metric does."""
        values = torch.as_tensor(points).detach().to("cpu", torch.float64)
        if values.ndim != 2 or self.n_dims not in (None, values.shape[1]):
            wanted = "dimensions" if self.n_dims is None else f"{self.n_dims} dimensions"
            raise InputError(
                f"neighbors: found points of shape {tuple(values.shape)}, expected points x {wanted}"
            )
        odd = ~values.isfinite().all(1)
        if odd.any():
            raise InputError(
                f"neighbors: {int(odd.sum())} of {len(values)} points have NaN or infinite values (the first is "
                f"point {int(odd.int().argmax())}); leave these cells out or repair them"
            )
        if self.metric == "euclidean":
            return values
        length = torch.linalg.vector_norm(values, dim=1, keepdim=True)
        unit = values / length.where(length > 0, 1.0)
        return torch.cat([unit, (length == 0).double()], 1)  # zeros: at a right angle to all others

    def _built(self, backend: Backend | None) -> Engine | None:
        if backend == "numpy":
            return None
        if backend == "hnsw":
            hnswlib = load_hnswlib()
            large = len(self._distinct) >= EXACT_BELOW
            return hnsw_engine(hnswlib, self._single(self._distinct)) if large else None
        try:
            return faiss_engine(load_faiss(), self._single(self._distinct))
        except MissingExtra:
            if backend == "faiss":
                raise
            return None

    def _single(self, points: Tensor) -> np.ndarray:
        """Centered, in the float32 that the back ends take."""
        return np.ascontiguousarray((points - self._center).float().numpy())

    def _neighbors(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Indices and distances of the ``k`` nearest of all points, copies included."""
        k_distinct = min(k, len(self._distinct))
        effort = self._effort(queries, k_distinct)
        step = 4096 if effort else max(1, BLOCK // len(self._distinct))
        indices, distances = [], []
        for block in torch.split(queries, step):
            found, distance = (
                self._proposed(block, k_distinct, effort) if effort else self._exact(block, k_distinct)
            )
            found, distance = self._with_copies(found, distance, k)
            indices.append(found)
            distances.append(distance)
        return torch.cat(indices), torch.cat(distances)

    def _effort(self, queries: Tensor, k: int) -> int:
        """Effort with which a sample of the queries finds its true neighbors; 0: search exactly."""
        engine = self._engine
        if engine is None or 4 * (k + SLACK) > len(self._distinct):
            return 0
        if not engine.efforts:
            return engine.otherwise
        if len(queries) <= SAMPLE:
            return 0
        sample = queries[:: len(queries) // SAMPLE]
        step = max(1, BLOCK // len(self._distinct))
        truth = torch.cat([self._exact(block, k)[0] for block in torch.split(sample, step)])
        for effort in engine.efforts:
            found = self._proposed(sample, k, effort)[0]
            if float((found[:, :, None] == truth[:, None]).any(1).double().mean()) >= RECALL:
                return effort
        return engine.otherwise

    def _proposed(self, queries: Tensor, k: int, effort: int) -> tuple[Tensor, Tensor]:
        """The ``k`` nearest distinct points among the engine's candidates, and their distances."""
        assert self._engine is not None
        single = self._single(queries)
        found = torch.from_numpy(self._engine.find(single, k + SLACK, effort)).sort(1).values
        step = max(1, BLOCK // (found.shape[1] * queries.shape[1]))
        blocks = zip(torch.split(queries, step), torch.split(found.clamp(min=0), step), strict=True)
        distance = torch.cat(
            [self._distance(self._distinct[near] - query[:, None]) for query, near in blocks]
        )
        distance, order = torch.sort(distance.masked_fill_(found < 0, torch.inf), dim=1, stable=True)
        chosen = found.gather(1, order)[:, :k]
        squared = distance.double().square() if self.metric == "euclidean" else 2 * distance.double()
        rounding = 2e-6 * (torch.from_numpy(single).square().sum(1).double() + self._radius)
        hidden = squared[:, k - 1] + rounding >= squared[:, -1]
        distance = distance[:, :k].contiguous()
        for some in torch.split(hidden.nonzero()[:, 0], max(1, BLOCK // len(self._distinct))):
            chosen[some], distance[some] = self._exact(queries[some], k)
        return chosen, distance

    def _exact(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` nearest distinct points, ties by index, and their distances."""
        norm = queries.square().sum(1, keepdim=True)
        rough = torch.addmm(self._norm[None], queries, self._distinct.T, alpha=-2)
        limit = rough.topk(k, largest=False, sorted=False).values.amax(1, keepdim=True)
        rounding = 1e-13 * (norm + self._norm.max()) + 1e-6 * (limit + norm).clamp(min=0)
        rows, columns = (rough <= limit + rounding).nonzero(as_tuple=True)
        step = max(1, BLOCK // queries.shape[1])
        pairs = zip(torch.split(rows, step), torch.split(columns, step), strict=True)
        distance = torch.cat([self._distance(self._distinct[column] - queries[row]) for row, column in pairs])
        return first_of_rows(rows, columns, distance, len(queries), k)

    def _distance(self, difference: Tensor) -> Tensor:
        """Distance of the metric, float32, from differences in its last axis."""
        squared = difference.square().sum(-1)
        return (squared.sqrt() if self.metric == "euclidean" else squared / 2).float()

    def _with_copies(self, chosen: Tensor, distance: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """From distinct points to the points as given: each stands for all of its copies."""
        if len(self) == len(self._distinct):
            return chosen, distance
        counts = self._n_copies[chosen].clamp(max=k).reshape(-1)
        total = int(counts.sum())
        at = torch.repeat_interleave(torch.arange(len(counts)), counts, output_size=total)
        place = torch.arange(total) - (counts.cumsum(0) - counts)[at]
        points = self._copies[self._start[chosen].reshape(-1)[at] + place]
        return first_of_rows(at // chosen.shape[1], points, distance.reshape(-1)[at], len(chosen), k)


def first_of_rows(
    rows: Tensor, columns: Tensor, values: Tensor, n_rows: int, k: int
) -> tuple[Tensor, Tensor]:
    """The ``k`` entries of each row with the smallest values, ties by column: columns and values, row x k.

    Rows are in ascending order and have at least ``k`` entries each.
    """
    order = torch.from_numpy(np.lexsort((columns.numpy(), values.numpy(), rows.numpy())))
    counts = torch.bincount(rows, minlength=n_rows)
    start = (counts.cumsum(0) - counts)[:, None] + torch.arange(k)
    chosen = order[start]
    return columns[chosen], values[chosen]
