"""Posteriors and points of the latent space, and the scalars that are logged of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from remadom.shapes import Float

Logs = dict[str, Tensor]
"""Detached scalars by name, as heads and the objective report them."""


class Posterior(NamedTuple):
    """Diagonal Gaussian q(z|x) per cell; a cell without the modality has ``mu = 0`` and ``logvar = inf``."""

    mu: Float[Tensor, "cell latent"]
    logvar: Float[Tensor, "cell latent"]


@dataclass(frozen=True, eq=False)
class Latent:
    """Fused posterior and a point of it, as ``fuse()`` and ``embed()`` return them.

    It unpacks as ``z_bio, mu, logvar``. ``z_tech`` and its posterior ``tech`` are there where the model has a
    technical latent space.
    """

    z_bio: Float[Tensor, "cell latent"]
    mu: Float[Tensor, "cell latent"]
    logvar: Float[Tensor, "cell latent"]
    z_tech: Float[Tensor, "cell tech"] | None = None
    tech: Posterior | None = None

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.z_bio, self.mu, self.logvar))
