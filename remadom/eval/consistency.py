"""Whether cells of two cohorts that lie together in an embedding agree in the features measured in both.

The populations of each cohort are clusters of its own features, found without the embedding. For each of them the
embedding is asked to predict its mean profile from the nearest cells of the other cohort, as a transfer of labels
would, with the shift between the cohorts taken out. Clusters are found in one half of the features and judged in the
other, so that noise cannot make up a population (the idea of count splitting: Neufeld et al., Biostatistics 2024,
doi:10.1093/biostatistics/kxac047, here over features).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans

from remadom.eval.halves import halves, varying
from remadom.eval.mixing import across, around, reach
from remadom.eval.neighbors import nearest_cells
from remadom.types import View

FEWEST_FEATURES = 3
"""Features that vary in both cohorts below which nothing is compared."""
PER_POPULATION = 30
"""Cells a population on average at least: the mean of fewer is too uncertain to judge."""
MOST_POPULATIONS = 15
"""Most populations of a cohort."""
DRAWS = 50
"""Bootstrap draws of the cells of a population, for the standard error of its agreement."""


@dataclass(frozen=True, eq=False)
class Population:
    """A population of one cohort, and what the embedding does with it.

    Attributes
    ----------
    cells
        Its positions among the cells compared.
    share
        Share of its cohort's cells.
    mixing
        Cells of the other cohort around its cells, relative to what they are around the nearest cells of the other
        cohort: 1 where the cohorts are mixed, whatever their sizes; 0 where the population lies apart.
    agreement
        1 - (squared distance of its profile from the predicted one) / (squared distance of its profile from the
        cohort's mean), sampling noise taken off both: 1 for a perfect prediction, 0 for one that is as far as the
        mean, negative for one that is worse.
    error
        Standard error of the agreement.
    kept
        The same as ``agreement``, predicted from the nearest cells of its own cohort: low where the embedding does
        not keep the population together.
    twin
        Agreement with the most alike population of the other cohort that lies apart as well; ``nan`` for none.
    markers
        Features that are higher in it than in the rest of its cohort, strongest first.
    """

    cells: np.ndarray
    share: float
    mixing: float
    agreement: float
    error: float
    kept: float
    twin: float
    markers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two cohorts in one modality.

    Attributes
    ----------
    sides
        Populations of the first and of the second cohort.
    resolution
        Of each cohort, variance between the profiles of its mixed populations over the sampling noise of a profile;
        how well the features can tell populations that should meet from those that should not.
    """

    sides: tuple[list[Population], list[Population]]
    resolution: tuple[float, float]


def compare(
    z: np.ndarray, second: np.ndarray, view: View, rows: np.ndarray, *, apart: float, seed: int
) -> Comparison | None:
    """Compare two cohorts in a modality that cells of both have.

    Parameters
    ----------
    z
        Cell x latent, without ties.
    second
        Whether a cell is of the second cohort.
    view
        The modality.
    rows
        Row of each cell in the view.
    apart
        Populations whose mixing is below it are looked for twins.
    seed
        Seed of the split, the clusters and the bootstrap.

    Returns
    -------
    Comparison
        ``None`` where fewer than ``FEWEST_FEATURES`` features vary in both cohorts.
    """
    rng = np.random.default_rng(seed)
    values, names = varying(view, rows, second)
    if len(names) < FEWEST_FEATURES:
        return None
    found, judged = halves(values, second, rng)
    sides = [_Side.of(z, found, judged, mask, rng) for mask in (~second, second)]
    shift = (sides[1].gap() - sides[0].gap()) / 2
    profiles = [side.profiles(sign * shift) for side, sign in zip(sides, (-1, 1), strict=True)]
    results = []
    for at, (side, own) in enumerate(zip(sides, profiles, strict=True)):
        other = profiles[1 - at]
        lonely = sides[1 - at].mixing < apart
        results.append(side.populations(own, other, lonely, values, names, rng))
    return Comparison((results[0], results[1]), (profiles[0].resolution, profiles[1].resolution))


@dataclass(frozen=True, eq=False)
class _Profiles:
    """Means of the populations of a cohort in the frame between the cohorts (population x component)."""

    mean: np.ndarray
    noise: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    resolution: float


@dataclass(frozen=True, eq=False)
class _Side:
    """A cohort: its cells (all, by position), their populations, and their neighbors in the embedding."""

    judged: np.ndarray
    cells: np.ndarray
    code: np.ndarray
    cross: np.ndarray
    within: np.ndarray
    around: np.ndarray
    back: np.ndarray

    @classmethod
    def of(
        cls, z: np.ndarray, found: np.ndarray, judged: np.ndarray, mine: np.ndarray, rng: np.random.Generator
    ) -> _Side:
        cells, others = np.flatnonzero(mine), np.flatnonzero(~mine)
        n = int(np.clip(len(cells) // PER_POPULATION, 2, MOST_POPULATIONS))
        n = min(n, len(np.unique(found[cells], axis=0)))
        clusters = KMeans(n, n_init=3, random_state=int(rng.integers(2**31))).fit(found[cells])
        code = np.unique(clusters.labels_, return_inverse=True)[1]
        cross = across(z, cells, others)
        within = cells[nearest_cells(z[cells], reach(len(cells)))[0]]
        other = around(z, mine)
        return cls(judged, cells, code, cross, within, other[cells], other[cross].mean(1))

    @property
    def mixing(self) -> np.ndarray:
        """Mixing of each population."""
        here = np.bincount(self.code, self.around) / np.bincount(self.code)
        there = np.bincount(self.code, self.back) / np.bincount(self.code)
        mixed: np.ndarray = np.minimum(here / np.maximum(1 - there, 1e-9), 1)
        return mixed

    def gap(self) -> np.ndarray:
        """Mean difference between cells and what the other cohort predicts for them, where they are mixed."""
        weight = self.mixing[self.code]
        weight = weight if weight.sum() > 0 else np.ones(len(weight))
        difference = self.judged[self.cells] - self.judged[self.cross].mean(1)
        gap: np.ndarray = weight @ difference / weight.sum()
        return gap

    def profiles(self, shift: np.ndarray) -> _Profiles:
        """Profiles; noise and scale are expected squared distances, of sampling and between populations."""
        n = np.bincount(self.code)
        own = self.judged[self.cells]
        mean = _means(own, self.code)
        spread = np.bincount(self.code, ((own - mean[self.code]) ** 2).sum(1)) / np.maximum(n - 1, 1)
        noise = (n @ spread / n.sum()) / n
        weight = n * self.mixing if self.mixing.sum() > 0 else n.astype(float)
        weight = weight / weight.sum()
        signal = ((mean - weight @ mean) ** 2).sum(1) - noise
        typical = weight @ signal
        # a population near the middle is judged on the scale of the others
        scale = np.maximum(signal, max(typical, 1e-12) / 2)
        return _Profiles(mean, noise, scale, shift, float(typical / max(weight @ noise, 1e-12)))

    def populations(
        self,
        own: _Profiles,
        other: _Profiles,
        lonely: np.ndarray,
        values: np.ndarray,
        names: np.ndarray,
        rng: np.random.Generator,
    ) -> list[Population]:
        spread = float((own.noise * np.bincount(self.code)).mean())
        mixing = self.mixing
        result = []
        for u in range(len(own.mean)):
            at = np.flatnonzero(self.code == u)
            cells = self.cells[at]
            used = np.bincount(self.cross[at].ravel()) / self.cross[at].size
            noise = own.noise[u] + spread * (used**2).sum()
            difference = self.judged[cells] - self.judged[self.cross[at]].mean(1) - own.shift
            drawn = rng.multinomial(len(at), np.full(len(at), 1 / len(at)), DRAWS) / len(at) @ difference
            apart = own.mean[u] - self.judged[self.within[at]].mean((0, 1))
            twins = 1 - (
                ((own.mean[u] - own.shift - other.mean) ** 2).sum(1) - own.noise[u] - other.noise
            ) / np.maximum(own.scale[u], other.scale)
            result.append(
                Population(
                    cells=cells,
                    share=len(at) / len(self.code),
                    mixing=float(mixing[u]),
                    agreement=float(1 - ((difference.mean(0) ** 2).sum() - noise) / own.scale[u]),
                    error=float((drawn**2).sum(1).std() / own.scale[u]),
                    kept=float(1 - (apart**2).sum() / own.scale[u]),
                    twin=float(twins[lonely].max()) if lonely.any() else float("nan"),
                    markers=_markers(values[cells], values[self.cells], names),
                )
            )
        return result


def _means(values: np.ndarray, code: np.ndarray) -> np.ndarray:
    n = np.bincount(code)
    chosen = sp.csr_matrix((np.ones(len(code)), (code, np.arange(len(code)))), shape=(len(n), len(code)))
    means: np.ndarray = (chosen @ values) / n[:, None]
    return means


def _markers(own: np.ndarray, cohort: np.ndarray, names: np.ndarray, n: int = 3) -> tuple[str, ...]:
    higher = (own.mean(0) - cohort.mean(0)) / np.maximum(cohort.std(0), 1e-9)
    best = np.argsort(-higher, kind="stable")[:n]
    return tuple(str(names[i]) for i in best if higher[i] > 0)
