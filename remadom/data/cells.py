"""Which cells there are, and which of them were measured in which modality."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from remadom.data.annotated import Content
from remadom.data.locate import Place
from remadom.data.modality import MODALITIES
from remadom.data.obs import check_unique, merge_obs, presence
from remadom.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells with at least one modality.

    Attributes
    ----------
    obs
        What is known about them; the index is their names.
    has
        Presence by modality.
    rows
        By modality, the row of each cell in its matrix; of no meaning where the cell is absent.
    """

    obs: pd.DataFrame
    has: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]


def cells_of(content: Content, places: Mapping[str, Place]) -> Cells:
    """Cells of the modalities in use.

    Cells that were measured only in modalities that are not in use are left out, with a warning.

    Raises
    ------
    InputError
        Names that occur twice, a cell without any modality, a modality without any cell, a single cell.
    """
    for part in {place.part: None for place in places.values()}:
        check_unique(
            content.parts[part].obs.index, "cell", content.parts[part].label, "obs_names_make_unique"
        )
    cells = _of_one(content, places) if content.single else _of_parts(content, places)
    names = cells.obs.index
    measured = _any(cells.has.values(), len(names))
    nowhere = ~measured & ~_elsewhere(content, cells)
    if nowhere.any():
        raise InputError(
            f"{int(nowhere.sum())} of {len(names)} cells have no modality at all (first: "
            f"{', '.join(map(repr, names[nowhere][:3]))}); remove them, or correct their has_<modality> in obs"
        )
    if not measured.all():
        logger.warning(
            "%d of %d cells have none of the modalities in use (%s) and are left out",
            int((~measured).sum()),
            len(names),
            ", ".join(places),
        )
        cells = Cells(
            cells.obs[measured],
            {modality: mask[measured] for modality, mask in cells.has.items()},
            {modality: rows[measured] for modality, rows in cells.rows.items()},
        )
    for modality, mask in cells.has.items():
        if not mask.any():
            raise InputError(f"{modality}: no cell was measured in it; leave it out with data.modalities")
    if len(cells.obs) < 2:
        raise InputError("the data has one cell, expected at least two; nothing can be learned from one")
    return cells


def _of_one(content: Content, places: Mapping[str, Place]) -> Cells:
    obs = content.parts[""].obs
    return Cells(
        obs,
        {modality: _marked(obs, modality, True) for modality in places},
        {modality: np.arange(len(obs)) for modality in places},
    )


def _of_parts(content: Content, places: Mapping[str, Place]) -> Cells:
    used = {place.part for place in places.values()}
    indices = [part.obs.index for name, part in content.parts.items() if name in used]
    if content.obs is not None:
        indices.insert(0, content.obs.index)
    names = reduce(lambda first, second: first.append(second.difference(first, sort=False)), indices)
    order = dict.fromkeys([*(place.part for place in places.values()), *content.parts])
    obs = merge_obs(names, content.obs, {name: content.parts[name].obs for name in order})
    rows = {m: content.parts[place.part].obs.index.get_indexer(names) for m, place in places.items()}
    return Cells(obs, {modality: at >= 0 for modality, at in rows.items()}, rows)


def _elsewhere(content: Content, cells: Cells) -> np.ndarray:
    """Cells that were measured in a modality that is not in use."""
    if content.single:
        others = [_marked(cells.obs, name, False) for name in MODALITIES if name not in cells.has]
    else:
        others = [cells.obs.index.isin(part.obs.index) for part in content.parts.values()]
    return _any(others, len(cells.obs))


def _marked(obs: pd.DataFrame, modality: str, otherwise: bool) -> np.ndarray:
    """Presence by the column ``has_<modality>``."""
    key = f"has_{modality}"
    return presence(obs[key]) if key in obs.columns else np.full(len(obs), otherwise)


def _any(masks: Iterable[np.ndarray], n: int) -> np.ndarray:
    result = np.zeros(n, dtype=bool)
    for mask in masks:
        result |= mask
    return result
