"""The cells of a mock data set: who they are, and what the problem type lets be measured in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MODALITIES = ("rna", "atac", "adt")
"""What can be generated, in the order in which a file lists it."""

TYPES = ("A1", "A2", "B1", "B2", "C1", "C2", "D1", "D2")
"""Leaves of the tree: four major types (letters) with two subtypes each; the last one is rare."""

SHARES = np.array([0.21, 0.16, 0.15, 0.13, 0.12, 0.11, 0.09, 0.03])
"""Expected share of each type; every batch draws its own composition around it."""

AXES = (
    *("major_1", "major_2", "major_3"),
    *("subtype_A", "subtype_B", "subtype_C", "subtype_D"),
    "progress",
    *("state_1", "state_2"),
)
"""Axes of the latent space: the tree, the continuum, and two states that every type shares."""

_VERTICES = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
_SUBTYPE = 3
_PROGRESS = AXES.index("progress")
_DIFFERENTIATING = 2
"""The first two major types differentiate; in the others progress leaves no trace."""

Subset = tuple[str, ...]


def stream(seed: int, *purpose: str) -> np.random.Generator:
    """Random generator of one purpose: what is drawn elsewhere does not move it."""
    return np.random.default_rng([seed, *"/".join(purpose).encode()])


def _all_alike(modalities: Subset, batches: int) -> list[Subset]:
    return [modalities] * batches


def _one_each(modalities: Subset, batches: int) -> list[Subset]:
    return [(modalities[b % len(modalities)],) for b in range(batches)]


def _bridged(modalities: Subset, batches: int) -> list[Subset]:
    return [(m,) for m in modalities] + [modalities] * (batches - len(modalities))


def _subsets(modalities: Subset, batches: int) -> list[Subset]:
    by_size = [s for size in range(len(modalities), 0, -1) for s in combinations(modalities, size)]
    return [by_size[b % len(by_size)] for b in range(batches)]


@dataclass(frozen=True)
class Problem:
    """A problem type: which cohort (batch) has which modalities.

    Parameters
    ----------
    cohorts
        Modalities of each batch of a study, from the modalities of the study and its number of batches.
    at_least, default
        Number of batches a study, from the number of modalities.
    fewest
        Modalities that the problem needs.
    studies
        Number of studies; the last of several lacks the last modality.
    missing_rate
        Share of the measured entries that go missing at random.
    target
        Whether the test cells lack the last modality.
    """

    cohorts: Callable[[Subset, int], list[Subset]]
    at_least: Callable[[int], int]
    default: Callable[[int], int]
    fewest: int = 2
    studies: int = 1
    missing_rate: float = 0.0
    target: bool = False

    def layout(self, modalities: Subset, batches: int) -> list[Subset]:
        """Modalities of every batch, study after study."""
        lacking = modalities[:-1] or modalities
        return [
            cohort
            for study in range(1, self.studies + 1)
            for cohort in self.cohorts(lacking if 1 < study == self.studies else modalities, batches)
        ]


PROBLEMS = {
    "paired": Problem(_all_alike, lambda m: 1, lambda m: 2, fewest=1),
    "unpaired": Problem(_one_each, lambda m: m, lambda m: m),
    "bridge": Problem(_bridged, lambda m: m + 1, lambda m: m + 1),
    "mosaic": Problem(_subsets, lambda m: 2, lambda m: m + 1, missing_rate=0.2),
    "prediction": Problem(_all_alike, lambda m: 1, lambda m: 2, target=True),
    "hierarchical": Problem(_all_alike, lambda m: 2, lambda m: 2, fewest=1, studies=3),
}
"""The problem types."""


@dataclass(frozen=True)
class Cells:
    """Biology and provenance of some cells.

    Attributes
    ----------
    kind
        Index into ``TYPES``.
    batch
        Batch code; the batches of a study are neighbors.
    progress
        Coordinate along the continuum, in [0, 1].
    latent
        Cell x axis (``AXES``).
    """

    kind: Codes
    batch: Codes
    progress: Floats
    latent: Floats

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, rows: slice) -> Cells:
        """Some of the cells."""
        return Cells(self.kind[rows], self.batch[rows], self.progress[rows], self.latent[rows])


def place(kind: Codes, progress: Floats) -> Floats:
    """Latent position of a type at a point of the continuum, before variation between cells."""
    major, sub = np.divmod(kind, 2)
    latent = np.zeros((len(kind), len(AXES)), dtype=np.float32)
    latent[:, :_SUBTYPE] = _VERTICES[major]
    latent[np.arange(len(kind)), _SUBTYPE + major] = 2 * sub - 1
    latent[:, _PROGRESS] = np.where(major < _DIFFERENTIATING, 3 * progress - 1.5, 0)
    return latent


def draw_cells(n_cells: int, n_batches: int, spread: float, seed: int) -> Cells:
    """Cells of all batches, batch after batch, each batch with every type and a composition of its own.

    Parameters
    ----------
    n_cells, n_batches
        Sizes; the batches differ by at most one cell.
    spread
        Standard deviation of the cells of a type around its position, on every latent axis (on the shared
        states, twice that).
    seed
        Seed of the data set.
    """
    rng = stream(seed, "cells")
    batch = np.sort(np.arange(n_cells) % n_batches)
    kind = np.empty(n_cells, dtype=np.int64)
    for b in range(n_batches):
        rows = np.flatnonzero(batch == b)
        drawn = rng.choice(len(TYPES), size=len(rows) - len(TYPES), p=rng.dirichlet(150 * SHARES))
        kind[rows] = rng.permutation(np.concatenate([np.arange(len(TYPES)), drawn]))
    progress = rng.random(n_cells, dtype=np.float32)
    width = np.array([2 * spread if axis.startswith("state") else spread for axis in AXES], dtype=np.float32)
    noise = rng.standard_normal((n_cells, len(AXES)), dtype=np.float32) * width
    return Cells(kind, batch, progress, place(kind, progress) + noise)


def draw_split(cells: Cells, seed: int) -> npt.NDArray[np.str_]:
    """``train``, ``val`` or ``test`` (80 : 10 : 10) of each cell, stratified by batch and type."""
    order = np.lexsort((stream(seed, "split").random(len(cells)), cells.kind, cells.batch))
    tenth = np.empty(len(cells), dtype=np.int64)
    tenth[order] = np.arange(len(cells)) % 10
    return np.where(tenth == 3, "val", np.where(tenth == 7, "test", "train"))


def draw_masks(
    problem: Problem,
    modalities: Subset,
    layout: list[Subset],
    batch: Codes,
    test: Mask,
    missing_rate: float,
    seed: int,
) -> dict[str, Mask]:
    """Presence of each modality in each cell; every cell keeps at least one."""
    has = np.array([[m in cohort for m in modalities] for cohort in layout])[batch]
    rng = stream(seed, "masks")
    keep = rng.random(has.shape) >= missing_rate
    spared = np.where(has, rng.random(has.shape), -1.0).argmax(1)
    keep[np.arange(len(batch)), spared] |= ~(has & keep).any(1)
    has &= keep
    if problem.target:
        has[test, -1] = False
    return {m: np.ascontiguousarray(has[:, i]) for i, m in enumerate(modalities)}
