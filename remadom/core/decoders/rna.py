"""RNA: zero-inflated negative binomial with library size."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from remadom.core.decoders.base import DECODERS, Decoder, logit, safe_log
from remadom.core.likelihood import library_zinb_nll, zinb_nll
from remadom.shapes import Float, Int
from remadom.types import Rows

LOG_MU_MAX = 15.0
LOG_THETA_RANGE = (-10.0, 14.0)


class ZINBParams(NamedTuple):
    """Parameters of the zero-inflated negative binomial."""

    mu: Float[Tensor, "cell gene"]
    theta: Tensor
    pi: Float[Tensor, "cell gene"]


@DECODERS.register("zinb")
class RNADecoderZINB(Decoder):
    """Decoder of counts with overdispersion and excess zeros: ``mu``, ``theta`` and ``pi`` per cell and gene.

    With ``library`` the mean is ``libsize * softmax(...)`` (Lopez et al. 2018, doi:10.1038/s41592-018-0229-2).

    Parameters
    ----------
    latent_dim, out_dim, n_batches
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
        *,
        hidden: PositiveInt = 128,
        dispersion: Literal["gene", "batch", "cell"] = "gene",
        library: bool = True,
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, hidden)
        self.dispersion, self.library = dispersion, library
        wide = hidden + self.n_batches
        self.mean_head = nn.Linear(wide, out_dim)
        self.inflation_head = nn.Linear(wide, out_dim)
        self.dispersion_head = nn.Linear(wide, out_dim) if dispersion == "cell" else None
        rows = max(1, self.n_batches) if dispersion == "batch" else 1
        self.log_theta = None if dispersion == "cell" else nn.Parameter(torch.zeros(rows, out_dim))

    def natural(self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None) -> tuple[Tensor, ...]:
        scores, log_theta, pi_logit = self._heads(z, batch_labels)
        if not self.library:
            return scores.clamp(max=LOG_MU_MAX), log_theta, pi_logit
        log_mu = torch.log_softmax(scores, dim=1)
        if libsize is not None:
            log_mu = log_mu + log_library(libsize).unsqueeze(1)
        return log_mu, log_theta, pi_logit

    def nll(
        self, x: Rows, z: Tensor, libsize: Tensor | None = None, batch_labels: Tensor | None = None
    ) -> Float[Tensor, " cell"]:
        if not self.library or libsize is None:
            return super().nll(x, z, libsize, batch_labels)
        scores, log_theta, pi_logit = self._heads(z, batch_labels)
        return library_zinb_nll(x, scores, log_library(libsize), log_theta, pi_logit)

    def _heads(self, z: Tensor, batch_labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the means, log of theta, and logit of the inflation."""
        hidden = self.hidden(z, batch_labels)
        pi_logit = self.inflation_head(hidden).float()
        return self.mean_head(hidden).float(), self._log_theta(hidden, batch_labels), pi_logit

    def _log_theta(self, hidden: Tensor, batch_labels: Tensor | None) -> Tensor:
        if self.dispersion_head is not None:
            cell_wise: Tensor = self.dispersion_head(hidden).float()
            return cell_wise.clamp(*LOG_THETA_RANGE)
        assert self.log_theta is not None
        log_theta = self.log_theta.clamp(*LOG_THETA_RANGE)
        if len(log_theta) == 1:
            return log_theta[0]
        by_batch: Tensor = self.batch(len(hidden), batch_labels) @ log_theta
        return by_batch

    def params(self, *natural: Tensor) -> ZINBParams:
        log_mu, log_theta, pi_logit = natural
        return ZINBParams(log_mu.exp(), log_theta.exp(), pi_logit.sigmoid())

    def from_params(self, params: Any) -> tuple[Tensor, ...]:
        mu, theta, pi = params
        return safe_log(mu), safe_log(theta), logit(pi)

    def likelihood(self, x: Rows | Tensor, *natural: Tensor) -> Float[Tensor, " cell"]:
        return zinb_nll(x, *natural)

    def mean(self, params: Any) -> Float[Tensor, "cell gene"]:
        expected: Tensor = params[0] * (1 - params[2])
        return expected

    def sample(self, params: Any, generator: torch.Generator) -> Float[Tensor, "cell gene"]:
        mu, theta, pi = params
        theta = theta.expand_as(mu)
        rate = torch._standard_gamma(theta, generator=generator) * (mu / theta)
        kept = torch.rand(mu.shape, generator=generator, device=mu.device) >= pi
        counts: Tensor = torch.poisson(rate, generator=generator) * kept
        return counts

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        totals = sample.totals()
        rates = sample.scale(cells=totals.clamp(min=1.0).reciprocal()) if self.library else sample
        mean = rates.feature_means()
        floor = mean[mean > 0].min() / 2 if bool((mean > 0).any()) else torch.tensor(1e-6)
        self.mean_head.bias.copy_(mean.clamp(min=float(floor)).log())
        self.inflation_head.bias.fill_(-3.0)
        target = totals.mean() if self.library else torch.tensor(1.0)
        expected = mean * target
        excess = rates.map(torch.square).feature_means() * target**2 - expected**2 - expected
        theta = (expected**2 / excess.clamp(min=1e-8)).clamp(0.1, 100.0)
        if self.log_theta is not None:
            self.log_theta.copy_(theta.log().expand_as(self.log_theta))
        elif self.dispersion_head is not None:
            self.dispersion_head.bias.copy_(theta.log())


def log_library(libsize: Float[Tensor, " cell"]) -> Float[Tensor, " cell"]:
    """Log of the size factors; a cell without counts has a size of 1."""
    return libsize.clamp(min=1.0).log()
