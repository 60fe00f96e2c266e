"""What links the cohorts of a data set: modalities that two of them share, and cells that have several modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.spatial.distance import cdist

FEWEST_PAIRED = 20
"""Cells with both of two modalities that tie these within a cohort: fewer could be strays of a few types."""
MOST_PAIRED = 1000
"""Most paired cells that are compared, drawn at random."""


@dataclass(frozen=True, eq=False)
class Unit:
    """Cells of a cohort whose modalities are tied by cells that have several of them.

    Attributes
    ----------
    name
        Name of the cohort, with its modalities where the cohort falls into several units.
    cells
        Positions of its cells, ascending.
    modalities
        Positions of the cells that have a modality, by its name.
    """

    name: str
    cells: np.ndarray
    modalities: Mapping[str, np.ndarray]


def units(cohorts: np.ndarray, names: Sequence[str], has: Mapping[str, np.ndarray]) -> list[Unit]:
    """Units of a data set: its cohorts, but a cohort is cut where nothing ties its modalities.

    Parameters
    ----------
    cohorts
        Code of each cell into ``names``; negative for none.
    names
        Names of the cohorts.
    has
        Whether a cell has a modality.
    """
    found = []
    for code, name in enumerate(names):
        mine = cohorts == code
        present = {m: np.flatnonzero(mine & there) for m, there in has.items() if (mine & there).any()}
        groups = [{m} for m in present]
        for a, b in combinations(present, 2):
            if len(np.intersect1d(present[a], present[b])) >= FEWEST_PAIRED:
                joined = [group for group in groups if group & {a, b}]
                groups = [group for group in groups if not group & {a, b}] + [set().union(*joined)]
        for group in sorted(groups, key=lambda group: min(map(list(present).index, group))):
            parts = {m: present[m] for m in present if m in group}
            called = name if len(groups) == 1 else f"{name} ({', '.join(parts)})"
            found.append(Unit(called, np.unique(np.concatenate(list(parts.values()))), parts))
    return found


def best_path(
    edges: Mapping[tuple[int, int], int], through: Mapping[int, int], start: int, end: int
) -> tuple[int, list[int]] | None:
    """Path whose weakest part is strongest, by its strength and its nodes; the shorter of equals.

    Parameters
    ----------
    edges
        Strength of each edge, by its two nodes in either order.
    through
        Strength of a node as a passage, where it limits paths.
    start, end
        Nodes.
    """
    strength = {**edges, **{(b, a): value for (a, b), value in edges.items()}}
    nodes = {node for edge in strength for node in edge}
    for least in sorted(set(edges.values()) | set(through.values()), reverse=True):
        paths, seen = [[start]], {start}
        for path in paths:  # grows while it is walked: breadth first
            for node in sorted(nodes - seen):
                passable = path[-1] == start or through.get(path[-1], least) >= least
                if passable and strength.get((path[-1], node), least - 1) >= least:
                    if node == end:
                        return least, [*path, node]
                    seen.add(node)
                    paths.append([*path, node])
    return None


def meetings(
    unit: Unit, unimodal: Mapping[str, tuple[np.ndarray, np.ndarray]], seed: int
) -> dict[str, dict[str, float]]:
    """How well the modalities of a unit meet: by their names, ``foscttm`` and ``n_cells``.

    The fraction of samples closer than the true match (Liu et al., WABI 2019, doi:10.4230/LIPIcs.WABI.2019.10),
    mean of both directions, between the embeddings of the same cells from either modality alone: 0 for a perfect
    match, 0.5 for chance. Ties count one half.
    """
    rng = np.random.default_rng(seed)
    met = {}
    for a, b in combinations([m for m in unit.modalities if m in unimodal], 2):
        both = np.intersect1d(np.intersect1d(unimodal[a][0], unimodal[b][0]), unit.cells)
        if len(both) < FEWEST_PAIRED:
            continue
        both = np.sort(rng.permutation(both)[:MOST_PAIRED])
        distance = cdist(_of(unimodal[a], both), _of(unimodal[b], both))
        true = np.diag(distance)
        nearer = [
            (d < true[:, None]).sum(1) + ((d == true[:, None]).sum(1) - 1) / 2 for d in (distance, distance.T)
        ]
        met[f"{a}-{b}"] = {"foscttm": float(np.mean(nearer) / (len(both) - 1)), "n_cells": len(both)}
    return met


def _of(embedded: tuple[np.ndarray, np.ndarray], cells: np.ndarray) -> np.ndarray:
    order = np.argsort(embedded[0])
    rows: np.ndarray = np.asarray(embedded[1], np.float64)[
        order[np.searchsorted(embedded[0], cells, sorter=order)]
    ]
    return rows
