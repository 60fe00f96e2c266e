"""Zero-inflated negative binomial."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from remadom.core.likelihood.block import Family, block_nll
from remadom.core.likelihood.special import exponent_max, negative_binomial
from remadom.shapes import Float
from remadom.types import Rows


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
        odds = torch.clamp(pi_logit, min=-exponent_max(pi_logit)).neg_().exp_()
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
        value, by_mu, by_theta = negative_binomial(x, log_mu, log_theta)
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


def zinb_nll(
    x: Rows | Tensor,
    log_mu: Float[Tensor, "cell gene"],
    log_theta: Tensor,
    pi_logit: Float[Tensor, "cell gene"],
) -> Float[Tensor, " cell"]:
    """Zero-inflated negative binomial; ``log_theta`` per gene or per cell and gene. See :class:`ZINB`."""
    return block_nll(ZINB(), x, log_mu, log_theta, pi_logit)


def library_zinb_nll(
    x: Rows | Tensor,
    scores: Float[Tensor, "cell gene"],
    log_library: Float[Tensor, " cell"],
    log_theta: Tensor,
    pi_logit: Float[Tensor, "cell gene"],
) -> Float[Tensor, " cell"]:
    """``zinb_nll`` at ``log_mu = log_library + log_softmax(scores)``. See :class:`LibraryZINB`."""
    log_library = log_library.detach().to(torch.promote_types(scores.dtype, torch.float32))
    return block_nll(LibraryZINB(log_library, scores.shape[1]), x, scores, log_theta, pi_logit)
