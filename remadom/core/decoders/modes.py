"""What decoders of a background and a signal share: three heads, and where they start."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from remadom.core.decoders.base import Decoder, logit
from remadom.shapes import Float, Int


class ModesDecoder(Decoder):
    """Decoder of values that are background or signal, which is above it by construction.

    Parameters
    ----------
    latent_dim, out_dim, n_batches, n_covariates
        Sizes, see :class:`Decoder`.
    hidden
        Width of the hidden layer.
    """

    def __init__(
        self,
        latent_dim: int,
        out_dim: int,
        n_batches: int = 0,
        n_covariates: int = 0,
        *,
        hidden: PositiveInt = 128,
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, n_covariates, hidden)
        wide = hidden + self.n_conditions
        self.background_head = nn.Linear(wide, out_dim)
        self.ratio_head = nn.Linear(wide, out_dim)
        self.mixing_head = nn.Linear(wide, out_dim)

    def modes(
        self, z: Tensor, batch_labels: Tensor | None, covariates: Tensor | None, least: float, most: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Background and foreground between two bounds, and the logit of the foreground's share."""
        hidden = self.hidden(z, batch_labels, covariates)
        background = self.background_head(hidden).float().clamp(least, most)
        foreground = (background + F.softplus(self.ratio_head(hidden).float())).clamp(max=most)
        return background, foreground, self.mixing_head(hidden).float()

    def start_modes(
        self,
        values: Float[Tensor, "cell protein"],
        batch_labels: Int[Tensor, " cell"] | None,
        natural: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Start from the two modes of each protein, the background of each batch from its own lower one.

        ``natural`` makes of a mode what the heads give. Returns the modes and the share of the upper one.
        """
        low, high, share = lower_and_upper_mode(values)
        self.background_head.bias.copy_(natural(low))
        ratio = (natural(high) - self.background_head.bias).clamp(min=0.1)
        self.ratio_head.bias.copy_(ratio.expm1().log())  # inverse of softplus
        self.mixing_head.bias.copy_(logit(share.clamp(0.05, 0.95)))
        if self.n_batches and batch_labels is not None:
            offsets = self.batch_offsets(self.background_head)
            for code in range(self.n_batches):
                cells = values[batch_labels == code]
                if len(cells) > 1:
                    offsets[:, code] = natural(lower_and_upper_mode(cells)[0]) - self.background_head.bias
        return low, high, share


def lower_and_upper_mode(
    values: Float[Tensor, "cell protein"], iterations: int = 20
) -> tuple[Float[Tensor, " protein"], Float[Tensor, " protein"], Float[Tensor, " protein"]]:
    """Centers of a two-means clustering of each column, and the share of the upper cluster."""
    low, high = values.quantile(0.1, dim=0), values.quantile(0.95, dim=0)
    share = torch.full_like(low, 0.5)
    for _ in range(iterations):
        upper = (values - low).abs() > (values - high).abs()
        count = upper.sum(0)
        n = len(values)
        share = count / n
        low = torch.where(count < n, (values * ~upper).sum(0) / (n - count).clamp(min=1), low)
        high = torch.where(count > 0, (values * upper).sum(0) / count.clamp(min=1), high)
    return low, high, share
