"""The technical latent space: one prior for each batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remadom.shapes import Float, Int
from remadom.types import Posterior

LOG_SCALE_RANGE = (-4.0, 2.0)
"""Bounds of the log deviation of a batch's prior."""

LOG_SCALE_START = -2.0
"""Where it starts: batches, about 1 apart, are told apart, so that ``z_bio`` has no reason to learn of them."""


class TechnicalPrior(nn.Module):
    """Prior of ``z_tech`` given the batch: ``N(mean_b, scale_b^2)``, both learned (Khemakhem et al. 2020,
    arXiv:1907.04809; as the batch's own expert in the product, He et al. 2024, doi:10.1038/s41587-023-02040-y).

    A cell of no known batch has the Gaussian with the mean and the variance of the mixture over the batches.

    Parameters
    ----------
    n_batches
        Number of batches.
    dim
        Dimension of ``z_tech``.
    modalities
        What is decoded; each is decoded with the technical states in which it was measured only.
    """

    def __init__(self, n_batches: int, dim: int, modalities: Sequence[str]) -> None:
        super().__init__()
        self.dim = dim
        self.mean = nn.Parameter(F.normalize(torch.randn(n_batches, dim), dim=1))
        self.log_scale = nn.Parameter(torch.full((n_batches, dim), LOG_SCALE_START))
        for modality in modalities:
            self.register_buffer(f"seen_{modality}", torch.ones(n_batches))

    @torch.no_grad()
    def see(self, modality: str, batch_labels: Int[Tensor, " cell"]) -> None:
        """Learn from the labels of the training cells in which batches a modality, maybe a new one, was measured."""
        seen = torch.zeros(len(self.mean), device=self.mean.device)
        seen[batch_labels[(batch_labels >= 0) & (batch_labels < len(seen))]] = 1.0
        self.register_buffer(f"seen_{modality}", seen if bool(seen.any()) else torch.ones_like(seen))

    def forward(self, n_cells: int, batch_labels: Int[Tensor, " cell"] | None) -> Posterior:
        """Prior of each cell, cell x dim; a label of -1, no labels, or a batch after training is no known batch."""
        logvar = 2 * self.log_scale.clamp(*LOG_SCALE_RANGE)
        mean = self.mean.mean(0)
        variance = logvar.exp().mean(0) + (self.mean - mean).square().mean(0)
        unknown = Posterior(mean.expand(n_cells, -1), variance.log().expand(n_cells, -1))
        if batch_labels is None:
            return unknown
        codes = batch_labels.clamp(0, len(self.mean) - 1)
        known = (batch_labels == codes).unsqueeze(1)
        return Posterior(
            torch.where(known, self.mean.index_select(0, codes), unknown.mu),
            torch.where(known, logvar.index_select(0, codes), unknown.logvar),
        )

    def state_for(
        self, modality: str, z_tech: Float[Tensor, "cell tech"], batch_labels: Int[Tensor, " cell"] | None
    ) -> Float[Tensor, "cell tech"]:
        """What a modality's decoder reads: ``z_tech``, or the mean over the batches that have the modality.

        The mean stands for cells of no known batch, and of one in which the modality was never measured.
        """
        seen: Tensor = getattr(self, f"seen_{modality}")
        average = (seen / seen.sum() @ self.mean).expand(len(z_tech), -1)
        if batch_labels is None:
            return average
        codes = batch_labels.clamp(0, len(seen) - 1)
        known = (batch_labels == codes) & (seen[codes] > 0)
        return torch.where(known.unsqueeze(1), z_tech, average)
