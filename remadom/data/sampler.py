"""In which order cells are read, and which of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from remadom.data.partners import Partners
from remadom.errors import InputError

Gather = Callable[[np.ndarray], sp.csr_matrix]
"""Rows of the cells at these positions."""

CELLS_AT_ONCE = 4096
"""Cells that are read together where every cell is read once."""


def blocks(gather: Gather, cells: np.ndarray) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """Cells in blocks that fit in memory, each with its place in ``cells``."""
    for start in range(0, len(cells), CELLS_AT_ONCE):
        at = slice(start, start + CELLS_AT_ONCE)
        yield at, gather(cells[at])


class Draw(NamedTuple):
    """Positions of the cells of a batch: the seeds, and partners that are encoded beside them."""

    seeds: np.ndarray
    partners: np.ndarray


class Sampler:
    """Every cell once an epoch as a seed, in batches; the last batch may be short.

    Parameters
    ----------
    cells
        Positions of the cells in the source.
    batch_size
        Seeds in a batch.
    shuffle
        A new order every epoch, which depends on the seed and the epoch alone; else the order of ``cells``.
    seed
        Seed of the orders.
    strata
        Group of every cell of the source: shuffled batches have each group in its share, as evenly as possible.

    Attributes
    ----------
    partners
        What adds partners to the seeds of a shuffled batch, by name; may be replaced between epochs.
    """

    def __init__(
        self,
        cells: np.ndarray,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        strata: np.ndarray | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size: found {batch_size}, expected at least 1")
        self.cells = np.asarray(cells, dtype=np.int64)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.partners: dict[str, Partners] = {}
        self._strata = None if strata is None else np.asarray(strata)[self.cells]

    def __len__(self) -> int:
        return -(-len(self.cells) // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """All cells in the order of an epoch."""
        if not self.shuffle:
            return self.cells
        rng = np.random.default_rng([self.seed, epoch])
        if self._strata is None:
            return rng.permutation(self.cells)
        ordered: np.ndarray = self.cells[interleaved(self._strata, rng)]
        return ordered

    def batches(self, epoch: int) -> Iterator[Draw]:
        """Cells of each batch of an epoch."""
        order, none = self.order(epoch), np.zeros(0, dtype=np.int64)
        for number, start in enumerate(range(0, len(order), self.batch_size)):
            seeds = order[start : start + self.batch_size]
            if not (self.shuffle and self.partners):
                yield Draw(seeds, none)
                continue
            rng = np.random.default_rng([self.seed, epoch, number])
            drawn = np.concatenate([self.partners[name](seeds, rng) for name in sorted(self.partners)])
            yield Draw(seeds, np.setdiff1d(drawn, seeds))


def interleaved(strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order in which every stretch has the groups in their shares.

    Each group is shuffled and spread evenly over the order, from a random start.
    """
    shuffled = rng.permutation(len(strata))
    _, group, size = np.unique(strata[shuffled], return_inverse=True, return_counts=True)
    by_group = np.argsort(group, kind="stable")
    rank = np.empty(len(strata))
    rank[by_group] = np.arange(len(strata)) - np.repeat(np.cumsum(size) - size, size)
    place = (rank + rng.random(len(size))[group]) / size[group]
    order: np.ndarray = shuffled[np.argsort(place, kind="stable")]
    return order
