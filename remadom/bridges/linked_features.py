"""Correspondences between two modalities that share no cell: through features that measure the same thing."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt

from remadom.bridges.base import BRIDGES, Bridge
from remadom.bridges.canonical import (
    canonical_scores,
    deviations,
    leading_vectors,
    most_varying,
    standard_components,
    standardized,
    unit,
    white,
)
from remadom.bridges.neighbors import near
from remadom.errors import InputError
from remadom.solvers.ann import Backend
from remadom.solvers.mutual import mutual_pairs
from remadom.types import BridgeEdges, View
from remadom.types.view import dense

logger = logging.getLogger(__name__)

ENSEMBL = re.compile(r"(ens[a-z]*\d+)\.\d+")
NUMBER = re.compile(r"\.\d+$")


@BRIDGES.register("linked_features")
class LinkedFeaturesBridge(Bridge):
    """Mutual neighbors in a space that linked features open and all features refine; no shared cell is used.

    Features of the two modalities are linked by name (a gene and its activity, a gene and its protein). Summed
    with those of a cell's nearest cells of its own side and standardized, they give the first shared space: the
    leading singular vectors of their cross-covariance, over all pairs of cells. Then, for some rounds, mutual
    nearest neighbors stand in for paired cells in a canonical correlation analysis of the principal components
    of *all* features, whose canonical scores are the next shared space. Known pairs are never looked at, even
    where a cell has both modalities. The weight of an edge tells at which places its two cells list each other,
    its confidence is the cosine of their shared coordinates.

    Parameters
    ----------
    modalities
        The two modalities to link; null takes the two that there are.
    also
        By modality, another one of the same cells whose components join its own when the space is refined: for
        gene activities, the peaks that they were summed from.
    table
        CSV file with one link a line: a feature of the first modality, a feature of the second. Features of the
        second that it does not name are linked by name, as all are where it is null.
    smooth
        Neighbors on its own side with whose linked features those of a cell are summed; 0 leaves them as they are.
    neighbors
        How many cells of the other side a cell may list.
    components
        Dimensions of the shared space.
    rounds
        How often the space is refined on all features.
    ann_backend
        Nearest-neighbor backend; null takes faiss where it is installed, else numpy.

    References
    ----------
    Stuart et al., Cell 2019, doi:10.1016/j.cell.2019.05.031: correlation of linked features, mutual neighbors.
    Chen et al. (MaxFuse), Nature Biotechnology 2023, doi:10.1038/s41587-023-01935-0: smoothing, and refinement
    on all features.
    """

    def __init__(
        self,
        *,
        modalities: tuple[str, str] | None = None,
        also: dict[str, str] = {},  # noqa: B006 - only read
        table: str | None = None,
        smooth: NonNegativeInt = 15,
        neighbors: PositiveInt = 30,
        components: PositiveInt = 20,
        rounds: NonNegativeInt = 2,
        ann_backend: Backend | None = None,
    ) -> None:
        self.modalities = modalities
        self.also = dict(also)
        self.table = table
        self.smooth = smooth
        self.neighbors = neighbors
        self.components = components
        self.rounds = rounds
        self.ann_backend = ann_backend

    def build(self, views: Mapping[str, View], n_cells: int) -> BridgeEdges:
        """Edges from cells of the first modality to cells of the second.

        Raises
        ------
        InputError
            A modality that there is not, or fewer than two linked features.
        """
        a, b = self._pair(views)
        more = {
            view.name: _named(views, self.also[view.name], "also")
            for view in (a, b)
            if view.name in self.also
        }
        za, zb = self.coordinates(a, b, more)
        rows, columns, weight = mutual_pairs(za, zb, self.neighbors, "euclidean", self.ann_backend)
        return BridgeEdges.of(
            torch.from_numpy(a.cells[rows]),
            torch.from_numpy(b.cells[columns]),
            torch.from_numpy(weight),
            n_cells,
            torch.from_numpy(np.clip((za[rows] * zb[columns]).sum(1), 0, 1)),
        )

    def coordinates(
        self, a: View, b: View, more: Mapping[str, View] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Shared coordinates of the cells of two views, cell x component each, every cell of length 1.

        Parameters
        ----------
        a, b
            The two sides.
        more
            By name of a side, another view of its cells whose components join its own.
        """
        sides, more = (a, b), more or {}
        own = [standard_components(view) for view in sides]
        linked = [
            self._smoothed(dense(view.features[:, at]), components)
            for view, at, components in zip(sides, self.links(a, b), own, strict=True)
        ]
        left, values, right = leading_vectors(linked[0], linked[1], self.components)
        za, zb = unit(left * np.sqrt(values)), unit(right * np.sqrt(values))
        all_a, all_b = (
            _joined(view, components, more.get(view.name))
            for view, components in zip(sides, own, strict=True)
        )
        for _ in range(self.rounds):
            pairs = mutual_pairs(za, zb, self.neighbors, "euclidean", self.ann_backend)
            za, zb = canonical_scores(all_a, all_b, *pairs, self.components)
        return za, zb

    def links(self, a: View, b: View) -> tuple[np.ndarray, np.ndarray]:
        """Columns of linked features in ``a`` and in ``b``: of those that vary on both sides, the most varying.

        Raises
        ------
        InputError
            There are fewer than two.
        """
        linked = _linked(a.names, b.names, () if self.table is None else _read_table(self.table))
        at_a, at_b = np.array(linked, dtype=np.int64).reshape(-1, 2).T
        kept = most_varying(np.minimum(deviations(a)[at_a], deviations(b)[at_b]))
        if len(kept) < 2:
            raise InputError(
                f"bridge 'linked_features': found {len(kept)} links between the {len(a.names):,} features of {a.name} "
                f"({_some(a.names)}) and the {len(b.names):,} of {b.name} ({_some(b.names)}), expected at least "
                "2 of features that vary; write the links to a CSV file and name it with bridge.linked_features.table, "
                "or give features of the same names (for peaks: gene activities)"
            )
        logger.info("linked_features: %d linked features of %s and %s", len(kept), a.name, b.name)
        return at_a[kept], at_b[kept]

    def _pair(self, views: Mapping[str, View]) -> tuple[View, View]:
        names = self.modalities or tuple(name for name in views if name not in self.also.values())
        if len(names) != 2:
            raise InputError(
                f"bridge 'linked_features': found {len(names)} modalities ({', '.join(names)}), expected two; name "
                "the two to link with bridge.linked_features.modalities"
            )
        return _named(views, names[0], "modalities"), _named(views, names[1], "modalities")

    def _smoothed(self, linked: np.ndarray, components: np.ndarray) -> np.ndarray:
        linked = standardized(linked)
        if not self.smooth:
            return linked
        return standardized(linked + near(components, self.smooth, "cosine", self.ann_backend) @ linked)


def _linked(
    a: tuple[str, ...], b: tuple[str, ...], table: Iterable[tuple[str, str]]
) -> list[tuple[int, int]]:
    """Positions of linked features: by the table, or by name.

    Names are compared in lower case, Ensembl identifiers without their version; a name that ends in a number after
    a dot (the second antibody against CD4, ``CD4.2``) has the partner of the name without it.
    """
    place_a, place_b = ({_key(name): i for i, name in [*enumerate(names)][::-1]} for names in (a, b))
    keys = [(_key(one), _key(two)) for one, two in table]
    pairs = {(place_a[one], place_b[two]) for one, two in keys if one in place_a and two in place_b}
    told = {j for _, j in pairs}
    by_b = ((place_a.get(name, place_a.get(NUMBER.sub("", name))), j) for name, j in place_b.items())
    by_a = ((i, place_b.get(NUMBER.sub("", name))) for name, i in place_a.items())
    for i, j in (*by_b, *by_a):
        if i is not None and j is not None and j not in told:
            pairs.add((i, j))
    return sorted(pairs)


def _key(name: str) -> str:
    lower = name.strip().casefold()
    ensembl = ENSEMBL.fullmatch(lower)
    return ensembl[1] if ensembl else lower


def _read_table(path: str) -> list[tuple[str, str]]:
    if not Path(path).is_file():
        raise InputError(f"bridge.linked_features.table: no such file: {path}")
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    for row in rows:
        if len(row) != 2:
            raise InputError(f"{path}: found {len(row)} columns in the line {','.join(row)!r}, expected two")
    return [(one, two) for one, two in rows]


def _named(views: Mapping[str, View], name: str, key: str) -> View:
    if name not in views:
        raise InputError(
            f"bridge.linked_features.{key}: there is no modality '{name}' (there are: {', '.join(views)})"
        )
    return views[name]


def _joined(view: View, own: np.ndarray, more: View | None) -> np.ndarray:
    """White components of a view, with those of another view of the same cells."""
    if more is None:
        return white(own)
    at = np.searchsorted(more.cells, view.cells).clip(max=len(more) - 1)
    lacking = int((more.cells[at] != view.cells).sum())
    if lacking:
        raise InputError(
            f"bridge.linked_features.also: {lacking} of {len(view)} cells of {view.name} lack {more.name}, expected "
            "all of them to have it; leave it out"
        )
    return white(np.hstack([white(own), white(more.scores[at])]))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
