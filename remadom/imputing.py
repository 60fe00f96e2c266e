"""The verb behind ``remadom impute``: the values of a modality for every cell, with intervals, streamed to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from remadom.config.trained import Trained
from remadom.data.writer import streamed
from remadom.errors import InputError, nearest
from remadom.eval.intervals import widened
from remadom.results.imputation import LEVEL
from remadom.train.imputation import AVERAGE, impute_cells
from remadom.utils.outputs import CALIBRATION, METRICS

OWN, MEAN = "own", "average"


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
        Total to scale every cell to; ``None`` leaves the depth of the cell (without the modality: the median of the
        training cells). Open peaks are probabilities and have none.
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
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists; choose another --out, or give --overwrite")
    trained = Trained.load(checkpoint)
    model = trained.model
    if modality not in model.decoders:
        raise InputError(f"the model has no decoder of '{modality}': {nearest(modality, model.decoders)}")
    binary = not model.decoder(modality).integers
    if depth is not None and (binary or depth <= 0):
        what = "probabilities have no depth" if binary else f"found {depth:g}"
        raise InputError(f"depth: {what}; leave it out, or give a total above 0 for counts")
    as_batch = _as_batch(batch, trained.groups["batch"])
    source = trained.source(data)
    has = source.has.get(modality, np.zeros(source.n_cells, dtype=bool))
    cells = np.flatnonzero(~has) if missing else np.arange(source.n_cells)
    if not len(cells):
        raise InputError(f"every cell has {modality}; leave out --missing to denoise what was measured")
    widths = _widths(trained.path, modality) if intervals else None
    layers = [*(["lower", "upper"] if intervals else []), *(f"draw_{i + 1}" for i in range(samples))]
    obs = source.obs.iloc[cells].copy()
    obs["measured"] = has[cells]
    about = {
        "model": str(trained.path),
        "modality": modality,
        "batch": batch,
        "depth": "each cell's own" if depth is None else depth,
        "level": LEVEL if intervals else "no intervals",
        "calibrated": widths is not None,
        "coverage_90": _measured_coverage(trained.path, modality),
    }
    totals = None if depth is None else np.full(source.n_cells, depth, dtype=np.float32)
    features = pd.DataFrame(index=pd.Index(trained.prepared.features[modality], dtype=object))
    with streamed(out, _writable(obs), features, layers=layers, uns={"remadom": about}) as blocks:
        for block in impute_cells(
            model,
            trained.loader(source, cells),
            modality,
            totals=totals,
            as_batch=as_batch,
            levels=(LEVEL,) if intervals else (),
            n_drawn=samples,
            seed=trained.config.optim.seed,
        ):
            expected, ends = block.expected, list(block.intervals.get(LEVEL, ()))
            if ends and widths is not None:
                ends = list(widened(ends[0], ends[1], widths))
            if binary:
                ends = [np.minimum(end, 1) for end in ends]
            if depth is not None:
                factor = depth / np.maximum(expected.sum(1, keepdims=True), np.finfo(np.float32).tiny)
                expected, ends = expected * factor, [end * factor for end in ends]
            values = [expected, *ends, *block.drawn]
            blocks.append(**dict(zip(["X", *layers], values, strict=True)))
    return out


def _as_batch(batch: str, names: tuple[str, ...]) -> int | None:
    """Code of the batch to decode as; ``None`` for each cell's own."""
    if batch == OWN:
        return None
    if batch == MEAN:
        return AVERAGE
    if batch not in names:
        raise InputError(f"batch '{batch}': {nearest(batch, [OWN, MEAN, *names])}")
    return names.index(batch)


def _widths(checkpoint: Path, modality: str) -> np.ndarray | None:
    path = checkpoint.with_name(CALIBRATION)
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        widths: np.ndarray | None = arrays.get(modality)
    return widths


def _measured_coverage(checkpoint: Path, modality: str) -> float | str:
    """Share of held-out values that lay in the run's 90 % intervals, where that was measured."""
    path = checkpoint.with_name(METRICS)
    if not path.exists():
        return "not measured"
    scores = json.loads(path.read_text())["evaluation"].get("imputation", {}).get(modality, {})
    share: float | str = scores.get("coverage_90", "not measured")
    return share


def _writable(obs: pd.DataFrame) -> pd.DataFrame:
    """The same table with columns of mixed values as text, which is what a file can hold."""
    mixed = [name for name in obs if obs[name].dtype == object]
    return obs.assign(**{str(name): obs[name].astype(str).astype("category") for name in mixed})
