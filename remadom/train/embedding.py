"""The shared embedding of many cells."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from remadom.core.vae import MosaicVAE
from remadom.types import Batch, Latent


@torch.inference_mode()
def embed_cells(model: MosaicVAE, loader: Iterable[Batch]) -> Latent:
    """Shared embedding of the loader's cells in its order, on the CPU: ``z_bio`` is the posterior mean."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    parts = [model.embed(batch.to(device)) for batch in loader]
    model.train(training)
    return Latent(*(torch.cat([part[i] for part in parts]).cpu() for i in range(3)))
