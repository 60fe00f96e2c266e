"""What batches lie apart within each soft cluster, taken out of the embedding in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from remadom.shapes import Float, Int

STEPS = 3


class BatchCorrection(nn.Module):
    """Moves each cell by the offsets of its batch in the soft clusters that it is in.

    ``y = z - sum_k r_k(y) offset[k, batch]``, by ``STEPS`` steps of a fixed point, with ``r`` the responsibilities of a
    Gaussian mixture of one diagonal variance, of which a corrected cell is a sample: the correction step of Harmony
    (Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0) for a latent space whose batches are nearly aligned. A cell
    of an unknown batch stays where it is.

    Parameters
    ----------
    centers
        Cluster x latent.
    variance
        By dimension.
    weight
        Share of the cells in each cluster.
    offset
        Cluster x batch x latent; 0 where a batch has no cells.
    """

    centers: Tensor
    variance: Tensor
    weight: Tensor
    offset: Tensor

    def __init__(self, centers: Tensor, variance: Tensor, weight: Tensor, offset: Tensor) -> None:
        super().__init__()
        for name, value in (
            ("centers", centers),
            ("variance", variance),
            ("weight", weight),
            ("offset", offset),
        ):
            self.register_buffer(name, value.float())

    def responsibilities(self, z: Float[Tensor, "cell latent"]) -> Float[Tensor, "cell cluster"]:
        """Probability of each cluster."""
        scale = self.variance.rsqrt()
        a, b = z * scale, self.centers * scale
        squared = a.square().sum(1, keepdim=True) - 2 * a @ b.T + b.square().sum(1)
        return torch.softmax(self.weight.clamp(min=1e-12).log() - squared / 2, dim=1)

    def forward(
        self, z: Float[Tensor, "cell latent"], batch_labels: Int[Tensor, " cell"]
    ) -> Float[Tensor, "cell latent"]:
        """The corrected cells."""
        moved = z.clone()
        for code in torch.unique(batch_labels).tolist():
            if 0 <= code < self.offset.shape[1]:
                cells = (batch_labels == code).nonzero().squeeze(1)
                for _ in range(STEPS):
                    moved[cells] = z[cells] - self.responsibilities(moved[cells]) @ self.offset[:, code]
        return moved
