"""Counts without overdispersion: Poisson, of the fragments of ATAC or of molecules."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from remadom.core.decoders.base import DECODERS, safe_log
from remadom.core.decoders.counts import (
    LOG_MU_MAX,
    log_floored,
    offset,
    positive_moments,
    positive_start,
    scaled,
    shares,
)
from remadom.core.decoders.scores import ScoreDecoder
from remadom.core.likelihood import poisson_nll, positive_poisson_nll
from remadom.shapes import Float, Int
from remadom.types import Rows


class PoissonParams(NamedTuple):
    """Expected count."""

    mu: Float[Tensor, "cell feature"]


@DECODERS.register("poisson")
class PoissonDecoder(ScoreDecoder):
    """Decoder of counts by their rate ``mu``: fragments of ATAC keep what "open or closed" loses (Martens et al. 2024,
    doi:10.1038/s41592-023-02112-6).

    With ``library`` the rate is ``libsize * softmax(...)``: the cell's total (of ATAC: its fragments in peaks) is
    given to the decoder.

    Parameters
    ----------
    library
        Whether the rate scales with the cell's total; without it the rate is predicted as it is.
    """

    def __init__(
        self,
        latent_dim: int,
        out_dim: int,
        n_batches: int = 0,
        n_covariates: int = 0,
        *,
        library: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, n_covariates, **common)
        self.library = library

    def natural(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, ...]:
        scores = self.scores(z, batch_labels, covariates)
        return (scaled(scores, libsize) if self.library else scores.clamp(max=LOG_MU_MAX),)

    def params(self, *natural: Tensor) -> PoissonParams:
        return PoissonParams(natural[0].exp())

    def from_params(self, params: Any) -> tuple[Tensor, ...]:
        return (safe_log(params[0]),)

    def likelihood(self, x: Rows | Tensor, *natural: Tensor) -> Float[Tensor, " cell"]:
        return poisson_nll(x, *natural)

    def mean(self, params: Any) -> Float[Tensor, "cell feature"]:
        expected: Tensor = params[0]
        return expected

    def sample(self, params: Any, generator: torch.Generator) -> Float[Tensor, "cell feature"]:
        return torch.poisson(params[0], generator=generator)

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        rates = shares(sample) if self.library else sample
        self.head.bias.copy_(log_floored(rates.feature_means()))


@DECODERS.register("zero_truncated_poisson")
class ZeroTruncatedPoissonDecoder(PoissonDecoder):
    """Decoder of counts of which a zero says "not measured": the Poisson given ``x > 0``, zeros not scored.

    Expected values and draws are those of a count that is measured.

    Parameters
    ----------
    library
        Whether the rate is in proportion to the cell's total, which is that of the measured features alone.
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

    def natural(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, ...]:
        scores = self.scores(z, batch_labels, covariates)
        return ((offset(scores, libsize) if self.library else scores).clamp(max=LOG_MU_MAX),)

    def likelihood(self, x: Rows | Tensor, *natural: Tensor) -> Float[Tensor, " cell"]:
        return positive_poisson_nll(x, *natural)

    def mean(self, params: Any) -> Float[Tensor, "cell feature"]:
        mu: Tensor = params[0].clamp(min=1e-30)
        return mu / -(-mu).expm1()

    def sample(self, params: Any, generator: torch.Generator) -> Float[Tensor, "cell feature"]:
        # counts as events in [0, 1]: when the first one falls given that one does, then the others
        mu: Tensor = params[0].clamp(min=1e-30)
        uniform = torch.rand(mu.shape, generator=generator, device=mu.device)
        first = (-(uniform * (-mu).expm1()).log1p() / mu).clamp(max=1.0)
        return 1 + torch.poisson(mu * (1 - first), generator=generator)

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        mean, _ = positive_moments(sample)
        self.head.bias.copy_(positive_start(mean, sample, library=self.library))
