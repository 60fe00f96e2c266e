"""ADT: a background and a foreground Poisson for each protein."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from remadom.core.decoders.base import DECODERS, Decoder, logit, safe_log
from remadom.core.likelihood import poisson_mixture_nll
from remadom.shapes import Float, Int
from remadom.types import Rows

LOG_RATE_MAX = 15.0
LOG_RATE_MIN = -10.0


class MixtureParams(NamedTuple):
    """Rates of background and foreground, and the foreground's share."""

    mu_b: Float[Tensor, "cell protein"]
    mu_f: Float[Tensor, "cell protein"]
    alpha: Float[Tensor, "cell protein"]


@DECODERS.register("poisson_mixture")
class ADTMixtureDecoder(Decoder):
    """Decoder of protein counts that are background or signal: ``mu_b``, ``mu_f`` and ``alpha``.

    The background starts, per protein and batch, from the lower mode of the data; the foreground is above it
    by construction, and ``alpha`` is the learned probability of foreground (after Gayoso et al. 2021,
    doi:10.1038/s41592-020-01050-x, with Poisson components).

    Parameters
    ----------
    latent_dim, out_dim, n_batches
        Sizes, see :class:`Decoder`.
    hidden
        Width of the hidden layer.
    """

    def __init__(
        self, latent_dim: int, out_dim: int, n_batches: int = 0, *, hidden: PositiveInt = 128
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, hidden)
        wide = hidden + self.n_batches
        self.background_head = nn.Linear(wide, out_dim)
        self.ratio_head = nn.Linear(wide, out_dim)
        self.mixing_head = nn.Linear(wide, out_dim)

    def natural(self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None) -> tuple[Tensor, ...]:
        hidden = self.hidden(z, batch_labels)
        log_background = self.background_head(hidden).float().clamp(LOG_RATE_MIN, LOG_RATE_MAX)
        log_ratio = F.softplus(self.ratio_head(hidden).float())
        log_foreground = (log_background + log_ratio).clamp(max=LOG_RATE_MAX)
        return log_background, log_foreground, self.mixing_head(hidden).float()

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
        mu_b, mu_f, alpha = params
        signal = torch.rand(alpha.shape, generator=generator, device=alpha.device) < alpha
        return torch.poisson(torch.where(signal, mu_f, mu_b), generator=generator)

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        logs = sample.dense().log1p()
        low, high, share = lower_and_upper_mode(logs)
        self.background_head.bias.copy_(low.expm1().clamp(min=0.1).log())
        ratio = (high.expm1().clamp(min=0.1).log() - self.background_head.bias).clamp(min=0.1)
        self.ratio_head.bias.copy_(ratio.expm1().log())  # inverse of softplus
        self.mixing_head.bias.copy_(logit(share.clamp(0.05, 0.95)))
        if self.n_batches and batch_labels is not None:
            offsets = self.background_head.weight[:, -self.n_batches :]
            for code in range(self.n_batches):
                cells = logs[batch_labels == code]
                if len(cells) > 1:
                    rate = lower_and_upper_mode(cells)[0].expm1().clamp(min=0.1).log()
                    offsets[:, code] = rate - self.background_head.bias


def lower_and_upper_mode(
    logs: Float[Tensor, "cell protein"], iterations: int = 20
) -> tuple[Float[Tensor, " protein"], Float[Tensor, " protein"], Float[Tensor, " protein"]]:
    """Centers of a two-means clustering of each column, and the share of the upper cluster."""
    low, high = logs.quantile(0.1, dim=0), logs.quantile(0.95, dim=0)
    share = torch.full_like(low, 0.5)
    for _ in range(iterations):
        upper = (logs - low).abs() > (logs - high).abs()
        count = upper.sum(0)
        share = count / len(logs)
        low = torch.where(count < len(logs), (logs * ~upper).sum(0) / (len(logs) - count).clamp(min=1), low)
        high = torch.where(count > 0, (logs * upper).sum(0) / count.clamp(min=1), high)
    return low, high, share
