"""The bridge penalty: cells that correspond are near in the latent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from remadom.solvers.spread import mean_square, squared_lengths
from remadom.types import BridgeEdges, Logs


class BridgePenalty(nn.Module):
    """Mean squared latent distance of the ends of the edges, as a multiple of that of two cells drawn at random.

    ``loss = s * sum_e w_e c_e |z_src - z_dst|^2 / sum_e w_e c_e / (2 trace cov z)``, over the cells of the batch, of
    which the share ``s`` has an edge: per cell, so that a few edges do not pull as hard as many, and the same for any
    scale of the weights and of the latent, so that wrong edges cannot make it shrink to a point.
    """

    def forward(self, z_bio: Tensor, edges: BridgeEdges) -> tuple[Tensor, Logs]:
        """Penalty of the latent on edges between the same cells.

        Parameters
        ----------
        z_bio
            Cell x latent; half precision is computed in float32.
        edges
            Edges among these cells on the device of the latent: whole, or ``edges.induced(batch.index)``.

        Returns
        -------
        tuple
            The loss (a scalar; 0 with gradient 0 where no edge has weight) and the log ``n_edges``.
        """
        assert len(z_bio) == edges.n_cells, (len(z_bio), edges.n_cells)
        z = z_bio.to(torch.promote_types(z_bio.dtype, torch.float32))
        weight = edges.weight * edges.confidence
        squared = squared_lengths(z, edges.src, edges.dst)
        total = weight.sum()
        tied = torch.zeros(len(z), device=z.device).index_fill_(0, torch.cat([edges.src, edges.dst]), 1.0)
        share = tied.sum() / max(1, len(z))
        loss = (
            share * (weight * squared).sum() / total.where(total > 0, torch.ones_like(total)) / mean_square(z)
        )
        return loss, {"n_edges": torch.full((), float(len(edges)), device=z_bio.device)}
