"""Negative binomial, alone, above zero, and as a mixture of two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from remadom.core.likelihood.block import Family, block_nll
from remadom.core.likelihood.special import log_above_zero, mixed, negative_binomial, rising_ratio
from remadom.shapes import Float
from remadom.types import Rows


class NegativeBinomial(Family):
    """Negative binomial by log mean and log inverse dispersion: variance ``mu + mu^2 / theta``.

    The model of counts of Robinson and Smyth 2008 (doi:10.1093/biostatistics/kxm030) and, in a variational
    autoencoder, of Lopez et al. 2018 (doi:10.1038/s41592-018-0229-2).
    """

    regular = True

    def zero(self, cells: slice, grads: Sequence[Tensor], *params: Tensor) -> Tensor:
        log_mu, log_theta = params
        by_mu, by_theta = grads
        ratio, theta = torch.sub(log_mu, log_theta, out=by_mu).exp_(), log_theta.exp()
        torch.log1p(ratio, out=by_theta)
        value = by_theta * theta
        ratio.div_(ratio + 1)
        by_theta.sub_(ratio).mul_(theta)
        by_mu.mul_(theta)
        return value

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        value, by_mu, by_theta = negative_binomial(x, *params)
        return value, [by_mu, by_theta]


class PositiveNegativeBinomial(NegativeBinomial):
    """Negative binomial given that the count is not zero, where a zero was not measured: it is not scored."""

    regular = False

    def zero(self, cells: slice, grads: Sequence[Tensor], *params: Tensor) -> Tensor:
        grads[1].zero_()
        return torch.zeros_like(grads[0].zero_())

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        log_mu, log_theta = params
        value, (by_mu, by_theta) = super().nonzero(cells, x, *params)
        # P(0) = exp(-s) with s = theta log(1 + ratio); where the ratio underflows, s is mu
        ratio = (log_mu - log_theta).exp().clamp_(min=torch.finfo(log_mu.dtype).tiny)
        log_ratio = ratio.log1p()
        log_s = log_mu + (log_ratio / ratio).log()
        seen, by_log_s = log_above_zero(log_s, log_s.exp())
        share = by_log_s * (ratio / (ratio + 1) / log_ratio)  # by log_s, times its derivative by log_mu
        return value + seen, [by_mu + share, by_theta + by_log_s - share]


class NBMixture(Family):
    """Two negative binomials by the log means of background and foreground, one log inverse dispersion, and the
    logit of the foreground's share: totalVI's protein likelihood (Gayoso et al. 2021,
    doi:10.1038/s41592-020-01050-x).
    """

    regular = True

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        log_background, log_foreground, log_theta, mixing = params
        theta = log_theta.exp()
        total = theta + x
        rising, by_rising = rising_ratio(x, theta)
        sides = []
        for log_mu in (log_background, log_foreground):
            ratio = (log_mu - log_theta).exp_()
            log_ratio = ratio.log1p()
            pulled = total * (ratio / (1 + ratio))
            sides.append((total * log_ratio - x * log_mu, pulled - x, theta * log_ratio - pulled))
        (low, low_by_mu, low_by_theta), (high, high_by_mu, high_by_theta) = sides
        value, share = mixed(low, high, mixing)
        value = value + torch.lgamma(x + 1) - rising
        by_theta = torch.lerp(low_by_theta, high_by_theta, share) - by_rising
        return value, [(1 - share) * low_by_mu, share * high_by_mu, by_theta, mixing.sigmoid() - share]


def nb_nll(
    x: Rows | Tensor, log_mu: Float[Tensor, "cell feature"], log_theta: Tensor
) -> Float[Tensor, " cell"]:
    """Negative binomial; ``log_theta`` per feature or per cell and feature. See :class:`NegativeBinomial`."""
    return block_nll(NegativeBinomial(), x, log_mu, log_theta)


def positive_nb_nll(
    x: Rows | Tensor, log_mu: Float[Tensor, "cell feature"], log_theta: Tensor
) -> Float[Tensor, " cell"]:
    """Negative binomial of the counts above zero. See :class:`PositiveNegativeBinomial`."""
    return block_nll(PositiveNegativeBinomial(), x, log_mu, log_theta)


def nb_mixture_nll(
    x: Rows | Tensor,
    log_background: Float[Tensor, "cell protein"],
    log_foreground: Float[Tensor, "cell protein"],
    log_theta: Tensor,
    mixing_logit: Float[Tensor, "cell protein"],
) -> Float[Tensor, " cell"]:
    """Mixture of a background and a foreground negative binomial. See :class:`NBMixture`."""
    return block_nll(NBMixture(), x, log_background, log_foreground, log_theta, mixing_logit)
