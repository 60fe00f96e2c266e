"""The shared embedding of many cells."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from remadom.core.vae import MosaicVAE
from remadom.types import Batch, Latent, Posterior


@torch.inference_mode()
def embed_cells(model: MosaicVAE, loader: Iterable[Batch]) -> Latent:
    """Shared embedding of the loader's cells in its order, on the CPU: points are the posterior means."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    parts = [model.embed(batch.to(device)) for batch in loader]
    model.train(training)
    z_bio, mu, logvar = (torch.cat(values).cpu() for values in zip(*parts, strict=True))
    tech = [part.tech for part in parts if part.tech is not None]
    if not tech:
        return Latent(z_bio, mu, logvar)
    of_tech = Posterior(*(torch.cat(values).cpu() for values in zip(*tech, strict=True)))
    return Latent(z_bio, mu, logvar, of_tech.mu, of_tech)
