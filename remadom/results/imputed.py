"""Imputed values written to a file, a block of cells at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import numpy as np
import pandas as pd

from remadom.config.trained import Trained
from remadom.data.source import Source
from remadom.data.writer import streamed
from remadom.errors import InputError, nearest
from remadom.eval.intervals import shifted, widened
from remadom.eval.scales import scale_of
from remadom.results.donors import depths, donated
from remadom.results.intervals import LEVEL, Widths, measured_in
from remadom.results.kept_donors import load_donors
from remadom.train.imputation import AVERAGE, impute_cells

OWN, MEAN = "own", "average"
OWN_DEPTH = "each cell's own; without the modality, that of its donors"


def write_imputed(
    trained: Trained,
    modality: str,
    out: Path,
    opened: Callable[[], Source],
    *,
    depth: float | None = None,
    batch: str = OWN,
    samples: int = 0,
    intervals: bool = True,
    missing: bool = False,
) -> Path:
    """Write what a model expects of a modality for each cell; see :func:`remadom.imputing.impute`.

    Parameters
    ----------
    trained
        The model.
    modality
        One that it decodes.
    out
        h5ad file, or zarr folder; replaced.
    opened
        Gives the cells, prepared for the model; called when all else was checked.
    depth, batch, samples, intervals, missing
        As for :func:`remadom.imputing.impute`.

    Raises
    ------
    InputError
        No such modality, batch or cells.
    """
    model = trained.model
    if modality not in model.decoders:
        raise InputError(f"the model has no decoder of '{modality}': {nearest(modality, model.decoders)}")
    support = model.decoder(modality).support
    if depth is not None and (support != "counts" or depth <= 0):
        what = {"counts": f"found {depth:g}", "events": "probabilities have no depth"}.get(
            support, f"the values of {modality} are no counts and have no depth"
        )
        raise InputError(f"depth: {what}; leave it out, or give a total above 0 for counts")
    as_batch = _as_batch(batch, trained.groups["batch"])
    source = opened()
    has = source.has.get(modality, np.zeros(source.n_cells, dtype=bool))
    cells = np.flatnonzero(~has) if missing else np.arange(source.n_cells)
    if not len(cells):
        raise InputError(f"every cell has {modality}; leave out --missing to denoise what was measured")
    widths = Widths.from_arrays(trained.calibration, modality) if intervals else None
    codes = trained.batches_of(source)[0][cells]
    if as_batch not in (None, AVERAGE):
        codes = np.full_like(codes, as_batch)
    measured = measured_in(model.decoder(modality), codes)
    layers = [*(["lower", "upper"] if intervals else []), *(f"draw_{i + 1}" for i in range(samples))]
    obs = source.obs.iloc[cells].copy()
    obs["measured"] = has[cells]
    scores = trained.metrics.get("evaluation", {}).get("imputation", {}).get(modality, {})
    kept = load_donors(trained, modality)
    donors = kept if as_batch is None else None
    about = {
        "model": str(trained.path),
        "modality": modality,
        "batch": batch,
        "depth": OWN_DEPTH if depth is None else depth,
        "level": LEVEL if intervals else "no intervals",
        "calibrated": widths is not None,
        "coverage_90": scores.get("coverage_90", "not measured"),
        "donors_weight": "no donors" if donors is None else donors.weight,
    }
    totals = None if depth is None else np.full(source.n_cells, depth, dtype=np.float32)
    if depth is None and kept is not None and not has[cells].all():
        totals = depths(kept, model, trained.loader(source, cells), modality, source.n_cells)
    given: Iterator[np.ndarray | None] = repeat(None)
    if donors is not None:
        given = donated(donors, model, trained.loader(source, cells), modality, totals)
    features = pd.DataFrame(index=pd.Index(trained.prepared.features[modality], dtype=object))
    with streamed(out, _writable(obs), features, layers=layers, uns={"remadom": about}) as blocks:
        decoded = impute_cells(
            model,
            trained.loader(source, cells),
            modality,
            totals=totals,
            as_batch=as_batch,
            levels=(LEVEL,) if intervals else (),
            n_drawn=samples,
            seed=trained.config.optim.seed,
        )
        done = 0
        for block, found in zip(decoded, given, strict=False):
            rows = slice(done, done := done + len(block.expected))
            expected, ends = block.expected, list(block.intervals.get(LEVEL, ()))
            if donors is not None and found is not None:
                expected = donors.mixed(block.expected, found)
                if ends and widths is not None and support != "events":
                    ends = list(shifted((ends[0], ends[1]), block.expected, expected, donors.scale))
            if ends and widths is not None:
                ends = list(widened(ends[0], ends[1], widths.of(measured[rows]), scale_of(support)))
            if support == "events":
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


def _writable(obs: pd.DataFrame) -> pd.DataFrame:
    """The same table with columns of mixed values as text, which is what a file can hold."""
    mixed = [name for name in obs if obs[name].dtype == object]
    return obs.assign(**{str(name): obs[name].astype(str).astype("category") for name in mixed})
