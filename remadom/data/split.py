"""Which cells train, which validate and which test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from remadom.data.obs import column_of
from remadom.data.source import Source
from remadom.errors import InputError

_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True)
class Split:
    """Cells of each part, as ascending positions in the source; a cell with no modality is in none of them."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def cell_positions(cells: np.ndarray | None, n_cells: int) -> np.ndarray:
    """Positions of cells given as positions, as a mask, or as ``None`` for all of them.

    Raises
    ------
    InputError
        A mask of another length, positions outside of the data, or neither integers nor booleans.
    """
    if cells is None:
        return np.arange(n_cells)
    cells = np.asarray(cells)
    if cells.dtype == bool:
        if cells.shape != (n_cells,):
            raise InputError(
                f"cells: a mask of shape {cells.shape}, expected one value for each of {n_cells} cells"
            )
        return np.flatnonzero(cells)
    if cells.ndim != 1 or (cells.size and not np.issubdtype(cells.dtype, np.integer)):
        raise InputError(
            f"cells: {cells.ndim}-d {cells.dtype}, expected positions of cells or a boolean mask"
        )
    if cells.size and not 0 <= cells.min() <= cells.max() < n_cells:
        raise InputError(f"cells: positions {cells.min()} to {cells.max()}, expected 0 to {n_cells - 1}")
    return cells.astype(np.int64)


def split_cells(
    source: Source, *, val_fraction: float = 0.1, split_key: str | None = None, seed: int = 0
) -> Split:
    """Split by a column of obs, or draw a fraction for validation.

    The drawn cells are spread evenly over the presence patterns (which modalities a cell has), and every
    pattern keeps at least one training cell.

    Parameters
    ----------
    source
        The cells.
    val_fraction
        Share of the cells drawn for validation; read only where ``split_key`` is ``None``.
    split_key
        Column of obs with the words train / training, val / valid / validation and test, in any case.
    seed
        Seed of the draw.

    Raises
    ------
    InputError
        The column does not exist, holds another word or a missing value, or leaves no cell to train on.
    """
    patterns = np.stack([source.has[modality] for modality in source.modalities], axis=1)
    usable = patterns.any(axis=1)
    if split_key is not None:
        parts = _parts_by_key(source, split_key)
    else:
        parts = _parts_by_fraction(patterns, val_fraction, seed)
    split = Split(*(np.flatnonzero(usable & (parts == part)) for part in ("train", "val", "test")))
    if not len(split.train):
        where = "" if split_key is None else f"obs['{split_key}']: "
        raise InputError(f"{where}no cell to train on among {source.n_cells}; mark some as 'train'")
    return split


def _parts_by_key(source: Source, key: str) -> np.ndarray:
    column = column_of(source.obs, key)
    missing = int(column.isna().sum())
    if missing:
        raise InputError(
            f"obs['{key}']: no value for {missing} of {len(column)} cells; write train, val or test for each"
        )
    words = column.astype(str).str.strip().str.lower()
    unknown = sorted(set(words) - set(_WORDS))
    if unknown:
        raise InputError(
            f"obs['{key}']: found {', '.join(map(repr, unknown[:5]))}; expected train, val or test for each cell"
        )
    return np.array([_WORDS[word] for word in words])


def _parts_by_fraction(patterns: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Systematic sampling along the cells, shuffled and then sorted by pattern."""
    n_cells = len(patterns)
    pattern = np.unique(patterns, axis=0, return_inverse=True)[1].reshape(-1)
    shuffled = np.random.default_rng(seed).permutation(n_cells)
    order = shuffled[np.argsort(pattern[shuffled], kind="stable")]
    steps = np.floor(np.arange(n_cells + 1) * fraction + 0.5)
    parts = np.full(n_cells, "train")
    parts[order[np.diff(steps) > 0]] = "val"
    first = order[np.unique(pattern[order], return_index=True)[1]]
    trained = np.unique(pattern[parts == "train"])
    parts[first[~np.isin(pattern[first], trained)]] = "train"
    return parts
