"""Open or closed: by a logit, or by the rate at which fragments fall."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from remadom.core.likelihood.block import Affine, Family, block_nll
from remadom.core.likelihood.special import exp, exponent_max, log_above_zero
from remadom.shapes import Float
from remadom.types import Rows


class Bernoulli(Family):
    """Open or closed, by logit; any count above zero is open."""

    def zero(self, cells: slice, grads: Sequence[Tensor], *params: Tensor) -> Tensor:
        odds = exp(torch.clamp(params[0], max=exponent_max(params[0]), out=grads[0]))
        value = odds.log1p()
        odds.div_(odds + 1)
        return value

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        (logit,) = params
        return F.softplus(-logit), [(-logit).sigmoid_().neg_()]


class Opened(Family):
    """Open where at least one of Poisson many fragments fell, by the log of their rate; any count is open.

    ``p = 1 - exp(-rate)`` is exact for binarized Poisson counts and stays in (0, 1) at every depth: the complementary
    log-log link, by which the depth of a cell is an offset of the log rate (McCullagh and Nelder 1989, Generalized
    Linear Models, section 4.3; fragments as Poisson counts: Martens et al. 2024, doi:10.1038/s41592-023-02112-6).
    """

    def zero(self, cells: slice, grads: Sequence[Tensor], *params: Tensor) -> Tensor:
        return exp(torch.clamp(params[0], max=exponent_max(params[0]), out=grads[0])).clone()

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        log_rate = params[0].clamp(max=exponent_max(params[0]))
        value, by_rate = log_above_zero(log_rate, log_rate.exp())
        return -value, [-by_rate]


def bernoulli_nll(x: Rows | Tensor, logits: Float[Tensor, "cell peak"] | Affine) -> Float[Tensor, " cell"]:
    """Bernoulli of ``x > 0``. See :class:`Bernoulli`."""
    return block_nll(Bernoulli(), x, logits)


def opened_nll(x: Rows | Tensor, log_rate: Float[Tensor, "cell peak"] | Affine) -> Float[Tensor, " cell"]:
    """Bernoulli of ``x > 0`` with ``p = 1 - exp(-rate)``. See :class:`Opened`."""
    return block_nll(Opened(), x, log_rate)
