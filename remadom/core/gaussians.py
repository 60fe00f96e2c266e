"""Diagonal Gaussians: their divergences, and samples of them."""

from __future__ import annotations

import torch
from torch import Tensor

from remadom.shapes import Float
from remadom.types import Posterior


def kl_to_prior(
    mu: Float[Tensor, "cell latent"], logvar: Float[Tensor, "cell latent"]
) -> Float[Tensor, " cell"]:
    """KL divergence from ``N(mu, exp(logvar))`` to the standard normal, nats per cell."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)


def kl_between(posterior: Posterior, prior: Posterior) -> Float[Tensor, " cell"]:
    """KL divergence from one diagonal Gaussian to another, nats per cell."""
    scale = (-0.5 * prior.logvar).exp()
    return kl_to_prior((posterior.mu - prior.mu) * scale, posterior.logvar - prior.logvar)


def drawn(
    mu: Float[Tensor, "cell latent"],
    logvar: Float[Tensor, "cell latent"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "cell latent"]:
    """A sample of each cell's Gaussian."""
    return mu + torch.randn(mu.shape, generator=generator, device=mu.device) * (0.5 * logvar).exp()
