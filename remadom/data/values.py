"""The values of a modality in numbers: depth, what is empty, and what some batch does not show."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from remadom.data.sampler import blocks
from remadom.data.source import Source

EXPECTED = 20.0
"""Cells that should show a feature before its absence from a batch is no accident (chance of none: e^-20)."""


@dataclass(frozen=True)
class Measured:
    """Values of one modality.

    Attributes
    ----------
    cells, features
        Sizes.
    counts
        Whether all values are whole and none is negative.
    depth
        5 %, 50 % and 95 % quantiles of the total of a cell.
    depth_by_batch
        Median total of a cell by batch.
    density
        Share of values that are not zero.
    empty_cells
        Measured cells without a count.
    silent, constant
        Features that no cell shows, and those that have one other value in all measured cells.
    shared
        Features that some cell of every batch shows, of the batches that have the modality.
    missing
        By batch, features that no cell of it shows although at least ``EXPECTED`` should, at its depth and by the
        share of cells that show them elsewhere.
    """

    cells: int
    features: int
    counts: bool
    depth: tuple[float, float, float]
    depth_by_batch: dict[str, float]
    density: float
    empty_cells: int
    silent: int
    constant: int
    shared: int
    missing: dict[str, list[str]]


def measured(source: Source, modality: str, batch: np.ndarray, names: tuple[str, ...]) -> Measured:
    """One pass over the values of a modality; it holds one number for each feature of each batch."""
    cells = np.flatnonzero(source.has[modality])
    features = source.features[modality]
    totals = np.zeros(len(cells))
    showing = np.zeros((len(names), len(features)), dtype=np.int32)
    least, most = np.full(len(features), np.inf), np.full(len(features), -np.inf)
    counts = True
    for at, rows in blocks(partial(source.rows, modality), cells):
        totals[at] = np.asarray(rows.sum(axis=1)).ravel()
        counts = counts and bool((rows.data >= 0).all() and (rows.data == np.rint(rows.data)).all())
        least = np.minimum(least, rows.min(axis=0).toarray().ravel())
        most = np.maximum(most, rows.max(axis=0).toarray().ravel())
        of_batch = batch[cells[at]]
        for b in np.unique(of_batch):
            showing[b] += np.bincount(rows[of_batch == b].indices, minlength=len(features)).astype(np.int32)
    present = batch[cells]
    here, sizes = np.unique(present, return_counts=True)
    depths = np.array([np.median(totals[present == b]) for b in here])
    silent = ~showing.any(0)
    low, middle, high = np.quantile(totals, (0.05, 0.5, 0.95))
    return Measured(
        cells=len(cells),
        features=len(features),
        counts=counts,
        depth=(float(low), float(middle), float(high)),
        depth_by_batch={names[b]: float(depth) for b, depth in zip(here, depths, strict=True)},
        density=float(showing.sum() / max(1, len(cells) * len(features))),
        empty_cells=int((totals == 0).sum()),
        silent=int(silent.sum()),
        constant=int(((least == most) & ~silent).sum()),
        shared=int((showing[here] > 0).all(0).sum()),
        missing={
            names[b]: [str(name) for name in features[absent]]
            for b, absent in zip(here, _unmeasured(showing[here], sizes, depths), strict=True)
            if absent.any()
        },
    )


def _unmeasured(showing: np.ndarray, sizes: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Batch x feature: whether no cell shows a feature that ``EXPECTED`` cells should.

    In proportion to its depth a batch should show a feature as often as all other batches do together.
    """
    depth_elsewhere = np.maximum((sizes * depths).sum() - sizes * depths, 1e-12)
    share = (showing.sum(0) - showing) / depth_elsewhere[:, None]
    expected = share * np.minimum(sizes * depths, depth_elsewhere)[:, None]
    absent: np.ndarray = (showing == 0) & (expected >= EXPECTED)
    return absent
