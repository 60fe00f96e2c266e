"""ADT: counts of a background and a foreground for each protein."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from remadom.core.decoders.base import DECODERS, logit, safe_log
from remadom.core.decoders.counts import LOG_THETA_RANGE
from remadom.core.decoders.modes import ModesDecoder
from remadom.core.likelihood import nb_mixture_nll, poisson_mixture_nll
from remadom.shapes import Float, Int
from remadom.types import Rows

LOG_RATE_MAX = 15.0
LOG_RATE_MIN = -10.0


class MixtureParams(NamedTuple):
    """Rates of background and foreground, and the foreground's share."""

    mu_b: Float[Tensor, "cell protein"]
    mu_f: Float[Tensor, "cell protein"]
    alpha: Float[Tensor, "cell protein"]


class NBMixtureParams(NamedTuple):
    """Means of background and foreground, the inverse dispersion of both, and the foreground's share."""

    mu_b: Float[Tensor, "cell protein"]
    mu_f: Float[Tensor, "cell protein"]
    theta: Float[Tensor, " protein"]
    alpha: Float[Tensor, "cell protein"]


@DECODERS.register("poisson_mixture")
class ADTMixtureDecoder(ModesDecoder):
    """Decoder of protein counts that are background or signal: ``mu_b``, ``mu_f`` and ``alpha``.

    The background starts, per protein and batch, from the lower mode of the data; the foreground is above it
    by construction, and ``alpha`` is the learned probability of foreground (after Gayoso et al. 2021,
    doi:10.1038/s41592-020-01050-x, with Poisson components).
    """

    def natural(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, ...]:
        return self.modes(z, batch_labels, covariates, LOG_RATE_MIN, LOG_RATE_MAX)

    def params(self, *natural: Tensor) -> MixtureParams:
        log_background, log_foreground, mixing = natural
        return MixtureParams(log_background.exp(), log_foreground.exp(), mixing.sigmoid())

    def from_params(self, params: Any) -> tuple[Tensor, ...]:
        mu_b, mu_f, alpha = params
        return safe_log(mu_b), safe_log(mu_f), logit(alpha)

    def likelihood(self, x: Rows | Tensor, *natural: Tensor) -> Float[Tensor, " cell"]:
        return poisson_mixture_nll(x, *natural)

    def mean(self, params: Any) -> Float[Tensor, "cell protein"]:
        mu_b, mu_f, alpha = params
        expected: Tensor = alpha * mu_f + (1 - alpha) * mu_b
        return expected

    def sample(self, params: Any, generator: torch.Generator) -> Float[Tensor, "cell protein"]:
        return torch.poisson(_drawn_mode(params[0], params[1], params[2], generator), generator=generator)

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        self.start_modes(sample.dense().log1p(), batch_labels, _log_rate)


@DECODERS.register("nb_mixture")
class NBMixtureDecoder(ModesDecoder):
    """Decoder of protein counts that are background or signal, both overdispersed: ``mu_b``, ``mu_f``, ``theta`` of
    each protein, and ``alpha``.

    totalVI's likelihood of proteins (Gayoso et al. 2021, doi:10.1038/s41592-020-01050-x), with a background that is
    predicted rather than drawn; it starts, per protein and batch, from the lower mode of the data.
    """

    def __init__(
        self, latent_dim: int, out_dim: int, n_batches: int = 0, n_covariates: int = 0, **common: Any
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, n_covariates, **common)
        self.log_theta = nn.Parameter(torch.zeros(out_dim))

    def natural(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, ...]:
        low, high, mixing = self.modes(z, batch_labels, covariates, LOG_RATE_MIN, LOG_RATE_MAX)
        return low, high, self.log_theta.clamp(*LOG_THETA_RANGE), mixing

    def params(self, *natural: Tensor) -> NBMixtureParams:
        low, high, log_theta, mixing = natural
        return NBMixtureParams(low.exp(), high.exp(), log_theta.exp(), mixing.sigmoid())

    def from_params(self, params: Any) -> tuple[Tensor, ...]:
        mu_b, mu_f, theta, alpha = params
        return safe_log(mu_b), safe_log(mu_f), safe_log(theta), logit(alpha)

    def likelihood(self, x: Rows | Tensor, *natural: Tensor) -> Float[Tensor, " cell"]:
        return nb_mixture_nll(x, *natural)

    def mean(self, params: Any) -> Float[Tensor, "cell protein"]:
        mu_b, mu_f, _, alpha = params
        expected: Tensor = alpha * mu_f + (1 - alpha) * mu_b
        return expected

    def sample(self, params: Any, generator: torch.Generator) -> Float[Tensor, "cell protein"]:
        mu_b, mu_f, theta, alpha = params
        theta = theta.expand_as(mu_b)
        gamma = torch._standard_gamma(theta, generator=generator) / theta
        return torch.poisson(_drawn_mode(mu_b, mu_f, alpha, generator) * gamma, generator=generator)

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        self.start_modes(sample.dense().log1p(), batch_labels, _log_rate)
        self.log_theta.fill_(1.0)


def _log_rate(mode: Tensor) -> Tensor:
    """Log of the rate whose counts have this mode on log1p."""
    return mode.expm1().clamp(min=0.1).log()


def _drawn_mode(mu_b: Tensor, mu_f: Tensor, alpha: Tensor, generator: torch.Generator) -> Tensor:
    signal = torch.rand(alpha.shape, generator=generator, device=alpha.device) < alpha
    return torch.where(signal, mu_f, mu_b)
