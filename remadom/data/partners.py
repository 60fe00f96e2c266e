"""Cells that are read beside the seeds of a batch, so that edges and small groups are seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Partners = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Positions of partners for the seeds at these positions; one may come twice or be a seed itself."""


class EdgePartners:
    """For each seed, ends of its edges drawn at random.

    In a batch of 512 out of a million cells hardly any edge has both ends among the seeds.

    Parameters
    ----------
    indptr, indices
        Edges of every cell of the source, in CSR form.
    per_seed
        Edges drawn for each seed that has any.
    """

    def __init__(self, indptr: np.ndarray, indices: np.ndarray, per_seed: int = 1) -> None:
        self.indptr, self.indices, self.per_seed = indptr, indices, per_seed

    def __call__(self, seeds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        first, n_edges = self.indptr[seeds], self.indptr[seeds + 1] - self.indptr[seeds]
        linked = n_edges > 0
        first, n_edges = np.repeat(first[linked], self.per_seed), np.repeat(n_edges[linked], self.per_seed)
        drawn: np.ndarray = self.indices[first + rng.integers(0, n_edges)]
        return drawn


class GroupPartners:
    """Cells of the groups that have fewer than a number of seeds.

    Parameters
    ----------
    codes
        Group of every cell of the source; -1 is no group.
    cells
        Positions of the cells that may be drawn.
    at_least
        Cells of each group in a batch, as far as the group has them.
    """

    def __init__(self, codes: np.ndarray, cells: np.ndarray, at_least: int) -> None:
        cells = cells[codes[cells] >= 0]
        cells = cells[np.argsort(codes[cells], kind="stable")]
        self.codes, self.cells, self.at_least = codes, cells, at_least
        self.size = np.bincount(codes[cells]) if len(cells) else np.zeros(0, dtype=np.int64)
        self.first = np.cumsum(self.size) - self.size

    def __call__(self, seeds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        codes = self.codes[seeds]
        found = np.bincount(codes[codes >= 0], minlength=len(self.size))
        wanted = np.minimum(self.at_least, self.size)  # some may be seeds: enough are drawn for that
        drawn = [
            self.cells[self.first[code] + rng.choice(self.size[code], wanted[code], replace=False)]
            for code in np.flatnonzero(found < wanted)
        ]
        return np.concatenate(drawn) if drawn else np.zeros(0, dtype=np.int64)
