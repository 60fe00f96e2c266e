"""Names and columns of obs: merged over the modalities, and read as presence, groups or numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from remadom.errors import InputError, nearest

logger = logging.getLogger(__name__)

PRESENT = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def check_unique(names: pd.Index, what: str, label: str, remedy: str) -> None:
    """Refuse names that occur more than once."""
    twice = names[names.duplicated()].unique()
    if len(twice):
        examples = ", ".join(repr(str(name)) for name in twice[:3])
        raise InputError(
            f"{label}: {what} names that occur more than once: {len(twice)} (such as {examples}); "
            f"make them unique with {remedy}()"
        )


def merge_obs(
    names: pd.Index, shared: pd.DataFrame | None, parts: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """One table of the cells from the tables of the modalities.

    For each column the first value that is not missing wins: that of the shared table, then those of the parts
    in order. Where parts disagree about a cell, a warning names the column and the number of cells.

    Parameters
    ----------
    names
        The cells of the result.
    shared
        Table of a MuData; its columns ``<part>:<column>`` are copies and are left out.
    parts
        Table of each part.
    """
    tables = list(parts.values())
    if shared is not None:
        copies = tuple(f"{name}:" for name in parts)
        tables.insert(0, shared[[c for c in shared.columns if not str(c).startswith(copies)]])
    columns: dict[str, list[pd.Series]] = {}
    for table in tables:
        for column in table.columns:
            columns.setdefault(column, []).append(table[column])
    merged, conflicts = {}, {}
    for column, values in columns.items():
        merged[column], n_conflicts = _first_of(names, values)
        if n_conflicts:
            conflicts[column] = n_conflicts
    if conflicts:
        listed = ", ".join(f"{column} ({n} cells)" for column, n in conflicts.items())
        logger.warning("modalities disagree in obs about: %s; the first modality was taken", listed)
    return pd.DataFrame(merged, index=names)


def _first_of(names: pd.Index, columns: Sequence[pd.Series]) -> tuple[pd.Series, int]:
    """First value of each cell, and in how many cells a later one differs."""
    if len(columns) == 1:
        return columns[0].reindex(names), 0
    values = np.array(columns[0].astype(object).reindex(names))
    conflict = np.zeros(len(names), dtype=bool)
    for column in columns[1:]:
        other = np.array(column.astype(object).reindex(names))
        missing, known = pd.isna(values), ~pd.isna(other)
        both = known & ~missing
        conflict[both] |= (values[both] != other[both]).astype(bool)
        values[missing & known] = other[missing & known]
    merged = pd.Series(values, index=names).infer_objects()
    if any(isinstance(column.dtype, pd.CategoricalDtype) for column in columns):
        merged = merged.astype("category")
    return merged, int(conflict.sum())


def column_of(obs: pd.DataFrame, key: str) -> pd.Series:
    """A column of obs.

    Raises
    ------
    InputError
        There is none of that name; the message lists those that there are.
    """
    if key not in obs.columns:
        raise InputError(f"no column '{key}' in obs: {nearest(key, map(str, obs.columns))}")
    return obs[key]


def presence(column: pd.Series) -> np.ndarray:
    """Column of obs that says whether a modality was measured: bool, 0 and 1, or "True" and "False"."""
    words = column.astype(str).str.lower()
    known = words.isin(PRESENT)
    if not known.all():
        raise InputError(
            f"obs['{column.name}'] is neither true nor false for {int((~known).sum())} of {len(column)} cells "
            f"(first: {column[~known].iloc[0]!r} of cell '{column.index[~known][0]}'); write True or False"
        )
    return np.asarray(words.map(PRESENT), dtype=bool)


def group_codes(column: pd.Series) -> tuple[np.ndarray, tuple[str, ...]]:
    """Code of each cell, int64, and the names of the codes: the categories in their order, else sorted.

    Raises
    ------
    InputError
        Some cells have no value.
    """
    missing = column.isna().to_numpy()
    if missing.any():
        raise InputError(
            f"obs['{column.name}'] has no value for {int(missing.sum())} of {len(column)} cells "
            f"(first: '{column.index[missing][0]}'); fill it in, or choose another column"
        )
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.cat.remove_unused_categories()
        return column.cat.codes.to_numpy(dtype=np.int64), tuple(map(str, column.cat.categories))
    if pd.api.types.is_object_dtype(column):
        column = column.astype(str)
    names, codes = np.unique(column.to_numpy(), return_inverse=True)
    return codes.astype(np.int64), tuple(map(str, names))


def numbers(column: pd.Series) -> np.ndarray:
    """The column as float64; NaN where a cell has no value.

    Raises
    ------
    InputError
        It holds something other than numbers or strings that are numbers, or an infinite value.
    """
    values = column
    if isinstance(column.dtype, pd.CategoricalDtype) or not pd.api.types.is_numeric_dtype(column):
        values = pd.to_numeric(column.astype(object), errors="coerce")
    result: np.ndarray = values.to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = np.isinf(result) | (np.isnan(result) & column.notna().to_numpy())
    if wrong.any() or pd.api.types.is_datetime64_any_dtype(column):
        raise InputError(
            f"obs['{column.name}'] holds {column[wrong].iloc[0] if wrong.any() else column.iloc[0]!r}, expected "
            "numbers (a time for example in days); convert it, or choose another column"
        )
    return result
