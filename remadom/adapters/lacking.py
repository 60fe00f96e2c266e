"""A model for cells in which some of its features were not measured: left out, not read as zeros."""

from __future__ import annotations

import numpy as np
import torch

from remadom.core.vae import MosaicVAE


@torch.no_grad()
def leave_out(
    model: MosaicVAE, modality: str, present: np.ndarray, share: float, *, reads_features: bool
) -> None:
    """Make a model ready for cells that lack features of a modality, which they have as zeros; in place.

    The encoder takes the mean of the training cells for what is lacking, and depth by what a training cell would have
    counted in the features that are there. What these say is made larger by the root of all features over those that
    are there: the sum over fewer would otherwise tell cells less apart than in training. The decoder is scored on these
    only; it still predicts all.

    Parameters
    ----------
    model
        A copy of the reference's.
    modality
        Which.
    present
        Whether each feature is there.
    share
        Share of the counts of a training cell in the features that are there.
    reads_features
        Whether the encoder reads the features themselves, not components of them.
    """
    there = torch.from_numpy(present).to(next(model.parameters()).device)
    if bool(there.all()):
        return
    if modality in model.encoders and reads_features:
        encoder = model.encoder(modality)
        encoder.transform.lacking(there, share)
        center, weight = encoder.transform.center, encoder.first.whole()
        gain = float((~there).sum() / there.sum() + 1) ** 0.5
        encoder.first.bias.add_(
            center[~there] @ weight[~there] + (1 - gain) * (center[there] @ weight[there])
        )
        encoder.first.grow(there, gain)
    if modality in model.decoders:
        model.decoder(modality).scored = there.nonzero().squeeze(1)
