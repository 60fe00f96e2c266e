"""What an embedding goes through after training: a correction of its batches, coordinates of what it decodes to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from remadom.config.build import Assembly
from remadom.config.model import library_of
from remadom.core.coordinates import DecodedCoordinates
from remadom.core.correction import BatchCorrection
from remadom.train.coordinates import fit_coordinates, in_coordinates
from remadom.train.correction import fit_correction
from remadom.train.embedding import embed_cells
from remadom.utils.outputs import COORDINATES, CORRECTION
from remadom.utils.seed import derive


def finish(assembly: Assembly) -> dict[str, dict[str, np.ndarray]]:
    """Fit both to all cells of a trained model, and give them to it: the arrays of their files, by name of the file."""
    model, device = assembly.model, next(assembly.model.parameters()).device
    model.correction = model.coordinates = None
    z = embed_cells(model, assembly.loader(np.arange(assembly.source.n_cells))).mu
    found: dict[str, dict[str, np.ndarray]] = {}
    correction = _correction(assembly, z)
    if correction is not None:
        z = correction(z, torch.from_numpy(assembly.groups["batch"][0]))
        model.correction, found[CORRECTION] = correction.to(device), _arrays(correction)
    coordinates = _coordinates(assembly, z)
    if coordinates is not None:
        model.coordinates = coordinates.to(device)
        if correction is not None:
            coordinates.correction = _correction(assembly, in_coordinates(model, z))
        found[COORDINATES] = _arrays(coordinates.to(device))
    return found


def _correction(assembly: Assembly, z: Tensor) -> BatchCorrection | None:
    """``None`` where it is switched off, where there is one batch, and where no cell links the modalities.

    What sets batches apart is then what sets modalities apart, and clusters could only guess which belong together.
    """
    source, (codes, names) = assembly.source, assembly.groups["batch"]
    most = np.sum([source.has[m] for m in source.modalities], axis=0).max()
    linked = len(source.modalities) == 1 or most > 1
    if not assembly.config.model.correction or len(names) < 2 or not linked:
        return None
    return fit_correction(z.numpy(), codes, len(names), derive(assembly.config.optim.seed, "correction"))


def _coordinates(assembly: Assembly, z: Tensor) -> DecodedCoordinates | None:
    if assembly.config.model.coordinates == "latent":
        return None
    seed = derive(assembly.config.optim.seed, "coordinates")
    return fit_coordinates(assembly.model, z, library_of(assembly.model, assembly.prepared), seed)


def _arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy() for name, value in module.state_dict().items()}
