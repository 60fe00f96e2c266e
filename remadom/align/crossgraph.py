"""Soft correspondences between groups: bridge edges that spread along the graph of each side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import PositiveInt
from torch import Tensor

from remadom.align.base import HEADS, AlignmentHead
from remadom.align.groups import levels_of, need_groups
from remadom.schedule import Scheduled
from remadom.shapes import Float, Int
from remadom.solvers.spread import TINY, mean_square, squared_lengths
from remadom.types import BridgeEdges, Logs, SparseGraph


@HEADS.register("crossgraph")
class CrossGraphHead(AlignmentHead):
    """Pulls together cells that a bridge joins, and their neighbors on both sides of it.

    With ``W`` the bridge's edges in the batch and ``S`` the random walk on the kNN graph that may stay where it
    is, the correspondences are ``P = S^t W (S^t)^T``: label propagation of Zhou et al. (NeurIPS 2003) along both
    ends of every edge. The loss is the mean squared distance under ``P`` over that of two cells
    drawn at random. Few and noisy edges so speak for whole
    neighborhoods, and one wrong edge among right ones is outvoted.

    Parameters
    ----------
    hops
        Steps ``t`` of the walk on each side.
    stay
        Share of the walk that stays where it is at each step.
    group_key
        Grouping of the cells: only edges between two of its groups count. A list goes from coarse to fine,
        ``[dataset, batch]``: edges between batches within their data set, and edges between data sets, each kind
        counting alike. Null takes all edges as one.
    """

    def __init__(
        self,
        *,
        weight: Scheduled = 0.3,
        hops: PositiveInt = 1,
        stay: float = 0.5,
        group_key: str | tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(weight=weight)
        self.hops, self.stay = hops, stay
        self.levels = () if group_key is None else levels_of(group_key)

    @property
    def group_keys(self) -> tuple[str, ...]:
        return self.levels

    def connect(self, names: Mapping[str, tuple[str, ...]], latent_dim: int) -> None:
        if self.levels:
            need_groups(self.levels, names)

    def forward(
        self,
        z_bio: Float[Tensor, "cell latent"],
        graph: SparseGraph,
        edges: BridgeEdges,
        groups: Mapping[str, Int[Tensor, " cell"]] | None = None,
    ) -> tuple[Tensor, Logs]:
        kinds = [kind for kind in self._kinds(edges, groups) if len(kind)]
        total, n_pairs = 0.0 * z_bio.sum(), 0
        for kind in kinds:
            src, dst, weight = self.correspondences(graph, kind)
            square = squared_lengths(z_bio, src, dst)
            total = total + (weight * square).sum() / weight.sum().clamp(min=TINY) / mean_square(z_bio)
            n_pairs += len(src)
        counts = {"n_edges": sum(map(len, kinds)), "n_pairs": n_pairs}
        logs = {name: torch.tensor(float(count)) for name, count in counts.items()}
        return total / max(1, len(kinds)), logs

    def _kinds(self, edges: BridgeEdges, groups: Mapping[str, Tensor] | None) -> Iterator[BridgeEdges]:
        """Of each level the edges that join two of its groups within one of the coarser one; all without levels."""
        if not self.levels:
            yield edges
            return
        assert groups is not None, "edges between groups are asked for: groups are needed"
        src, dst = edges.src, edges.dst
        inside = torch.ones_like(src, dtype=torch.bool)
        for key in self.levels:
            at = groups[key]
            known = (at[src] >= 0) & (at[dst] >= 0)
            yield edges.take(inside & known & (at[src] != at[dst]))
            inside = known & (at[src] == at[dst])

    @torch.no_grad()
    def correspondences(self, graph: SparseGraph, edges: BridgeEdges) -> tuple[Tensor, Tensor, Tensor]:
        """Ends and weights of the soft correspondences ``P`` among the cells of a batch."""
        n, device = len(graph), edges.src.device
        A = sp.csr_matrix((_array(graph.weight), _array(graph.indices), _array(graph.indptr)), shape=(n, n))
        total = np.asarray(A.sum(1)).ravel()
        moves = np.where(total > 0, (1 - self.stay) / np.maximum(total, 1e-12), 0.0)
        step = sp.diags_array(moves) @ A + sp.diags_array(np.where(total > 0, self.stay, 1.0))
        mass = _array(edges.weight * edges.confidence)
        spread = sp.csr_matrix((mass, (_array(edges.src), _array(edges.dst))), shape=(n, n))
        for _ in range(self.hops):  # mass flows from an edge's ends to their neighbors
            spread = step.T @ spread @ step
        found = sp.coo_matrix(spread)
        src, dst = (torch.from_numpy(at.astype(np.int64)).to(device) for at in (found.row, found.col))
        return src, dst, torch.from_numpy(found.data.astype(np.float32)).to(device)


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().cpu().numpy()
    return array
