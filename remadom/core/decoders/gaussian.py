"""Values on a real scale, such as arcsinh, CLR or dsb of ADT: Gaussian, and a background and a foreground one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from remadom.core.decoders.base import DECODERS, logit, safe_log
from remadom.core.decoders.modes import ModesDecoder
from remadom.core.decoders.scores import ScoreDecoder
from remadom.core.likelihood import gaussian_mixture_nll, gaussian_nll
from remadom.shapes import Float, Int
from remadom.types import Rows

LOG_SCALE_RANGE = (-6.0, 10.0)
LEAST_SCALE = 0.01
BOUND = 1e6


class GaussianParams(NamedTuple):
    """Mean, and the standard deviation of each feature."""

    loc: Float[Tensor, "cell feature"]
    scale: Float[Tensor, " feature"]


class GaussianMixtureParams(NamedTuple):
    """Means of background and foreground, their standard deviations, and the foreground's share."""

    loc_b: Float[Tensor, "cell feature"]
    loc_f: Float[Tensor, "cell feature"]
    scale_b: Float[Tensor, " feature"]
    scale_f: Float[Tensor, " feature"]
    alpha: Float[Tensor, "cell feature"]


@DECODERS.register("gaussian")
class GaussianDecoder(ScoreDecoder):
    """Decoder of values of any sign: ``loc`` per cell and feature, ``scale`` per feature.

    A normal whose standard deviation is the same in all cells: for proteins on the arcsinh or CLR scale.
    """

    support = "real"

    def __init__(
        self, latent_dim: int, out_dim: int, n_batches: int = 0, n_covariates: int = 0, **common: Any
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, n_covariates, **common)
        self.log_scale = nn.Parameter(torch.zeros(out_dim))

    def natural(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, ...]:
        return self.scores(z, batch_labels, covariates), self.log_scale.clamp(*LOG_SCALE_RANGE)

    def params(self, *natural: Tensor) -> GaussianParams:
        loc, log_scale = natural
        return GaussianParams(loc, log_scale.exp())

    def from_params(self, params: Any) -> tuple[Tensor, ...]:
        return params[0], safe_log(params[1])

    def likelihood(self, x: Rows | Tensor, *natural: Tensor) -> Float[Tensor, " cell"]:
        return gaussian_nll(x, *natural)

    def mean(self, params: Any) -> Float[Tensor, "cell feature"]:
        expected: Tensor = params[0]
        return expected

    def sample(self, params: Any, generator: torch.Generator) -> Float[Tensor, "cell feature"]:
        loc, scale = params
        drawn: Tensor = loc + scale * _noise(loc, generator)
        return drawn

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        mean = sample.feature_means()
        variance = sample.map(torch.square).feature_means() - mean.square()
        self.head.bias.copy_(mean)
        self.log_scale.copy_(variance.clamp(min=LEAST_SCALE**2).sqrt().log())


@DECODERS.register("gaussian_mixture")
class GaussianMixtureDecoder(ModesDecoder):
    """Decoder of proteins on a normalized scale that are background or signal: ``loc_b``, ``loc_f`` and ``alpha`` per
    cell, ``scale_b`` and ``scale_f`` per protein.

    Two normals for each protein are how its background is told from its signal after a log (Mulè et al. 2022,
    doi:10.1038/s41467-022-29356-8); the design is that of :class:`~remadom.core.decoders.ADTMixtureDecoder`.
    """

    support = "real"

    def __init__(
        self, latent_dim: int, out_dim: int, n_batches: int = 0, n_covariates: int = 0, **common: Any
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, n_covariates, **common)
        self.log_scale = nn.Parameter(torch.zeros(2, out_dim))

    def natural(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, ...]:
        low, high, mixing = self.modes(z, batch_labels, covariates, -BOUND, BOUND)
        return low, high, *self.log_scale.clamp(*LOG_SCALE_RANGE).unbind(), mixing

    def params(self, *natural: Tensor) -> GaussianMixtureParams:
        low, high, log_scale_b, log_scale_f, mixing = natural
        return GaussianMixtureParams(low, high, log_scale_b.exp(), log_scale_f.exp(), mixing.sigmoid())

    def from_params(self, params: Any) -> tuple[Tensor, ...]:
        low, high, scale_b, scale_f, alpha = params
        return low, high, safe_log(scale_b), safe_log(scale_f), logit(alpha)

    def likelihood(self, x: Rows | Tensor, *natural: Tensor) -> Float[Tensor, " cell"]:
        return gaussian_mixture_nll(x, *natural)

    def mean(self, params: Any) -> Float[Tensor, "cell feature"]:
        low, high, _, _, alpha = params
        expected: Tensor = low + alpha * (high - low)
        return expected

    def sample(self, params: Any, generator: torch.Generator) -> Float[Tensor, "cell feature"]:
        low, high, scale_b, scale_f, alpha = params
        signal = torch.rand(alpha.shape, generator=generator, device=alpha.device) < alpha
        noise = _noise(low, generator)
        return torch.where(signal, high + scale_f * noise, low + scale_b * noise)

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        values = sample.dense()
        low, high, share = self.start_modes(values, batch_labels, lambda mode: mode)
        within = values.var(0, unbiased=False) - share * (1 - share) * (high - low).square()
        self.log_scale.copy_(within.clamp(min=LEAST_SCALE**2).sqrt().log())


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)
