"""Principal axes of what was measured, in which cells of different batches are compared beside the embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from remadom.core.coordinates import BLOCK, CENTERED, TOTAL, comparable
from remadom.core.vae import MosaicVAE
from remadom.data.modality import modality_named
from remadom.data.source import Source
from remadom.types import Support
from remadom.utils.seed import derive

COMPONENTS = 20
"""Most principal components of a modality."""
SAMPLE = 4000
"""Most measured cells from which they are learned."""
FEATURES = 5000
"""Most features of a modality that are read: those that vary most."""
FLAT = 1e-8
"""Variance of all features together below which all measured cells are the same."""
RIDGE = 10.0
"""Penalty of the regression between modalities, in cells at a component's unit."""
PAIRED = 50
"""Cells with all that a regression reads and predicts, below which there is none."""


@dataclass(frozen=True, eq=False)
class ProfileAxes:
    """Principal axes of one modality's profiles, at the unit of the first.

    Attributes
    ----------
    support, total
        How values are made comparable (see :func:`~remadom.core.coordinates.comparable`).
    mean
        Mean profile of the cells that they were learned from, one value for each feature.
    kept
        Places of the features that are read.
    axes
        Read feature x component.
    present
        Whether each feature was measured, where some were not: ``mean`` and ``kept`` are of those that were.
    """

    support: Support
    total: float
    mean: np.ndarray
    kept: np.ndarray
    axes: np.ndarray
    present: np.ndarray | None = None

    @classmethod
    def fit(cls, values: np.ndarray, support: Support, total: float, seed: int) -> ProfileAxes | None:
        """Learn from measured cells, cell x feature; ``None`` where they do not differ."""
        profiles = _profiles(values, support, total)
        if len(profiles) < 2 or profiles.var(0).sum() < FLAT:
            return None
        kept = np.sort(np.argsort(-profiles.var(0), kind="stable")[:FEATURES])
        read = profiles[:, kept]
        found = PCA(min(COMPONENTS, *read.shape), random_state=seed % 2**32).fit(read)
        axes = found.components_.T / np.sqrt(found.explained_variance_[0])
        return cls(support, total, profiles.mean(0), kept, axes)

    def of(self, values: np.ndarray) -> np.ndarray:
        """Components of cells, of their values (cell x feature) in all features: cell x component, float32."""
        read = values if self.present is None else values[:, self.present]
        profiles = _profiles(read, self.support, self.total)[:, self.kept] - self.mean[self.kept]
        return np.asarray(profiles @ self.axes, dtype=np.float32)

    def lacking(self, present: np.ndarray, share: float) -> ProfileAxes:
        """The axes for cells that lack features, which count as the mean.

        Parameters
        ----------
        present
            Whether each feature was measured.
        share
            Share of a cell's counts in the features that were.
        """
        if present.all():
            return self
        mean, there = self.mean[present], present[self.kept]
        if self.support in CENTERED:
            mean = mean - mean.mean()  # as a profile of these features is, where the mean profile is of all
        kept = np.searchsorted(np.flatnonzero(present), self.kept[there])
        return ProfileAxes(self.support, self.total * share, mean, kept, self.axes[there], present)


def profile_axes(model: MosaicVAE, source: Source, seed: int) -> dict[str, ProfileAxes]:
    """Axes of all modalities that tell cells apart, from the measured cells of a source that is prepared for a model.

    Modalities that are read as centered log ratios (proteins) are normalized to the median total: a panel may count so
    few that a larger one would make differences of nothing out of none and one. A modality whose zeros say "not
    measured" has no axes, and open peaks have none: of one cell they are noise.
    """
    found = {}
    for modality in model.decoders:
        decoder = model.decoder(modality)
        if modality not in source.modalities or not decoder.scores_zeros or decoder.support == "events":
            continue
        own = derive(seed, f"profiles.{modality}")
        measured = np.flatnonzero(source.has[modality])
        drawn = np.sort(np.random.default_rng(own).permutation(measured)[:SAMPLE])
        values = source.rows(modality, drawn).toarray()
        total = _median_total(values) if modality_named(modality).encoder_input == "clr" else TOTAL
        axes = ProfileAxes.fit(values, decoder.support, total, own)
        if axes is not None:
            found[modality] = axes
    return found


def measured_profiles(axes: ProfileAxes, source: Source, modality: str) -> np.ndarray:
    """Components of all cells of a source, cell x component; NaN where the modality was not measured."""
    measured = np.flatnonzero(source.has[modality])
    out = np.full((source.n_cells, axes.axes.shape[1]), np.nan, dtype=np.float32)
    for start in range(0, len(measured), BLOCK):
        cells = measured[start : start + BLOCK]
        out[cells] = axes.of(source.rows(modality, cells).toarray())
    return out


def regressed(source: Source, parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Components of each modality, by ridge regression where a cell lacks it and enough others have what it reads."""
    found = {}
    for modality, own in parts.items():
        out, has = own.copy(), source.has[modality]
        others, lacking = [m for m in parts if m != modality], np.flatnonzero(~has)
        for read, at in source.by_sources(others, lacking):
            paired = np.all([source.has[m] for m in (modality, *read)], axis=0)
            if paired.sum() >= PAIRED:
                x = np.hstack([parts[m] for m in read])
                out[lacking[at]] = Ridge(RIDGE).fit(x[paired], own[paired]).predict(x[lacking[at]])
        found[modality] = out
    return found


def beside(z: np.ndarray, unit: float, *profiles: np.ndarray) -> np.ndarray:
    """Cells in an embedding, in this unit, and in profiles, which have theirs: cell x dimension."""
    return np.hstack([z / unit, *profiles])


def unit_of(values: np.ndarray) -> float:
    """Deviation of the widest dimension."""
    return max(float(values.std(0).max()), 1e-6)


def _median_total(values: np.ndarray) -> float:
    """Median total of the cells that have any counts."""
    totals = values.sum(1)
    return float(np.median(totals[totals > 0])) if (totals > 0).any() else TOTAL


def _profiles(values: np.ndarray, support: Support, total: float) -> np.ndarray:
    return comparable(torch.from_numpy(np.asarray(values, dtype=np.float32)), support, total).numpy()
