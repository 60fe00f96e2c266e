"""Functions that likelihoods share, exact where their terms would cancel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOG2_E = math.log2(math.e)
SHIFT = {torch.float64: 8, torch.float32: 4}
"""Arguments of ``lgamma`` are moved up by this much, where four terms of Stirling's series are exact."""


def exponent_max(x: Tensor) -> float:
    """Largest exponent of which products still fit the dtype; a probability of ``exp(-80)`` is none."""
    return 80.0 if x.dtype == torch.float32 else 700.0


def exp(x: Tensor) -> Tensor:
    """Exponential in place, as a power of two, which takes a third of the time; relative error near eps x abs(x)."""
    return x.mul_(LOG2_E).exp2_()


def log_above_zero(log_rate: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """``log(1 - exp(-rate))``, the log probability of at least one event, and its derivative by ``log_rate``.

    The rate may underflow to zero: its log says what is left.
    """
    rate = rate.clamp(min=torch.finfo(rate.dtype).tiny)
    some = -(-rate).expm1()
    return log_rate + (some / rate).log(), rate / rate.expm1()


def mixed(low: Tensor, high: Tensor, mixing: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of a mixture from those of its parts, and the posterior probability of ``high``.

    ``mixing`` is the logit of the share of ``high``. The likelier part leads: the other may be very unlikely.
    """
    odds = mixing + low - high
    value = F.softplus(mixing) + torch.minimum(low, high - mixing) - F.softplus(-odds.abs())
    return value, odds.sigmoid()


def negative_binomial(x: Tensor, log_mu: Tensor, log_theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Negative binomial at ``x > 0``: the value and its derivatives by ``log_mu`` and ``log_theta``.

    ``log p = D(theta, x) - lgamma(x+1) - (theta + x) log(1 + mu/theta) + x log mu``, where
    ``D = lgamma(theta + x) - lgamma(theta) - x log theta`` is the only part that would cancel.
    """
    theta = log_theta.exp()
    ratio = (log_mu - log_theta).exp_()
    log_ratio = ratio.log1p()
    share = ratio / (1 + ratio)
    rising, by_rising = rising_ratio(x, theta)
    total = theta + x
    value = torch.addcmul(torch.lgamma(x + 1), total, log_ratio).sub_(rising).addcmul_(x, log_mu, value=-1)
    pulled = total * share
    return value, pulled - x, theta * log_ratio - pulled - by_rising


def rising_ratio(x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """``lgamma(theta + x) - lgamma(theta) - x log theta`` and ``theta`` times its derivative by ``theta``.

    Both arguments are moved up by ``SHIFT`` with ``lgamma(z) = lgamma(z + 1) - log z``, and the difference is
    taken analytically between Stirling's series (Abramowitz and Stegun 6.1.41, 6.3.18): for large ``theta`` the
    terms themselves grow like ``theta log theta`` and would cancel.
    """
    shift = SHIFT[theta.dtype]
    low = theta + shift
    high = low + x
    growth = torch.log1p(x / low)
    rising = (high - 0.5) * growth - x + x * torch.log1p(shift / theta)
    rising += _lgamma_tail(high) - _lgamma_tail(low)
    by_theta = growth - _digamma_tail(high) + _digamma_tail(low)
    product: Tensor | None = None
    for k in range(shift):
        step = x / (theta + k)
        factor = step + 1
        by_theta.addcdiv_(step, theta + (x + k))
        product = factor if product is None else product.mul_(factor)
        if k % 4 == 3:  # more factors could overflow
            rising -= product.log_()
            product = None
    return rising, by_theta.mul_(theta).sub_(x)


def _lgamma_tail(z: Tensor) -> Tensor:
    """``lgamma(z) - ((z - 1/2) log z - z + log(2 pi)/2)`` for ``z`` from 4 on."""
    inverse = z.reciprocal()
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))


def _digamma_tail(z: Tensor) -> Tensor:
    """``log z - digamma(z)`` for ``z`` from 4 on."""
    inverse = z.reciprocal()
    square = inverse * inverse
    return inverse / 2 + square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))
