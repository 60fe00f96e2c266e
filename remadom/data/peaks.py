"""Open peaks: which peaks are kept."""

from __future__ import annotations

import numpy as np

from remadom.data.sampler import Gather, blocks
from remadom.errors import InputError


def open_cells(gather: Gather, cells: np.ndarray) -> np.ndarray:
    """Number of these cells in which each peak is open (above zero)."""
    n_open: np.ndarray | None = None
    for _, rows in blocks(gather, cells):
        found = np.bincount(rows.indices[rows.data > 0], minlength=rows.shape[1])
        n_open = found if n_open is None else n_open + found
    assert n_open is not None, "no cells to fit on"
    return n_open


def select_peaks(
    n_open: np.ndarray, n_cells: int, *, min_cells: float, n_top: int | None, modality: str = "atac"
) -> np.ndarray:
    """Positions, ascending, of the peaks (or other features) that are open (above zero) in enough cells.

    Parameters
    ----------
    n_open
        Number of cells in which each peak is open.
    n_cells
        Number of cells that were looked at.
    min_cells
        Least number of cells; a value under 1 is a fraction of ``n_cells``.
    n_top
        Keep the most open of them, ties in order; ``None`` keeps all.
    modality
        Whose features they are, for the message.

    Raises
    ------
    InputError
        No peak is left.
    """
    least = min_cells if min_cells >= 1 else min_cells * n_cells
    order = np.argsort(-n_open, kind="stable")
    kept = np.sort(order[n_open[order] >= least][:n_top])
    if not len(kept):
        raise InputError(
            f"{modality}: no feature is above 0 in {least:g} of {n_cells} training cells (the most open one: in "
            f"{n_open.max()}); lower data.preprocess.{modality}.min_cells"
        )
    return kept
