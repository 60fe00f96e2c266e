"""Pairs of cells that are known to correspond: from a file or a column of obs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from remadom.errors import InputError
from remadom.types import BridgeEdges


def known_pairs(obs: pd.DataFrame, where: str | None) -> BridgeEdges:
    """Known pairs of cells.

    Parameters
    ----------
    obs
        What is known of the cells, a row a cell, by their names.
    where
        A CSV or TSV file with the names of both cells in its first two columns, or a column of obs: cells of the
        same value (other than NaN) are paired, the first with each other one.

    Raises
    ------
    InputError
        Nothing is named, there is no such file or column, names that the data lacks, or no pair.
    """
    if where is None:
        raise InputError(
            "bridge.seeds is missing: name a CSV file with two columns of cell names, or a column of obs "
            "whose equal values pair cells"
        )
    if Path(where).suffix in (".csv", ".tsv", ".txt"):
        src, dst = _from_file(obs, Path(where))
    elif where in obs:
        src, dst = _from_column(obs[where])
    else:
        raise InputError(
            f"bridge.seeds: {where!r} is neither a .csv or .tsv file nor a column of obs "
            f"({', '.join(map(str, obs.columns))})"
        )
    if len(src) == 0:
        raise InputError(f"bridge.seeds: {where!r} pairs no cells of the data; see its values")
    return BridgeEdges.of(torch.from_numpy(src), torch.from_numpy(dst), None, len(obs))


def _from_file(obs: pd.DataFrame, path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise InputError(f"bridge.seeds: no such file: {path}")
    table = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", dtype=str)
    if table.shape[1] < 2:
        raise InputError(f"{path}: found {table.shape[1]} column, expected two with the names of both cells")
    src, dst = (obs.index.get_indexer(table.iloc[:, i]) for i in range(2))
    missing = (src < 0) | (dst < 0)
    if missing.any():
        first = table.iloc[int(missing.argmax()), :2].tolist()
        raise InputError(
            f"{path}: {int(missing.sum())} of {len(table)} pairs name cells that the data lacks (first: {first})"
        )
    return src.astype(np.int64), dst.astype(np.int64)


def _from_column(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    codes = pd.factorize(column)[0]
    cells = np.flatnonzero(codes >= 0)
    cells = cells[np.argsort(codes[cells], kind="stable")]
    first = np.r_[True, codes[cells][1:] != codes[cells][:-1]] if len(cells) else np.zeros(0, dtype=bool)
    leader = cells[np.maximum.accumulate(np.where(first, np.arange(len(cells)), 0))]
    return leader[~first], cells[~first]
