"""Decoders with one score for each cell and feature."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from remadom.core.decoders.base import Decoder
from remadom.shapes import Float


class ScoreDecoder(Decoder):
    """Decoder whose likelihood has one number that depends on the cell, the score, which may be of low rank.

    Parameters
    ----------
    latent_dim, out_dim, n_batches, n_covariates
        Sizes, see :class:`Decoder`.
    hidden
        Width of the hidden layer.
    lowrank
        Rank of the output layer: memory and time fall from ``hidden`` to ``lowrank`` numbers per feature; null
        is full rank.
    """

    def __init__(
        self,
        latent_dim: int,
        out_dim: int,
        n_batches: int = 0,
        n_covariates: int = 0,
        *,
        hidden: PositiveInt = 128,
        lowrank: PositiveInt | None = None,
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, n_covariates, hidden)
        self.squeeze = None if lowrank is None else nn.Linear(hidden, lowrank, bias=False)
        self.head = nn.Linear((lowrank or hidden) + self.n_conditions, out_dim)

    def scores(
        self, z: Tensor, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> Float[Tensor, "cell feature"]:
        """Score of each cell and feature, float32."""
        out: Tensor = self.head(self.squeezed(z, batch_labels, covariates)).float()
        return out

    def squeezed(
        self, z: Tensor, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> Float[Tensor, "cell input"]:
        """What the output layer reads: the hidden layer, of the low rank if there is one."""
        hidden = self.hidden(z, batch_labels, covariates)
        if self.squeeze is None:
            return hidden
        width = self.squeeze.in_features
        return torch.cat([self.squeeze(hidden[:, :width]), hidden[:, width:]], dim=1)
