"""RNA: zero-inflated negative binomial with library size."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from remadom.core.decoders.base import DECODERS, affine, logit, safe_log
from remadom.core.decoders.counts import NBDecoder, log_library
from remadom.core.likelihood import library_zinb_nll, zinb_nll
from remadom.shapes import Float, Int
from remadom.types import Rows


class ZINBParams(NamedTuple):
    """Parameters of the zero-inflated negative binomial."""

    mu: Float[Tensor, "cell gene"]
    theta: Tensor
    pi: Tensor


@DECODERS.register("zinb")
class RNADecoderZINB(NBDecoder):
    """Decoder of counts with overdispersion and excess zeros: ``mu``, ``theta`` and ``pi`` per cell and gene.

    With ``library`` the mean is ``libsize * softmax(...)`` (Lopez et al. 2018, doi:10.1038/s41592-018-0229-2).

    Parameters
    ----------
    inflation
        What has its own probability ``pi`` of an excess zero: each gene in each ``cell`` (predicted from ``z``), or
        each ``gene``, which halves the output layer.
    """

    def __init__(
        self,
        latent_dim: int,
        out_dim: int,
        n_batches: int = 0,
        n_covariates: int = 0,
        *,
        inflation: Literal["gene", "cell"] = "cell",
        **common: Any,
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, n_covariates, **common)
        self.inflation_head: nn.Linear | SharedHead = (
            nn.Linear(self.mean_head.in_features, out_dim) if inflation == "cell" else SharedHead(out_dim)
        )

    def natural(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, ...]:
        hidden = self.hidden(z, batch_labels, covariates)
        log_mu = self.log_means(self.mean_head(hidden).float(), libsize)
        return log_mu, self.log_dispersion(hidden, batch_labels), self.inflation_head(hidden).float()

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
        hidden = self.hidden(z, batch_labels, covariates)
        log_theta = self.log_dispersion(hidden, batch_labels)
        scores, pi_logit = (affine(head, hidden) for head in (self.mean_head, self.inflation_head))
        return library_zinb_nll(x, scores, log_library(libsize), log_theta, pi_logit)

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


class SharedHead(nn.Module):
    """An output layer that says the same of every cell: one number a feature, whatever its inputs."""

    def __init__(self, out_dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(out_dim))

    def forward(self, inputs: Tensor) -> Float[Tensor, " feature"]:
        """The numbers of the features."""
        return self.bias
