"""In which order cells are read, and which of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import scipy.sparse as sp

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


class Sampler:
    """Every cell once an epoch, in batches; the last batch may be short.

    Parameters
    ----------
    cells
        Positions of the cells in the source.
    batch_size
        Cells in a batch.
    shuffle
        A new order every epoch, which depends on the seed and the epoch alone; else the order of ``cells``.
    seed
        Seed of the orders.
    """

    def __init__(self, cells: np.ndarray, *, batch_size: int, shuffle: bool = False, seed: int = 0) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size: found {batch_size}, expected at least 1")
        self.cells = np.asarray(cells, dtype=np.int64)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed

    def __len__(self) -> int:
        return -(-len(self.cells) // self.batch_size)

    def batches(self, epoch: int) -> Iterator[np.ndarray]:
        """Positions of the cells of each batch of an epoch."""
        order = self.cells
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]
