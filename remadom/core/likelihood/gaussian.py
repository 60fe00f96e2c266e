"""Gaussian, alone and as a mixture of two: values on a real scale."""

from __future__ import annotations

import math

from torch import Tensor

from remadom.core.likelihood.block import Family, block_nll
from remadom.core.likelihood.special import mixed
from remadom.shapes import Float
from remadom.types import Rows

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Gaussian(Family):
    """Normal by mean and log standard deviation."""

    regular = True

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        value, by_mean, by_scale = _normal(x, *params)
        return value, [by_mean, by_scale]


class GaussianMixture(Family):
    """Two normals by the means of background and foreground, a log standard deviation for each, and the logit of
    the foreground's share: the background and signal of a protein on a normalized scale (two normals for
    normalized ADT: Mulè et al. 2022, doi:10.1038/s41467-022-29356-8).
    """

    regular = True

    def nonzero(self, cells: Tensor, x: Tensor, *params: Tensor) -> tuple[Tensor, list[Tensor]]:
        background, foreground, log_scale_b, log_scale_f, mixing = params
        low, low_by_mean, low_by_scale = _normal(x, background, log_scale_b)
        high, high_by_mean, high_by_scale = _normal(x, foreground, log_scale_f)
        value, share = mixed(low, high, mixing)
        rest = 1 - share
        return value, [
            rest * low_by_mean,
            share * high_by_mean,
            rest * low_by_scale,
            share * high_by_scale,
            mixing.sigmoid() - share,
        ]


def gaussian_nll(
    x: Rows | Tensor, mean: Float[Tensor, "cell feature"], log_scale: Tensor
) -> Float[Tensor, " cell"]:
    """Normal; ``log_scale`` per feature or per cell and feature. See :class:`Gaussian`."""
    return block_nll(Gaussian(), x, mean, log_scale)


def gaussian_mixture_nll(
    x: Rows | Tensor,
    background: Float[Tensor, "cell feature"],
    foreground: Float[Tensor, "cell feature"],
    log_scale_b: Tensor,
    log_scale_f: Tensor,
    mixing_logit: Float[Tensor, "cell feature"],
) -> Float[Tensor, " cell"]:
    """Mixture of a background and a foreground normal. See :class:`GaussianMixture`."""
    return block_nll(GaussianMixture(), x, background, foreground, log_scale_b, log_scale_f, mixing_logit)


def _normal(x: Tensor, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The value and its derivatives by mean and log standard deviation."""
    inverse = (-log_scale).exp()
    away = (x - mean) * inverse
    squared = away * away
    return 0.5 * squared + log_scale + HALF_LOG_2PI, -away * inverse, 1 - squared
