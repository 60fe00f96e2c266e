"""Covariates of the cells: columns of obs as numbers that a decoder reads, fitted on training cells."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from remadom.data.obs import column_of, group_codes, numbers
from remadom.data.settings import DataSettings
from remadom.data.source import Source
from remadom.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Continuous:
    """A column of numbers, standardized with the mean and the deviation of the training cells."""

    mean: float
    deviation: float

    @property
    def width(self) -> int:
        """Columns that it takes."""
        return 1

    def encode(self, key: str, column: pd.Series) -> tuple[np.ndarray, str]:
        """Cell x 1, 0 where there is no value; and what was found wanting, in words."""
        values = (numbers(column) - self.mean) / self.deviation
        missing = int(np.isnan(values).sum())
        return np.nan_to_num(values)[:, None], f"{missing:,} cells have no value" if missing else ""

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {"mean": self.mean, "deviation": self.deviation}


@dataclass(frozen=True)
class Categorical:
    """A column of names: one-hot less the share of each category among the training cells, so that 0 is the average."""

    categories: tuple[str, ...]
    shares: tuple[float, ...]

    @property
    def width(self) -> int:
        """Columns that it takes."""
        return len(self.categories)

    def encode(self, key: str, column: pd.Series) -> tuple[np.ndarray, str]:
        """Cell x category, 0 where the category is not known; and what was found wanting, in words."""
        given = column.notna().to_numpy()
        codes, names = group_codes(column[given])
        known = {name: i for i, name in enumerate(self.categories)}
        places = np.full(len(column), -1)
        places[given] = np.array([known.get(name, -1) for name in names], dtype=np.int64)[codes]
        found = places >= 0
        values = np.zeros((len(column), self.width))
        values[found] = np.eye(self.width)[places[found]] - np.array(self.shares)
        others = [name for name in names if name not in known]
        listed = f" ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''})" if others else ""
        return (
            values,
            "" if found.all() else f"{int((~found).sum()):,} cells have none of its categories{listed}",
        )

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {"categories": list(self.categories), "shares": list(self.shares)}


@dataclass(frozen=True)
class Covariates:
    """What the training cells decided about the covariates, by column of obs, in the order of the names.

    The order in which the configuration lists the columns, and the units of a continuous one, thus change nothing.
    """

    columns: Mapping[str, Continuous | Categorical]

    @property
    def width(self) -> int:
        """Columns that a decoder reads."""
        return sum(column.width for column in self.columns.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of these columns: ``age``, ``sex=f``, ``sex=m``."""
        found: list[str] = []
        for key, column in self.columns.items():
            found += [key] if isinstance(column, Continuous) else [f"{key}={c}" for c in column.categories]
        return tuple(found)

    def encode(self, source: Source) -> np.ndarray | None:
        """Cell x covariate for every cell, float32, or ``None`` without covariates.

        What a cell lacks (the column, a value, a category that the training cells had) stands for the average
        training cell: 0. The log says so once a column.

        Raises
        ------
        InputError
            A continuous column holds something other than numbers.
        """
        if not self.columns:
            return None
        parts = []
        for key, column in self.columns.items():
            if key in source.obs.columns:
                values, wanting = column.encode(key, source.obs[key])
            else:
                values, wanting = np.zeros((source.n_cells, column.width)), "the data has no such column"
            if wanting:
                logger.warning(
                    "covariate '%s': %s; they are decoded as the average training cell", key, wanting
                )
            parts.append(values)
        return np.concatenate(parts, axis=1).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """Strings, numbers, lists and dictionaries only."""
        return {key: column.state() for key, column in self.columns.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Mapping[str, Any]]) -> Covariates:
        """The same again."""
        return cls(
            {
                key: Continuous(**column)
                if "mean" in column
                else Categorical(tuple(column["categories"]), tuple(column["shares"]))
                for key, column in state.items()
            }
        )


def fit_covariates(source: Source, settings: DataSettings, train: np.ndarray) -> Covariates:
    """Fit the columns that ``data.covariates`` names.

    Parameters
    ----------
    source
        The cells; every one needs a value, validation cells included.
    settings
        Section ``data`` of the configuration.
    train
        Positions of the training cells.

    Raises
    ------
    InputError
        A column does not exist, is named twice or is the batch key, has cells without a value, is not made of numbers
        (continuous), is the same for all training cells, or has nearly as many categories as there are cells.
    """
    asked = settings.covariates
    keys = [*asked.continuous, *asked.categorical]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"data.covariates: '{key}' is named {keys.count(key)} times; name it once")
        if key == settings.batch_key:
            raise InputError(
                f"data.covariates: '{key}' is data.batch_key, and the decoders are given the batch anyway; remove it"
            )
    batches, names = source.codes(settings.batch_key, required=False)
    columns = {}
    for key in sorted(keys):
        kind = "continuous" if key in asked.continuous else "categorical"
        try:
            column = column_of(source.obs, key)
            fitted, values = (_continuous if kind == "continuous" else _categorical)(column, train)
        except InputError as error:
            raise InputError(f"data.covariates.{kind}: {error}") from None
        if len(names) > 1 and _same_within(values[train], batches[train]):
            logger.warning(
                "covariate '%s' is the same for all cells of a batch: what it explains cannot be told from what the "
                "batch explains",
                key,
            )
        columns[key] = fitted
    return Covariates(columns)


def _continuous(column: pd.Series, train: np.ndarray) -> tuple[Continuous, np.ndarray]:
    values = numbers(column)
    missing = np.isnan(values)
    if missing.any():
        raise InputError(
            f"obs['{column.name}'] has no value for {int(missing.sum()):,} of {len(column):,} cells "
            f"(first: '{column.index[missing][0]}'); fill it in, or leave the covariate out"
        )
    mean, deviation = float(values[train].mean()), float(values[train].std())
    if deviation <= 1e-7 * abs(mean):
        raise InputError(
            f"obs['{column.name}'] is {values[train[0]]:g} for all training cells, so it explains nothing; leave it out"
        )
    return Continuous(mean, deviation), values


def _categorical(column: pd.Series, train: np.ndarray) -> tuple[Categorical, np.ndarray]:
    codes, names = group_codes(column)
    counts = np.bincount(codes[train], minlength=len(names))
    seen = sorted((name, int(n)) for name, n in zip(names, counts, strict=True) if n)
    if len(seen) < 2:
        raise InputError(
            f"obs['{column.name}'] is '{seen[0][0]}' for all training cells, so it explains nothing; leave it out"
        )
    if 2 * len(seen) > len(train):
        raise InputError(
            f"obs['{column.name}'] has {len(seen):,} categories for {len(train):,} training cells; "
            "if it holds numbers, name it under data.covariates.continuous"
        )
    return Categorical(tuple(n for n, _ in seen), tuple(n / len(train) for _, n in seen)), codes


def _same_within(values: np.ndarray, groups: np.ndarray) -> bool:
    """Whether all cells of each group have one value."""
    return len(np.unique(np.stack([groups, values]), axis=1)[0]) == len(np.unique(groups))
