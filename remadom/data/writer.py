"""An AnnData file that is written a block of cells at a time, so that no dense matrix is ever whole in memory."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import write_elem

from remadom.errors import InputError

SUFFIXES = (".h5ad", ".zarr")
BLOCK = 2**18
"""Values in a chunk of a matrix on disk."""


class Blocks:
    """Dense matrices of a file, filled from the first row on.

    Parameters
    ----------
    arrays
        By name (``X``, or that of a layer), cell x feature, in the file.
    """

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = arrays
        self.n_written = 0

    def append(self, **rows: np.ndarray) -> None:
        """Write the next cells: as many rows of every matrix."""
        assert rows.keys() == self._arrays.keys(), "one block of every matrix"
        n = {len(block) for block in rows.values()}
        assert len(n) == 1, "as many rows of every matrix"
        at = slice(self.n_written, self.n_written + n.pop())
        for name, block in rows.items():
            self._arrays[name][at] = block
        self.n_written = at.stop


@contextmanager
def streamed(
    path: str | Path,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    *,
    layers: Sequence[str] = (),
    uns: Mapping[str, Any] | None = None,
) -> Iterator[Blocks]:
    """Write an AnnData of which ``X`` and the layers (dense, float32) arrive in blocks.

    The file takes its name only when every cell was written; what had the name is replaced then.

    Parameters
    ----------
    path
        h5ad file, or zarr folder.
    obs, var
        Annotations of all cells and features.
    layers
        Names of the layers.
    uns
        What else is to be kept.

    Raises
    ------
    InputError
        Another suffix.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: the suffix is '{path.suffix}', expected {' or '.join(SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    root = h5py.File(part, "w") if path.suffix == ".h5ad" else zarr.open_group(str(part), mode="w")
    try:
        blocks = Blocks(_begin(root, obs, var, layers, dict(uns or {})))
        yield blocks
        assert blocks.n_written == len(obs), "every cell is to be written"
        if isinstance(root, h5py.File):
            root.close()
        remove(path)
        os.replace(part, path)
    finally:
        if isinstance(root, h5py.File):
            root.close()
        remove(part)


def _begin(
    root: Any, obs: pd.DataFrame, var: pd.DataFrame, layers: Sequence[str], uns: dict[str, Any]
) -> dict[str, Any]:
    """Write everything but the values; the matrices to fill."""
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    for name in ("layers", "obsm", "varm", "obsp", "varp"):
        root.create_group(name).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "zarr v3 autosharding", UserWarning)
        write_elem(root, "obs", obs)
        write_elem(root, "var", var)
        write_elem(root, "uns", uns)
    shape = len(obs), len(var)
    return {name: _empty(root, name if name == "X" else f"layers/{name}", shape) for name in ("X", *layers)}


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _empty(root: Any, name: str, shape: tuple[int, int]) -> Any:
    """A dense float32 matrix, in chunks of whole rows."""
    rows = max(1, min(shape[0], BLOCK // max(1, shape[1])))
    chunks = (rows, max(1, shape[1]))
    make = root.create_dataset if isinstance(root, h5py.File) else root.create_array
    array = make(name, shape=shape, dtype="float32", chunks=chunks)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return array
