"""Negative log-likelihoods of counts, exact and sparse.

A block of counts is mostly zeros, and at zero every likelihood here has a cheap closed form. So the value at
zero is computed for the whole block and only the non-zeros pay for ``lgamma``::

    sum_j f(x_j) = sum_j f(0) + sum_{x_j > 0} (f(x_j) - f(0))

which is exact. Value and gradient come out of one pass (closed forms, in log space); half-precision
parameters are computed in float32. Results are nats per cell, summed over the features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from remadom.shapes import Float
from remadom.types import Rows

AT_ONCE = 2**20
"""Values of a block that a CPU works on at once: more would leave its caches."""

SHIFT = {torch.float64: 8, torch.float32: 4}
"""Arguments of ``lgamma`` are moved up by this much, where four terms of Stirling's series are exact."""


class Family(ABC):
    """A likelihood in unconstrained parameters: the negative log-likelihood and its gradient, elementwise."""

    regular: bool = False
    """Whether ``nonzero`` also holds at zero, so that a dense block needs one evaluation only."""

    @abstractmethod
    def zero(self, cells: slice, grads: Sequence[Tensor], *params: Tensor) -> Tensor:
        """Value at a count of zero; its derivative by each parameter is written into ``grads``."""

    @abstractmethod
    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Value at counts above zero (or from zero, if regular), and its derivative by each parameter."""

    def finish(self, grads: Sequence[Tensor]) -> None:  # noqa: B027
        """What is left to do to the gradients when all counts are in."""


class ZINB(Family):
    """Zero-inflated negative binomial by log mean, log inverse dispersion and logit of the inflation.

    With ``s = theta log(1 + mu/theta)``: ``P(0) = pi + (1 - pi) exp(-s)``, and for ``x > 0`` the negative
    binomial times ``1 - pi`` (Lopez et al. 2018, doi:10.1038/s41592-018-0229-2; the forms are derived here).
    """

    def zero(self, cells: slice, grads: Sequence[Tensor], *params: Tensor) -> Tensor:
        log_mu, log_theta, pi_logit = params
        ratio = torch.sub(log_mu, log_theta, out=grads[0]).exp_()
        return self.at_zero(ratio, log_theta.exp(), pi_logit, grads)

    @staticmethod
    def at_zero(ratio: Tensor, theta: Tensor, pi_logit: Tensor, grads: Sequence[Tensor]) -> Tensor:
        """The value from ``ratio = mu / theta``, which stands in ``grads[0]`` and is used up."""
        # with o = (1 - pi) / pi and e = exp(-s): -log P(0) = log((1 + o) / (1 + o e))
        by_mu, by_theta, by_pi = grads
        log_ratio = torch.log1p(ratio, out=by_theta)
        odds = torch.clamp(pi_logit, min=-_exponent_max(pi_logit)).neg_().exp_()
        left = torch.mul(log_ratio, -theta).exp_().mul_(odds)  # o e
        torch.div(left, left + 1, out=by_pi)  # probability that a zero came from the NB
        weight = by_pi * theta
        share = ratio.div_(ratio + 1)  # mu / (mu + theta)
        by_theta.sub_(share).mul_(weight)
        by_mu.mul_(weight)
        value = odds.sub(left).div_(left.add_(1)).log1p_()
        by_pi.sub_(odds.div_(odds + 1))
        return value

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        log_mu, log_theta, pi_logit = params
        value, by_mu, by_theta = _negative_binomial(x, log_mu, log_theta)
        return value + F.softplus(pi_logit), [by_mu, by_theta, pi_logit.sigmoid()]


class LibraryZINB(ZINB):
    """The same by scores instead of log means: ``mu = library * softmax(scores)``.

    Fused, because the softmax and the mean are one exponential, and the gradient of the softmax one product.

    Parameters
    ----------
    log_library
        Log of each cell's size factor.
    n_genes
        Number of scores of a cell.
    """

    def __init__(self, log_library: Float[Tensor, " cell"], n_genes: int) -> None:
        self.log_library = log_library
        self.offset = torch.empty_like(log_library)
        """What is added to a score to give the log mean."""
        self.share = log_library.new_empty(len(log_library), n_genes)
        """Softmax of the scores."""

    def zero(self, cells: slice, grads: Sequence[Tensor], *params: Tensor) -> Tensor:
        scores, log_theta, pi_logit = params
        log_library = self.log_library[cells]
        top = scores.amax(1, keepdim=True)
        share = torch.sub(scores, top, out=self.share[cells]).exp_()
        total = share.sum(1, keepdim=True)
        share /= total
        self.offset[cells] = log_library - (top + total.log()).squeeze(1)
        ratio = torch.mul(share, log_library.exp().unsqueeze(1), out=grads[0])
        theta = log_theta.exp()
        ratio *= theta.reciprocal()
        return self.at_zero(ratio, theta, pi_logit, grads)

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        scores, log_theta, pi_logit = params
        return super().nonzero(cells, x, scores + self.offset[cells], log_theta, pi_logit)

    def finish(self, grads: Sequence[Tensor]) -> None:
        grads[0].addcmul_(self.share, grads[0].sum(1, keepdim=True), value=-1)


class Bernoulli(Family):
    """Open or closed, by logit; any count above zero is open."""

    def zero(self, cells: slice, grads: Sequence[Tensor], *params: Tensor) -> Tensor:
        odds = torch.clamp(params[0], max=_exponent_max(params[0]), out=grads[0]).exp_()
        value = odds.log1p()
        odds.div_(odds + 1)
        return value

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        (logit,) = params
        return F.softplus(-logit), [(-logit).sigmoid_().neg_()]


class PoissonMixture(Family):
    """Two Poissons by the log rates of background and foreground and the logit of the foreground's share.

    The design of totalVI's protein likelihood (Gayoso et al. 2021, doi:10.1038/s41592-020-01050-x) with
    Poisson components.
    """

    regular = True

    def zero(self, cells: slice, grads: Sequence[Tensor], *params: Tensor) -> Tensor:
        value, exact = self.nonzero(torch.empty(0), torch.zeros_like(params[0]), *params)
        for grad, found in zip(grads, exact, strict=True):
            grad.copy_(found)
        return value

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
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
    return _nll(ZINB(), x, log_mu, log_theta, pi_logit)


def library_zinb_nll(
    x: Rows | Tensor,
    scores: Float[Tensor, "cell gene"],
    log_library: Float[Tensor, " cell"],
    log_theta: Tensor,
    pi_logit: Float[Tensor, "cell gene"],
) -> Float[Tensor, " cell"]:
    """``zinb_nll`` at ``log_mu = log_library + log_softmax(scores)``. See :class:`LibraryZINB`."""
    log_library = log_library.detach().to(torch.promote_types(scores.dtype, torch.float32))
    return _nll(LibraryZINB(log_library, scores.shape[1]), x, scores, log_theta, pi_logit)


def bernoulli_nll(x: Rows | Tensor, logits: Float[Tensor, "cell peak"]) -> Float[Tensor, " cell"]:
    """Bernoulli of ``x > 0``. See :class:`Bernoulli`."""
    return _nll(Bernoulli(), x, logits)


def poisson_mixture_nll(
    x: Rows | Tensor,
    log_background: Float[Tensor, "cell protein"],
    log_foreground: Float[Tensor, "cell protein"],
    mixing_logit: Float[Tensor, "cell protein"],
) -> Float[Tensor, " cell"]:
    """Mixture of a background and a foreground Poisson. See :class:`PoissonMixture`."""
    return _nll(PoissonMixture(), x, log_background, log_foreground, mixing_logit)


def _nll(family: Family, x: Rows | Tensor, *params: Tensor) -> Tensor:
    rows = x if isinstance(x, Rows) else Rows.from_dense(x)
    full = [p.float() if p.dtype in (torch.float16, torch.bfloat16) else p for p in params]
    out: Tensor = _BlockNLL.apply(family, rows, *full)  # type: ignore[no-untyped-call]
    return out


class _BlockNLL(torch.autograd.Function):
    """Sum of a family's negative log-likelihood over the features of each cell.

    A parameter is a matrix (cell x feature) or a vector (feature) shared by the cells. On a CPU the cells are
    taken in parts that fit into its caches.
    """

    @staticmethod
    def forward(ctx: Any, family: Family, rows: Rows, *params: Tensor) -> Tensor:
        n_cells, like = len(rows), params[0]
        nll = like.new_empty(n_cells)
        grads = [like.new_empty(n_cells, rows.n_features) for _ in params]
        step = max(1, AT_ONCE // max(1, rows.n_features)) if like.device.type == "cpu" else max(1, n_cells)
        score = _sparse_part if rows.is_sparse else _dense_part
        for start in range(0, n_cells, step):
            cells = slice(start, min(start + step, n_cells))
            part = [p if p.dim() == 1 else p[cells] for p in params]
            nll[cells] = score(family, rows, cells, [g[cells] for g in grads], part)
        family.finish(grads)
        ctx.save_for_backward(*grads)
        ctx.shared = [p.dim() == 1 for p in params]
        return nll

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        each = zip(ctx.saved_tensors, ctx.shared, strict=True)
        return None, None, *(grad @ g if shared else g * grad.unsqueeze(1) for g, shared in each)


def _sparse_part(
    family: Family, rows: Rows, cells: slice, grads: Sequence[Tensor], params: Sequence[Tensor]
) -> Tensor:
    """Value of some cells of a sparse block: everything at zero, then the non-zeros in their places."""
    assert rows.indptr is not None
    assert rows.indices is not None
    whole = cells.stop - cells.start == len(rows)
    at = slice(None) if whole else slice(int(rows.indptr[cells.start]), int(rows.indptr[cells.stop]))
    of, features, flat = rows.cells[at], rows.indices[at], rows.flat[at] - cells.start * rows.n_features
    value = family.zero(cells, grads, *params)
    picked = [p[features] if p.dim() == 1 else p.reshape(-1).index_select(0, flat) for p in params]
    exact, exact_grads = family.nonzero(of, rows.values[at].to(value.dtype), *picked)
    for block, at_nonzeros in zip([value, *grads], [exact, *exact_grads], strict=True):
        block.view(-1).index_copy_(0, flat, at_nonzeros)
    return value.sum(1)


def _dense_part(
    family: Family, rows: Rows, cells: slice, grads: Sequence[Tensor], params: Sequence[Tensor]
) -> Tensor:
    """Value of some cells of a dense block."""
    x = rows.values[cells].to(params[0].dtype)
    zero = None if family.regular else family.zero(cells, grads, *params)
    of = torch.arange(cells.start, cells.stop, device=x.device).unsqueeze(1)
    value, exact_grads = family.nonzero(of, x, *params)
    for grad, exact in zip(grads, exact_grads, strict=True):
        grad.copy_(exact if zero is None else torch.where(x > 0, exact, grad))
    return (value if zero is None else torch.where(x > 0, value, zero)).sum(1)


def _exponent_max(x: Tensor) -> float:
    """Largest exponent of which products still fit the dtype; a probability of ``exp(-80)`` is none."""
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
    rising, by_rising = _rising(x, theta)
    total = theta + x
    value = torch.addcmul(torch.lgamma(x + 1), total, log_ratio).sub_(rising).addcmul_(x, log_mu, value=-1)
    pulled = total * share
    return value, pulled - x, theta * log_ratio - pulled - by_rising


def _rising(x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
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
