"""Labels for cells that were embedded together with labeled ones, by two opinions of every cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from remadom.adapters.familiar import Familiarity
from remadom.adapters.votes import nearest_others, shares
from remadom.solvers.ann import AnnIndex

NEIGHBORS = 10
"""Labeled cells that vote on a label."""
MOST = 50_000
"""Most labeled cells from which the linear classifier learns, and whose distances are compared."""
PENALTY = 10.0
"""Inverse strength of its penalty, where the widest dimension of the embedding has a variance of 1."""


@dataclass(frozen=True, eq=False)
class Voters:
    """Labeled cells, in two spaces.

    The embedding mixes batches and modalities, so that a linear classifier holds in all of them; profiles keep what
    single cells show, so that the nearest of them are alike in detail.

    Attributes
    ----------
    codes
        Label of each labeled cell, from 0.
    n_labels
        Number of labels.
    unit
        Deviation of the widest dimension of the embedding.
    linear
        Multinomial logistic regression in the embedding; ``None`` where there is one label.
    profiles
        Of the labeled cells, for searching.
    places
        The same in the embedding.
    familiarity
        How far the cells of each label lie from their nearest others in the embedding; ``None`` for a single cell.
    """

    codes: np.ndarray
    n_labels: int
    unit: float
    linear: LogisticRegression | None
    profiles: AnnIndex
    places: AnnIndex
    familiarity: Familiarity | None

    @classmethod
    def fit(cls, z: np.ndarray, profiles: np.ndarray, codes: np.ndarray, n_labels: int, seed: int) -> Voters:
        """Learn from labeled cells.

        Parameters
        ----------
        z
            Cell x latent.
        profiles
            Cell x component.
        codes
            Label of each cell, a number below ``n_labels``.
        n_labels
            Number of labels; cells of some may be missing.
        seed
            Of the cells that are drawn where there are more than ``MOST``.
        """
        drawn = np.sort(np.random.default_rng(seed).permutation(len(z))[:MOST])
        unit, places = max(float(z.std(0).max()), 1e-6), AnnIndex(z)
        linear, familiarity = None, None
        if len(np.unique(codes[drawn])) > 1:
            linear = LogisticRegression(C=PENALTY, max_iter=1000).fit(z[drawn] / unit, codes[drawn])
        if len(z) > 1:
            distance, _ = nearest_others(places, z, drawn, min(NEIGHBORS, len(z) - 1))
            familiarity = Familiarity.of(distance.mean(1), codes[drawn], n_labels)
        return cls(codes, n_labels, unit, linear, AnnIndex(profiles), places, familiarity)

    def probabilities(self, z: np.ndarray, profiles: np.ndarray) -> np.ndarray:
        """Probability of each label, cell x label: the mean of what the classifier and the neighbors say."""
        index, _ = self.profiles.search(profiles, min(NEIGHBORS, len(self.codes)))
        votes = shares(self.codes[index.numpy()], self.n_labels)
        if self.linear is None:
            return votes
        said = np.zeros_like(votes)
        said[:, self.linear.classes_] = self.linear.predict_proba(z / self.unit)
        mean: np.ndarray = (votes + said) / 2
        return mean

    def familiar(self, z: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Chance that a labeled cell, of the label given to a cell or of any, lies as far from the others."""
        if self.familiarity is None:
            return np.ones(len(z))
        _, distance = self.places.search(z, min(NEIGHBORS, len(self.codes) - 1))
        return self.familiarity.chance(distance.numpy().mean(1), codes)
