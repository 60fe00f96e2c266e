"""Which measured values are kept out of training, to be predicted and scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from remadom.data.obs import column_of
from remadom.data.settings import Holdout
from remadom.data.source import Source
from remadom.errors import InputError, nearest
from remadom.utils.seed import derive


@dataclass(frozen=True, eq=False)
class Hidden:
    """Cells (a mask) whose values in one modality are known and not trained on, and why in words."""

    cells: np.ndarray
    words: str


def held_out(
    source: Source, settings: Mapping[str, Holdout], *, key: str, batch_key: str, seed: int
) -> dict[str, Hidden]:
    """Cells to hide by modality.

    Parameters
    ----------
    source
        As measured.
    settings
        What to hide, by modality.
    key
        Column in a modality's own obs that flags cells to hide, without being asked; not read where the data is one
        AnnData.
    batch_key
        Column of obs with the batches.
    seed
        Of the fractions.

    Raises
    ------
    InputError
        A modality, column, batch, file or cell that does not exist, nothing to hide, or nothing left.
    """
    hidden = {}
    for modality in settings:
        if modality not in source.modalities:
            raise InputError(f"evaluation.holdout: {modality}: {nearest(modality, source.modalities)}")
    for modality in source.modalities:
        parts = _flagged(source, modality, key)
        if modality in settings:
            parts |= _asked(source, modality, settings[modality], batch_key, seed)
        if parts:
            cells = np.any(list(parts.values()), axis=0) & source.has[modality]
            if not (source.has[modality] & ~cells).any():
                raise InputError(
                    f"evaluation.holdout.{modality}: it would hide all {int(cells.sum())} cells that have {modality}, "
                    "and nothing could be learned; hide fewer"
                )
            hidden[modality] = Hidden(cells, " or ".join(parts))
    return hidden


def _flagged(source: Source, modality: str, key: str) -> dict[str, np.ndarray]:
    obs = source.obs_of(modality)
    if obs is None or key not in obs:
        return {}
    flagged = _true(obs[key])
    return {f"flagged by {key}": flagged} if flagged.any() else {}


def _asked(source: Source, modality: str, asked: Holdout, batch_key: str, seed: int) -> dict[str, np.ndarray]:
    """A mask of the cells by each of the keys that are set, named in words."""
    where = f"evaluation.holdout.{modality}"
    measured = source.has[modality]
    parts: dict[str, np.ndarray] = {}
    if asked.key is not None:
        own = source.obs_of(modality)
        column = own[asked.key] if own is not None and asked.key in own else column_of(source.obs, asked.key)
        parts[f"flagged by {asked.key}"] = _true(column)
    if asked.file is not None:
        parts[f"listed in {Path(asked.file).name}"] = _listed(source, asked.file, where)
    if asked.batches is not None:
        column = column_of(source.obs, batch_key).astype(str)
        for batch in asked.batches:
            if batch not in set(column):
                raise InputError(
                    f"{where}.batches: no batch '{batch}': {nearest(batch, sorted(set(column)))}"
                )
        parts[f"of {', '.join(asked.batches)}"] = column.isin(asked.batches).to_numpy()
    if asked.fraction is not None:
        others = np.any([source.has[m] for m in source.modalities if m != modality], axis=0)
        shared = np.flatnonzero(measured & others)
        n_drawn = round(asked.fraction * len(shared))
        if not n_drawn:
            raise InputError(
                f"{where}.fraction: {len(shared)} cells have {modality} and another modality to predict it from, and "
                f"{asked.fraction:.1%} of them is none; raise it, or name the cells with batches, key or file"
            )
        rng = np.random.default_rng(derive(seed, f"holdout.{modality}"))
        drawn = np.zeros(source.n_cells, dtype=bool)
        drawn[rng.permutation(shared)[:n_drawn]] = True
        parts[f"{asked.fraction:.0%} of the cells that have more than it"] = drawn
    for words, cells in parts.items():
        if not (cells & measured).any():
            raise InputError(
                f"{where}: none of the cells {words} has {modality}, so there is nothing to hide; choose others"
            )
    return parts


def _listed(source: Source, file: str, where: str) -> np.ndarray:
    try:
        names = [line.strip() for line in Path(file).read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where}.file: {file} cannot be read as text: {error}") from error
    unknown = pd.Index(names).difference(source.obs_names)
    if len(unknown):
        raise InputError(
            f"{where}.file: {len(unknown)} of {len(names)} names in {file} are no cells of the data (first: "
            f"'{unknown[0]}'; the data has for example '{source.obs_names[0]}'); write one obs name in each line"
        )
    return np.asarray(source.obs_names.isin(names))


def _true(column: pd.Series) -> np.ndarray:
    """Which values are true, as a boolean, a number or a word; missing ones are not."""
    return np.array([str(value).lower() in ("true", "1", "1.0") for value in column])
