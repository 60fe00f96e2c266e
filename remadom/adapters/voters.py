"""Labels for cells that were embedded together with labeled ones, by two opinions of every cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from remadom.adapters.familiar import Familiarity
from remadom.adapters.profile_axes import beside, unit_of
from remadom.adapters.votes import nearest_others, shares
from remadom.solvers.ann import AnnIndex

NEIGHBORS = 10
"""Labeled cells that vote on a label."""
MOST = 50_000
"""Most labeled cells from which the linear classifier learns, and whose distances are compared."""
PENALTY = 10.0
"""Inverse strength of its penalty at most, where the widest dimension has a variance of 1."""
SHIFTED = 400
"""Labeled cells beyond which the penalty grows with their number: more of them teach more of what holds in their own
batches alone."""


@dataclass(frozen=True, eq=False)
class Spaces:
    """Where cells lie in the spaces that say something about their labels, each cell x dimension.

    Attributes
    ----------
    embedding
        In which distances to labeled cells say how familiar a cell is.
    near
        In which the nearest labeled cells vote.
    linear
        In which a linear classifier learns.
    """

    embedding: np.ndarray
    near: np.ndarray
    linear: np.ndarray

    @classmethod
    def of(cls, z: np.ndarray, expected: np.ndarray, regressed: np.ndarray) -> Spaces:
        """From the embedding and the two kinds of profiles of the same cells, or alone where these are empty.

        The nearest vote in the embedding and the expected profiles side by side: it mixes batches and modalities, they
        keep what single cells show. The classifier is that of regressed profiles.
        """
        if not expected.shape[1]:
            return cls(z, z, z)
        return cls(z, beside(z, unit_of(z), expected), regressed)

    def __getitem__(self, cells: np.ndarray) -> Spaces:
        return Spaces(self.embedding[cells], self.near[cells], self.linear[cells])

    def __len__(self) -> int:
        return len(self.embedding)


@dataclass(frozen=True, eq=False)
class Voters:
    """Labeled cells, by their nearest and by a line.

    Attributes
    ----------
    codes
        Label of each labeled cell, from 0.
    n_labels
        Number of labels.
    unit
        Deviation of the widest dimension of the linear space.
    linear
        Multinomial logistic regression; ``None`` where there is one label.
    near
        The labeled cells, for searching those that vote.
    places
        The same in the embedding.
    familiarity
        How far the cells of each label lie from their nearest others in the embedding; ``None`` for a single cell.
    """

    codes: np.ndarray
    n_labels: int
    unit: float
    linear: LogisticRegression | None
    near: AnnIndex
    places: AnnIndex
    familiarity: Familiarity | None

    @classmethod
    def fit(cls, cells: Spaces, codes: np.ndarray, n_labels: int, seed: int) -> Voters:
        """Learn from labeled cells.

        Parameters
        ----------
        cells
            Where they lie.
        codes
            Label of each cell, a number below ``n_labels``.
        n_labels
            Number of labels; cells of some may be missing.
        seed
            Of the cells that are drawn where there are more than ``MOST``.
        """
        drawn = np.sort(np.random.default_rng(seed).permutation(len(cells))[:MOST])
        unit, places = unit_of(cells.linear), AnnIndex(cells.embedding)
        linear, familiarity = None, None
        if len(np.unique(codes[drawn])) > 1:
            strength = PENALTY * min(1.0, SHIFTED / len(drawn))
            linear = LogisticRegression(C=strength, max_iter=1000).fit(
                cells.linear[drawn] / unit, codes[drawn]
            )
        if len(cells) > 1:
            k = min(NEIGHBORS, len(cells) - 1)
            distance, _ = nearest_others(places, cells.embedding, drawn, k)
            familiarity = Familiarity.of(distance.mean(1), codes[drawn], n_labels)
        return cls(codes, n_labels, unit, linear, AnnIndex(cells.near), places, familiarity)

    def probabilities(self, cells: Spaces) -> np.ndarray:
        """Probability of each label, cell x label: the mean of what the classifier and the neighbors say."""
        index, _ = self.near.search(cells.near, min(NEIGHBORS, len(self.codes)))
        votes = shares(self.codes[index.numpy()], self.n_labels)
        if self.linear is None:
            return votes
        said = np.zeros_like(votes)
        said[:, self.linear.classes_] = self.linear.predict_proba(cells.linear / self.unit)
        mean: np.ndarray = (votes + said) / 2
        return mean

    def familiar(self, cells: Spaces, codes: np.ndarray) -> np.ndarray:
        """Chance that a labeled cell, of the label given to a cell or of any, lies as far from the others."""
        if self.familiarity is None:
            return np.ones(len(cells))
        _, distance = self.places.search(cells.embedding, min(NEIGHBORS, len(self.codes) - 1))
        return self.familiarity.chance(distance.numpy().mean(1), codes)
