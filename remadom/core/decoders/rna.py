"""RNA: zero-inflated negative binomial with library size."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from remadom.core.decoders.base import DECODERS, logit, safe_log
from remadom.core.decoders.counts import NBDecoder, log_library
from remadom.core.likelihood import library_zinb_nll, zinb_nll
from remadom.shapes import Float, Int
from remadom.types import Rows


class ZINBParams(NamedTuple):
    """Parameters of the zero-inflated negative binomial."""

    mu: Float[Tensor, "cell gene"]
    theta: Tensor
    pi: Float[Tensor, "cell gene"]


@DECODERS.register("zinb")
class RNADecoderZINB(NBDecoder):
    """Decoder of counts with overdispersion and excess zeros: ``mu``, ``theta`` and ``pi`` per cell and gene.

    With ``library`` the mean is ``libsize * softmax(...)`` (Lopez et al. 2018, doi:10.1038/s41592-018-0229-2).
    """

    def __init__(
        self, latent_dim: int, out_dim: int, n_batches: int = 0, n_covariates: int = 0, **common: Any
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, n_covariates, **common)
        self.inflation_head = nn.Linear(self.mean_head.in_features, out_dim)

    def natural(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, ...]:
        scores, log_theta, pi_logit = self._heads(z, batch_labels, covariates)
        return self.log_means(scores, libsize), log_theta, pi_logit

    def nll(
        self,
        x: Rows,
        z: Tensor,
        libsize: Tensor | None = None,
        batch_labels: Tensor | None = None,
        covariates: Tensor | None = None,
    ) -> Float[Tensor, " cell"]:
        if not self.library or libsize is None or self.scored is not None:
            return super().nll(x, z, libsize, batch_labels, covariates)
        scores, log_theta, pi_logit = self._heads(z, batch_labels, covariates)
        return library_zinb_nll(x, scores, log_library(libsize), log_theta, pi_logit)

    def _heads(
        self, z: Tensor, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the means, log of theta, and logit of the inflation."""
        hidden = self.hidden(z, batch_labels, covariates)
        pi_logit = self.inflation_head(hidden).float()
        return self.mean_head(hidden).float(), self.log_dispersion(hidden, batch_labels), pi_logit

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
        counts = super().sample(params[:2], generator)
        kept = torch.rand(counts.shape, generator=generator, device=counts.device) >= params[2]
        kept_counts: Tensor = counts * kept
        return kept_counts

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        super().start_from(sample, batch_labels)
        self.inflation_head.bias.fill_(-3.0)
