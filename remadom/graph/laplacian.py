"""The Laplacian penalty: neighbors in a graph stay neighbors in the latent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from remadom.solvers.spread import squared_lengths
from remadom.types import Logs, SparseGraph


class GraphRegularizer(nn.Module):
    """Weighted squared latent distance of the ends of a graph's edges, per cell.

    With ``n`` the number of cells of ``z_bio``::

        loss = 1/(2n) sum_ij A_ij |y_i - y_j|^2        (each edge counts once)

    where ``y = z`` for a plain graph and ``y_i = z_i / sqrt(d_i)`` for a normalized one. Over a whole graph this
    is ``trace(z^T L z) / n`` with its plain or normalized Laplacian (Belkin & Niyogi 2003,
    doi:10.1162/089976603321780317). For a graph induced on a batch it is the sum over the edges among the batch,
    still with the degrees of the whole graph. It is summed over edges, not computed as a product with L, because
    near equal points would cancel in float32.

    The structure of the graph is used where the latent is; a graph on another device is moved once and kept
    until another graph comes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._moved: tuple[SparseGraph, SparseGraph] | None = None

    def forward(self, z_bio: Tensor, graph: SparseGraph) -> tuple[Tensor, Logs]:
        """Penalty of the latent on a graph of the same cells.

        Parameters
        ----------
        z_bio
            Cell x latent; half precision is computed in float32.
        graph
            Graph over these cells, in this order: whole, or ``graph.induced(batch.index)``.

        Returns
        -------
        tuple
            The loss (a scalar; 0 with gradient 0 where the graph has no edge) and the log ``n_edges``.
        """
        assert len(z_bio) == len(graph), (len(z_bio), len(graph))
        graph = self._at(graph, z_bio.device)
        y = z_bio.to(torch.promote_types(z_bio.dtype, torch.float32))
        if graph.normalized:
            y = y * graph.degrees.where(graph.degrees > 0, torch.inf).rsqrt()[:, None]
        squared = squared_lengths(y, graph.rows, graph.indices)
        loss = (graph.weight * squared).sum() / (2 * max(1, len(z_bio)))
        return loss, {"n_edges": torch.full((), graph.indices.shape[0] / 2, device=z_bio.device)}

    def _at(self, graph: SparseGraph, device: torch.device) -> SparseGraph:
        if graph.indices.device == device:
            return graph
        if self._moved is None or self._moved[0] is not graph:
            self._moved = (graph, graph.to(device))
        return self._moved[1]
