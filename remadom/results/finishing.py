"""The correction of a run's embedding: fitted to its cells, kept with it."""

from __future__ import annotations

import numpy as np

from remadom.config.build import Assembly
from remadom.core.correction import BatchCorrection
from remadom.train.correction import fit_correction
from remadom.train.embedding import embed_cells
from remadom.utils.seed import derive


def correct(assembly: Assembly) -> BatchCorrection | None:
    """Fit the correction of a trained model to all cells, and give it to the model.

    ``None`` where it is switched off, where there is one batch, and where no cell links the modalities: what sets
    batches apart is then what sets modalities apart, and clusters could only guess which belong together.
    """
    source, model = assembly.source, assembly.model
    model.correction = None
    n_batches = len(assembly.groups["batch"][1])
    most = np.sum([source.has[m] for m in source.modalities], axis=0).max()
    linked = len(source.modalities) == 1 or most > 1
    if not assembly.config.model.correction or n_batches < 2 or not linked:
        return None
    z = embed_cells(model, assembly.loader(np.arange(source.n_cells))).mu.numpy()
    seed = derive(assembly.config.optim.seed, "correction")
    found = fit_correction(z, assembly.groups["batch"][0], n_batches, seed)
    model.correction = None if found is None else found.to(next(model.parameters()).device)
    return found


def correction_arrays(found: BatchCorrection) -> dict[str, np.ndarray]:
    """Arrays of ``correction.npz``."""
    return {name: value.cpu().numpy() for name, value in found.state_dict().items()}
