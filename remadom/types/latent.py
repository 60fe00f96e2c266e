"""Posteriors and points of the latent space, and the scalars that are logged of them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from remadom.shapes import Float

Logs = dict[str, Tensor]
"""Detached scalars by name, as heads and the objective report them."""


class Posterior(NamedTuple):
    """Diagonal Gaussian q(z|x) per cell; a cell without the modality has ``mu = 0`` and ``logvar = inf``."""

    mu: Float[Tensor, "cell latent"]
    logvar: Float[Tensor, "cell latent"]


class Latent(NamedTuple):
    """Fused posterior and a point of it, as ``fuse()`` and ``embed()`` return them."""

    z_bio: Float[Tensor, "cell latent"]
    mu: Float[Tensor, "cell latent"]
    logvar: Float[Tensor, "cell latent"]
