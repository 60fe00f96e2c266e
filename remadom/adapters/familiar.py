"""How far cells lie from labeled ones, beside how far these lie from each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Distances of labeled cells to their nearest others.

    Attributes
    ----------
    distances
        By label, in ascending order: mean distance of its cells to their nearest others.
    """

    distances: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, distance: np.ndarray, codes: np.ndarray, n_labels: int) -> Familiarity:
        """From the mean distance of each labeled cell and its label, a number below ``n_labels``."""
        return cls(tuple(np.sort(distance[codes == code]) for code in range(n_labels)))

    def chance(self, distance: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Chance that a labeled cell, of the label of a cell or of any, lies as far from the others as the cell does.

        Parameters
        ----------
        distance
            Mean distance of each cell to the nearest labeled ones.
        codes
            Label given to each cell.
        """
        found = np.empty(len(distance))
        for code in np.unique(codes):
            cells = codes == code
            found[cells] = _as_far(distance[cells], self.distances[code])
        of_any: np.ndarray = np.maximum(found, _as_far(distance, np.sort(np.concatenate(self.distances))))
        return of_any


def _as_far(distance: np.ndarray, others: np.ndarray) -> np.ndarray:
    beyond = len(others) - np.searchsorted(others, distance, side="left")
    chance: np.ndarray = (1 + beyond) / (1 + len(others))
    return chance
