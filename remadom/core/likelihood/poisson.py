"""Poisson, alone, above zero, and as a mixture of two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from remadom.core.likelihood.block import Family, block_nll
from remadom.core.likelihood.special import log_above_zero
from remadom.shapes import Float
from remadom.types import Rows


class Poisson(Family):
    """Poisson by its log rate (fragments of ATAC: Martens et al. 2024, doi:10.1038/s41592-023-02112-6)."""

    regular = True

    def zero(self, cells: slice, grads: Sequence[Tensor], *params: Tensor) -> Tensor:
        return torch.exp(params[0], out=grads[0]).clone()

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        (log_rate,) = params
        rate = log_rate.exp()
        value = torch.lgamma(x + 1).add_(rate).addcmul_(x, log_rate, value=-1)
        return value, [rate - x]


class PositivePoisson(Poisson):
    """Poisson given that the count is not zero, where a zero was not measured: it is not scored."""

    regular = False

    def zero(self, cells: slice, grads: Sequence[Tensor], *params: Tensor) -> Tensor:
        return torch.zeros_like(grads[0].zero_())

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        value, (by_rate,) = super().nonzero(cells, x, *params)
        seen, by_seen = log_above_zero(params[0], params[0].exp())
        return value + seen, [by_rate + by_seen]


class PoissonMixture(Family):
    """Two Poissons by the log rates of background and foreground and the logit of the foreground's share.

    The design of totalVI's protein likelihood (Gayoso et al. 2021, doi:10.1038/s41592-020-01050-x) with
    Poisson components.
    """

    regular = True

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        log_background, log_foreground, mixing = params
        background, foreground = log_background.exp(), log_foreground.exp()
        odds = mixing + x * (log_foreground - log_background) - (foreground - background)
        value = F.softplus(mixing) - F.softplus(odds) - x * log_background + background + torch.lgamma(x + 1)
        share = odds.sigmoid()
        by_background = (share - 1) * (x - background)
        by_foreground = -share * (x - foreground)
        return value, [by_background, by_foreground, mixing.sigmoid() - share]


def poisson_nll(x: Rows | Tensor, log_rate: Float[Tensor, "cell feature"]) -> Float[Tensor, " cell"]:
    """Poisson. See :class:`Poisson`."""
    return block_nll(Poisson(), x, log_rate)


def positive_poisson_nll(x: Rows | Tensor, log_rate: Float[Tensor, "cell feature"]) -> Float[Tensor, " cell"]:
    """Poisson of the counts above zero. See :class:`PositivePoisson`."""
    return block_nll(PositivePoisson(), x, log_rate)


def poisson_mixture_nll(
    x: Rows | Tensor,
    log_background: Float[Tensor, "cell protein"],
    log_foreground: Float[Tensor, "cell protein"],
    mixing_logit: Float[Tensor, "cell protein"],
) -> Float[Tensor, " cell"]:
    """Mixture of a background and a foreground Poisson. See :class:`PoissonMixture`."""
    return block_nll(PoissonMixture(), x, log_background, log_foreground, mixing_logit)
