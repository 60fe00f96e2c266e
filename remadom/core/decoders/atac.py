"""ATAC: Bernoulli of open peaks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from remadom.core.decoders.base import DECODERS, affine, logit
from remadom.core.decoders.counts import log_library
from remadom.core.decoders.scores import ScoreDecoder
from remadom.core.likelihood import Affine, bernoulli_nll, opened_nll, whole
from remadom.shapes import Float, Int
from remadom.types import Rows


class BernoulliParams(NamedTuple):
    """Logit and probability of an open peak."""

    logits: Float[Tensor, "cell peak"]
    p: Float[Tensor, "cell peak"]


@DECODERS.register("bernoulli")
class ATACDecoderBernoulli(ScoreDecoder):
    """Decoder of open and closed peaks: ``logits`` and ``p`` per cell and peak; counts above 0 are open.

    With ``depth`` the probability is that of at least one of Poisson many fragments, ``p = 1 - exp(-depth * rate)``,
    which is exact for binarized fragment counts and stays below 1 at any depth (complementary log-log link,
    McCullagh and Nelder 1989, Generalized Linear Models, section 4.3). The depth of a cell is its total over the
    peaks, as for Poisson counts of fragments (Martens et al. 2024, doi:10.1038/s41592-023-02112-6).

    Parameters
    ----------
    depth
        Whether the cell's total is given to the decoder, so that it need not be in ``z``.
    """

    support = "events"

    def __init__(
        self,
        latent_dim: int,
        out_dim: int,
        n_batches: int = 0,
        n_covariates: int = 0,
        *,
        depth: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, n_covariates, **common)
        self.library = depth

    def natural(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, ...]:
        return tuple(map(whole, self.layers(z, libsize, batch_labels, covariates)))

    def layers(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Any, ...]:
        depth = log_library(libsize) if self.library and libsize is not None else None
        return (affine(self.head, self.squeezed(z, batch_labels, covariates), depth),)

    def params(self, *natural: Tensor) -> BernoulliParams:
        (scores,) = natural
        if not self.library:
            return BernoulliParams(scores, scores.sigmoid())
        p = -(-scores.exp()).expm1()
        return BernoulliParams(logit(p), p)

    def from_params(self, params: Any) -> tuple[Tensor, ...]:
        logits: Tensor = params[0]
        if not self.library:
            return (logits,)
        # -log(1 - p) is softplus(logit), and the logit itself where that is exp(logit)
        return (torch.where(logits < -15, logits, torch.nn.functional.softplus(logits).log()),)

    def likelihood(self, x: Rows | Tensor, *natural: Tensor | Affine) -> Float[Tensor, " cell"]:
        return opened_nll(x, *natural) if self.library else bernoulli_nll(x, *natural)

    def mean(self, params: Any) -> Float[Tensor, "cell peak"]:
        probability: Tensor = params[1]
        return probability

    def sample(self, params: Any, generator: torch.Generator) -> Float[Tensor, "cell peak"]:
        return torch.bernoulli(params[1], generator=generator)

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        share = sample.map(lambda x: (x > 0).to(x.dtype)).feature_means()
        least = 0.5 / max(1, len(sample))
        share = share.clamp(least, 1 - least)
        if self.library:
            depth = log_library(sample.totals()).exp().mean()
            self.head.bias.copy_((-(-share).log1p()).log() - depth.log())
        else:
            self.head.bias.copy_(logit(share))
