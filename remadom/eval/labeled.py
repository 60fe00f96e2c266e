"""What labels say of two cohorts in an embedding: which types can be transferred, and names for populations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors

from remadom.eval.consistency import Population
from remadom.eval.mixing import NEIGHBORS
from remadom.eval.verdicts import OVERLAP, SMALL, Verdict

FEWEST_LABELED = 10
"""Cells of a label in both cohorts below which nothing is said of it."""
RECALL = 0.5
"""Share of a label's cells that must get it back where it can be transferred: most of them."""


@dataclass(frozen=True, eq=False)
class Types:
    """Label of each cell: a code into names, negative where unknown."""

    code: np.ndarray
    names: Sequence[str]

    def transfer(
        self, z: np.ndarray, a: np.ndarray, b: np.ndarray, rng: np.random.Generator
    ) -> dict[str, Any]:
        """Transfer of labels between cells of two cohorts, both ways, by the majority of the nearest.

        Returns
        -------
        dict
            ``accuracy`` and ``accuracy_permuted`` (labels permuted: chance), by direction (to b, to a), of the cells
            whose label both have; ``types``: by label its recall ``across`` and ``within`` the cohort, the lower of
            both directions; ``failing``: by direction, share of the cells whose label is found within but not
            across. Empty where no label is in both cohorts.
        """
        a, b = a[self.code[a] >= 0], b[self.code[b] >= 0]
        counts = [np.bincount(self.code[cells], minlength=len(self.names)) for cells in (a, b)]
        common = np.flatnonzero(np.minimum(*counts) >= FEWEST_LABELED)
        if not len(common):
            return {}
        found: dict[str, Any] = {"accuracy": [], "accuracy_permuted": [], "types": {}, "failing": []}
        for source, target in ((a, b), (b, a)):
            target = target[np.isin(self.code[target], common)]
            truth, own = self.code[target], self.code[source]
            across = _majority(z[source], own, z[target], 0)
            within = _majority(z[target], truth, z[target], 1)
            chance = _majority(z[source], rng.permutation(own), z[target], 0)
            found["accuracy"].append(float((across == truth).mean()))
            found["accuracy_permuted"].append(float((chance == truth).mean()))
            failing = 0.0
            for label in map(int, common):
                mine = truth == label
                entry = found["types"].setdefault(self.names[label], {"across": 1.0, "within": 1.0})
                recall = {
                    "across": float((across[mine] == label).mean()),
                    "within": float((within[mine] == label).mean()),
                }
                found["types"][self.names[label]] = {key: min(entry[key], recall[key]) for key in entry}
                failing += mine.mean() * (recall["across"] < RECALL <= recall["within"])
            found["failing"].append(float(failing))
        return found

    def name(self, population: Population, cells: np.ndarray, cohort: str, bad: np.ndarray) -> str:
        """Words for a population: its label where most of its cells have it, else a cluster with its markers.

        ``cells`` are the positions of the cells that its own point into, ``bad`` those of all populations like it.
        """
        code = self.code[cells[population.cells]]
        counts = np.bincount(code[code >= 0], minlength=len(self.names) + 1)
        if 2 * counts.max() <= len(code):
            return described(population, cohort)
        label = int(counts.argmax())
        whole = (self.code[cells] == label).sum()
        part = (self.code[bad] == label).sum()
        return str(self.names[label]) if 2 * part >= whole else f"part of {self.names[label]} in {cohort}"


def described(population: Population, cohort: str) -> str:
    """Words for a population without labels."""
    high = f"; high in {', '.join(population.markers)}" if population.markers else ""
    return f"a cluster of {cohort} ({population.share:.0%} of its cells{high})"


def of_labels(found: dict[str, Any]) -> Verdict:
    """The best that can be said of two cohorts whose labels transfer so."""
    worst = max(found.get("failing", [0.0]))
    return "not" if worst > OVERLAP else "partly" if worst > SMALL else "aligned"


def _majority(z: np.ndarray, code: np.ndarray, at: np.ndarray, skip: int) -> np.ndarray:
    """Most frequent code of the nearest cells, after those to skip (the cell itself); of equals the lowest."""
    k = min(NEIGHBORS + skip, len(z))
    near = NearestNeighbors(n_neighbors=k).fit(z).kneighbors(at, return_distance=False)[:, skip:]
    votes = np.zeros((len(at), code.max() + 1), dtype=int)
    np.add.at(votes, (np.arange(len(at))[:, None], code[near]), 1)
    best: np.ndarray = votes.argmax(1)
    return best
