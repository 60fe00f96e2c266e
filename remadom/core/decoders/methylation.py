"""Methylation: fractions from 0 to 1, both ends included."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from remadom.core.decoders.base import DECODERS, logit, safe_log
from remadom.core.decoders.scores import ScoreDecoder
from remadom.core.likelihood import ordered_beta_nll
from remadom.shapes import Float, Int
from remadom.types import Rows

SCORE_MAX = 15.0
LOG_PRECISION_RANGE = (-2.0, 10.0)
LOG_GAP_RANGE = (-4.0, 4.0)


class OrderedBetaParams(NamedTuple):
    """Mean and precision of the values between 0 and 1, and the cut points of the logit below which a value is 0 and
    above which it is 1.
    """

    mean: Float[Tensor, "cell feature"]
    precision: Float[Tensor, " feature"]
    lower: Float[Tensor, " feature"]
    upper: Float[Tensor, " feature"]


@DECODERS.register("beta")
class BetaDecoder(ScoreDecoder):
    """Decoder of fractions, such as of methylated reads: ``mean`` per cell and feature, ``precision`` and two cut
    points per feature.

    Values between 0 and 1 are beta; exact zeros and ones have probabilities of their own that follow the same score
    (ordered beta regression, Kubinec 2023, doi:10.1017/pan.2022.20), so that no value is moved.
    """

    support = "fractions"

    def __init__(
        self, latent_dim: int, out_dim: int, n_batches: int = 0, n_covariates: int = 0, **common: Any
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, n_covariates, **common)
        self.log_precision = nn.Parameter(torch.zeros(out_dim))
        self.lower = nn.Parameter(torch.full((out_dim,), -2.0))
        self.log_gap = nn.Parameter(torch.ones(out_dim))

    def natural(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, ...]:
        scores = self.scores(z, batch_labels, covariates).clamp(-SCORE_MAX, SCORE_MAX)
        log_precision = self.log_precision.clamp(*LOG_PRECISION_RANGE)
        return scores, log_precision, self.lower, self.log_gap.clamp(*LOG_GAP_RANGE)

    def params(self, *natural: Tensor) -> OrderedBetaParams:
        scores, log_precision, lower, log_gap = natural
        return OrderedBetaParams(scores.sigmoid(), log_precision.exp(), lower, lower + log_gap.exp())

    def from_params(self, params: Any) -> tuple[Tensor, ...]:
        mean, precision, lower, upper = params
        return logit(mean), safe_log(precision), lower, safe_log(upper - lower)

    def likelihood(self, x: Rows | Tensor, *natural: Tensor) -> Float[Tensor, " cell"]:
        return ordered_beta_nll(x, *natural)

    def mean(self, params: Any) -> Float[Tensor, "cell feature"]:
        above, one = self.ends(params)
        expected: Tensor = one + (above - one) * params[0]
        return expected

    @staticmethod
    def ends(params: Any) -> tuple[Float[Tensor, "cell feature"], Float[Tensor, "cell feature"]]:
        """Probabilities that a value is above 0, and that it is 1."""
        mean, _, lower, upper = params
        score = logit(mean)
        return (score - lower).sigmoid(), (score - upper).sigmoid()

    def sample(self, params: Any, generator: torch.Generator) -> Float[Tensor, "cell feature"]:
        mean, precision = params[0].double(), params[1].double()
        above, one = self.ends(params)
        a, b = (torch._standard_gamma(m * precision, generator=generator) for m in (mean, 1 - mean))
        between = (a / (a + b).clamp(min=torch.finfo(a.dtype).tiny)).to(above.dtype)
        uniform = torch.rand(above.shape, generator=generator, device=above.device)
        return torch.where(uniform < one, 1.0, torch.where(uniform < above, between, 0.0))

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        least = 0.5 / max(1, len(sample))
        above = sample.map(lambda x: (x > 0).to(x.dtype)).feature_means()
        one = sample.map(lambda x: (x >= 1).to(x.dtype)).feature_means()
        between = sample.map(lambda x: torch.where(x < 1, x, 0.0))
        n = (above - one).clamp(min=1e-12)
        some = above > one
        mean = torch.where(some, between.feature_means() / n, 0.5).clamp(0.01, 0.99)
        square = torch.where(some, between.map(torch.square).feature_means() / n, 0.3)
        precision = mean * (1 - mean) / (square - mean.square()).clamp(min=1e-4) - 1
        self.head.bias.copy_(logit(mean))
        self.log_precision.copy_(precision.clamp(0.5, 500.0).log())
        self.lower.copy_(self.head.bias - logit(above.clamp(least, 1 - least)))
        gap = logit(above.clamp(least, 1 - least)) - logit(one.clamp(least, 1 - least))
        self.log_gap.copy_(gap.clamp(min=0.1).log())
