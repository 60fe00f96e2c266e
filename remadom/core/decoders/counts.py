"""Counts: negative binomial with library size, and given that a count is not zero."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from remadom.core.decoders.base import DECODERS, Decoder, safe_log
from remadom.core.likelihood import nb_nll, positive_nb_nll
from remadom.shapes import Float, Int
from remadom.types import Rows

LOG_MU_MAX = 15.0
LOG_THETA_RANGE = (-10.0, 14.0)


class NBParams(NamedTuple):
    """Mean and inverse dispersion: the variance is ``mu + mu^2 / theta``."""

    mu: Float[Tensor, "cell feature"]
    theta: Tensor


@DECODERS.register("nb")
class NBDecoder(Decoder):
    """Decoder of overdispersed counts: ``mu`` and ``theta`` per cell and feature.

    With ``library`` the mean is ``libsize * softmax(...)`` (Lopez et al. 2018, doi:10.1038/s41592-018-0229-2). Counts
    of molecules (UMI) have no more zeros than that (Svensson 2020, doi:10.1038/s41587-019-0379-5).

    Parameters
    ----------
    latent_dim, out_dim, n_batches, n_covariates
        Sizes, see :class:`Decoder`.
    hidden
        Width of the hidden layer.
    dispersion
        What has its own inverse dispersion ``theta``: each ``gene``, each gene in each ``batch``, or each gene
        in each ``cell`` (predicted from ``z``).
    library
        Whether the mean scales with the cell's total; without it the mean is predicted as it is.
    """

    def __init__(
        self,
        latent_dim: int,
        out_dim: int,
        n_batches: int = 0,
        n_covariates: int = 0,
        *,
        hidden: PositiveInt = 128,
        dispersion: Literal["gene", "batch", "cell"] = "gene",
        library: bool = True,
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, n_covariates, hidden)
        self.dispersion, self.library = dispersion, library
        wide = hidden + self.n_conditions
        self.mean_head = nn.Linear(wide, out_dim)
        self.dispersion_head = nn.Linear(wide, out_dim) if dispersion == "cell" else None
        rows = max(1, self.n_batches) if dispersion == "batch" else 1
        self.log_theta = None if dispersion == "cell" else nn.Parameter(torch.zeros(rows, out_dim))

    def natural(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, ...]:
        hidden = self.hidden(z, batch_labels, covariates)
        log_mu = self.log_means(self.mean_head(hidden).float(), libsize)
        return log_mu, self.log_dispersion(hidden, batch_labels)

    def log_means(self, scores: Tensor, libsize: Tensor | None) -> Float[Tensor, "cell feature"]:
        """Log of the means from the scores of the features."""
        return scaled(scores, libsize) if self.library else scores.clamp(max=LOG_MU_MAX)

    def log_dispersion(self, hidden: Tensor, batch_labels: Tensor | None) -> Tensor:
        """Log of theta, per feature or per cell and feature."""
        if self.dispersion_head is not None:
            cell_wise: Tensor = self.dispersion_head(hidden).float()
            return cell_wise.clamp(*LOG_THETA_RANGE)
        assert self.log_theta is not None
        log_theta = self.log_theta.clamp(*LOG_THETA_RANGE)
        if len(log_theta) == 1:
            return log_theta[0]
        by_batch: Tensor = self.batch(len(hidden), batch_labels) @ log_theta
        return by_batch

    def params(self, *natural: Tensor) -> Any:
        log_mu, log_theta = natural
        return NBParams(log_mu.exp(), log_theta.exp())

    def from_params(self, params: Any) -> tuple[Tensor, ...]:
        mu, theta = params
        return safe_log(mu), safe_log(theta)

    def likelihood(self, x: Rows | Tensor, *natural: Tensor) -> Float[Tensor, " cell"]:
        return nb_nll(x, *natural)

    def mean(self, params: Any) -> Float[Tensor, "cell feature"]:
        expected: Tensor = params[0]
        return expected

    def sample(self, params: Any, generator: torch.Generator) -> Float[Tensor, "cell feature"]:
        mu, theta = params[0], params[1].expand_as(params[0])
        rate = torch._standard_gamma(theta, generator=generator) * (mu / theta)
        return torch.poisson(rate, generator=generator)

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        totals = sample.totals()
        rates = shares(sample) if self.library else sample
        mean = rates.feature_means()
        self.mean_head.bias.copy_(log_floored(mean))
        target = totals.mean() if self.library else torch.tensor(1.0)
        self.start_dispersion(mean * target, rates.map(torch.square).feature_means() * target**2)

    def start_dispersion(self, mean: Tensor, square: Tensor) -> None:
        """Start theta from the moments of the features."""
        theta = (mean**2 / (square - mean**2 - mean).clamp(min=1e-8)).clamp(0.1, 100.0)
        if self.log_theta is not None:
            self.log_theta.copy_(theta.log().expand_as(self.log_theta))
        elif self.dispersion_head is not None:
            self.dispersion_head.bias.copy_(theta.log())


@DECODERS.register("zero_truncated_nb")
class ZeroTruncatedNBDecoder(NBDecoder):
    """Decoder of counts of which a zero says "not measured": the negative binomial given ``x > 0``, zeros not scored.

    Expected values and draws are those of a count that is measured.

    Parameters
    ----------
    library
        Whether the mean is in proportion to the cell's total, which is that of the measured features alone.
    """

    scores_zeros = False

    def __init__(
        self,
        latent_dim: int,
        out_dim: int,
        n_batches: int = 0,
        n_covariates: int = 0,
        *,
        library: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, n_covariates, library=library, **common)

    def log_means(self, scores: Tensor, libsize: Tensor | None) -> Float[Tensor, "cell feature"]:
        return (offset(scores, libsize) if self.library else scores).clamp(max=LOG_MU_MAX)

    def likelihood(self, x: Rows | Tensor, *natural: Tensor) -> Float[Tensor, " cell"]:
        return positive_nb_nll(x, *natural)

    def mean(self, params: Any) -> Float[Tensor, "cell feature"]:
        mu, theta = _above_underflow(params[0]), params[1]
        expected: Tensor = mu / -(-theta * (mu / theta).log1p()).expm1()
        return expected

    def sample(self, params: Any, generator: torch.Generator) -> Float[Tensor, "cell feature"]:
        # counts as events in [0, 1] at a gamma rate: when the first one falls given that one does, then the others
        mu, theta = _above_underflow(params[0]), params[1].expand_as(params[0])
        ratio = mu / theta
        uniform = torch.rand(mu.shape, generator=generator, device=mu.device)
        seen = -(-theta * ratio.log1p()).expm1()
        first = ((-(-uniform * seen).log1p() / theta).expm1() / ratio).clamp(max=1.0)
        rate = torch._standard_gamma(theta + 1, generator=generator) * (ratio / (1 + ratio * first))
        return 1 + torch.poisson(rate * (1 - first), generator=generator)

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        mean, square = positive_moments(sample)
        self.mean_head.bias.copy_(positive_start(mean, sample, library=self.library))
        self.start_dispersion(mean, square)


def log_library(libsize: Float[Tensor, " cell"]) -> Float[Tensor, " cell"]:
    """Log of the size factors; a cell without counts has a size of 1."""
    return libsize.clamp(min=1.0).log()


def scaled(scores: Tensor, libsize: Tensor | None) -> Float[Tensor, "cell feature"]:
    """Log means that add up to the size factor of each cell (to 1 without any)."""
    return offset(torch.log_softmax(scores, dim=1), libsize)


def offset(scores: Tensor, libsize: Tensor | None) -> Float[Tensor, "cell feature"]:
    """Log means in proportion to the size factor of each cell."""
    return scores if libsize is None else scores + log_library(libsize).unsqueeze(1)


def shares(sample: Rows) -> Rows:
    """Counts as shares of the total of their cell."""
    return sample.scale(cells=sample.totals().clamp(min=1.0).reciprocal())


def log_floored(mean: Float[Tensor, " feature"]) -> Float[Tensor, " feature"]:
    """Log of the means; a feature without counts has half of the least of the others."""
    floor = mean[mean > 0].min() / 2 if bool((mean > 0).any()) else torch.tensor(1e-6)
    return mean.clamp(min=float(floor)).log()


def positive_moments(sample: Rows) -> tuple[Float[Tensor, " feature"], Float[Tensor, " feature"]]:
    """Mean and mean square of the counts above zero of each feature; 1 where it has none."""
    seen = sample.map(lambda x: (x > 0).to(x.dtype)).feature_means()
    moments = (sample.feature_means(), sample.map(torch.square).feature_means())
    mean, square = (torch.where(seen > 0, m / seen.clamp(min=1e-12), 1.0) for m in moments)
    return mean, square


def positive_start(
    mean: Float[Tensor, " feature"], sample: Rows, *, library: bool, iterations: int = 50
) -> Float[Tensor, " feature"]:
    """Log rates of the Poissons that have these means above zero: ``mean = mu / (1 - exp(-mu))`` by iteration."""
    mean = mean.clamp(min=1.02)
    mu = mean - 0.5
    for _ in range(iterations):
        mu = mean * -(-mu).expm1()
    log_mu = mu.clamp(min=0.01).log()
    return log_mu - log_library(sample.totals()).mean() if library else log_mu


def _above_underflow(mu: Tensor) -> Tensor:
    return mu.clamp(min=1e-30)
