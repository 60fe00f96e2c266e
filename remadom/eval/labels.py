"""Labels and batches of cells as codes, told apart by their text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from remadom.errors import InputError

Labels = Sequence[Any] | np.ndarray
"""One value a cell; values are told apart by their text."""


def coded(values: Labels | None, n_cells: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Category of each cell as 0, 1, ... by text, and which cells have one.

    Raises
    ------
    InputError
        There are more or fewer values than cells.
    """
    if values is None:
        return np.zeros(n_cells, int), np.zeros(n_cells, bool)
    column = np.asarray(values, dtype=object)
    if len(column) != n_cells:
        raise InputError(f"{name}: found {len(column)} values for {n_cells} cells; give one for each")
    return pd.factorize(pd.Series(column).astype(str))[0], known_cells(column)


def known_cells(values: Labels) -> np.ndarray:
    """Which cells have a value: not ``None``, NaN or ``NA``."""
    known: np.ndarray = pd.notna(np.asarray(values, dtype=object))
    return known


def complete_codes(values: Labels, n_cells: int, name: str) -> np.ndarray:
    """Codes 0, 1, ... of the categories.

    Raises
    ------
    InputError
        There are more or fewer values than cells, or a cell has none.
    """
    codes, known = coded(values, n_cells, name)
    if not known.all():
        raise InputError(f"{name}: {(~known).sum()} of {n_cells} cells have no value; leave these cells out")
    return codes


def complete_texts(values: Labels, n_cells: int, name: str) -> np.ndarray:
    """The categories as text; raises as :func:`complete_codes` does."""
    complete_codes(values, n_cells, name)
    return np.asarray(values, dtype=object).astype(str)
