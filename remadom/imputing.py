"""The verb behind ``remadom impute``: the values of a modality for every cell, with intervals, streamed to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remadom.config.trained import Trained
from remadom.results.imputed import OWN, write_imputed
from remadom.utils.files import refuse_existing


def impute(
    checkpoint: str | Path,
    modality: str,
    out: str | Path,
    data: Any = None,
    *,
    depth: float | None = None,
    batch: str = OWN,
    samples: int = 0,
    intervals: bool = True,
    missing: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the values that a model expects of a modality: an AnnData of cells x features, a block at a time.

    ``X`` holds the denoised expectation; the layers ``lower`` and ``upper`` the ends of an interval that holds 90 % of
    what would be measured, widened by what the run's calibration cells showed (``calibration.npz``), where it has
    any; ``draw_1`` and so on posterior samples of counts. ``obs["measured"]`` says which cells have the modality: their
    values are denoised rather than imputed. ``uns["remadom"]`` says how it was made.

    Parameters
    ----------
    checkpoint
        A run folder or a checkpoint.
    modality
        One that the model decodes.
    out
        h5ad file, or zarr folder.
    data
        File, AnnData, MuData or mapping of AnnData; by default the data that was trained on.
    depth
        Total to scale every cell to; ``None`` leaves the depth of the cell (without the modality: the geometric mean
        of those of its donors, training cells that are like it). Open peaks are probabilities and have none.
    batch
        Batch as which every cell is decoded: ``own``, ``average`` (of those that have the modality) or the name of
        one.
    samples
        Number of posterior samples.
    intervals
        Whether intervals are made; they take most of the time.
    missing
        Only cells that lack the modality.
    overwrite
        Replace ``out``.

    Raises
    ------
    InputError
        No such checkpoint, modality, batch or cells, or ``out`` exists.
    """
    out = Path(out)
    refuse_existing(out, overwrite=overwrite)
    trained = Trained.load(checkpoint)
    return write_imputed(
        trained,
        modality,
        out,
        lambda: trained.source(data),
        depth=depth,
        batch=batch,
        samples=samples,
        intervals=intervals,
        missing=missing,
    )
