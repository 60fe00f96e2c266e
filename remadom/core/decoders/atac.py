"""ATAC: Bernoulli of open peaks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from remadom.core.decoders.base import DECODERS, Decoder, logit
from remadom.core.likelihood import bernoulli_nll
from remadom.shapes import Float, Int
from remadom.types import Rows


class BernoulliParams(NamedTuple):
    """Logit and probability of an open peak."""

    logits: Float[Tensor, "cell peak"]
    p: Float[Tensor, "cell peak"]


@DECODERS.register("bernoulli")
class ATACDecoderBernoulli(Decoder):
    """Decoder of open and closed peaks: ``logits`` and ``p`` per cell and peak; counts above 0 are open.

    Parameters
    ----------
    latent_dim, out_dim, n_batches
        Sizes, see :class:`Decoder`.
    hidden
        Width of the hidden layer.
    lowrank
        Rank of the output layer: memory and time fall from ``hidden`` to ``lowrank`` numbers per peak; null
        is full rank.
    """

    integers = False

    def __init__(
        self,
        latent_dim: int,
        out_dim: int,
        n_batches: int = 0,
        *,
        hidden: PositiveInt = 128,
        lowrank: PositiveInt | None = None,
    ) -> None:
        super().__init__(latent_dim, out_dim, n_batches, hidden)
        self.squeeze = None if lowrank is None else nn.Linear(hidden, lowrank, bias=False)
        self.head = nn.Linear((lowrank or hidden) + self.n_batches, out_dim)

    def natural(self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None) -> tuple[Tensor, ...]:
        hidden = self.hidden(z, batch_labels)
        if self.squeeze is not None:
            width = self.squeeze.in_features
            hidden = torch.cat([self.squeeze(hidden[:, :width]), hidden[:, width:]], dim=1)
        return (self.head(hidden).float(),)

    def params(self, *natural: Tensor) -> BernoulliParams:
        (logits,) = natural
        return BernoulliParams(logits, logits.sigmoid())

    def from_params(self, params: Any) -> tuple[Tensor, ...]:
        return (params[0],)

    def likelihood(self, x: Rows | Tensor, *natural: Tensor) -> Float[Tensor, " cell"]:
        return bernoulli_nll(x, *natural)

    def mean(self, params: Any) -> Float[Tensor, "cell peak"]:
        probability: Tensor = params[1]
        return probability

    def sample(self, params: Any, generator: torch.Generator) -> Float[Tensor, "cell peak"]:
        return torch.bernoulli(params[1], generator=generator)

    @torch.no_grad()
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        share = sample.map(lambda x: (x > 0).to(x.dtype)).feature_means()
        least = 0.5 / max(1, len(sample))
        self.head.bias.copy_(logit(share.clamp(least, 1 - least)))
