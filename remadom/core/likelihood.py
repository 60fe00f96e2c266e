"""Negative log-likelihoods of counts, exact and sparse.

A block of counts is mostly zeros, and at zero every likelihood here has a cheap closed form. So the value at
zero is computed for the whole block and only the non-zeros pay for ``lgamma``::

    sum_j f(x_j) = sum_j f(0) + sum_{x_j > 0} (f(x_j) - f(0))

which is exact. Value and gradient come out of one pass (closed forms, in log space); half-precision
parameters are computed in float32. Results are nats per cell, summed over the features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from remadom.shapes import Float
from remadom.types import Rows

STIRLING_FROM = 16.0
"""From this argument on, Stirling's series (four terms) is exact in float64."""


class Family(ABC):
    """A likelihood in its natural parameters: the negative log-likelihood and its gradient, elementwise."""

    regular: bool
    """Whether ``nonzero`` also holds at zero, so that a dense block needs one evaluation only."""

    @staticmethod
    @abstractmethod
    def zero(*params: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Value at a count of zero, and its derivative by each parameter."""

    @staticmethod
    @abstractmethod
    def nonzero(x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Value at counts above zero, and its derivative by each parameter."""


class ZINB(Family):
    """Zero-inflated negative binomial by log mean, log inverse dispersion and logit of the inflation.

    With ``s = theta log(1 + mu/theta)``: ``P(0) = pi + (1 - pi) exp(-s)``, and for ``x > 0`` the negative
    binomial times ``1 - pi`` (Lopez et al. 2018, doi:10.1038/s41592-018-0229-2; the forms are derived here).
    """

    regular = False

    @staticmethod
    def zero(*params: Tensor) -> tuple[Tensor, list[Tensor]]:
        # with o = (1 - pi) / pi and e = exp(-s): -log P(0) = log((1 + o) / (1 + o e))
        log_mu, log_theta, pi_logit = params
        theta = log_theta.exp()
        ratio = (log_mu - log_theta).exp_()  # mu / theta
        log_ratio = ratio.log1p()
        share = ratio.div_(ratio + 1)  # mu / (mu + theta)
        odds = pi_logit.clamp(min=-_exponent_max(pi_logit)).neg_().exp_()
        left = torch.mul(log_ratio, -theta).exp_().mul_(odds)  # o e
        weight = left + 1
        value = (odds - left).div_(weight).log1p_()
        weight = left.div_(weight)  # probability that a zero came from the NB
        by_pi = odds.div_(odds + 1).neg_().add_(weight)
        weight *= theta
        by_theta = log_ratio.sub_(share).mul_(weight)
        by_mu = share.mul_(weight)
        return value, [by_mu, by_theta, by_pi]

    @staticmethod
    def nonzero(x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        log_mu, log_theta, pi_logit = params
        value, by_mu, by_theta = _negative_binomial(x, log_mu, log_theta)
        return value + F.softplus(pi_logit), [by_mu, by_theta, pi_logit.sigmoid()]


class Bernoulli(Family):
    """Open or closed, by logit; any count above zero is open."""

    regular = False

    @staticmethod
    def zero(*params: Tensor) -> tuple[Tensor, list[Tensor]]:
        (logit,) = params
        return F.softplus(logit), [logit.sigmoid()]

    @staticmethod
    def nonzero(x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        (logit,) = params
        return F.softplus(-logit), [(-logit).sigmoid_().neg_()]


class PoissonMixture(Family):
    """Two Poissons by the log rates of background and foreground and the logit of the foreground's share.

    The design of totalVI's protein likelihood (Gayoso et al. 2021, doi:10.1038/s41592-020-01050-x) with
    Poisson components.
    """

    regular = True

    @staticmethod
    def zero(*params: Tensor) -> tuple[Tensor, list[Tensor]]:
        return PoissonMixture.nonzero(torch.zeros_like(params[0]), *params)

    @staticmethod
    def nonzero(x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        log_background, log_foreground, mixing = params
        background, foreground = log_background.exp(), log_foreground.exp()
        odds = mixing + x * (log_foreground - log_background) - (foreground - background)
        value = F.softplus(mixing) - F.softplus(odds) - x * log_background + background + torch.lgamma(x + 1)
        share = odds.sigmoid()
        by_background = (share - 1) * (x - background)
        by_foreground = -share * (x - foreground)
        return value, [by_background, by_foreground, mixing.sigmoid() - share]


def zinb_nll(
    x: Rows | Tensor,
    log_mu: Float[Tensor, "cell gene"],
    log_theta: Tensor,
    pi_logit: Float[Tensor, "cell gene"],
) -> Float[Tensor, " cell"]:
    """Zero-inflated negative binomial; ``log_theta`` per gene or per cell and gene. See :class:`ZINB`."""
    return _nll(ZINB, x, log_mu, log_theta, pi_logit)


def bernoulli_nll(x: Rows | Tensor, logits: Float[Tensor, "cell peak"]) -> Float[Tensor, " cell"]:
    """Bernoulli of ``x > 0``. See :class:`Bernoulli`."""
    return _nll(Bernoulli, x, logits)


def poisson_mixture_nll(
    x: Rows | Tensor,
    log_background: Float[Tensor, "cell protein"],
    log_foreground: Float[Tensor, "cell protein"],
    mixing_logit: Float[Tensor, "cell protein"],
) -> Float[Tensor, " cell"]:
    """Mixture of a background and a foreground Poisson. See :class:`PoissonMixture`."""
    return _nll(PoissonMixture, x, log_background, log_foreground, mixing_logit)


def _nll(family: type[Family], x: Rows | Tensor, *params: Tensor) -> Tensor:
    rows = x if isinstance(x, Rows) else Rows.from_dense(x)
    full = [p.float() if p.dtype in (torch.float16, torch.bfloat16) else p for p in params]
    out: Tensor = _BlockNLL.apply(family, rows, *full)  # type: ignore[no-untyped-call]
    return out


class _BlockNLL(torch.autograd.Function):
    """Sum of a family's negative log-likelihood over the features of each cell.

    A parameter is a matrix (cell x feature) or a vector (feature) shared by the cells.
    """

    @staticmethod
    def forward(ctx: Any, family: type[Family], rows: Rows, *params: Tensor) -> Tensor:
        if rows.is_sparse:
            value, grads = family.zero(*params)
            picked = [_at_nonzeros(p, rows) for p in params]
            exact, exact_grads = family.nonzero(rows.values.to(value.dtype), *picked)
            exact -= value.view(-1)[rows.flat]
            nll = value.sum(1).index_add_(0, rows.cells, exact)
            for grad, at_nonzeros in zip(grads, exact_grads, strict=True):
                grad.view(-1).index_copy_(0, rows.flat, at_nonzeros)
        else:
            x = rows.values.to(params[0].dtype)
            value, grads = family.nonzero(x, *params)
            if not family.regular:
                zero, zero_grads = family.zero(*params)
                empty = x <= 0
                value = torch.where(empty, zero, value)
                grads = [torch.where(empty, z, g) for z, g in zip(zero_grads, grads, strict=True)]
            nll = value.sum(1)
        ctx.save_for_backward(*grads)
        ctx.shared = [p.dim() == 1 for p in params]
        return nll

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        each = zip(ctx.saved_tensors, ctx.shared, strict=True)
        return None, None, *(grad @ g if shared else g * grad.unsqueeze(1) for g, shared in each)


def _at_nonzeros(param: Tensor, rows: Rows) -> Tensor:
    """Values of a parameter at the non-zeros of a block."""
    index = rows.indices if param.dim() == 1 else rows.flat
    return param.reshape(-1).index_select(0, index)  # type: ignore[arg-type]


def _exponent_max(x: Tensor) -> float:
    """Largest exponent whose square root of room is left in the dtype: probabilities below are zero."""
    return 80.0 if x.dtype == torch.float32 else 700.0


def _negative_binomial(x: Tensor, log_mu: Tensor, log_theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Negative binomial at ``x > 0``: the value and its derivatives by ``log_mu`` and ``log_theta``.

    ``log p = D(theta, x) - lgamma(x+1) - (theta + x) log(1 + mu/theta) + x log mu``, where
    ``D = lgamma(theta + x) - lgamma(theta) - x log theta`` is the only part that would cancel.
    """
    theta = log_theta.exp()
    ratio = (log_mu - log_theta).exp_()
    log_ratio = ratio.log1p()
    share = ratio / (1 + ratio)
    rising, by_rising = _rising(x, theta, log_theta)
    total = theta + x
    value = torch.lgamma(x + 1) + total * log_ratio - rising - x * log_mu
    pulled = total * share
    return value, pulled - x, theta * log_ratio - pulled - by_rising


def _rising(x: Tensor, theta: Tensor, log_theta: Tensor) -> tuple[Tensor, Tensor]:
    """``lgamma(theta + x) - lgamma(theta) - x log theta`` and ``theta`` times its derivative by ``theta``.

    For large ``theta`` the difference is taken analytically between Stirling's series (Abramowitz and Stegun
    6.1.41, 6.3.18), since the terms themselves grow like ``theta log theta``.
    """
    total = theta + x
    large = theta > STIRLING_FROM
    log_growth = torch.log1p(x / theta)
    series = (total - 0.5) * log_growth - x + _lgamma_tail(total) - _lgamma_tail(theta)
    by_series = theta * (log_growth - _digamma_tail(total) + _digamma_tail(theta)) - x
    small = torch.where(large, STIRLING_FROM, theta)  # keeps the branch not taken finite
    direct = torch.lgamma(small + x) - torch.lgamma(small) - x * torch.where(large, 0.0, log_theta)
    by_direct = small * (torch.digamma(small + x) - torch.digamma(small)) - x
    return torch.where(large, series, direct), torch.where(large, by_series, by_direct)


def _lgamma_tail(z: Tensor) -> Tensor:
    """``lgamma(z) - ((z - 1/2) log z - z + log(2 pi)/2)`` for ``z`` from ``STIRLING_FROM`` on."""
    inverse = z.reciprocal()
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))


def _digamma_tail(z: Tensor) -> Tensor:
    """``log z - digamma(z)`` for ``z`` from ``STIRLING_FROM`` on."""
    inverse = z.reciprocal()
    square = inverse * inverse
    return inverse / 2 + square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))
